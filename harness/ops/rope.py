"""Queries and keys normalised and rotated in one pass over them, in Triton."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 8  # of a program; larger tiles take longer to compile


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, y, to_x, cos, sin, tokens, seq_len, heads, eps,
    D: tl.constexpr, TOKENS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """One head of TOKENS tokens: of `x`, which has queries and keys beside each other, into `y`; or of the
    gradients `y` into `to_x`."""
    d = tl.arange(0, D)[None, :]
    partner = (d + D // 2) % D
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64)
    inside, at = token < tokens, token % seq_len * D + d
    row = (token * 2 * heads + tl.program_id(1)) * D
    y += (token * heads + tl.program_id(1)) * D
    own = tl.load(x + row + d, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(own * own, 1) / D + eps)[:, None]
    near, far = tl.load(cos + at, mask=inside), tl.load(sin + at, mask=inside)
    if BACKWARD:
        turned = tl.load(y + d, mask=inside) * near - tl.load(y + partner, mask=inside) * far
        turned -= own * (scale * scale / D * tl.sum(turned * own, 1)[:, None])
        tl.store(to_x + row + d, (turned * scale).to(to_x.dtype.element_ty), mask=inside)
    else:
        turned = own * near + tl.load(x + row + partner, mask=inside) * far
        tl.store(y + d, (turned * scale).to(y.dtype.element_ty), mask=inside)


def _launch(
    qk: Tensor, cos: Tensor, sin: Tensor, eps: float, y: tuple[Tensor, Tensor], to_qk: Tensor
) -> None:
    batch, seq_len, _, heads, size = qk.shape
    grid = triton.cdiv(batch * seq_len, TOKENS), heads
    for part in range(2):
        _kernel[grid](
            qk[:, :, part], y[part], to_qk[:, :, part], cos, sin, batch * seq_len, seq_len, heads, eps,
            size, TOKENS, to_qk is not qk,
        )  # fmt: skip


@torch.library.custom_op("harness::norm_rope", mutates_args=())
def norm_rope(qk: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(B, T, 2, H, D) and (T, D) twice, contiguous all: two of (B, T, H, D)."""
    y = torch.empty_like(qk[:, :, 0]), torch.empty_like(qk[:, :, 1])
    _launch(qk, cos, sin, eps, y, qk)
    return y


@torch.library.custom_op("harness::norm_rope_grad", mutates_args=())
def norm_rope_grad(qk: Tensor, cos: Tensor, sin: Tensor, q: Tensor, k: Tensor, eps: float) -> Tensor:
    to_qk = torch.empty_like(qk)
    _launch(qk, cos, sin, eps, (q.contiguous(), k.contiguous()), to_qk)
    return to_qk


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.eps = inputs[3]


def _backward(ctx: Any, q: Tensor, k: Tensor) -> Any:
    return norm_rope_grad(*ctx.saved_tensors, q, k, ctx.eps), None, None, None


norm_rope.register_fake(lambda qk, *_: (torch.empty_like(qk[:, :, 0]), torch.empty_like(qk[:, :, 1])))
norm_rope_grad.register_fake(lambda qk, *_: torch.empty_like(qk))
norm_rope.register_autograd(_backward, setup_context=_keep)
