"""The audit: may the answers that were scored depend on what a language model must not see?

Rows are asked again of a fresh server, in another order, each with everything after a random
position replaced. At that position and before it, the loss of every target must be what was scored.
A model that looks ahead, keeps what earlier rows taught it, or mixes along the whole row answers
differently there, whether or not it knows that it is being audited: what it would need for the same
answer is not in its sight any more.

The difference is taken in nats of the target's loss, because that is all that the score is made of. Where
to cut is drawn by how much a cheat could have gained there, so that a gain is found with about the same
probability however it is spread: see `doubt`, and benchmarks/audit.py for the probabilities.
"""

from dataclasses import dataclass

import numpy as np

from harness.store.records import Audit

EVIDENCE = 5.0  # occurrences of a token before another that weigh as much as its frequency
LEAST_DOUBT = 0.25  # nats
MARGIN_NATS = 6.0  # by which an honest model may be more surprised than those counts


@dataclass(frozen=True)
class Questions:
    """What the second server is asked."""

    items: np.ndarray
    """Which scored rows, in the order of asking; (K,)."""
    cuts: np.ndarray
    """Last position that is as it was scored; (K,)."""
    weights: np.ndarray
    """How many positions each cut stands for, as a share of the mean; (K,)."""
    inputs: np.ndarray
    """The rows' with their suffixes replaced; (K, T), of their type."""
    targets: np.ndarray
    """The rows', (K, T)."""


@dataclass(frozen=True)
class Plan:
    """What can be known of an audit before there is a score."""

    items: np.ndarray
    """Which rows, in the order of asking; (K,)."""
    surprise: np.ndarray
    """What each target costs in nats by counts of pairs of tokens; (K, T) float32."""
    tokens: np.ndarray
    """The rows' inputs, (K, T), of their type."""
    others: np.ndarray
    """A token that isn't the true one for each of them."""
    targets: np.ndarray
    """What follows each of them."""
    places: np.ndarray
    """Where a cut falls among what could be doubted, in [0, 1); (K,)."""


def plan(inputs: np.ndarray, targets: np.ndarray, vocab_size: int, count: int, seed: int) -> Plan:
    """Draw `count` of the (R, T) rows. What pairs of tokens cost is counted in all of them, each without
    itself: data alone, which no model can alter."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(inputs), size=min(count, len(inputs)), replace=False)
    frequency = np.bincount(targets.ravel(), minlength=vocab_size) + 1.0
    frequency /= frequency.sum()
    before = np.bincount(inputs.ravel(), minlength=vocab_size).astype(np.float64)
    pairs, counts = np.unique(inputs.astype(np.int64) * vocab_size + targets, return_counts=True)
    tokens, goal = inputs[rows].astype(np.int64), targets[rows]
    seen = counts[np.searchsorted(pairs, tokens * vocab_size + goal)] - 1.0
    chance = (seen + EVIDENCE * frequency[goal]) / (before[tokens] - 1.0 + EVIDENCE)
    known = int(inputs.max()) + 1
    others = (tokens + generator.integers(1, max(known, 2), size=tokens.shape)) % known
    places = generator.random(len(rows))
    surprise = -np.log(chance).astype(np.float32)
    return Plan(rows, surprise, inputs[rows], others.astype(inputs.dtype), goal, places)


def doubt(surprise: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """What a cheat could have gained at each position, in nats, (K, T) > 0: its honest loss is hardly more
    than what the counts say and a margin, and what was scored of that is gone."""
    gained = np.subtract(surprise, scored, dtype=np.float32)
    gained += MARGIN_NATS
    return np.maximum(gained, LEAST_DOUBT, out=gained)


def questions(planned: Plan, scored: np.ndarray) -> Questions:
    """Draw a position of each planned row and replace what stands after it.

    The token right after the cut always differs from the true one: it is the target at the cut.

    Args:
        scored: losses of the planned rows in nats, (K, T).
    """
    count, seq_len = planned.tokens.shape
    doubts = doubt(planned.surprise[:, :-1], scored[:, :-1])
    up_to = np.cumsum(doubts, axis=1)  # (K, T - 1)
    drawn = planned.places.astype(np.float32) * up_to[:, -1]
    cuts = np.minimum((up_to <= drawn[:, None]).sum(axis=1), seq_len - 2)
    weights = up_to[:, -1] / (seq_len - 1) / doubts[np.arange(count), cuts]
    after = np.arange(seq_len) > cuts[:, None]
    inputs = np.where(after, planned.others, planned.tokens)
    return Questions(planned.items, cuts, weights, inputs, planned.targets)


def compare(asked: Questions, scored: np.ndarray, audited: np.ndarray) -> Audit:
    """Differences between the losses of the same targets; `scored`, `audited`: (K, T) in nats."""
    difference = audited - scored
    at_cut = difference[np.arange(len(asked.items)), asked.cuts]
    before = np.arange(difference.shape[1]) <= asked.cuts[:, None]
    return Audit(
        rows=len(asked.items),
        advantage_nats=float(np.average(at_cut, weights=asked.weights)),
        spread_nats=float(np.abs(at_cut).mean()),
        worst_nats=float(np.max(np.abs(difference, out=difference), where=before, initial=0.0)),
    )
