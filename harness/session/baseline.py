"""Runs of `main` that are made before anything is decided, so that its score and the noise are known.

They are counted by their key, what they are for: where a person moves `main`, or changes the setting or
the gate's rule, others are wanted.
"""

import statistics
from collections.abc import Callable, Sequence

from harness.config import GateConfig
from harness.errors import HarnessError
from harness.executors.jobs import Executor, Job, Worker
from harness.gate.hosts import ON_EACH
from harness.session.events import BEGUN
from harness.session.runner import Runner
from harness.store.decisions import Base
from harness.store.experiment import Experiment
from harness.store.records import Setting
from harness.worker.orders import Order
from harness.worker.run import Setup

BASELINE = "baseline"
BaselineKey = tuple[str, Setting, GateConfig]


class Baseline:
    """Of one session."""

    def __init__(
        self, runner: Runner, executor: Executor, tell: Callable[[str, str, None, Order], None]
    ) -> None:
        self._runner, self._executor, self._tell = runner, executor, tell
        self._left: dict[BaselineKey, int] = {}

    def key(self, setup: Setup) -> BaselineKey:
        """What the standing is read from, and must be the same for it to hold."""
        return self._runner.experiments.main, setup.setting, setup.config.gate

    def left(self, key: BaselineKey) -> int:
        """Runs that nobody began yet; 0 where it isn't known how many are wanted."""
        return self._left.get(key, 0)

    @property
    def is_due(self) -> bool:
        """Whether some are left, for any key."""
        return any(self._left.values())

    def is_made(self, setup: Setup) -> bool:
        """Whether all of them are over."""
        (main, *_) = key = self.key(setup)
        if key not in self._left:
            self._left[key] = self._runner.missing_runs(setup, len(self._executor))
        return self._left[key] <= 0 and not self._executor.runs_of(main)

    def next(self, setup: Setup, worker: Worker) -> Job | None:
        """One more; None while the last ones are made, or a person moved `main` just now.

        Raises:
            HarnessError: all were made, and say nothing.
        """
        (main, *_) = key = self.key(setup)
        if self.left(key) <= 0:
            if key in self._left and not self._executor.runs_of(main):
                raise HarnessError(f"the runs of {main[:7]}, main, count for nothing here", "harness status")
            return None
        made = len(self._runner.experiments.main_scores(setup.setting)) + len(self._executor.runs_of(main))
        why = "to measure run-to-run noise" if made else "not measured in this setting yet"
        self._left[key] -= 1
        return self.one(setup, worker, why, f" {made + 1}/{made + self._left[key] + 1}")

    def one(self, setup: Setup, worker: Worker, why: str, which: str = "") -> Job:
        """A run of `main`, whatever is left."""
        main = self._runner.experiments.main
        running = [job.order.seed for job in self._executor.runs_of(main)]
        order = self._runner.order(main, BASELINE, running)
        self._tell(BEGUN, f"baseline{which}: main ({main[:7]}), {why}", None, order)
        return Job(order, setup, worker)

    def missing_on(self, on: str, setup: Setup, worker: Worker) -> int:
        """Runs of `main` that a device is to make before anything is judged there, less those that run."""
        main = self._runner.experiments.main
        made = [device for _, device in self._runner.experiments.scored(main, setup.setting)]
        if not (self._executor.are_elsewhere(worker, setup) or {on, *made} - {on, ""}):
            return 0
        running = sum(self._executor.on(job.worker, setup) == on for job in self._executor.runs_of(main))
        return ON_EACH - made.count(on) - running

    def on(self, worker: Worker, setup: Setup) -> str:
        """What a worker's runs are measured on."""
        return self._executor.on(worker, setup)

    def put_back(self, run: Job) -> None:
        """One that was begun and is not to train now."""
        self._left[run.order.commit, run.setup.setting, run.setup.config.gate] += 1

    def early(self, setup: Setup, waiting: Sequence[Experiment]) -> Base | None:
        """`main`, once it has a score or its last runs are made: an experiment on it is to be ready when
        they are over. None where the first that waits is on another commit."""
        (main, *_) = key = self.key(setup)
        if not self._executor.runs_of(main) or any(each.parent != main for each in waiting[:1]):
            return None
        scores, last = self._runner.experiments.scores(main, setup.setting), self._left.get(key) == 0
        return Base(main, statistics.fmean(scores) if scores else None) if scores or last else None
