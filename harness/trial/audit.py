"""The audit: may the answers that were scored depend on what a language model must not see?

Rows are asked again of a fresh server, in another order, each with everything after a random
position replaced. At that position and before it, the loss of every target must be what was scored.
A model that looks ahead, keeps what earlier rows taught it, or mixes along the whole row answers
differently there, whether or not it knows that it is being audited: what it would need for the same
answer is not in its sight any more.

The difference is taken in nats of the target's loss, because that is all that the score is made of.
Not covered: a cheat in so few positions that no cut meets one. One row answers for one position, so
what is as likely to be missed as found gains a few / `rows` nats per token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.records import INVALID, Audit, Failure


@dataclass(frozen=True)
class Tolerance:
    """What honest arithmetic may differ by; see `Audit` for the three figures."""

    advantage_nats: float
    spread_nats: float
    worst_nats: float


# Same kernels, same shapes, another place in the batch. On a GPU another process may be given other
# kernels for bf16 products, which moves single losses by hundredths.
TOLERANCES = {
    "cpu": Tolerance(0.0005, 0.001, 0.05),
    "mps": Tolerance(0.001, 0.01, 0.5),
    "cuda": Tolerance(0.001, 0.01, 0.5),
}


@dataclass(frozen=True)
class Questions:
    """What the second server is asked."""

    rows: np.ndarray
    """Which scored rows, in the order of asking; (K,)."""
    cuts: np.ndarray
    """Last position that is as it was scored; (K,)."""
    tokens: np.ndarray
    """Inputs with their suffixes replaced; (K, T) int64."""


def rarity(targets: np.ndarray, vocab_size: int) -> np.ndarray:
    """What a token would cost in nats by its frequency alone; (V,) float32."""
    counts = np.bincount(targets.ravel(), minlength=vocab_size) + 1.0
    return -np.log(counts / counts.sum()).astype(np.float32)


def questions(
    inputs: np.ndarray, doubts: Callable[[np.ndarray], np.ndarray], count: int, seed: int
) -> Questions:
    """Draw `count` of the (R, T) `inputs` rows and replace what stands after a position of each.

    A cheat that wants to gain much from few positions must take rare tokens and make them cheap. So half
    of the cuts are uniform, half go where a token's loss is lowest against what its frequency would cost.
    The token right after the cut always differs from the true one: it is the target at the cut.

    Args:
        doubts: how much knowing the targets would have helped, (K, T) >= 0, for (K,) rows.
    """
    generator = np.random.default_rng(seed)
    total, seq_len = inputs.shape
    rows = generator.choice(total, size=min(count, total), replace=False)
    cuts = generator.integers(0, seq_len - 1, size=len(rows))
    weights = np.cumsum(doubts(rows)[:, :-1].astype(np.float64), axis=1)  # (K, T - 1)
    drawn = generator.random(len(rows)) * weights[:, -1]
    doubted = np.minimum((weights <= drawn[:, None]).sum(axis=1), seq_len - 2)
    cuts = np.where(generator.random(len(rows)) < 0.5, doubted, cuts)
    tokens = inputs[rows].astype(np.int64)
    vocab_size = int(inputs.max()) + 1
    noise = generator.integers(0, vocab_size, size=tokens.shape)
    after = np.arange(seq_len) > cuts[:, None]
    shifted = (tokens + generator.integers(1, vocab_size, size=tokens.shape)) % vocab_size
    first = np.arange(seq_len) == cuts[:, None] + 1
    return Questions(rows, cuts, np.where(first, shifted, np.where(after, noise, tokens)))


def compare(asked: Questions, scored: np.ndarray, audited: np.ndarray) -> Audit:
    """Differences between the losses of the same targets; `scored`, `audited`: (K, T) in nats."""
    difference = (audited - scored).astype(np.float64)
    at_cut = difference[np.arange(len(asked.rows)), asked.cuts]
    before = np.arange(difference.shape[1]) <= asked.cuts[:, None]
    return Audit(
        rows=len(asked.rows),
        advantage_nats=float(at_cut.mean()),
        spread_nats=float(np.abs(at_cut).mean()),
        worst_nats=float(np.abs(difference[before]).max()),
    )


def judge(audit: Audit, device_kind: str) -> Failure | None:
    """None if honest arithmetic explains the differences."""
    allowed = TOLERANCES[device_kind]
    within = (
        audit.advantage_nats <= allowed.advantage_nats
        and audit.spread_nats <= allowed.spread_nats
        and audit.worst_nats <= allowed.worst_nats
    )
    if within:  # written so that a NaN fails
        return None
    return Failure(
        INVALID,
        "the audit got other answers: the model depends on later tokens, on other rows or on chance "
        f"(mean {audit.spread_nats:.2g}, worst {audit.worst_nats:.2g} nats)",
    )
