"""Fast building blocks of a train.py: one name is one formula.

`harness.ops.plain` writes each formula out. The kernels beside it give the same within their number format,
forward and backward, compiled or not, in training and in scoring. What a kernel doesn't take (a shape, a
type, a GPU) the plain one does: slower, never an error.

    | name | kernel | where |
    |---|---|---|
    | relu_squared_mlp | Triton with tensor descriptors | Hopper, bfloat16 |
    | norm_rope | Triton | GPUs with Triton, 16-bit floats |
    | causal_attention | Triton for a window, PyTorch's for none | the same |
    | softcapped_cross_entropy | Triton | the same |
    | softcap | Triton, where no gradient is asked for | GPUs with Triton |
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.ops import plain

try:
    from harness.ops import attention, loss, mlp, rope
except ImportError:  # without Triton
    HAS_TRITON = False
else:
    HAS_TRITON = True

__all__ = ["causal_attention", "norm_rope", "relu_squared_mlp", "softcap", "softcapped_cross_entropy"]

HALVES = torch.bfloat16, torch.float16
# Tensor descriptors and tiles that were chosen on an H200. AMD numbers its chips by other generations.
IS_HOPPER = (
    torch.version.cuda is not None
    and torch.cuda.is_available()
    and torch.cuda.get_device_capability()[0] == 9
)


def relu_squared_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """relu(x @ up.T) ** 2 @ down.T: https://arxiv.org/abs/2109.08668.

    Args:
        x: (..., C).
        up, down: (F, C) and (D, F); they are used in x's type.

    Returns:
        (..., D), of x's type.
    """
    up, down = up.to(x.dtype), down.to(x.dtype)
    sizes = (x.size(-1), *down.shape)
    if HAS_TRITON and IS_HOPPER and x.dtype == torch.bfloat16 and all(size % 64 == 0 for size in sizes):
        return mlp.relu_squared_mlp(x.flatten(0, -2), up, down)[0].view(*x.shape[:-1], -1)
    return plain.relu_squared_mlp(x, up, down)


def norm_rope(qk: Tensor, cos: Tensor, sin: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Queries and keys, normalised by head (https://arxiv.org/abs/2010.04245) and rotated by their position
    (https://arxiv.org/abs/2104.09864).

    Args:
        qk: (B, T, 2, H, D), as one product of both gives them.
        cos, sin: (T, D) float32, see `rope_tables`.
        eps: added to the mean square.

    Returns:
        Two of (B, T, H, D), of qk's type.
    """
    size = qk.size(-1)
    if HAS_TRITON and qk.is_cuda and qk.dtype in HALVES and size in attention.HEAD_SIZES:
        return rope.norm_rope(qk.contiguous(), cos, sin, eps)
    return plain.norm_rope(qk, cos, sin, eps)


def rope_tables(seq_len: int, head_dim: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """What `norm_rope` turns by: (T, D) float32 each, for the first and the second half of a head."""
    rates = base ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(seq_len).float(), rates)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([sin, -sin], dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """softmax(q @ k.T / sqrt(D)) @ v over a token itself and those before it.

    Args:
        q, k, v: (B, T, H, D).
        window: how many of the last tokens, itself among them; None for all.

    Returns:
        (B, T, H, D), of q's type.
    """
    if window is None or window >= q.size(1):
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    if (
        HAS_TRITON
        and q.is_cuda
        and q.dtype in HALVES
        and q.size(-1) in attention.HEAD_SIZES
        and q.shape == k.shape == v.shape
    ):
        return attention.window_attention(q.contiguous(), k.contiguous(), v.contiguous(), window)[0]
    return plain.causal_attention(q, k, v, window)


def softcapped_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    """The loss of each target by the softcapped logits x @ weight.T, which are kept in x's type.

    Args:
        x: (N, C).
        weight: (V, C); used in x's type.
        targets: (N,) int64, from 0 to V - 1.
        cap: see `softcap`.

    Returns:
        (N,) float32, in nats.
    """
    weight = weight.to(x.dtype)
    if HAS_TRITON and x.is_cuda and x.dtype in HALVES and loss.takes(len(weight), cap):
        return loss.softcapped_cross_entropy(x, weight, targets, cap)[0]
    return plain.softcapped_cross_entropy(x, weight, targets, cap)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap) in float32: Gemma 2, https://arxiv.org/abs/2408.00118."""
    if HAS_TRITON and logits.is_cuda and not logits.requires_grad:
        return loss.softcap(logits, cap)
    return plain.softcap(logits, cap)
