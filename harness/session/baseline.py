"""Runs of `main` that are made before anything is decided, so that its score and the noise are known.

They are counted by the ground that they are for: where a person moves `main`, or changes the setting or
the gate's rule, others are wanted.
"""

import statistics
from collections.abc import Callable

from harness.config import GateConfig
from harness.errors import HarnessError
from harness.executors.local import Crew, Job
from harness.session.runner import Lab
from harness.store.records import Base, Setting
from harness.worker.run import Bench

Ground = tuple[str, Setting, GateConfig]


class Baseline:
    """Of one night."""

    def __init__(self, lab: Lab, crew: Crew, tell: Callable[[str, str], None]) -> None:
        self._lab, self._crew, self._tell = lab, crew, tell
        self._left: dict[Ground, int] = {}

    def ground(self, bench: Bench) -> Ground:
        """What the standing is read from, and must be the same for it to hold."""
        return self._lab.experiments.main, bench.setting, bench.config.gate

    def left(self, ground: Ground) -> int:
        """Runs that nobody began yet; 0 where it isn't known how many are wanted."""
        return self._left.get(ground, 0)

    @property
    def is_due(self) -> bool:
        """Whether some are left, on any ground."""
        return any(self._left.values())

    def is_made(self, bench: Bench) -> bool:
        """Whether all of them are over."""
        (main, *_) = ground = self.ground(bench)
        if ground not in self._left:
            self._left[ground] = self._lab.missing_runs(bench, len(self._crew))
        return self._left[ground] <= 0 and not self._crew.runs_of(main)

    def next(self, bench: Bench) -> Job | None:
        """One more; None while the last ones are made, or a person moved `main` just now.

        Raises:
            HarnessError: all were made, and say nothing.
        """
        (main, *_) = ground = self.ground(bench)
        if self.left(ground) <= 0:
            if ground in self._left and not self._crew.runs_of(main):
                raise HarnessError(f"the runs of {main[:7]}, main, count for nothing here", "harness status")
            return None
        known = self._lab.experiments
        first = not known.main_scores(bench.setting) and not self._crew.runs_of(main)
        where = "in this setting" if known.trials(main) else "here"
        why = f"was not measured {where}: it goes first" if first else "once more, to know its noise"
        self._tell("begun", f"{main[:7]} main {why}")
        self._left[ground] -= 1
        seeds = [job.order.seed for job in self._crew.runs_of(main)]
        return Job(self._lab.order(main, running=seeds), bench)

    def put_back(self, run: Job) -> None:
        """One that was begun and is not to train now."""
        self._left[run.order.commit, run.bench.setting, run.bench.config.gate] += 1

    def early(self, bench: Bench) -> Base | None:
        """`main`, once it has a score or its last runs are made: an experiment on it is to be ready when
        they are over."""
        (main, *_) = ground = self.ground(bench)
        if not self._crew.runs_of(main):
            return None
        scores, last = self._lab.experiments.scores(main, bench.setting), self._left.get(ground) == 0
        return Base(main, statistics.fmean(scores) if scores else None) if scores or last else None
