"""Where the research stands in a session: read from git once, then taken along from decision to decision."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable

from harness.config import GateConfig
from harness.errors import HarnessError
from harness.executors.jobs import Worker
from harness.gate.hosts import ON_EACH
from harness.gate.standing import Standing, revised
from harness.session.plan import missing_runs
from harness.session.runner import Runner
from harness.store.decisions import Base
from harness.store.experiment import Experiment
from harness.store.records import Setting
from harness.worker.run import Setup

MOST_TRIES = 2 * ON_EACH  # of `main` on a device in a session, whatever comes of them
Key = tuple[str, Setting, GateConfig]
"""What the standing is read from, and must be the same for it to hold: `main`, and a purpose of runs."""


class Research:
    """Attributes: `standing`, None until `main` and the noise are known; `key`, what it was read from; `made`
    and `missing`, runs of `main` while it isn't; `tried_on`, those that were begun for a device's sake."""

    def __init__(
        self, runner: Runner, begin_again: Callable[[Experiment, str, str], None],
        tell: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        """`begin_again` takes a kept experiment that `main` passed by, where it is to be put, and what it
        stood on."""
        self._runner, self._begin_again, self._tell = runner, begin_again, tell
        self.standing: Standing | None = None
        self.key: Key | None = None
        self.made = self.missing = 0
        self.tried_on: Counter[str] = Counter()
        self._seen_on: Counter[str] = Counter()
        # Runs of `main`'s program that its own note doesn't have, and how many there are to be in all.
        self._begun: dict[Key, tuple[int, int]] = {}
        self._known: Key | None = None  # what it was read from last

    def key_of(self, setup: Setup) -> Key:
        return self._runner.experiments.main, setup.setting, setup.config.gate

    def now(self, setup: Setup, worker: Worker, running: int, workers: int) -> Standing | None:
        """`main` moved as far as it may; read from git where somebody else moved it, or the setting is
        another. None while `main` or the noise is to be measured there.

        Args:
            running: runs of `main`.

        Raises:
            HarnessError: all runs of `main` were made, and say nothing.
        """
        if self.standing is not None and self.key == self.key_of(setup):
            return self.standing
        main = self._runner.experiments.main
        self._count(setup, running, workers)
        if self._known != self.key_of(setup) and (self.missing or running):
            return None
        if (known := self._runner.known(setup)) is None:
            if self._runner.experiments.main != main:
                return None  # a person moved it just now
            raise HarnessError(f"the runs of {main[:7]}, main, count for nothing here", "harness status")
        if (passed := self._runner.passed_by(setup)) is not None:
            self._begin_again(passed[0], known.incumbent.commit, passed[1])
            known = self._runner.known(setup) or known  # its runs may hold there
        measured = self._runner.experiments.measured(setup.setting)
        self._seen_on = Counter(on for each in measured for on in each.hosts)
        return self.advance(known, setup, worker)

    def _count(self, setup: Setup, running: int, workers: int) -> None:
        """Runs of `main`. All of git is read when it is first asked for, then only `main`'s note: it is asked
        for at each look while they are made."""
        key = main, setting, _ = self.key_of(setup)
        noted = sum(run.setting == setting for run in self._runner.experiments.runs(main))
        if key not in self._begun:
            made = max(noted, len(self._runner.experiments.main_scores(setting)))
            missing = missing_runs(made, workers, self._runner.wanted_runs(setup))
            self._begun[key] = made - noted, made + missing
        before, whole = self._begun[key]
        self.made = before + noted
        self.missing = max(0, whole - self.made - running)

    def base(self, setup: Setup) -> Base | None:
        """The commit that a new experiment is a change of, while an earlier one may be at work on `main`."""
        if self.standing is not None and self.key == self.key_of(setup):
            return self.standing.incumbent
        main = self._runner.experiments.main
        scores = self._runner.experiments.scores(main, setup.setting)
        return Base(main, statistics.fmean(scores) if scores else None)

    def missing_on(self, devices: Iterable[str]) -> dict[str, int]:
        """Runs of `main` that devices are to make before anything is judged there: those of which no offset
        is known, where there are others."""
        there, standing = set(devices), self.standing
        is_greedy = self.key is not None and self.key[2].policy == "greedy"
        if standing is None or is_greedy or len({*there, *self._seen_on} - {""}) < 2:
            return {}
        unknown = [on for on in there if on not in standing.offsets]
        return {on: min(ON_EACH - self._seen_on[on], MOST_TRIES - self.tried_on[on]) for on in unknown}

    def advance(self, standing: Standing, setup: Setup, worker: Worker) -> Standing:
        """Move `main` as far as it may."""
        for line in revised(self.standing, standing):
            self._tell("note", f"     {line}")
        self.standing = moved = self._runner.advance(standing, setup, worker)
        # Not where main is now: a person may have moved it meanwhile.
        self.key = self._known = moved.chain[0], setup.setting, setup.config.gate
        return moved

    def standing_for(self, parent: str, setup: Setup) -> Standing | None:
        """What an experiment on that parent is held against; None where that is to be measured first.

        Raises:
            HarnessError: `main` is gone.
        """
        key, standing = self.key_of(setup), self.standing
        if self.key == key:
            return standing
        now = self._runner.known(setup)
        only_main = self.key is not None and self.key[1:] == key[1:]  # moved by a person
        of_old = only_main and standing is not None and standing.knows(parent)
        if now is not None and (now.knows(parent) or not of_old):
            return now
        return standing if only_main else None  # else in its setting main's runs are first

    def read_again(self) -> None:
        """From git, when it is asked for next."""
        self.key = None
