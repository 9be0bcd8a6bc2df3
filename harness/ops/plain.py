"""The formulas of `harness.ops` in plain PyTorch: kernels are held to them, and without kernels they run."""

import torch
import torch.nn.functional as F
from torch import Tensor


def relu_squared_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, up)).square(), down)


def norm_rope(qk: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x = F.rms_norm(qk, (qk.size(-1),), eps=eps)
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)  # by torch.cat it would be two kernels
    turned = (x * cos[:, None, None] + swapped * sin[:, None, None]).to(qk.dtype)
    return turned[:, :, 0], turned[:, :, 1]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    at = torch.arange(q.size(1), device=q.device)
    back = at[:, None] - at
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    seen = (back >= 0) & (back < window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)


def softcapped_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    return F.cross_entropy(softcap(F.linear(x, weight), cap), targets, reduction="none")


def softcap(logits: Tensor, cap: float) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return cap * torch.tanh(logits / cap)
