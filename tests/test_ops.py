"""Every building block gives what its plain formula gives in float64, forward and backward."""

import os
import subprocess
import sys

import pytest
import torch

from harness import ops
from harness.ops import plain

CPU = torch.device("cpu")
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-4}


def drawn(*shape, dtype, device, scale=1.0, seed=0):
    values = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    return (values * scale).to(dtype).requires_grad_()


def mlp(dtype, device, tokens=75, width=192, wide=320, out=128):
    x = drawn(3, tokens, width, dtype=dtype, device=device)
    up = drawn(wide, width, dtype=torch.float32, device=device, scale=0.07)
    down = drawn(out, wide, dtype=torch.float32, device=device, scale=0.05)
    return ops.relu_squared_mlp, plain.relu_squared_mlp, [x, up, down], []


def rope(dtype, device, seq_len=37, heads=3, size=32):
    qk = drawn(2, seq_len, 2, heads, size, dtype=dtype, device=device)
    tables = [table.to(device) for table in ops.rope_tables(seq_len, size)]
    return ops.norm_rope, plain.norm_rope, [qk], [*tables, 1e-6]


def attention(dtype, device, seq_len=150, heads=3, size=64, window=40):
    shape = 2, seq_len, heads, size
    qkv = [drawn(*shape, dtype=dtype, device=device, seed=seed) for seed in range(3)]
    return ops.causal_attention, plain.causal_attention, qkv, [window]


def cross_entropy(dtype, device, tokens=70, width=64, vocab_size=300):
    x = drawn(tokens, width, dtype=dtype, device=device)
    weight = drawn(vocab_size, width, dtype=torch.float32, device=device, scale=0.3)
    targets = torch.arange(tokens, device=device) * 7 % vocab_size
    return ops.softcapped_cross_entropy, plain.softcapped_cross_entropy, [x, weight], [targets, 15.0]


CASES = {
    "mlp": (mlp, {}),
    "mlp, more rows than a tile, sizes of no tile": (
        mlp,
        {"tokens": 131, "width": 64, "wide": 192, "out": 64},
    ),
    "mlp, odd sizes": (mlp, {"width": 30, "wide": 50, "out": 7}),
    "rope": (rope, {}),
    "rope, wide heads": (rope, {"size": 128}),
    "rope, heads of no power of two": (rope, {"size": 24}),
    "attention": (attention, {}),
    "attention, wide heads": (attention, {"size": 128, "seq_len": 256, "window": 128}),
    "attention, small heads": (attention, {"size": 16, "window": 100}),
    "attention, to itself": (attention, {"window": 2}),
    "attention, a row shorter than a tile": (attention, {"seq_len": 9, "window": 4}),
    "attention, the whole row": (attention, {"window": 150}),
    "attention, heads of no power of two": (attention, {"size": 24}),
    "cross-entropy": (cross_entropy, {}),
    "cross-entropy, three rows": (cross_entropy, {"tokens": 3}),
    "cross-entropy, a wide vocabulary": (cross_entropy, {"vocab_size": 33000}),
}


def check(case, dtype, device, wrapped=lambda f: f):
    torch.manual_seed(0)
    make, sizes = CASES[case]
    fast, formula, inputs, fixed = make(dtype, device, **sizes)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    wide = [f.double() if isinstance(f, torch.Tensor) and f.is_floating_point() else f for f in fixed]
    wanted, got = formula(*exact, *wide), wrapped(fast)(*inputs, *fixed)
    wanted, got = ((y,) if isinstance(y, torch.Tensor) else y for y in (wanted, got))
    along = [torch.randn_like(y) for y in wanted]
    found = [
        *got,
        *torch.autograd.grad(got, inputs, [a.to(y.dtype) for a, y in zip(along, got, strict=True)]),
    ]
    right = [*wanted, *torch.autograd.grad(wanted, exact, along)]
    for one, other in zip(found, right, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= TOLERANCES[dtype] * other.norm(), case
    with torch.no_grad():  # as in scoring
        again = wrapped(fast)(*inputs, *fixed)
    for one, other in zip((again,) if isinstance(again, torch.Tensor) else again, got, strict=True):
        assert (one - other).norm() <= TOLERANCES[dtype] * other.norm()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_on_a_processor_each_gives_its_formula_whatever_the_shape(case, dtype):
    check(case, dtype, CPU)


def test_a_soft_cap_is_float32_and_bounded():
    x = torch.tensor([-1e4, -3.0, 0.0, 1.0, 1e4]).bfloat16()
    found = ops.softcap(x, 15.0)
    assert found.dtype == torch.float32
    assert found.abs().max() <= 15
    torch.testing.assert_close(found, 15 * torch.tanh(x.float() / 15))


INTERPRETED = """
import torch, test_ops
from harness import ops
from harness.ops import loss, mlp

torch.Tensor.is_cuda = True
loss.HAS_FAST_TANH = False
for case in test_ops.CASES:
    if case != "cross-entropy, a wide vocabulary":
        test_ops.check(case, torch.float16, test_ops.CPU)

def product(a, b, activations=None):  # its kernel is for Hopper alone; its gradient is put together anywhere
    return (a @ b.T).relu().square() if activations is None else (a @ b) * 2 * activations.sqrt()

ops.IS_HOPPER, mlp._product = True, product
for case in test_ops.CASES:
    if case.startswith("mlp"):
        test_ops.check(case, torch.bfloat16, test_ops.CPU)
"""


def test_the_kernels_are_right_where_triton_interprets_them():
    """Without a GPU: what they compute, not how a GPU does."""
    if not ops.HAS_TRITON:
        pytest.skip("needs triton")
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_each_gives_its_formula_whatever_the_shape(case, dtype):
    torch.set_float32_matmul_precision("highest")
    check(case, dtype, torch.device("cuda"))


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("case", CASES)
def test_compiled_there_is_no_graph_break_and_the_same_result(case):
    torch._dynamo.reset()  # the cases are one function to it
    check(
        case, torch.bfloat16, torch.device("cuda"), lambda f: torch.compile(f, fullgraph=True, dynamic=False)
    )
