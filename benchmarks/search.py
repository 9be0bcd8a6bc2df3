"""Policies of search side by side: the same worlds, the same noise, equal trials, and the truth is known.

    python benchmarks/search.py                                   # all, to 100 trials; hours on two cores
    python benchmarks/search.py --worlds bowl --trials 250 --n 8
    python benchmarks/search.py --worlds bowl --trials 30 --n 8   # a quick look
    python benchmarks/search.py --policies ours --worlds "bowl,few of thirty"

A world is a train.py of constants, a loss that depends on them, and places where no score comes of it. Every
policy proposes values, the product's own gate decides: it repeats runs, each of which is a trial, and keeps
what is better. What counts is the loss that the frontier's head truly has, as a share of what there is to
gain. Writes benchmarks/results/search.md and search.png.
"""

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from harness.agents.axes import Axis, Value
from harness.agents.program import Constant
from harness.agents.tuning import Seen, Tuning
from harness.gate.noise import Noise
from harness.gate.posterior import posterior_of
from harness.gate.standing import Bayes
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Measured
from harness.store.records import AGAIN, KEEP

SD = 0.001
GAIN = 0.03
STRUCTURE = "bench"
CHECKPOINTS = (30, 100, 250)
RESULTS = Path(__file__).parent / "results"
Values = dict[str, Value]


@dataclass(frozen=True)
class Spec:
    """Of a world; its draws are by seed."""

    constants: tuple[tuple[str, Value], ...] = tuple((f"RATE_{n}", 0.01) for n in range(14))
    mattering: int | None = None
    """So many of the constants; None: all."""
    interaction: float = 0.5
    valley: float = 0.0
    """How much longer than wide, for a valley along a diagonal; 0 for none."""
    away: float = 1.5
    """Octaves to the optimum, at most."""
    exactly: bool = False
    """Whether it is so far in every constant that matters."""
    off: int | None = None
    """So many constants are away from their optimum, all others of the half that matters are at it."""
    forbidden: bool = False
    """Whether a third of the space gives no score; the optimum is beside it."""
    diverges: bool = False
    """Whether a rate that is too high makes the loss 30 times as bad as anything."""
    sd: float = SD
    at_a_time: int = 1


MIXED: tuple[tuple[str, Value], ...] = (
    *((f"RATE_{n}", 0.01) for n in range(6)), ("WIDTH", 512), ("BATCH", 65536), ("DEPTH", 8), ("EVERY", 2),
    ("MOMENTUM", 0.9), ("WARMDOWN_RATIO", 0.5), ("FLAG", False), ("OTHER_FLAG", True),
)  # fmt: skip
WORLDS = {
    "bowl": Spec(),
    "few of thirty": Spec(tuple((f"RATE_{n}", 0.01) for n in range(30)), mattering=5),
    "narrow valley": Spec(valley=20.0),
    "a forbidden third": Spec(forbidden=True),
    "a rate that diverges": Spec(diverges=True),
    "sizes and counts and flags": Spec(MIXED),
    "noise x 3": Spec(sd=3 * SD),
    "three of twenty off": Spec(
        tuple((f"RATE_{n}", 0.01) for n in range(20)), away=2.0, exactly=True, mattering=14, off=3, sd=2 * SD
    ),
    "two octaves away": Spec(away=2.0, exactly=True, mattering=6),
    "four at a time": Spec(at_a_time=4),
}


class World:
    """One draw of a spec. Losses are 0 at the optimum and `GAIN` at the start."""

    def __init__(self, spec: Spec, seed: int) -> None:
        draw = np.random.default_rng([seed, 0])
        self.spec, self._noise = spec, np.random.default_rng([seed, 1])
        self.start = tuple(Axis(Constant(name, value, 0, 0, 0)) for name, value in spec.constants)
        self.count = len(self.start)
        matters = np.zeros(self.count, bool)
        matters[draw.permutation(self.count)[: spec.mattering or self.count]] = True
        optimum = draw.uniform(-spec.away, spec.away, self.count)
        if spec.exactly:
            optimum = np.sign(optimum) * spec.away
        if spec.off is not None:
            optimum[np.flatnonzero(matters)[spec.off :]] = 0.0
        bounds = np.array([axis.bounds for axis in self.start])
        self.optimum = self._written(np.clip(optimum, bounds[:, 0], bounds[:, 1])) * matters
        weights = np.exp(draw.normal(0, 1, self.count)) * matters
        mixing = draw.normal(size=(self.count, self.count))
        shape = spec.interaction * (mixing + mixing.T) / 2 / math.sqrt(self.count)
        np.fill_diagonal(shape, 1)
        if spec.valley:
            along = self.optimum / np.linalg.norm(self.optimum)
            shape -= (1 - 1 / spec.valley) * np.outer(along, along)
        values, vectors = np.linalg.eigh(shape)
        root = np.sqrt(weights)
        self._shape = root[:, None] * (vectors * np.maximum(values, 0.02)) @ vectors.T * root
        self._shape *= GAIN / (self.optimum @ self._shape @ self.optimum)
        # Too much memory: a sum of logarithms of some constants.
        self._wall = draw.normal(size=self.count) * (draw.random(self.count) < 0.4)
        self._wall[0] += 1.0
        self._wall *= np.sign(self._wall @ self.optimum)
        self._height = max(self._wall @ self.optimum, 0.3 * float(np.linalg.norm(self._wall)))
        self._diverging = int(np.argmax(np.abs(self.optimum)))

    def _written(self, place: np.ndarray) -> np.ndarray:
        return np.array([a.coordinate(a.value(float(c))) for a, c in zip(self.start, place, strict=True)])

    def place(self, values: Mapping[str, Value]) -> np.ndarray:
        return np.array([axis.coordinate(values[axis.name]) for axis in self.start])

    def truth(self, values: Mapping[str, Value]) -> float | None:
        """The true loss; None where no score comes of it."""
        place = self.place(values)
        if self.spec.forbidden and self._wall @ place > self._height + 1e-9:
            return None
        off = place - self.optimum
        loss = float(off @ self._shape @ off)
        if self.spec.diverges:
            beyond = place[self._diverging] - self.optimum[self._diverging]
            beyond *= np.sign(self.optimum[self._diverging])
            if beyond > 0.5:
                loss += 30 * GAIN
        return loss

    def score(self, values: Mapping[str, Value]) -> float | None:
        noise = self.spec.sd * float(self._noise.normal())
        truth = self.truth(values)
        return None if truth is None else truth + noise


@dataclass
class Tried:
    values: Values
    scores: list[float] = field(default_factory=list)
    crashed: bool = False

    @property
    def loss(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None


Propose = Callable[[Values, list[Tried], list[Tried]], Values]
"""From the head's values, what was tried, and what still runs, to what is tried next."""


def ours(world: World, seed: int) -> Propose:
    def propose(head: Values, tried: list[Tried], running: list[Tried]) -> Values:
        axes = tuple(Axis(Constant(name, value, 0, 0, 0)) for name, value in head.items())
        seen = [Seen(t.values, STRUCTURE, t.loss, max(1, len(t.scores))) for t in tried]
        seen += [Seen(t.values, STRUCTURE, is_running=True) for t in running]
        chooser = np.random.default_rng([seed, len(tried), len(running)])
        steps = Tuning(axes, STRUCTURE, seen, world.spec.sd, chooser).thought().steps
        return head | steps[0].changed if steps else dict(head)

    return propose


def random_values(world: World, seed: int) -> Propose:
    chooser = np.random.default_rng([seed, 2])

    def propose(head: Values, tried: list[Tried], running: list[Tried]) -> Values:
        return {axis.name: axis.value(float(chooser.uniform(*axis.bounds))) for axis in world.start}

    return propose


def one_at_a_time(world: World, seed: int) -> Propose:
    chooser = np.random.default_rng([seed, 3])

    def propose(head: Values, tried: list[Tried], running: list[Tried]) -> Values:
        name, value = list(head.items())[chooser.integers(world.count)]
        axis = Axis(Constant(name, value, 0, 0, 0))
        low, high = axis.bounds
        return head | {name: axis.value(float(np.clip(chooser.normal(), low, high)))}

    return propose


def sampled(make: Callable[[int], Any]) -> Callable[[World, int], Propose]:
    """One of Optuna's samplers, over the coordinates around the start."""

    def policy(world: World, seed: int) -> Propose:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=make(seed))
        between = optuna.distributions.FloatDistribution
        space: dict[str, Any] = {a.name: between(*a.bounds) for a in world.start}
        trials: dict[int, Any] = {}
        told: set[int] = set()
        study.enqueue_trial(dict.fromkeys(space, 0.0))
        first = study.ask(space)
        known = False

        def propose(head: Values, tried: list[Tried], running: list[Tried]) -> Values:
            nonlocal known
            if not known and tried and tried[0].loss is not None:
                study.tell(first, tried[0].loss)
                known = True
            for one in tried[1:]:
                if id(one.values) in trials and id(one.values) not in told:
                    told.add(id(one.values))
                    loss = one.loss
                    if loss is None:
                        study.tell(trials[id(one.values)], state=optuna.trial.TrialState.FAIL)
                    else:
                        study.tell(trials[id(one.values)], loss)
            trial = study.ask(space)
            values = {axis.name: axis.value(trial.params[axis.name]) for axis in world.start}
            trials[id(values)] = trial
            return values

        return propose

    return policy


def before(world: World, seed: int) -> Propose:
    """What `search` was in release 0.2.0: one or two constants by TPE, the rest as the head has them."""
    import optuna
    from optuna.samplers import PartialFixedSampler, TPESampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    chooser = np.random.default_rng([seed, 4])

    def propose(head: Values, tried: list[Tried], running: list[Tried]) -> Values:
        axes = {n: Axis(Constant(n, v, 0, 0, 0)) for n, v in head.items()}
        between = optuna.distributions.FloatDistribution
        space: dict[str, Any] = {n: between(*axis.bounds) for n, axis in axes.items()}
        names = chooser.choice(sorted(axes), size=int(chooser.choice([1, 1, 2])), replace=False)
        fixed = {n: 0.0 for n in axes if n not in names}
        tpe = TPESampler(
            seed=int(chooser.integers(2**31)), n_startup_trials=5, multivariate=True,
            gamma=lambda n: min(25, math.ceil(n / 4)),
        )  # fmt: skip
        study = optuna.create_study(sampler=PartialFixedSampler(fixed, tpe))
        for one in tried:
            params = {n: axes[n].coordinate(one.values[n]) for n in axes}
            if one.loss is not None and all(space[n].low <= p <= space[n].high for n, p in params.items()):
                study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=one.loss))
        asked = study.ask(space).params
        return head | {n: axes[n].value(asked[n]) for n in names}

    return propose


def _optuna(name: str, **options: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        import optuna.samplers

        return getattr(optuna.samplers, name)(seed=seed, **options)

    return make


POLICIES: dict[str, Callable[[World, int], Propose]] = {
    "random": random_values,
    "one at a time": one_at_a_time,
    "TPE": sampled(_optuna("TPESampler", multivariate=True)),
    "CMA-ES": sampled(_optuna("CmaEsSampler")),
    "Optuna's GP": sampled(_optuna("GPSampler")),
    "release 0.2.0": before,
    "ours": ours,
}
FEWER = {"Optuna's GP": 8, "release 0.2.0": 8}  # sessions of what takes long


@dataclass(frozen=True)
class Outcome:
    shares: tuple[float, ...]
    """Of the gain, that the head truly had, after every trial."""
    crashes: float
    """Share of experiments after the first 15."""
    seconds: float
    """Of a proposal, the median."""


def session(world_name: str, policy: str, seed: int, trials: int) -> Outcome:
    """With the gate in the loop: `main` first, twice."""
    spec = WORLDS[world_name]
    world = World(spec, seed)
    propose = POLICIES[policy](world, seed)
    start = {axis.name: axis.now for axis in world.start}
    first = Tried(start)
    first.scores += [score for _ in range(2) if (score := world.score(start)) is not None]
    of = {"main": first}
    measured = Measured("main", "", tuple(first.scores), kept=True)
    standing = Bayes(posterior_of("main", [measured], spec.sd, Noise(spec.sd, 7)), VAL_BPB)
    shares, took, crashed = [0.0, 0.0], [], []
    tried: list[Tried] = [first]
    queue: list[tuple[str, str]] = []  # name and parent of what runs

    def gained() -> float:
        truth = world.truth(of[standing.incumbent.commit].values)
        assert truth is not None
        return 1 - truth / GAIN

    number = 0
    while len(shares) < trials:
        while len(queue) < spec.at_a_time:
            parent = standing.incumbent.commit
            began = time.monotonic()
            values = propose(dict(of[parent].values), tried, [of[name] for name, _ in queue])
            took.append(time.monotonic() - began)
            number += 1
            of[str(number)] = Tried(values)
            queue.append((str(number), parent))
        name, parent = queue.pop(0)
        one = of[name]
        status = AGAIN
        while status == AGAIN and len(shares) < trials:
            score = world.score(one.values)
            shares.append(gained())
            if score is None:
                one.crashed = True
                break
            one.scores.append(score)
            status = standing.decide(parent, one.scores, shorter=False).status
        tried.append(one)
        crashed.append(one.crashed)
        if one.scores:
            standing = standing.after(Measured(name, parent, tuple(one.scores), kept=status == KEEP))
            if standing.move() is not None:
                standing = standing.moved()
            shares[-1] = gained()
    late = crashed[15:]
    return Outcome(tuple(shares[:trials]), sum(late) / max(1, len(late)), statistics.median(took))


def row(world: str, policy: str, outcomes: list[Outcome], trials: int) -> str:
    cells = []
    for at in CHECKPOINTS:
        if at > min(trials, len(outcomes[0].shares)):
            cells.append("")
            continue
        found = [outcome.shares[at - 1] for outcome in outcomes]
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        cells.append(f"{statistics.fmean(found):.3f} ± {error:.3f}")
    crashes = statistics.fmean(outcome.crashes for outcome in outcomes)
    seconds = statistics.fmean(outcome.seconds for outcome in outcomes)
    cells += [f"{100 * crashes:.1f}%", f"{seconds:.2f}", str(len(outcomes))]
    return f"| {world} | {policy} | {' | '.join(cells)} |"


HEADER = (
    f"| world | policy | {' | '.join(f'{at} trials' for at in CHECKPOINTS)} | crashes after 15 "
    "| seconds | n |\n"
    "|---|---|---|---|---|---|---|---|"
)


def draw(curves: dict[str, list[Outcome]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=130)
    for policy, outcomes in curves.items():
        found = np.array([outcome.shares for outcome in outcomes])
        mean, error = found.mean(0), found.std(0) / math.sqrt(len(found))
        (line,) = axes.plot(range(1, len(mean) + 1), mean, label=policy)
        axes.fill_between(
            range(1, len(mean) + 1), mean - error, mean + error, alpha=0.2, color=line.get_color()
        )
    axes.set(xlabel="trials", ylabel="share of the possible gain", ylim=(0, 1))
    axes.set_title("bowl: 14 constants, noise a thirtieth of the gain; band: one standard error", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="comma-separated")
    parser.add_argument("--policies", default=",".join(POLICIES), help="comma-separated")
    parser.add_argument("--trials", type=int, default=100, help="of a session")
    parser.add_argument("--n", type=int, default=24, help="sessions of each")
    options = parser.parse_args()
    worlds, policies = options.worlds.split(","), options.policies.split(",")
    if unknown := (set(worlds) - set(WORLDS)) | (set(policies) - set(POLICIES)):
        parser.error(f"no {sorted(unknown)}; there are {list(WORLDS)} and {list(POLICIES)}")
    lines, curves, began = [HEADER], {}, time.monotonic()
    print(HEADER, flush=True)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # numpy reads its threads as it loads
        for world in worlds:
            for policy in policies:
                count = min(options.n, FEWER.get(policy, options.n))
                trials = options.trials
                given = [[world] * count, [policy] * count, range(count), [trials] * count]
                outcomes = list(pool.map(session, *given))
                lines.append(row(world, policy, outcomes, trials))
                print(lines[-1], flush=True)
                if world == "bowl":
                    curves[policy] = outcomes
            minutes = (time.monotonic() - began) / 60
            head = (
                f"`benchmarks/search.py`, {minutes:.0f} minutes on {os.cpu_count()} cores. Share of the "
                "possible gain that the frontier's head truly has, ± one standard error; seconds are of a "
                f"proposal. Noise sd {SD}, {GAIN} to gain, unless said.\n\n"
            )
            if options.n >= 24:
                (RESULTS / "search.md").write_text(head + "\n".join(lines) + "\n")
                if curves:
                    draw(curves, RESULTS / "search.png")


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
