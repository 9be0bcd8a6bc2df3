"""Causal attention over the last tokens, in Triton: after FlashAttention-2, https://arxiv.org/abs/2307.08691,
with a window.

Three kernels: outputs; the queries' gradients; the keys' and values'. A program has a tile of tokens of one
head and goes over the tiles that it can see or be seen by, so a short window costs little.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD_SIZES = 16, 32, 64, 128
OWN, OTHER = 64, 32  # tokens of a program's own tile, and of those that it goes over
LOG2_E = 1.4426950408889634


@triton.jit
def _place(seq_len, heads, D: tl.constexpr, OWN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of a program: its first token, its head of all, how far apart tokens are, and where the head begins."""
    head = tl.program_id(1).to(tl.int64)
    return tl.program_id(0) * OWN, head, heads * D, (head // heads * seq_len * heads + head % heads) * D


@triton.jit
def _load(x, at, seq_len, stride, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows `at` of one head, (N, D)."""
    places = at.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(x + places, mask=at[:, None] < seq_len, other=0.0)


@triton.jit
def _store(x, value, at, seq_len, stride, D: tl.constexpr):  # type: ignore[no-untyped-def]
    places = at.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(x + places, value.to(x.dtype.element_ty), mask=at[:, None] < seq_len)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, sums, seq_len, heads, window, scale, log2_e,
    D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    start, head, stride, base = _place(seq_len, heads, D, OWN)
    query = start + tl.arange(0, OWN)
    own = _load(q + base, query, seq_len, stride, D)
    top = tl.full((OWN,), -1e30, tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    mixed = tl.zeros((OWN, D), tl.float32)
    for at in range(
        tl.maximum(0, start - window + 1) // OTHER * OTHER, tl.minimum(start + OWN, seq_len), OTHER
    ):
        key = at + tl.arange(0, OTHER)
        score = tl.dot(own, _load(k + base, key, seq_len, stride, D).T) * scale
        back = query[:, None] - key[None, :]
        score = tl.where((back >= 0) & (back < window), score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, 1)
        value = _load(v + base, key, seq_len, stride, D)
        mixed = tl.dot(weight.to(value.dtype), value, mixed * shrink[:, None])
        top = higher
    total = tl.where(query < seq_len, total, 1.0)
    _store(out + base, mixed / total[:, None], query, seq_len, stride, D)
    tl.store(sums + head * seq_len + query, top + tl.log2(total), mask=query < seq_len)


@triton.jit
def _backward_of_queries(  # type: ignore[no-untyped-def]
    q, k, v, out, sums, grad, to_q, deltas, seq_len, heads, window, scale, log2_e,
    D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    start, head, stride, base = _place(seq_len, heads, D, OWN)
    query = start + tl.arange(0, OWN)
    inside = query < seq_len
    own = _load(q + base, query, seq_len, stride, D)
    given = _load(grad + base, query, seq_len, stride, D)
    result = _load(out + base, query, seq_len, stride, D)
    delta = tl.sum(result.to(tl.float32) * given.to(tl.float32), 1)
    tl.store(deltas + head * seq_len + query, delta, mask=inside)
    known = tl.load(sums + head * seq_len + query, mask=inside, other=0.0)
    found = tl.zeros((OWN, D), tl.float32)
    for at in range(
        tl.maximum(0, start - window + 1) // OTHER * OTHER, tl.minimum(start + OWN, seq_len), OTHER
    ):
        key = at + tl.arange(0, OTHER)
        keys = _load(k + base, key, seq_len, stride, D)
        score = tl.dot(own, keys.T) * scale - known[:, None]
        back = query[:, None] - key[None, :]
        weight = tl.where((back >= 0) & (back < window), tl.exp2(score), 0.0)
        to_weight = tl.dot(given, _load(v + base, key, seq_len, stride, D).T)
        to_score = weight * (to_weight - delta[:, None])
        found = tl.dot(to_score.to(keys.dtype), keys, found)
    _store(to_q + base, found * (scale / log2_e), query, seq_len, stride, D)


@triton.jit
def _backward_of_keys(  # type: ignore[no-untyped-def]
    q, k, v, sums, grad, deltas, to_k, to_v, seq_len, heads, window, scale, log2_e,
    D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    start, head, stride, base = _place(seq_len, heads, D, OWN)
    key = start + tl.arange(0, OWN)
    keys = _load(k + base, key, seq_len, stride, D)
    values = _load(v + base, key, seq_len, stride, D)
    to_keys, to_values = tl.zeros((OWN, D), tl.float32), tl.zeros((OWN, D), tl.float32)
    for at in range(start // OTHER * OTHER, tl.minimum(start + OWN + window - 1, seq_len), OTHER):
        query = at + tl.arange(0, OTHER)
        inside = query < seq_len
        queries = _load(q + base, query, seq_len, stride, D)
        given = _load(grad + base, query, seq_len, stride, D)
        known = tl.load(sums + head * seq_len + query, mask=inside, other=0.0)
        delta = tl.load(deltas + head * seq_len + query, mask=inside, other=0.0)
        score = tl.dot(keys, queries.T) * scale - known[None, :]  # keys by queries
        back = query[None, :] - key[:, None]
        weight = tl.where((back >= 0) & (back < window) & inside[None, :], tl.exp2(score), 0.0)
        to_values = tl.dot(weight.to(given.dtype), given, to_values)
        to_score = weight * (tl.dot(values, given.T) - delta[None, :])
        to_keys = tl.dot(to_score.to(queries.dtype), queries, to_keys)
    _store(to_k + base, to_keys * (scale / log2_e), key, seq_len, stride, D)
    _store(to_v + base, to_values, key, seq_len, stride, D)


def _launch(kernel: Any, q: Tensor, *others: Any) -> None:
    """`others`: further tensors, and the window."""
    batch, seq_len, heads, size = q.shape
    grid = triton.cdiv(seq_len, OWN), batch * heads
    kernel[grid](
        q, *others[:-1], seq_len, heads, others[-1], LOG2_E / size**0.5, LOG2_E, size, OWN, OTHER,
        num_warps=4, num_stages=3,
    )  # fmt: skip


@torch.library.custom_op("harness::window_attention", mutates_args=())
def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Outputs like q, (B, T, H, D) all; and the logarithms of the softmax's sums, (B, H, T), to base 2."""
    out = torch.empty_like(q)
    sums = q.new_empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32)
    _launch(_forward, q, k, v, out, sums, window)
    return out, sums


@torch.library.custom_op("harness::window_attention_grad", mutates_args=())
def window_attention_grad(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    to_q, to_k, to_v, deltas = (torch.empty_like(x) for x in (q, k, v, sums))
    _launch(_backward_of_queries, q, k, v, out, sums, grad, to_q, deltas, window)
    _launch(_backward_of_keys, q, k, v, sums, grad, deltas, to_k, to_v, window)
    return to_q, to_k, to_v


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.window = inputs[3]


def _backward(ctx: Any, grad: Tensor, _: Any) -> Any:
    return (*window_attention_grad(grad, *ctx.saved_tensors, ctx.window), None)


window_attention.register_fake(
    lambda q, k, v, window: (
        torch.empty_like(q),
        q.new_empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32),
    )
)
window_attention_grad.register_fake(
    lambda grad, q, k, v, *_: (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
)
window_attention.register_autograd(_backward, setup_context=_keep)
