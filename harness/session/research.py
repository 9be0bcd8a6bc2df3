"""Where the research stands in a session: read from git once, then taken along from decision to decision."""

from collections.abc import Callable

from harness.executors.jobs import Worker
from harness.gate.standing import Standing, revised
from harness.session.baseline import Baseline, BaselineKey
from harness.session.runner import Runner
from harness.store.experiment import Experiment
from harness.worker.run import Setup


class Research:
    """Attributes: `standing`, None until `main` and the noise are known; `key`, what it was read from."""

    def __init__(
        self, runner: Runner, baseline: Baseline, begin_again: Callable[[Experiment, str, str], None],
        tell: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        """`begin_again` takes a kept experiment that `main` passed by, where it is to be put, and what it
        stood on."""
        self._runner, self._baseline = runner, baseline
        self._begin_again, self._tell = begin_again, tell
        self.standing: Standing | None = None
        self.key: BaselineKey | None = None

    def now(self, setup: Setup, worker: Worker) -> Standing | None:
        """`main` moved as far as it may; read from git where somebody else moved it, or the setting is
        another. None while `main` or the noise is to be measured there."""
        if self.standing is not None and self.key == self._baseline.key(setup):
            return self.standing
        if not self._baseline.is_made(setup) or (known := self._runner.known(setup)) is None:
            return None
        if (passed := self._runner.passed_by(setup)) is not None:
            self._begin_again(passed[0], known.incumbent.commit, passed[1])
            known = self._runner.known(setup) or known  # its runs may hold there
        return self.advance(known, setup, worker)

    def is_new_to(self, worker: Worker, setup: Setup, standing: Standing) -> bool:
        """Whether a device has to run `main` first: its offset isn't known, and others have theirs."""
        on = self._baseline.on(worker, setup)
        return on not in standing.offsets and self._baseline.missing_on(on, setup, worker) > 0

    def advance(self, standing: Standing, setup: Setup, worker: Worker) -> Standing:
        """Move `main` as far as it may."""
        for line in revised(self.standing, standing):
            self._tell("note", f"     {line}")
        self.standing = moved = self._runner.advance(standing, setup, worker)
        # Not where main is now: a person may have moved it meanwhile.
        self.key = moved.chain[0], setup.setting, setup.config.gate
        return moved

    def read_again(self, setup: Setup, worker: Worker) -> None:
        self.key = None
        self.now(setup, worker)

    def standing_for(self, parent: str, setup: Setup) -> Standing | None:
        """What an experiment on that parent is held against; None where that is to be measured first.

        Raises:
            HarnessError: `main` is gone.
        """
        key, standing = self._baseline.key(setup), self.standing
        if self.key == key:
            return standing
        now = self._runner.known(setup)
        only_main = self.key is not None and self.key[1:] == key[1:]  # moved by a person
        of_old = only_main and standing is not None and standing.knows(parent)
        if now is not None and (now.knows(parent) or not of_old):
            return now
        return standing if only_main else None  # else in its setting main's runs are first
