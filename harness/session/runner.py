"""Where commits are run, and where their scores go: into notes, into the gate, to `main`.

What the loop and `harness calibrate` share. Guarantees: what was measured is noted before anything
else happens; `main` is measured, and the noise known, before anything is decided; the holdout's score is
begun when `main` is about to move, and no decision sees it.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness import config as configs
from harness.errors import HarnessError
from harness.executors.jobs import Worker
from harness.gate.noise import Noise
from harness.gate.policy import CALIBRATION_RUNS
from harness.gate.standing import Standing, noise_of
from harness.paths import Paths
from harness.session.checkpoints import Checkpoints
from harness.session.events import MOVED, Run, Tell
from harness.session.frontier import passed_by, standing_on
from harness.store.experiment import Experiment
from harness.store.experiments import Experiments
from harness.store.records import OK, Kind, RunRecord
from harness.store.repo import Repository
from harness.worker import unscored
from harness.worker.orders import Hears, Order
from harness.worker.progress import Progress
from harness.worker.run import Setup, open_setup
from harness.worker.worker import RunHandle

FREE_MB = 1024  # beyond what a run may write
LARGEST_SEED = 999_999  # drawn, so that a train.py can't tell a first run from one that repeats it


class Runner:
    """Trials of one repository's commits. `tell` hears a kind and a line, `show` progress and of what."""

    def __init__(self, repository: Repository, tell: Tell, show: Callable[[Progress, Run], None]) -> None:
        self._repository, self._tell, self._show = repository, tell, show
        self.experiments = Experiments(repository)
        self.seconds = 0.0  # in runs, or waiting for somebody else: see `away`
        self._last_config: configs.Config | None = None
        self._last: tuple[tuple[int, ...], Setup] | None = None  # what the config was, and the setup by it
        self._said: set[str] = set()
        self.kept = Checkpoints(repository.paths, self.experiments, tell, show, self.away)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Time that isn't the harness's own."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began

    def tell_once(self, kind: str, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(kind, text)

    def setup(self) -> Setup:
        """Config and program as they are now; the last good ones where a person is in the middle of them.

        Raises:
            HarnessError: the first config is unusable, data or device are gone, or the disk is full.
        """
        paths = self._repository.paths
        if not paths.program.exists():
            self.tell_once("trouble", "no .autoresearch/program.md to tell the agent. Try: harness init")
        setup = self._read_setup(paths)
        if setup.isolation.kind == "none":
            why = setup.isolation.why
            self.tell_once("trouble", f"WARNING: no sandbox, train.py can reach everything you can: {why}")
        wanted = setup.config.trial.disk_mb + FREE_MB
        if (free := shutil.disk_usage(paths.home).free // 2**20) < wanted:
            raise HarnessError(
                f"only {free} MB are free at {paths.home}, a run may need {wanted}",
                "harness clean, or free some space",
            )
        return setup

    def _read_setup(self, paths: Paths) -> Setup:
        """Read anew only where the config was written or the data is gone: it is asked for often."""
        now = _identity(paths.config)
        if self._last is not None and self._last[1].task.data.folder.exists():
            is_being_written = now[1:2] == (0,)  # cut to nothing first, as many editors do
            if self._last[0] == now or is_being_written:
                return self._last[1]
        try:
            config = configs.load(paths.config)
            setup = open_setup(config, paths.root)
            self._last = now, setup
        except HarnessError as unusable:
            if self._last_config is None:
                raise
            config = self._last_config
            setup = open_setup(config, paths.root)  # raises where data or device, not the config, is at fault
            self.tell_once("trouble", f"going on with the last good config: {unusable}")
        self._last_config = config
        return setup

    # ── runs ────────────────────────────────────────────────────────────────────────────────

    def order(
        self, commit: str, name: str, running: Iterable[int] = (), standing: Standing | None = None
    ) -> Order:
        """The next run of a commit, with a seed that it didn't have.

        Args:
            name: see `Order`.
            running: seeds of its runs that are not over.
            standing: what its score will be held against, where that is known.
        """
        used = [*running, *(run.seed for run in self.experiments.runs(commit))]
        while (seed := 1 + secrets.randbelow(LARGEST_SEED)) in used:
            pass
        suspect_beyond = standing.suspect_beyond if standing is not None else None
        order = Order(commit, self.experiments.source(commit), seed, name, suspect_beyond)
        if self._last is None:
            return order
        for folder, run in unscored.find(self._repository.paths.runs, commit, self._last[1].setting):
            if run.seed not in used:
                return replace(order, seed=run.seed, trained=(folder, run.training))
        return order

    def hears(self, order: Order, place: int) -> Hears:
        """Who is told of a run."""
        of = Run(order.name, order.commit, order.seed, place)
        return Hears(self._tell, lambda progress: self._show(progress, of))

    def noted(self, run: RunRecord, folder: Path, setup: Setup, others: bool = False) -> None:
        """One more run of a commit that stays as it is; `others`: more of it are running.

        Raises:
            HarnessError: it gave no score, and none did before.
        """
        commit = run.commit
        if run.status == OK:
            self.kept.keep(folder, run)
        self.experiments.add_run(commit, run)
        if run.status != OK and not (others or self.experiments.scores(commit, setup.setting)):
            mend = "harness doctor; mend it on main and commit, or what the config allows it; harness loop"
            raise HarnessError(
                f"train.py of {commit[:7]} gives no score: {run.status}: {run.detail}",
                "harness loop, with less beside it" if run.kind == Kind.LATE else mend,
            )

    def again(self, commit: str, setup: Setup, worker: Worker) -> RunRecord:
        """One more run of a commit, here and now."""
        order = self.order(commit, "again")
        hears = self.hears(order, worker.place)
        run, folder = worker.start(order, setup, RunHandle.alone(), hears).result()
        self.noted(run, folder, setup)
        return run

    # ── what is known ─────────────────────────────────────────────────────────────────────────

    def known(self, setup: Setup, main: str = "") -> Standing | None:
        """What git says of this setting; None if `main`, or the commit that is to stand for it, has no
        score there."""
        return standing_on(self.experiments, setup.setting, setup.config.gate.policy, main)

    def wanted_runs(self, setup: Setup) -> int:
        """How often `main` is to be run before anything is decided: twice at least, since one run may be an
        accident, and until the noise is known. The greedy rule takes one run at its word."""
        if setup.config.gate.policy == "greedy":
            return 1
        return CALIBRATION_RUNS if self._freedom(setup) < CALIBRATION_RUNS - 1 else 2

    def noise(self, setup: Setup) -> Noise | None:
        """Pooled over every repeat in this setting."""
        return noise_of(self.experiments.measured(setup.setting), setup.setting.metric)

    def _freedom(self, setup: Setup) -> int:
        return sum(len(each.scores) - 1 for each in self.experiments.measured(setup.setting))

    # ── main ──────────────────────────────────────────────────────────────────────────────────

    def advance(self, standing: Standing, setup: Setup, worker: Worker) -> Standing:
        """Move `main` to the frontier's head if the gate says so and no change of a person is in the way."""
        if (move := standing.move()) is None:
            return standing
        noted = self.experiments.note(move.new).proven
        if noted is None or noted.old != move.old:  # first: killed after it, main follows at the next start
            self.experiments.amend(move.new, lambda note: note.with_parts(proven=move))
        if why := self.kept.second_opinion(move.new, setup, worker):
            self.tell_once("trouble", f"     {move.new[:7]} is off the frontier, and main stays: {why}")
            return self.known(setup) or standing
        self.kept.score_holdout(move.new, setup, worker)
        try:
            if not self.experiments.advance(move.old, move.new):
                return standing
        except HarnessError as in_the_way:
            self.tell_once("trouble", f"     main waits before {move.new[:7]}: {in_the_way}")
            return standing
        # So that main stays where a person resets it.
        self.experiments.amend(move.new, lambda note: note.with_parts(reached=True))
        sure = f": better than {move.old[:7]} with P = {move.confidence:.1%}" if move.confidence else ""
        moved = next((each for each in self.experiments if each.commit == move.new), None)
        self._tell(MOVED, f"     main fast-forwarded to {move.new[:7]}{sure}", moved)
        self.kept.drop(main=move.new)  # of what it passed
        return standing.moved()

    def passed_by(self, setup: Setup) -> tuple[Experiment, str] | None:
        """See `harness.session.frontier`."""
        return passed_by(self.experiments, setup.setting, setup.config.gate.policy)


def _identity(file: Path) -> tuple[int, ...]:
    """Changes where somebody writes to it; empty where it isn't there."""
    try:
        about = file.stat()
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_size, about.st_ino
