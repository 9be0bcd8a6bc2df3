"""The starter train.py: readable, causal, deterministic, and it learns."""

import ast
import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, STARTER, edit
from text import using_text  # noqa: F401

from harness.store.note import write_run
from harness.store.records import OK

SOURCE = STARTER


def small(starter, **changes):
    sizes = {"width": 32, "head_dim": 16, "short_window": 8, "ngram_rows": 512, **changes}
    config = starter.Config(64, 32, "float32", **sizes)
    model = starter.GPT(config)
    model.initialize()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)  # away from the identity
    return model


def test_it_is_one_readable_file_with_one_code_path_on_every_device():
    text = (ROOT / "train.py").read_text()
    assert len(text.splitlines()) <= 400 and len(text.encode()) <= 18_000
    assert not re.search("triton|is_cuda|is_available(?!\\(\\)$)|device.type|capability", text, re.MULTILINE)
    assert {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)} >= {"load", "main"}
    assert len(set(re.findall(r"^([A-Z][A-Z_]+) = ", text, re.MULTILINE))) >= 20


def test_no_logit_depends_on_a_later_token(starter):
    torch.manual_seed(0)
    model = small(starter)
    tokens = torch.randint(64, (2, 32))
    changed = tokens.clone()
    changed[:, 20:] = torch.randint(64, (2, 12))
    with torch.no_grad():
        before, after = model(tokens)[:, :20], model(changed)[:, :20]
    assert torch.equal(before, after)


def test_a_hashed_n_gram_is_of_its_tokens_alone_and_spreads_over_the_table(starter):
    torch.manual_seed(0)
    tokens = torch.randint(8192, (4, 512))
    for order in (2, 3):
        rows = starter.hashed(tokens, order, 2**20)
        assert rows.min() >= 0 and rows.max() < 2**20 and len(rows.unique()) > 0.99 * rows.numel()
        moved = torch.cat([torch.randint(8192, (4, 7)), tokens], 1)
        assert torch.equal(starter.hashed(moved, order, 2**20)[:, 7 + order - 1 :], rows[:, order - 1 :])


def test_a_short_window_forgets_and_the_last_layer_does_not(starter):
    config = small(starter).config
    assert [config.window(layer) for layer in range(3)] == [8, 8, 32]
    model = starter.GPT(starter.Config(64, 32, "float32", depth=2, width=32, head_dim=16, short_window=8))
    torch.nn.init.normal_(model.blocks[0].attention.out.weight)
    tokens = torch.randint(64, (1, 32))
    other = tokens.clone()
    other[0, 5] = (tokens[0, 5] + 1) % 64
    first = [
        model.blocks[0].attention(model.embedding(t), None, model.cos, model.sin) for t in (tokens, other)
    ]
    assert (first[0] != first[1]).any(-1)[0].nonzero().flatten().tolist() == list(range(5, 13))


def test_the_loss_is_the_cross_entropy_of_the_logits(starter):
    torch.manual_seed(0)
    model = small(starter)
    tokens, targets = torch.randint(64, (2, 32)), torch.randint(64, (2, 32))
    expected = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    assert torch.allclose(model(tokens, targets), expected)


@pytest.mark.parametrize(("width", "head_dim"), [(40, 16), (16, 32)])
def test_sizes_that_do_not_divide_make_a_model_all_the_same(starter, width, head_dim):
    model = small(starter, width=width, head_dim=head_dim)
    tokens = torch.randint(64, (2, 32))
    loss = starter.train_step(model, starter.make_optimizers(model), tokens, tokens.roll(-1, 1), 2, 0.1)
    assert torch.isfinite(loss) and model(tokens).shape == (2, 32, 64)


def test_micro_batches_make_the_same_step_as_one_batch(starter):
    torch.manual_seed(0)
    tokens, targets = torch.randint(64, (8, 32)), torch.randint(64, (8, 32))
    states = []
    for rows in (8, 2):
        torch.manual_seed(1)
        model = small(starter)
        starter.train_step(model, starter.make_optimizers(model), tokens, targets, rows, 0.1)
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
    assert scales[100] == pytest.approx(starter.FINAL_LR_FRAC)
    assert scales == sorted(scales, reverse=True)


TWELVE = SOURCE.replace("MAX_STEPS = None", "MAX_STEPS = 12")


def test_two_runs_with_one_seed_are_the_same_to_the_bit_and_load_is_what_was_trained(try_out):
    assert TWELVE != SOURCE
    first, second = (try_out(TWELVE, budget_seconds=60.0, startup_seconds=60.0) for _ in range(2))
    assert first.status == second.status == OK, (first.detail, second.detail)
    assert first.value == second.value
    curves = [[(p.step, p.loss) for p in t.training.curve] for t in (first, second)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(12))
    assert None not in (first.score.trained_nats, first.training.reported.trained_nats)
    assert first.mismatch == second.mismatch == ""


def test_a_load_that_gives_another_function_than_was_trained_is_said(try_out):
    source = edit(
        ("goal, self.config.softcap)", "goal, 0.5 * self.config.softcap)"),
        ('name == "embedding.weight" else 0.001', 'name == "embedding.weight" else 1.0'),
        source=TWELVE,
    )
    trial = try_out(source, budget_seconds=60.0, startup_seconds=60.0)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert "load gives another function" in trial.mismatch


def test_it_learns_within_its_budget(try_out):
    trial = try_out(SOURCE, budget_seconds=2.0, startup_seconds=60.0)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 2.0) < 0.5
    assert trial.training.startup_seconds < 12
    assert trial.training.curve[-1].loss < 0.8 * trial.training.curve[0].loss
    assert trial.score.audit.worst_nats < 1e-3
    assert write_run(trial)


def test_no_warm_down_is_a_full_rate_to_the_end(starter, monkeypatch):
    monkeypatch.setattr(starter, "WARMDOWN_RATIO", 0.0)
    assert {starter.lr_scale(p / 10) for p in range(10)} == {1.0}


def test_dropout_is_of_training_alone(starter):
    torch.manual_seed(0)
    model = small(starter)
    tokens = torch.randint(64, (2, 32))
    for block in model.blocks:
        block.dropout = 0.5
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize(("passes", "tables", "dropout"), [(1, 2, 0.0), (2, 0, 0.0), (4, 0, 0.5)])
def test_how_often_a_run_sees_its_text_decides_on_tables_and_dropout(
    starter, monkeypatch, tmp_path, passes, tables, dropout
):
    submitted = []
    run = SimpleNamespace(
        seed=1, device=torch.device("cpu"), dtype="float32", vocab_size=64, seq_len=32,
        budget_seconds=10.0, train_tokens=1000, checkpoint_dir=tmp_path,
        fit_rows=lambda most, tried: most, batches=lambda rows: iter(()),
        dummy_batch=lambda rows: torch.zeros((2, rows, 32), dtype=torch.int64).unbind(),
        submit=lambda model, **about: submitted.append(model),
    )  # fmt: skip
    monkeypatch.setattr(starter.trial, "open", lambda: run)
    monkeypatch.setattr(starter, "NGRAM_ROWS", 16)
    monkeypatch.setattr(starter, "DROPOUT", 0.5)
    monkeypatch.setattr(starter, "TOKENS_A_SECOND", passes * 100)
    starter.main()
    assert len(submitted[0].ngrams) == tables
    assert submitted[0].blocks[0].dropout == dropout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("seq_len", [512, 500])
def test_compiled_on_a_gpu_it_is_the_model_of_the_cpu_in_training_and_in_scoring(starter, seq_len):
    """bfloat16 apart: against float32 on the CPU."""
    torch.manual_seed(0)
    config = starter.Config(
        512, seq_len, "float32", depth=4, width=256, head_dim=64, short_window=128,
    )  # fmt: skip
    model = starter.GPT(config)
    model.initialize()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    tokens = torch.randint(512, (4, seq_len))
    on_gpu = starter.GPT(dataclasses.replace(config, dtype="bfloat16"))
    on_gpu.load_state_dict(model.state_dict())
    on_gpu.cuda()
    losses = []
    for each, where in ((model, "cpu"), (torch.compile(on_gpu, dynamic=False, fullgraph=True), "cuda")):
        loss = each(tokens.to(where), tokens.roll(-1, 1).to(where))
        loss.backward()
        losses.append(float(loss))
    assert abs(losses[0] - losses[1]) < 0.01
    grads = [m.blocks[0].attention.query.weight.grad.cpu() for m in (model, on_gpu)]
    assert (grads[1] - grads[0]).norm() < 0.06 * grads[0].norm()
    with torch.no_grad():
        exact, found = model(tokens), on_gpu(tokens.cuda()).cpu()
    assert (found - exact).norm() < 0.02 * exact.norm()
