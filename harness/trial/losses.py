"""Cross-entropy of each target, from logits that a hostile process may still be writing to.

Every logit is read once, whatever the target is: which places are looked at would tell which they are,
and what is read twice could differ.
"""

import functools
from typing import Any

import torch

# Tokens whose logits are copied and reduced at a time; on a CPU few enough to stay in its cache.
CHUNK_TOKENS = {"cuda": 8192, "mps": 8192, "cpu": 256}
WIDEST = 16384  # logits of one token that the kernel holds in registers


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In nats.

    Args:
        logits: (N, V) float32.
        targets: (N,) int64.

    Returns:
        (N,) float32.
    """
    if logits.is_cuda and logits.size(1) <= WIDEST and (kernel := _kernel()) is not None:
        import triton

        found = torch.empty(len(targets), device=logits.device)
        block = triton.next_power_of_2(logits.size(1))
        kernel[(len(targets),)](logits, targets, found, logits.size(1), block, num_warps=8)
        return found
    chunk = CHUNK_TOKENS[logits.device.type]
    own = torch.empty((chunk, logits.shape[1]), device=logits.device)
    found = torch.empty((len(targets), 1), device=logits.device)
    for at in range(0, len(targets), chunk):
        goal = targets[at : at + chunk, None]
        part = own[: len(goal)].copy_(logits[at : at + chunk])
        torch.log_softmax(part, 1, out=part)
        torch.gather(part, 1, goal, out=found[at : at + chunk])
    return -found[:, 0]


@functools.cache
def _kernel() -> Any:
    """The same in one pass over the logits; None where Triton can't make it."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def cross_entropy(logits, targets, losses, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        value = tl.load(logits + row * size + at, mask=at < size, other=float("-inf"))
        top = tl.max(value, 0)
        total = tl.sum(tl.exp(value - top), 0)
        hit = tl.sum(tl.where(at == tl.load(targets + row), value, 0.0), 0)
        tl.store(losses + row, tl.log(total) + top - hit)

    return cross_entropy
