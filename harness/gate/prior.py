"""What is supposed of effects and of noise before anything is seen, as probabilities on a grid.

Suppositions stand side by side; `posterior.py` shifts the weight between them. Lengths are in units of the
estimated noise.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
POINTS, STEP = 96, 0.4  # of a commit's grid; the step in units of noise
# What the noise may be: its scale in multiples of its estimate, and its tails: Gaussian, or Student's t
# with 3 degrees of freedom, because a busy machine gives a score now and then that is far off.
GAUSSIAN, HEAVY_TAILED = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83), (0.5, 0.85, 1.4)
HEAVY_SHARE = 0.15  # how likely heavy tails are before anything is seen
SPREADS = np.array(GAUSSIAN + HEAVY_TAILED)
FREEDOM = np.array([1e6] * len(GAUSSIAN) + [3.0] * len(HEAVY_TAILED))
SPREAD_SHARES = np.array(
    [(1 - HEAVY_SHARE) / len(GAUSSIAN)] * len(GAUSSIAN)
    + [HEAVY_SHARE / len(HEAVY_TAILED)] * len(HEAVY_TAILED)
)


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
SPOILT_SHARE = 0.05  # of runs that the machine makes worse, by anything: it was busy, or hot
LUCKY_SHARE = 0.005  # of runs better by anything: rarer, but likelier than two that are spoilt
BROKEN_SHARE = 0.05  # of changes that may cost anything: how bad they are says nothing of their parent
JUMP_SHARE = 0.0005  # of changes that mend something broken, and may gain anything
ANYTHING = 30.0  # units, the mean of such an effect
FURTHEST = 1250  # points


@functools.lru_cache(128)
def transitions(away: int) -> Array:
    """(H, POINTS, POINTS): the probability of a child's value (columns), given its parent's (rows).

    Args:
        away: points from the center of the parent's grid to that of the child's.
    """
    away = max(-FURTHEST, min(FURTHEST, away))  # further out is as unlikely, and float32 has an end
    count = 2 * POINTS - 1
    edges = (np.arange(count + 1) - count / 2 + away) * STEP
    gain, loss = np.minimum(edges, 0), np.maximum(edges, 0)
    found = []
    for effects, _ in SUPPOSED:
        loss_share = 1 - effects.help_share - effects.null_share
        share = effects.help_share * np.diff(np.exp(gain / effects.mean_gain))
        share += loss_share * np.diff(-np.exp(-loss / effects.mean_loss))
        share[abs(edges[:-1] + STEP / 2) < STEP / 2] += effects.null_share
        share *= 1 - BROKEN_SHARE - JUMP_SHARE
        share += BROKEN_SHARE * np.diff(-np.exp(-loss / ANYTHING))
        share += JUMP_SHARE * np.diff(np.exp(gain / ANYTHING))
        found.append([share[POINTS - 1 - row : count - row] for row in range(POINTS)])
    return np.array(found, np.float32)


def log_density(off: Array) -> Array:
    """(..., S, POINTS) of scores that are `off` by so many units, given as (..., 1, POINTS)."""
    freedom, spread = FREEDOM[:, None], SPREADS[:, None]
    usual = _log_scale()[:, None] - (freedom + 1) / 2 * np.log1p((off / spread) ** 2 / freedom)
    share = np.where(off > 0, SPOILT_SHARE, LUCKY_SHARE)
    accident = np.log(share * math.sqrt(2 * math.pi) / ANYTHING) - np.abs(off) / ANYTHING
    return np.logaddexp(usual + math.log1p(-SPOILT_SHARE - LUCKY_SHARE), accident)


@functools.cache
def _log_scale() -> Array:
    """(S,): the densities' factors, without the root of two pi that all of them have."""
    gammas = [math.lgamma((f + 1) / 2) - math.lgamma(f / 2) - 0.5 * math.log(f / 2) for f in FREEDOM]
    return np.array(gammas) - np.log(SPREADS)
