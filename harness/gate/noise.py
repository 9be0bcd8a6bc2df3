"""How far apart scores of one program lie: pooled over every repeat of a setting."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from harness.gate.prior import ANYTHING, SPOILT_SHARE, Array

QUARTILE_TO_SD = 2.22  # of the differences of two Gaussian scores
ACCIDENTS = 4.0  # how far above that the pooled sd may be without being called wrong
ENOUGH_PAIRS = 6  # to call it so: of four Gaussian scores 1% look like that


@dataclass(frozen=True)
class Noise:
    """An estimate of the standard deviation of a score, in the metric's units."""

    sd: float
    freedom: int
    """Degrees of freedom behind it: repeats beyond the first of each program."""

    def interval(self, share: float = 0.9) -> tuple[float, float]:
        """Where the true standard deviation lies with this probability, if the noise is Gaussian.

        By Bayes' rule with a prior that is flat in its logarithm; the same as the chi-squared interval.
        """
        ratios = np.geomspace(0.1, 100.0, 20_000)
        density = np.exp(-self.freedom * (np.log(ratios) + 0.5 / ratios**2 - 0.5))
        reached = np.cumsum(density) / density.sum()
        low, high = np.searchsorted(reached, [(1 - share) / 2, (1 + share) / 2])
        return self.sd * float(ratios[low]), self.sd * float(ratios[min(high, len(ratios) - 1)])

    def least_gain(self, runs: int, of_incumbent: int) -> float:
        """The smallest gain that four of five such comparisons show with 95% confidence.

        Args:
            runs: of the experiment.
            of_incumbent: of what it is compared with.
        """
        normal = NormalDist()
        return self.sd * math.sqrt(1 / runs + 1 / of_incumbent) * (normal.inv_cdf(0.95) + normal.inv_cdf(0.8))


def _likeliest(repeated: Sequence[Sequence[float]], freedom: int) -> float:
    """The sd; without spoilt runs it is the root of the mean square."""
    plain = math.sqrt(sum(_squares(scores) for scores in repeated) / freedom)
    sds = plain * np.geomspace(1.0, 1e-3, 1000)
    log = np.zeros_like(sds)
    for scores in repeated:
        *rest, highest = scores
        above = (highest - math.fsum(rest) / len(rest)) / (ANYTHING * sds)
        usual = _log_likelihood(scores, sds) + len(scores) * math.log1p(-SPOILT_SHARE)
        spoilt = _log_likelihood(rest, sds) + math.log(SPOILT_SHARE / ANYTHING) - np.log(sds) - above
        log += np.logaddexp(usual, spoilt)
    likeliest = float(sds[log.argmax()])
    return likeliest if likeliest < plain / 2 else plain


def _log_likelihood(scores: Sequence[float], sds: Array) -> Array:
    """Of each sd, whatever the mean of the scores is."""
    count = len(scores)
    scale = 0.5 * math.log(count) + (count - 1) / 2 * math.log(2 * math.pi)
    return -(count - 1) * np.log(sds) - _squares(scores) / (2 * sds**2) - scale


def _squares(scores: Sequence[float]) -> float:
    mean = math.fsum(scores) / len(scores)
    return math.fsum((score - mean) ** 2 for score in scores)


def pooled(groups: Iterable[Sequence[float]]) -> Noise | None:
    """The noise that repeats show, one group of scores a program; None if nothing was repeated.

    A single accident must not pass for the noise. The highest score of a program may be one that the machine
    spoilt: what is likeliest counts. And where that is far above what most pairs of repeats differ by (their
    first quartile, as in P. Rousseeuw and C. Croux, 1993), that counts.
    """
    repeated = [sorted(scores) for scores in groups if len(scores) > 1]
    apart = sorted(abs(one - other) for scores in repeated for one, other in combinations(scores, 2))
    if not apart or apart[-1] <= 0:
        return None
    freedom = sum(len(scores) - 1 for scores in repeated)
    usual = QUARTILE_TO_SD * apart[len(apart) // 4]
    sd = _likeliest(repeated, freedom)
    accident = len(apart) >= ENOUGH_PAIRS and 0 < usual < sd / ACCIDENTS
    return Noise(usual if accident else sd, freedom)
