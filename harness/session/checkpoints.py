"""Checkpoints: which are held on to, what they score on the holdout, which no decision sees, and whether a
second look at them gives the same score.

They stay in their run's run folder, marked: scored from the same place, under the same path, a program
can't tell the holdout by it. On a GPU with room nothing waits for the holdout's processes: they start while
the next run trains, and score between two trainings. Elsewhere they would be in that run's way, and are
waited for. Whatever goes wrong here is said aloud and stops nothing.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.executors.jobs import Worker
from harness.executors.remote import Lost
from harness.paths import Paths
from harness.session.events import Run
from harness.store.decisions import Holdout, HoldoutFailure
from harness.store.experiments import Experiments
from harness.store.note import Note, read_run
from harness.store.records import ERROR, Failure, RunRecord, Setting
from harness.worker.attempts import forget
from harness.worker.orders import Hears
from harness.worker.progress import Progress
from harness.worker.run import Setup
from harness.worker.worker import RunHandle

CHECKPOINTS = 8  # of kept experiments that are held on to at a time


@dataclass(frozen=True)
class Owed:
    """A score on the holdout that was begun."""

    folder: Path
    setting: Setting
    handle: RunHandle
    future: "Future[Holdout | Failure]"


class Checkpoints:
    """Of one repository."""

    def __init__(
        self, paths: Paths, experiments: Experiments, tell: Callable[[str, str], None],
        show: Callable[[Progress, Run], None], away: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """`tell` hears a kind and a line, `show` progress and of what; `away` is around each wait.
        `whose`: who can read a folder, best a given worker; `on`: a setup on a worker's device."""
        self._paths, self._experiments = paths, experiments
        self._tell, self._show, self._away = tell, show, away
        self._owed: dict[str, Owed] = {}
        self._tried: set[tuple[str, Setting]] = set()
        self.on: Callable[[Setup, Worker], Setup] = lambda setup, worker: setup
        self.whose: Callable[[Path, Worker], Worker | None] = lambda folder, worker: worker
        self._opinions: dict[tuple[str, Setting], str] = {}

    def keep(self, folder: Path, run: RunRecord) -> None:
        """Hold on to a run's checkpoint: `main` may move to its commit. One of a commit is enough."""
        for other, record in self._marked():
            if record is not None and record.commit == run.commit and not self._is_owed(other):
                forget(other)
        try:
            number = 1 + max(map(_number, self._paths.marks()), default=0)
            self._paths.mark(folder).write_text(str(number))
        except OSError as failed:
            self._tell("trouble", f"     its checkpoint is not kept for the holdout: {failed}")
        self.drop(CHECKPOINTS)

    def sweep(self) -> None:
        """Remove checkpoints that a killed loop left in the folders of finished runs."""
        for record in self._paths.runs.glob("*/trial.json"):
            if not self._paths.mark(record.parent).exists():
                forget(record.parent)

    def drop(self, but: int = 0, main: str = "") -> None:
        """Remove all but the newest and `main`'s; what is being scored stays until then."""
        runs = self._runs(main) if main else []
        for folder, record in [*self._marked()][but:]:
            if not self._is_owed(folder) and (record is None or _run(record) not in runs):
                forget(folder)

    def _is_owed(self, folder: Path) -> bool:
        return any(folder == owed.folder for owed in self._owed.values())

    def _marked(self) -> Iterator[tuple[Path, RunRecord | None]]:
        """Run folders and their records, those first that were kept last, whatever clocks said since."""
        for mark in sorted(self._paths.marks(), key=lambda path: (_number(path), path), reverse=True):
            folder = mark.parent
            try:
                data = (folder / "trial.json").read_bytes()
            except OSError:
                data = b""
            yield folder, read_run(data)

    def second_opinion(self, commit: str, setup: Setup, worker: Worker) -> str:
        """Why `main` may not move there: its score is another one when it is taken plainly. Empty if it may,
        also where its checkpoint is gone, or the machine failed at it; asked once."""
        if (commit, setup.setting) in self._opinions:
            return self._opinions[commit, setup.setting]
        found = self._scored(commit, setup.setting)
        if found is None:
            return ""
        if (able := self.whose(found[0], worker)) is None:
            return ""  # its host is gone
        setup = self.on(setup, able)
        self._tell("note", f"     a second opinion on {commit[:7]}, before main moves")
        try:
            with self._away():
                said = able.second_opinion(found[0], setup, Hears(self._tell)).result()
        except Lost as lost:
            self._tell("trouble", f"     no second opinion on {commit[:7]}: {lost}")
            return ""
        why = said.detail if isinstance(said, Failure) else ""
        if said is not None:
            opinion = said
            self._experiments.amend(commit, lambda note: note.with_parts(opinion=opinion))
        if isinstance(said, Failure) and said.status == ERROR:
            self._tell("trouble", f"     {why}")
            why = ""
        self._opinions[commit, setup.setting] = why
        return why

    def score_holdout(self, commit: str, setup: Setup, worker: Worker) -> None:
        """With the checkpoint that was kept, once, if one of this setting is still there."""
        setting = setup.setting
        tried = (commit, setting) in self._tried or self._experiments.holdout(commit, setting) is not None
        if tried or commit in self._owed or (found := self._scored(commit, setting)) is None:
            return
        if (able := self.whose(found[0], worker)) is None:
            return  # its host is gone: it may come back
        setup = self.on(setup, able)
        self._tried.add((commit, setting))
        self._tell("note", f"     the holdout of {commit[:7]}, which no decision sees")
        (folder, value), handle, of = found, RunHandle(), Run("holdout", commit, 0, able.place)
        hears = Hears(self._tell, lambda progress: self._show(progress, of))
        begun = able.score_holdout(folder, value, setup, handle, hears)
        self._owed[commit] = Owed(folder, setting, handle, begun)

    def _scored(self, commit: str, setting: Setting) -> tuple[Path, float] | None:
        """Where a checkpoint of that commit is, and its score in that setting."""
        runs = self._runs(commit)
        for folder, record in self._marked():
            if record is None or _run(record) not in runs or record.setting != setting:
                continue
            if record.metric.is_score(record.value) and (folder / "checkpoint").is_dir():
                return folder, record.value
        return None

    def _runs(self, commit: str) -> list[tuple[str, int]]:
        return [_run(run) for run in self._experiments.runs(commit)]

    def settle(self, wait: bool = False) -> None:
        """Note the scores that are there; `wait`: all that were begun."""
        for commit, owed in list(self._owed.items()):
            if not (wait or owed.future.done()):
                continue
            why = ""
            try:
                with self._away():
                    found = owed.future.result()
                if isinstance(found, Failure):
                    why = found.detail
                if not (isinstance(found, Failure) and found.status == ERROR):  # its own failure is noted too
                    noted: Holdout | HoldoutFailure
                    if isinstance(found, Failure):
                        noted = HoldoutFailure(found.status, found.detail, owed.setting)
                    else:
                        noted = found
                    self._experiments.amend(commit, partial(Note.with_holdout, found=noted))
                    forget(owed.folder)  # else it stays: the next loop tries again
            except Exception as failed:  # noqa: BLE001 - whatever it is, no decision waits for it
                why = str(failed) or type(failed).__name__
            del self._owed[commit]
            if why:
                self._tell("trouble", f"     the holdout of {commit[:7]} was not scored: {why}")

    def close(self) -> None:
        """Cancel what was begun: the next loop finds its checkpoint."""
        for owed in self._owed.values():
            owed.handle.cancel()


def _run(record: RunRecord) -> tuple[str, int]:
    """What names a run in its folder and in git: its commit was another one before it had a status."""
    return record.commit, record.seed


def _number(mark: Path) -> int:
    """Of what was kept, in its order; 0 of what an earlier version kept."""
    try:
        return int(mark.read_text() or 0)
    except (OSError, ValueError):
        return 0
