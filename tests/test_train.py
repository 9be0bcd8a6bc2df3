"""The starter train.py: readable, causal, deterministic, and it learns."""

import ast
import re
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_gpu import plain_cross_entropy, plain_mlp, plain_norm_rotary
from torch.nn.attention.flex_attention import flex_attention

from harness.store.note import write_run
from harness.store.records import OK

pytestmark = pytest.mark.alone

SOURCE = (ROOT / "train.py").read_text()


def small(starter, **changes):
    config = starter.Config(
        vocab_size=64, seq_len=32, depth=3, width=32, head_width=16, short_window=8, **changes
    )
    model = starter.GPT(config)
    model.initialize()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)  # away from the identity
    return model.prepare(torch.device("cpu"))


def test_it_is_one_readable_file():
    assert len(SOURCE.splitlines()) < 650
    tree = ast.parse(SOURCE)
    assert {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} >= {"load", "main"}
    constants = re.findall(r"^ *([A-Z][A-Z_]+) = ", SOURCE, re.MULTILINE)
    assert len(set(constants)) >= 20


def test_no_logit_depends_on_a_later_token(starter):
    torch.manual_seed(0)
    model = small(starter)
    tokens = torch.randint(64, (2, 32))
    changed = tokens.clone()
    changed[:, 20:] = torch.randint(64, (2, 12))
    with torch.no_grad():
        before, after = model(tokens)[:, :20], model(changed)[:, :20]
    assert torch.equal(before, after)


def test_a_short_window_forgets_and_the_last_layer_does_not(starter):
    config = small(starter).config
    assert [config.window(layer) for layer in range(3)] == [8, 8, 32]
    mask = starter.window_mask(32, 8, torch.device("cpu"))
    assert mask[20].nonzero().flatten().tolist() == list(range(13, 21))


def test_the_loss_is_the_cross_entropy_of_the_logits(starter):
    torch.manual_seed(0)
    model = small(starter)
    tokens, targets = torch.randint(64, (2, 32)), torch.randint(64, (2, 32))
    expected = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    assert torch.allclose(model(tokens, targets), expected)


def test_micro_batches_make_the_same_step_as_one_batch(starter, monkeypatch):
    torch.manual_seed(0)
    tokens, targets = torch.randint(64, (8, 32)), torch.randint(64, (8, 32))
    states = []
    for rows in (8, 2):
        monkeypatch.setattr(starter, "MICRO_BATCH_ROWS", rows)
        torch.manual_seed(1)
        model = small(starter)
        starter.train_step(model, starter.make_optimizers(model), tokens, targets, 0.1)
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*states, atol=1e-3)


def test_muon_s_steps_are_nearly_orthogonal(starter):
    torch.manual_seed(0)
    for shape in ((3, 48, 16), (2, 16, 48), (1, 64, 16)):
        step = starter.orthogonalize(torch.randn(shape))
        assert step.shape == shape
        values = torch.linalg.svdvals(step)
        assert values.min() > 0.3
        assert values.max() < 1.6


def test_the_rate_warms_down_to_its_end(starter):
    scales = [starter.lr_scale(p / 100) for p in range(101)]
    assert scales[0] == scales[40] == 1.0
    assert scales[100] == pytest.approx(starter.FINAL_LR)
    assert scales == sorted(scales, reverse=True)


def test_two_runs_with_one_seed_are_the_same_to_the_bit(try_out):
    source = SOURCE.replace("MAX_STEPS = None", "MAX_STEPS = 12")
    assert source != SOURCE
    first, second = (try_out(source, budget_seconds=60.0, startup_seconds=60.0) for _ in range(2))
    assert first.status == second.status == OK, (first.detail, second.detail)
    assert first.val_bpb == second.val_bpb
    curves = [[(p.step, p.loss) for p in t.training.curve] for t in (first, second)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(12))


def test_it_learns_within_its_budget(try_out):
    trial = try_out(SOURCE, budget_seconds=6.0, startup_seconds=60.0)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 6.0) < 0.5
    assert trial.training.startup_seconds < 12
    assert trial.training.curve[-1].loss < 0.8 * trial.training.curve[0].loss
    assert trial.score.audit.worst_nats < 1e-3
    assert write_run(trial)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [128, 100])
@pytest.mark.parametrize("seq_len", [512, 500])
@pytest.mark.parametrize("scoring", [True, False])
def test_windows_on_a_gpu_are_those_of_the_cpu(starter, window, seq_len, scoring):
    torch.manual_seed(0)
    config = starter.Config(
        vocab_size=512, seq_len=seq_len, depth=3, width=256, head_width=64, short_window=window, keep_one_of=1
    )
    model = starter.GPT(config)
    model.initialize()
    tokens = torch.randint(512, (2, seq_len))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    logits, grads = [], []
    for device in ("cpu", "cuda"):
        with torch.set_grad_enabled(not scoring):
            found = model.prepare(torch.device(device))(tokens.to(device))
        logits.append(found.detach().cpu())
        if not scoring:
            found.square().mean().backward()
            grads.append(model.blocks[0].attention.query.weight.grad.cpu())
            model.zero_grad()
    for made, far in ((logits, 2e-2), (grads, 4e-2)):
        assert not made or (made[1] - made[0]).norm() < far * made[0].norm()


@pytest.mark.parametrize("hopper", [True, False])
@pytest.mark.parametrize("window", [1, 100, 128])
def test_a_block_mask_has_every_block_that_a_window_reaches(monkeypatch, hopper, window):
    module = types.ModuleType("on_a_gpu")
    monkeypatch.setitem(sys.modules, "on_a_gpu", module)
    source = SOURCE.replace('if device.type != "cuda":', "if False:")
    source = source.replace('"train::', f'"train_{hopper}_{window}::')  # its operators beside those of others
    exec(source, module.__dict__)
    monkeypatch.setattr(module, "HAS_KERNELS", hopper)
    q, k, v = torch.randn(3, 1, 1, 500, 16)
    at = torch.arange(500)
    seen = (at[:, None] >= at) & (at[:, None] - at < window)
    masked = flex_attention(q, k, v, block_mask=module.window_mask(500, window, torch.device("cpu")))
    torch.testing.assert_close(masked, F.scaled_dot_product_attention(q, k, v, attn_mask=seen))


@pytest.mark.parametrize("of", [1, 2, 4])
def test_what_dropout_drops_is_not_computed_and_the_result_is_that_of_a_mask(starter, monkeypatch, of):
    torch.manual_seed(0)
    model = starter.GPT(starter.Config(64, 32, depth=2, width=64, head_width=32, keep_one_of=of))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.prepare(torch.device("cpu"))
    tokens, targets = torch.randint(64, (2, 3, 32))
    kept = model.thinned(3)

    def grads():
        model.zero_grad()
        loss = model(tokens, targets, kept)
        loss.backward()
        return [loss, *(weight.grad for weight in model.parameters())]

    def masked(linear, x, kept=None):
        y = F.linear(x, linear.weight)
        return y if kept is None else y * kept[0].flatten(1)[:, kept[2]][:, None] * of

    thin = grads()
    monkeypatch.setattr(starter.Linear, "forward", masked)
    torch.testing.assert_close(thin, grads())
    sites = [site for layer in kept or [] for site in layer]
    rows = [row for one, _, _ in sites for row in one]
    assert all(row.sum(0).eq(1).all() for row in rows)
    assert len({str(row) for row in rows}) == (12 if of > 1 else 0)
    assert all(order[back.long()].tolist() == [*range(64)] for _, order, back in sites)
    assert len({str(order) for _, order, _ in sites}) == (4 if of > 1 else 0), "partners stay the same"


def test_no_warm_down_is_a_full_rate_to_the_end(starter, monkeypatch):
    monkeypatch.setattr(starter, "WARMDOWN", 0.0)
    assert {starter.lr_scale(p / 10) for p in range(10)} == {1.0}


def plain_relu_squared(a, b, activations=None):
    if activations is None:
        return (a @ b.T).relu().square()
    return 2 * activations.sqrt() * (a.view(len(b), -1, a.size(1)) @ b).flatten(0, 1)


def plain_norm_rotary_(qk, cos, sin, y, grad):
    for part, out, to in zip(qk.chunk(2, -1), y, grad.chunk(2, -1), strict=True):
        heads = part.unflatten(-1, (-1, cos.size(-1)))
        scale = torch.rsqrt(heads.square().mean(-1, keepdim=True) + 1e-6)
        if grad is qk:
            normed = heads * scale
            out.copy_((normed * cos + swapped(normed) * sin).flatten(-2))
        else:
            given = out.view(heads.shape)
            turned = given * cos + swapped(given * sin)
            turned = turned - heads * scale**2 * (turned * heads).mean(-1, keepdim=True)
            to.copy_((turned * scale).flatten(-2))


def swapped(heads):
    return heads.unflatten(-1, (2, -1)).flip(-2).flatten(-2)


def plain_capped_cross_entropy_(logits, targets, cap):
    tanh = torch.tanh(logits / cap)
    likely = torch.log_softmax(cap * tanh, -1)
    logits.copy_((likely.exp() - F.one_hot(targets, logits.size(-1))) * (1 - tanh**2))
    return -likely.gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("name", ["norm_rotary", "mlp", "cross_entropy"])
def test_a_fused_operators_gradients_are_those_of_its_plain_twin_whatever_its_kernels(
    starter, monkeypatch, name
):
    kernels = {
        "relu_squared_matmul": plain_relu_squared,
        "norm_rotary_": plain_norm_rotary_,
        "capped_cross_entropy_": plain_capped_cross_entropy_,
    }
    for kernel, plain in kernels.items():
        monkeypatch.setattr(starter, kernel, plain, raising=False)
    torch.manual_seed(0)
    if name == "norm_rotary":
        rotary = starter.Rotary(8, 6, 10000.0)
        inputs, rest = [torch.randn(2, 6, 32)], (rotary.cos, rotary.sin)
        fused, plain = starter.fused_norm_rotary, plain_norm_rotary
    elif name == "mlp":
        inputs, rest = [torch.randn(10, 8), torch.randn(12, 8), torch.randn(2, 4, 12)], ()
        fused, plain = lambda *given: starter.fused_mlp(*given)[:1], plain_mlp
    else:
        inputs, rest = [torch.randn(5, 8), torch.randn(12, 8)], (torch.randint(12, (5,)),)
        fused, plain = lambda *given: starter.fused_cross_entropy(*given, 15.0)[:1], plain_cross_entropy
    found = []
    for operator in (fused, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        made = operator(*leaves, *rest)
        loss = sum((out * torch.arange(1.0, 1 + out.numel()).view(out.shape)).sum() for out in made)
        found.append([*made, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
