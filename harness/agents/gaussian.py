"""A Gaussian process: what scores of some points say of all others, with an error.

Matérn's kernel of 5/2 with a length for each axis, which is how it learns what matters; an offset for each
group of points, so that programs of another structure still say something; the noise of a score is given.
Lengths and scales are those of the highest posterior. Source: Rasmussen & Williams, "Gaussian Processes for
Machine Learning", 2006, chapters 2, 4 and 5; the prior of the lengths grows with the number of axes as in
https://arxiv.org/abs/2402.02229.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]

LENGTH = 4.0  # that lengths are expected at, in octaves, times the fourth root of the number of axes
LENGTH_SD = 0.6  # of its logarithm, as all that follow
SCALE_SD = 1.5
EXCESS, EXCESS_SD = 0.5, 0.7  # noise beyond what is given, as a part of it
JITTER = 1e-8
FITTED = 160  # points that lengths are learned from; more are only predicted from
ITERATIONS = 60


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Fitted to `points` (N, D) and `values` (N,)."""

    points: Array
    groups: npt.NDArray[np.int64]
    mean: float
    lengths: Array
    """(D,): over how many octaves of an axis values stay alike; long where an axis doesn't matter."""
    scale: float
    offset: float
    """Sd of what groups differ by."""
    noise: Array
    """(N,): variances."""
    values: Array

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        covariance = self._between(self.points, self.groups) + np.diag(self.noise + JITTER * self.scale**2)
        factor = np.linalg.cholesky(covariance)
        return np.asarray(factor, float), cho_solve((factor, True), self.values - self.mean)

    def _between(self, points: Array, groups: npt.NDArray[np.int64] | int) -> Array:
        """Covariances (Q, N) of others with its own points."""
        square = ((points[:, None] - self.points) ** 2) @ self.lengths**-2.0
        same = np.broadcast_to(np.asarray(groups).reshape(-1, 1) == self.groups, square.shape)
        return self.scale**2 * _matern(square)[0] + self.offset**2 * same

    def predict(self, points: Array, group: int) -> tuple[Array, Array]:
        """Means and sds (Q,) of the true values at `points` (Q, D) of one group."""
        factor, weights = self._solved
        between = self._between(points, group)
        explained = solve_triangular(factor, between.T, lower=True)
        left = self.scale**2 + self.offset**2 - (explained**2).sum(0)
        return self.mean + between @ weights, np.sqrt(np.maximum(left, 1e-16))

    def difference(self, points: Array, origin: Array, group: int) -> tuple[Array, Array]:
        """Means and sds (Q,) of what values at `points` (Q, D) are above that at `origin` (D,)."""
        factor, weights = self._solved
        there, here = self._between(points, group), self._between(origin[None], group)
        explained = solve_triangular(factor, (there - here).T, lower=True)
        alike = _matern(((points - origin) ** 2) @ self.lengths**-2.0)[0]
        left = 2 * self.scale**2 * (1 - alike) - (explained**2).sum(0)
        return (there - here) @ weights, np.sqrt(np.maximum(left, 1e-16))

    def with_more(self, points: Array, group: int) -> "Gaussian":
        """As if `points` had been scored, and gave what is expected: it is surer there, and nothing else."""
        expected, _ = self.predict(points, group)
        return Gaussian(
            np.vstack([self.points, points]), np.append(self.groups, np.full(len(points), group)), self.mean,
            self.lengths, self.scale, self.offset,
            np.append(self.noise, np.full(len(points), self.noise.min())), np.append(self.values, expected),
        )  # fmt: skip


def fitted(
    points: Array,
    values: Array,
    variances: Array,
    groups: npt.NDArray[np.int64],
    mean: float | None = None,
    length: float = LENGTH,
) -> Gaussian:
    """The process that explains `values` (N,) at `points` (N, D) best.

    Args:
        variances: (N,), of the values' noise.
        groups: (N,), numbers.
        mean: of the process; None for the median of the values.
    """
    mean = float(np.median(values)) if mean is None else mean
    some = slice(max(0, len(values) - FITTED), None)
    x, y, noise = points[some], values[some] - mean, variances[some]
    same = (groups[some][:, None] == groups[some]).astype(float)
    has_groups = bool(same.min() == 0)
    squares = np.ascontiguousarray(np.moveaxis((x[:, None] - x) ** 2, 2, 0))  # (D, N, N)
    axes = len(squares)
    spread = max(float(y.std()), math.sqrt(float(noise.mean())), 1e-12)
    expected = np.concatenate(
        [np.full(axes, math.log(length) + 0.25 * math.log(axes)), np.log([2 * spread, spread, EXCESS])]
    )
    sds = np.concatenate([np.full(axes, LENGTH_SD), [SCALE_SD, SCALE_SD, EXCESS_SD]])

    def unlikely(logs: Array) -> tuple[float, Array]:
        """Minus the logarithm of the posterior density, and its gradient."""
        lengths, (scale, offset, excess) = np.exp(logs[:axes]), np.exp(logs[axes:])
        inverse = lengths**-2.0
        alike, slope = _matern(np.tensordot(inverse, squares, 1))
        covariance = scale**2 * alike + offset**2 * same * has_groups
        covariance[np.diag_indices_from(covariance)] += noise * (1 + excess**2) + JITTER * scale**2
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros_like(logs)
        inverted = cho_solve((factor, True), np.eye(len(y)))
        weights = inverted @ y
        pull = 0.5 * (inverted - np.outer(weights, weights))
        sloped = pull * slope * scale**2
        gradient = np.empty_like(logs)
        gradient[:axes] = inverse * (squares.reshape(axes, -1) @ sloped.ravel())
        gradient[axes] = 2 * scale**2 * ((pull * alike).sum() + JITTER * np.trace(pull))
        gradient[axes + 1] = 2 * offset**2 * (pull * same).sum() * has_groups
        gradient[axes + 2] = 2 * excess**2 * (np.diag(pull) @ noise)
        off = (logs - expected) / sds
        loss = 0.5 * y @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        return float(loss), gradient + off / sds

    bounds = [(e - 6 * sd, e + 6 * sd) for e, sd in zip(expected, sds, strict=True)]
    options: Any = {"maxiter": ITERATIONS}
    found = minimize(unlikely, expected, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    scale, offset, excess = np.exp(found[axes:])
    return Gaussian(
        points, groups, mean, np.exp(found[:axes]), float(scale), float(offset) * has_groups,
        variances * (1 + excess**2), values,
    )  # fmt: skip


def _matern(square: Array) -> tuple[Array, Array]:
    """Correlations at scaled squared distances, and minus two times their slope there."""
    distance = np.sqrt(5 * square)
    fading = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * fading, 5 / 3 * (1 + distance) * fading
