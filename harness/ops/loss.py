"""Softcapped logits and their cross-entropy, in Triton: a row of logits is read once and overwritten with its
gradients, so that no second tensor of that size is needed."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 65536  # logits that a program holds in registers
HIGHEST = 64.0  # of a cap: e to that, times as many, is a float32
BLOCK = 1024
HAS_FAST_TANH = torch.version.cuda is not None  # an instruction of NVIDIA's


def takes(vocab_size: int, cap: float) -> bool:
    return vocab_size <= WIDEST and 0 < cap <= HIGHEST


@triton.jit
def _tanh(x, FAST: tl.constexpr):  # type: ignore[no-untyped-def]
    if FAST:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return 1 - 2 / (1 + tl.exp(2 * x))


@triton.jit
def _cross_entropy(  # type: ignore[no-untyped-def]
    logits, targets, losses, cap, vocab_size: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr
):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, target = at < vocab_size, tl.load(targets + row).to(tl.int32)
    logits += row * vocab_size
    own = _tanh(tl.load(logits + target).to(tl.float32) * (1 / cap), FAST)
    tanh = _tanh(tl.load(logits + at, mask=inside, other=0.0).to(tl.float32) * (1 / cap), FAST)
    exps = tl.where(inside, tl.exp2(cap * 1.4426950408889634 * tanh), 0.0)  # capped: can't overflow
    total = tl.sum(exps, 0)
    tl.store(losses + row, tl.log(total) - cap * own)
    grad = tl.where(at == target, exps - total, exps) * (1 / total) * (1 - tanh * tanh)
    tl.store(logits + at, grad.to(logits.dtype.element_ty), mask=inside)


@triton.jit
def _softcap(x, out, cap, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, cap - 2 * cap / (1 + tl.exp(value * (2 / cap))), mask=at < count)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """In float32, without a gradient."""
    logits = logits.contiguous()
    out = torch.empty(logits.shape, device=logits.device)
    _softcap[(triton.cdiv(logits.numel(), BLOCK),)](logits, out, cap, logits.numel(), BLOCK)
    return out


@torch.library.custom_op("harness::softcapped_cross_entropy", mutates_args=())
def softcapped_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Losses (N,) of (N, C) by (V, C), and the logits' gradients (N, V), made in the logits' memory."""
    logits = x @ weight.T
    losses, block = torch.empty(len(x), device=x.device), triton.next_power_of_2(len(weight))
    warps = min(32, max(4, block // 1024))
    _cross_entropy[(len(x),)](
        logits, targets, losses, cap, len(weight), block, HAS_FAST_TANH, num_warps=warps
    )
    return losses, logits


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> Any:
    x, weight, to_logits = ctx.saved_tensors
    to_x = ((to_logits @ weight) * grad[:, None]).to(x.dtype)
    return to_x, to_logits.T @ (x * grad[:, None]).to(x.dtype), None, None


softcapped_cross_entropy.register_fake(
    lambda x, weight, targets, cap: (
        x.new_empty(len(x), dtype=torch.float32),
        x.new_empty(len(x), len(weight)),
    )
)
softcapped_cross_entropy.register_autograd(_backward, setup_context=_keep)
