"""What all scores so far say of `main` and of the tip: probabilities on a grid, exact up to its step.

Unknown is the true val_bpb of every commit, the mean over endless seeds; a score of it is off by the
noise. A commit's true value is its parent's plus the effect of its change. What effects there are (how
many help, and by how much), and how large the noise is, is not known either: several suppositions of
both stand side by side, and scores shift the weight between them. All the rest is Bayes' rule:

- an experiment that is left aside still says something of its parent: if everything tried on top of a
  commit looks bad, then that commit's own score was luck;
- a kept one becomes the tip, and the belief below it is held on to: where later scores speak against
  it, `without_tip` goes back;
- `main` and the tip are known *together*, so that the probability that the one is better counts what
  both have in common once.

Lengths on the grid are in units of the estimated noise, so the numbers here hold for any setting.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.gate.noise import Noise

Array = NDArray[np.floating]
POINTS, STEP = 96, 0.4  # of the grid; the step in units of noise
EDGE = 4  # points at each end that no score is placed on
FAR = 12.0  # units; a lower score than that by one change can't be put on one grid with its parent
TINY = 1e-30
# What the true noise may be, as multiples of its estimate.
SPREADS = np.array([0.5, 0.71, 1.0, 1.41, 2.0, 2.83])


@dataclass(frozen=True)
class Effects:
    """A supposition about the changes that an agent proposes; sizes in units of noise, exponential."""

    help_share: float
    mean_gain: float
    null_share: float
    mean_loss: float


# The first is what five-minute trainings looked like (design: sd 0.0009, gains of mean 0.0012 in 15% of the
# hypotheses, losses of mean 0.002 in half of them); the others are what else a campaign may meet.
SUPPOSED = (
    (Effects(0.15, 1.33, 0.35, 2.2), 0.5),
    (Effects(0.03, 1.33, 0.47, 2.2), 0.15),
    (Effects(0.30, 1.33, 0.30, 2.2), 0.1),
    (Effects(0.10, 5.0, 0.40, 6.0), 0.1),
    (Effects(0.01, 1.3, 0.94, 2.0), 0.15),
)
BROKEN_SHARE = 0.05  # of changes that may cost anything: how bad they are says nothing of their parent


@dataclass(frozen=True)
class Estimate:
    mean: float
    sd: float


@dataclass(frozen=True, eq=False)
class Belief:
    """Of `main` and the tip, at one moment. Arrays are (spreads, suppositions, ...)."""

    unit: float
    """val_bpb of one unit: the estimated noise."""
    center: float
    """val_bpb in the middle of the grid."""
    log_weights: Array
    joint: Array
    """(S, H, POINTS, POINTS): the probability of main's value (rows) and the tip's (columns)."""
    evidence: Array
    """(S, H, POINTS): what was seen of the tip since it was put there, as a likelihood of its value."""
    below: "Belief | None" = None
    """As it was before the tip was put on top; None where the tip is `main`."""

    @property
    def weights(self) -> Array:
        weights = np.exp(self.log_weights - self.log_weights.max())
        return weights / weights.sum()

    @property
    def tip(self) -> Estimate:
        return self._estimate(self._together.sum(0))

    @property
    def main(self) -> Estimate:
        return self._estimate(self._together.sum(1))

    @property
    def noise(self) -> float:
        """The sd of a score, in val_bpb, as it is believed now."""
        return float(self.weights.sum(1) @ SPREADS) * self.unit

    @property
    def tip_is_better(self) -> float:
        """The probability that the tip's true value is below main's; equal is not below."""
        return float((self._together * _below()).sum())

    @functools.cached_property
    def _together(self) -> Array:
        """(POINTS, POINTS): the joint probability, over all suppositions."""
        return np.tensordot(self.weights.astype(np.float32), self.joint, 2)

    def _estimate(self, marginal: Array) -> Estimate:
        mean = float(marginal @ _values())
        variance = float(marginal @ (_values() - mean) ** 2)
        return Estimate(self.center + mean * self.unit, variance**0.5 * self.unit)

    def _likelihood(self, scores: Sequence[float]) -> tuple[Array, Array]:
        """(S, 1, POINTS) of a value, given its scores, and (S, 1) the logarithm of what it was divided by."""
        edge = _values()[-EDGE]
        # Far out is far out: beyond the grid a score says no more than at its edge.
        places = np.clip((np.asarray(scores, float) - self.center) / self.unit, -edge, edge)
        off = (places[:, None, None] - _values()) / SPREADS[:, None]
        log = -0.5 * (off**2).sum(0) - len(scores) * np.log(SPREADS)[:, None]
        top = log.max(-1, keepdims=True)
        return np.exp(log - top, dtype=np.float32)[:, None, :], top


@dataclass(frozen=True)
class Judgement:
    """What the scores of one experiment say, before anything is decided."""

    effect: Estimate
    """Of its change on its parent, in val_bpb; below 0 helps."""
    helps: float
    """The probability that the effect is below 0."""
    worth_of_a_run: float
    """By how much one more run would better the decision, on average, in val_bpb."""


def begin(scores: Sequence[float], noise: Noise) -> Belief:
    """Of a `main` that has these scores, and nothing on top."""
    spread = -noise.freedom * (np.log(SPREADS) + 0.5 / SPREADS**2)
    log_weights = spread[:, None] + np.log([share for _, share in SUPPOSED])
    shape = (len(SPREADS), len(SUPPOSED), POINTS)
    nothing = Belief(noise.sd, float(np.mean(scores)), log_weights, np.empty(0), np.ones(shape, np.float32))
    likelihood, _ = nothing._likelihood(scores)
    value = np.broadcast_to(likelihood / likelihood.sum(-1, keepdims=True), shape)
    return replace(nothing, joint=_diagonal(value))


def judge(belief: Belief, scores: Sequence[float]) -> Judgement:
    """An experiment on top of the tip that has these scores.

    The suppositions are weighed as before these scores, which makes a lower score never look worse: none
    gains weight from the very score that it explains.
    """
    likelihood, _ = belief._likelihood(scores)
    tip = belief.joint.sum(-2)
    total = (tip * _seen_from_below(likelihood)).sum(-1)
    parents = (belief.weights / (total + TINY))[..., None] * tip  # (S, H, POINTS)
    pair = np.einsum("shi,sj,hij->ij", parents, likelihood[:, 0], _transitions(), optimize=True)
    pair /= pair.sum()
    effects = _values()[None, :] - _values()[:, None]
    mean = float((pair * effects).sum())
    sd = float((pair * (effects - mean) ** 2).sum()) ** 0.5
    noise = belief.noise / belief.unit
    return Judgement(
        Estimate(mean * belief.unit, sd * belief.unit), float((pair * _below()).sum()),
        _worth(mean, sd, noise) * belief.unit,
    )  # fmt: skip


def left(belief: Belief, scores: Sequence[float]) -> Belief:
    """After an experiment on top of the tip that is left aside: it still says something of the tip."""
    likelihood, top = belief._likelihood(scores)
    return _seen(belief, _seen_from_below(likelihood), top)


def kept(belief: Belief, scores: Sequence[float]) -> Belief:
    """After an experiment that becomes the tip."""
    likelihood, top = belief._likelihood(scores)
    log_weights = _weighed(belief, _seen_from_below(likelihood), top)
    evidence = np.broadcast_to(likelihood, belief.evidence.shape)
    if np.mean(scores) < belief.tip.mean - FAR * belief.unit:  # what is so much better is a new beginning
        lower = replace(belief, center=float(np.mean(scores)), log_weights=log_weights, below=None)
        value, _ = lower._likelihood(scores)
        joint = np.zeros_like(belief.joint)
        joint[..., -1, :] = value / value.sum(-1, keepdims=True)
        return replace(lower, joint=joint, evidence=np.ones_like(evidence))
    joint = _normal((belief.joint @ _transitions()) * likelihood[..., None, :])
    return _centered(Belief(belief.unit, belief.center, log_weights, joint, evidence, belief))


def again(belief: Belief, score: float) -> Belief:
    """After one more run of the tip."""
    likelihood, top = belief._likelihood([score])
    return _seen(belief, likelihood, top)


def without_tip(belief: Belief) -> Belief | None:
    """The belief with the tip taken off, if what is below it is the better one by now; else None."""
    below = belief.below
    if below is None:
        return None
    message = _seen_from_below(belief.evidence)
    parent = below.joint.sum(-2) * message
    parent = np.tensordot(belief.weights, parent / (parent.sum(-1, keepdims=True) + TINY), 2)
    if below.center + float(parent @ _values()) * below.unit >= belief.tip.mean:
        return None
    return replace(_seen(below, message, np.zeros(1)), log_weights=belief.log_weights)


def moved(belief: Belief) -> Belief:
    """`main` is where the tip is."""
    value = belief.joint.sum(-2)
    there = replace(belief, joint=_diagonal(value), evidence=np.ones_like(belief.evidence), below=None)
    return _centered(there, within=0)


# ── the grid ──────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _values() -> Array:
    return (np.arange(POINTS) - POINTS // 2) * STEP


@functools.cache
def _below() -> Array:
    """1 where the column's value is below the row's."""
    return np.tril(np.ones((POINTS, POINTS)), -1)


@functools.cache
def _transitions() -> Array:
    """(H, POINTS, POINTS): the probability of a child's value (columns), given its parent's (rows)."""
    count = 2 * POINTS - 1
    edges = (np.arange(count + 1) - count / 2) * STEP
    gain, loss = np.minimum(edges, 0), np.maximum(edges, 0)
    found = []
    for effects, _ in SUPPOSED:
        loss_share = 1 - effects.help_share - effects.null_share
        share = effects.help_share * np.diff(np.exp(gain / effects.mean_gain))
        share += loss_share * np.diff(1 - np.exp(-loss / effects.mean_loss))
        share[POINTS - 1] += effects.null_share
        share *= 1 - BROKEN_SHARE
        share[POINTS:] += BROKEN_SHARE / (POINTS - 1)
        found.append([share[POINTS - 1 - row : count - row] for row in range(POINTS)])
    return np.array(found, np.float32)


def _seen_from_below(likelihood: Array) -> Array:
    """Of a parent's value, given that of a child's."""
    return (_transitions() @ likelihood[..., None])[..., 0] + TINY


def _weighed(belief: Belief, likelihood: Array, top: Array) -> Array:
    """The suppositions' weights after something was seen that has this likelihood of the tip's value."""
    total = (belief.joint.sum(-2) * likelihood).sum(-1)
    log_weights = belief.log_weights + np.log(total + TINY) + top
    return log_weights - log_weights.max()


def _seen(belief: Belief, likelihood: Array, top: Array) -> Belief:
    """After something was seen that has this likelihood of the tip's value."""
    total = (belief.joint.sum(-2) * likelihood).sum(-1, keepdims=True) + TINY
    return replace(
        belief, log_weights=_weighed(belief, likelihood, top),
        joint=belief.joint * (likelihood / total)[..., None, :],
        evidence=_scaled(belief.evidence * likelihood),
    )  # fmt: skip


def _diagonal(value: Array) -> Array:
    joint = np.zeros((*value.shape, POINTS), np.float32)
    points = np.arange(POINTS)
    joint[..., points, points] = value / value.sum(-1, keepdims=True)
    return joint


def _normal(joint: Array) -> Array:
    return joint / (joint.sum((-2, -1), keepdims=True) + TINY)


def _scaled(likelihood: Array) -> Array:
    return likelihood / likelihood.max(-1, keepdims=True)


def _centered(belief: Belief, within: int = POINTS // 4) -> Belief:
    """The same belief with its tip near the middle of the grid, all that is below it too."""
    off = round((belief.tip.mean - belief.center) / belief.unit / STEP)
    return _shifted(belief, off) if abs(off) > within else belief


def _shifted(belief: Belief, points: int) -> Belief:
    return replace(
        belief, center=belief.center + points * STEP * belief.unit,
        joint=_normal(_rolled(_rolled(belief.joint, points, -1), points, -2) + TINY),
        evidence=_rolled(belief.evidence, points, -1) + TINY,
        below=None if belief.below is None else _shifted(belief.below, points),
    )  # fmt: skip


def _rolled(array: Array, points: int, axis: int) -> Array:
    """Moved towards the beginning, what falls off lost."""
    moved = np.roll(array, -points, axis)
    lost = [slice(None)] * array.ndim
    lost[axis] = slice(POINTS - points, None) if points > 0 else slice(0, -points)
    moved[tuple(lost)] = 0
    return moved


def _worth(mean: float, sd: float, noise: float) -> float:
    """The value of one more run: how often, and by how much, it would turn a decision at 0 around."""
    from math import erf, exp, pi, sqrt

    spread = sd**2 / sqrt(sd**2 + noise**2) if sd > 0 else 0.0
    if spread <= 0:
        return 0.0
    z = abs(mean) / spread
    return spread * (exp(-z * z / 2) / sqrt(2 * pi) - z * (1 - erf(z / sqrt(2))) / 2)
