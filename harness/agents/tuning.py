"""Where to go next among the constants: a Gaussian process, and the expected improvement that it sees.

Pure: programs and their scores in, values and an expectation out. All constants move together, around the
incumbent. A program that gave no score teaches where not to go, one that still runs counts as what is
expected of it, and one of another structure helps through the constants that both have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_ndtr

from harness.agents.axes import REACH, Axis, Value
from harness.agents.gaussian import Array, Gaussian, fitted

FIRST = 6  # programs that are scored before the process is asked
FIRST_STEPS = 0.5, 1.0  # octaves, of those
FIRST_SHARE = 0.5  # of the constants, that each of those moves
REGIONS = 0.6, 1.0  # octaves around the incumbent that are looked at, while little is known and later
MUCH = 20  # programs, from which on much is known
MOST = 400  # programs that it looks at: the best and the newest
DRAWN, ROUNDS, BEST = 600, 7, 40  # candidates at first; times that the best are varied; how many those are
STEPS = np.array([0.05, 0.15, 0.4, 0.8])  # octaves, sds
LIE = 1000.0  # times what half of the losses span: nothing is better than the rest by that
WORSE = 20.0  # typical differences beyond which a loss counts as none
DOUBT = 0.35  # sd of what a crash says of the place where it was
HOPE = 0.7  # of a place that nothing is known of; 1 runs for sure, -1 doesn't
WALL = 2.5  # octaves over which that is alike
SAFE = 0.98  # probability that it gives a score, under which a candidate isn't proposed
TINY_STEP = 0.03  # octaves: a change that isn't worth a word
WORTH = 0.02  # logarithm of the expected improvement that a change must bring
LEAST = 0.05  # units of noise: less is expected nowhere, and the constants are exhausted


@dataclass(frozen=True)
class Seen:
    """One program and what came of it."""

    values: Mapping[str, Value]
    structure: str
    """Equal for programs that differ in constants only."""
    loss: float | None = None
    """The metric's value, turned so that lower is better; None: no score."""
    runs: int = 1
    is_running: bool = False


@dataclass(frozen=True)
class Step:
    """What to try, and what the process expects of it: lower is better."""

    changed: dict[str, Value]
    effect: float | None = None
    """Expected loss minus the incumbent's; None where too little is known."""
    effect_sd: float | None = None
    gain: float | None = None
    """What it is expected to bring beyond the best that is known, were it kept only if it is better."""


@dataclass(frozen=True)
class Thought:
    """What a process of the constants knows. Losses are differences to the incumbent's."""

    steps: tuple[Step, ...] = ()
    """What to try, the most promising first."""
    scored: int = 0
    """Programs that it is learned from; below `FIRST`, those that differ in constants."""
    matters: tuple[tuple[str, float], ...] = ()
    """Constants, and how far losses differ within an octave of the incumbent, the most first."""
    optimum: float | None = None
    """The lowest loss that is expected anywhere near."""
    optimum_sd: float | None = None
    is_exhausted: bool = False
    """Whether less than a small part of the noise is to be gained by the best step."""


class Tuning:
    """What is known of the constants of one structure.

    Args:
        noise: sd of a score; None: not known yet.
        touched: names; where there are some, only those move.
    """

    def __init__(
        self, axes: Sequence[Axis], structure: str, seen: Sequence[Seen], noise: float | None,
        chooser: np.random.Generator, touched: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._axes, self._chooser = tuple(axes), chooser
        self._moves = np.array([not touched or axis.name in touched for axis in self._axes], bool)
        names = {structure: 0}
        placed = [(one, place) for one in seen if (place := self._place(one.values)) is not None]
        here = np.zeros(len(axes))
        self._been = np.array([here, *(place for one, place in placed if one.structure == structure)])
        self._running = _rows(
            [p for one, p in placed if one.is_running and one.structure == structure], len(axes)
        )
        every = [(one, place, one.loss) for one, place in placed if one.loss is not None]
        least, most = _tolerable([loss for *_, loss in every], noise or 0.0)
        scored = _chosen([each for each in every if least <= each[2] <= most])
        alive = {structure, *(one.structure for one, *_ in scored)}  # where it may be the constants' fault
        failed = [
            place for one, place in placed
            if one.structure in alive and not one.is_running and (one.loss is None or one.loss > most)
        ]  # fmt: skip
        self._points = _rows([place for _, place, _ in scored], len(axes))
        groups = [names.setdefault(one.structure, len(names)) for one, *_ in scored]
        self._groups = np.array(groups, np.int64)
        self._losses = np.array([loss for *_, loss in scored], float)
        typical = float(np.median(np.abs(np.diff(np.sort(self._losses))))) if len(scored) > 2 else 1.0
        self._noise = noise or typical or 1e-6
        self._variances = np.array([self._noise**2 / one.runs for one, *_ in scored], float)
        self._failed = _rows(failed[-MOST:], len(axes))
        self._region = REGIONS[len(scored) >= MUCH]

    # ── what is asked of it ───────────────────────────────────────────────────────────────────

    def thought(self, count: int = 1) -> Thought:
        """Up to `count` steps that were not tried, and what is known."""
        if not self._moves.any():
            return Thought(scored=len(self._points))
        scored = len(np.unique(self._points, axis=0))
        if (scored < FIRST and (steps := self._first(count))) or not scored:
            return Thought(steps, scored)
        candidates, improvement = self._climbed()
        found: list[Step] = []
        been = self._been
        for place in candidates[np.argsort(-improvement)]:
            place = self._written(self._plain(place))
            if _is_new(place, been):
                been = np.vstack([been, place])
                found.append(self._step(place))
                if len(found) == count:
                    break
        here = np.zeros(len(self._axes))
        means, sds = self.process.difference(candidates, here, 0)
        best = int(means.argmin())
        gains = [step.gain for step in found if step.gain is not None]
        return Thought(
            tuple(found) or self._first(count), len(self._points), self._matters(),
            min(0.0, float(means[best])), float(sds[best]), not gains or gains[0] < LEAST * self._noise,
        )  # fmt: skip

    def _step(self, place: Array) -> Step:
        mean, sd = self.process.difference(place[None], np.zeros(len(place)), 0)
        gain = math.exp(min(50.0, float(self._improvement(place[None])[0])))
        return Step(self._changes(place), float(mean[0]), float(sd[0]), gain)

    def _matters(self) -> tuple[tuple[str, float], ...]:
        """By the process's means along each axis through the incumbent."""
        found = []
        for column, axis in enumerate(self._axes):
            places = np.zeros((9, len(self._axes)))
            places[:, column] = np.linspace(-1, 1, 9)
            means, _ = self.process.predict(self._snapped(places), 0)
            found.append((axis.name, float(np.ptp(means))))
        return tuple(sorted(found, key=lambda pair: -pair[1]))

    @cached_property
    def process(self) -> Gaussian:
        process = fitted(self._points, self._losses, self._variances, self._groups)
        return process.with_more(self._running, 0) if len(self._running) else process

    @cached_property
    def _runs_at_all(self) -> Gaussian | None:
        """1 where programs give a score, -1 where they don't; None while all did."""
        if not len(self._failed):
            return None
        points = np.vstack([self._points, self._failed])
        marks = np.append(np.ones(len(self._points)), -np.ones(len(self._failed)))
        alike = np.zeros(len(points), np.int64)
        lengths = np.full(len(self._axes), WALL)
        return Gaussian(points, alike, HOPE, lengths, 1.0, 0.0, np.full(len(points), DOUBT**2), marks)

    # ── from values to places, and back ───────────────────────────────────────────────────────

    def _place(self, values: Mapping[str, Value]) -> Array | None:
        """A constant that a program lacks is as the incumbent has it; None where the axes don't reach."""
        place = np.array([axis.coordinate(values.get(axis.name, axis.now)) for axis in self._axes], float)
        return place if np.all(np.abs(place) <= 2 * REACH + 1) else None

    def _changes(self, place: Array) -> dict[str, Value]:
        pairs = zip(self._axes, place, strict=True)
        changed = {axis: axis.value(float(coordinate)) for axis, coordinate in pairs}
        return {axis.name: value for axis, value in changed.items() if value != axis.now}

    def _written(self, place: Array) -> Array:
        """Of the values that are written there."""
        pairs = zip(self._axes, place, strict=True)
        return np.array([axis.coordinate(axis.value(float(coordinate))) for axis, coordinate in pairs])

    def _snapped(self, places: Array) -> Array:
        """Into the bounds, and onto what may be written."""
        places = places.copy()
        for column, axis in enumerate(self._axes):
            if axis.grid:
                grid = np.array(
                    [place for place, _ in axis.grid if abs(place) <= self._region or abs(place) <= 1 + 1e-9]
                )
                places[:, column] = grid[np.abs(places[:, column, None] - grid).argmin(1)]
            else:
                low, high = axis.bounds
                places[:, column] = np.clip(
                    places[:, column], max(low, -self._region), min(high, self._region)
                )
        return places

    # ── where to look ─────────────────────────────────────────────────────────────────────────

    def _first(self, count: int) -> tuple[Step, ...]:
        """Some constants, each by some part of an octave: that says most while nothing is known."""
        found: list[Step] = []
        been = self._been
        shape = DRAWN // 10, len(self._axes)
        moved = self._moves & (self._chooser.random(shape) < max(1 / self._moves.sum(), FIRST_SHARE))
        tried = self._points.sum(0) + self._chooser.normal(0, 0.1, shape)
        rarer = -np.sign(tried)  # the side of each axis where less was tried
        places = self._snapped(rarer * moved * self._chooser.uniform(*FIRST_STEPS, shape))
        likely = self._likely(places)
        for at in np.argsort(np.where(likely > np.log(SAFE), 0.0, -likely), kind="stable"):
            place = self._written(places[at])
            if _is_new(place, been):
                been = np.vstack([been, place])
                found.append(Step(self._changes(place)))
                if len(found) == count:
                    break
        return tuple(found)

    def _climbed(self) -> tuple[Array, Array]:
        """Candidates, and the logarithm of what each is expected to bring."""
        known, _ = self.process.predict(self._points, 0)
        tops = np.vstack([np.zeros(len(self._axes)), self._points[np.argsort(known)[:5]] * self._moves])
        candidates = self._varied(tops, DRAWN)
        for _ in range(ROUNDS):
            improvement = self._improvement(candidates)
            best = candidates[np.argsort(-improvement)[:BEST]]
            one, other = (best[self._chooser.integers(len(best), size=150)] for _ in range(2))
            crossed = np.where(self._chooser.random(one.shape) < 0.5, one, other)
            candidates = np.unique(np.vstack([best, self._varied(best, 300), self._snapped(crossed)]), axis=0)
        return candidates, self._improvement(candidates)

    @cached_property
    def _best_known(self) -> float:
        known, _ = self.process.predict(np.vstack([np.zeros(len(self._axes)), self._points]), 0)
        return float(known.min())

    def _varied(self, places: Array, count: int) -> Array:
        axes = len(self._axes)
        shares = self._chooser.choice([1 / axes, 3 / axes, 0.3, 1.0], size=(count, 1))
        moved = self._moves & (self._chooser.random((count, axes)) < shares)
        steps = self._chooser.normal(size=(count, axes)) * self._chooser.choice(STEPS, size=(count, 1))
        whole = np.array([bool(axis.grid) for axis in self._axes])
        steps = np.where(whole, 2 * steps, steps)
        return self._snapped(places[self._chooser.integers(len(places), size=count)] + moved * steps)

    def _improvement(self, places: Array) -> Array:
        """The logarithm of the expected improvement on the best that is known, times that it runs at all."""
        mean, sd = self.process.predict(places, 0)
        return _log_improvement((self._best_known - mean) / sd) + np.log(sd) + self._likely(places)

    def _likely(self, places: Array) -> Array:
        """The logarithm of the probability that a score comes of it; far lower where that is in doubt."""
        if self._runs_at_all is None:
            return np.zeros(len(places))
        mean, sd = self._runs_at_all.predict(places, 0)
        chance = log_ndtr(mean / np.sqrt(sd**2 + DOUBT**2))
        return np.where(chance < np.log(SAFE), 100 * chance - 10, chance)

    def _plain(self, place: Array) -> Array:
        """Without the changes that bring nothing: what is proposed should say something."""
        kept = place.copy()
        order = np.argsort(np.abs(place))
        best = self._improvement(kept[None])[0]
        for axis in order:
            if kept[axis] == 0:
                continue
            without = kept.copy()
            without[axis] = 0.0
            value = self._improvement(without[None])[0]
            if abs(kept[axis]) < TINY_STEP or value > best - WORTH:
                kept, best = without, max(best, value)
        return kept if np.any(kept) else place


def _is_new(place: Array, been: Array) -> bool:
    """Whether it differs from all of those by more than nobody could tell."""
    return bool(np.all(np.abs(been - place).max(1) >= TINY_STEP))


def _rows(places: Sequence[Array], axes: int) -> Array:
    return np.array(places, float).reshape(len(places), axes)


def _chosen(scored: list[tuple[Seen, Array, float]]) -> list[tuple[Seen, Array, float]]:
    """The newest, and the best of the older ones."""
    if len(scored) <= MOST:
        return scored
    older, newer = scored[: -MOST // 2], scored[-MOST // 2 :]
    order = np.argsort([loss for *_, loss in older])[: MOST - len(newer)]
    return [older[i] for i in sorted(order)] + newer


def _tolerable(losses: Sequence[float], noise: float) -> tuple[float, float]:
    """Below the first a loss is a lie; beyond the second it is no better than none: it diverged, and how far
    says nothing of the good ones."""
    if not losses:
        return -math.inf, math.inf
    low, middle, high = (float(each) for each in np.quantile(losses, [0.25, 0.5, 0.75]))
    least = middle - LIE * max(high - low, 1e-12) if len(losses) > 3 else -math.inf
    best = min(loss for loss in losses if loss >= least)
    early = float(np.median(losses[:FIRST]))  # later ones are ever closer to the best
    usual = max(middle, early) - best
    return least, best + WORSE * max(usual, noise, 1e-12)


def _log_improvement(z: Array) -> Array:
    """log(z Phi(z) + phi(z)), right far below 0 too: https://arxiv.org/abs/2310.20708."""
    density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    near = np.log(np.maximum(np.exp(density) + z * np.exp(log_ndtr(z)), 1e-300))
    with np.errstate(divide="ignore", invalid="ignore"):
        far = density - 2 * np.log(np.maximum(np.abs(z), 1.0))
    return np.where(z > -5, near, far)
