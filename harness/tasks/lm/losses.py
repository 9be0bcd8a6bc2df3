"""Cross-entropy of each target, from logits that a hostile process may still be writing to.

Every logit is read once, whatever the target is: which places are looked at would tell which they are,
and what is read twice could differ. The largest is taken off before anything is added up, and what is left
is added in float64: a loss is right to 1e-4 nats for all finite logits, however large they are.
"""

import functools
from typing import Any

import torch

# Tokens whose logits are copied and reduced at a time; on a CPU few enough to stay in its cache.
CHUNK_TOKENS = {"cuda": 8192, "mps": 8192, "cpu": 512}
WIDEST = 16384  # logits of one token that the kernel holds in registers
FARTHEST = 1e4  # from 0; beyond it steps of float32 are so wide that probabilities can't be told apart


def losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """In nats; and whether all logits are within FARTHEST, but for -inf, which excludes a token.

    Args:
        logits: (N, V) float32.
        targets: (N,) int64.

    Returns:
        (N,) float64 on the CPU; NaN or infinite where a logit is NaN, or the target's is infinite.
    """
    if logits.is_cuda and logits.size(1) <= WIDEST and (kernel := _kernel()) is not None:
        import triton

        found = torch.empty(len(targets), dtype=torch.float64, device=logits.device)
        far = torch.empty(len(targets), device=logits.device)
        block = triton.next_power_of_2(logits.size(1))
        kernel[(len(targets),)](logits, targets, found, far, logits.size(1), block, num_warps=8)
        return found.cpu(), bool((far <= FARTHEST).all())
    chunk = CHUNK_TOKENS[logits.device.type]
    own = torch.empty((chunk, logits.shape[1]), device=logits.device)
    found = torch.empty(len(targets), dtype=torch.float64)
    near = True
    for at in range(0, len(targets), chunk):
        goal = targets[at : at + chunk, None]
        part = own[: len(goal)].copy_(logits[at : at + chunk])
        low, top = (
            part.amin(1, keepdim=True),
            part.amax(1, keepdim=True),
        )  # `aminmax` takes four times as long
        near = near and bool(((top <= FARTHEST) & ((low >= -FARTHEST) | (low == -torch.inf))).all())
        hit = part.gather(1, goal)
        total = part.sub_(top).exp_().sum(1, keepdim=True).log_()
        apart = top.cpu().double() - hit.cpu().double()  # exact: MPS has no float64
        found[at : at + chunk] = (apart + total.cpu().double())[:, 0]
    return found, near


@functools.cache
def _kernel() -> Any:
    """The same in one pass over the logits; None where Triton can't make it."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def cross_entropy(logits, targets, losses, far, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        value = tl.load(logits + row * size + at, mask=at < size, other=float("-inf"))
        top = tl.max(value, 0)
        total = tl.sum(tl.exp(value - top), 0)
        hit = tl.sum(tl.where(at == tl.load(targets + row), value, 0.0), 0)
        apart = top.to(tl.float64) - hit.to(tl.float64)
        tl.store(losses + row, apart + tl.log(total).to(tl.float64))
        tl.store(far + row, tl.max(tl.where(value == float("-inf"), 0.0, tl.abs(value)), 0))

    return cross_entropy
