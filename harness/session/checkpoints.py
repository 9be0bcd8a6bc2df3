"""Checkpoints: which are held on to, what they score on the holdout, which no decision sees, and whether a
second look at them gives the same score.

They stay in their trial's run folder, marked: scored from the same place, under the same path, a program
can't tell the holdout by it. On a GPU with room nothing waits for the holdout's processes: they start while
the next trial trains, and score between two trainings. Elsewhere they would be in that trial's way, and are
waited for. Whatever goes wrong here is said aloud and stops nothing.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.paths import Paths
from harness.store.decisions import Holdout
from harness.store.experiments import Experiments
from harness.store.records import ERROR, Failure, RunRecord, Setting, is_score
from harness.worker.run import Setup, measure_holdout, second_opinion
from harness.worker.supervisor import Progress
from harness.worker.worker import RunHandle, Worker

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
        show: Callable[[Progress, int], None], away: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """`tell` hears a kind and a line, `show` progress and its place; `away` is around each wait."""
        self._paths, self._experiments = paths, experiments
        self._tell, self._show, self._away = tell, show, away
        self._owed: dict[str, Owed] = {}
        self._tried: set[tuple[str, Setting]] = set()
        self._opinions: dict[tuple[str, Setting], str] = {}

    def keep(self, folder: Path, trial: RunRecord) -> None:
        """Hold on to a trial's checkpoint: `main` may move to its commit. One of a commit is enough."""
        for other, record in self._marked():
            if record.get("commit") == trial.commit and not self._is_owed(other):
                self.forget(other)
        try:
            self._paths.mark(folder).touch()
        except OSError as failed:
            self._tell("trouble", f"     its checkpoint is not kept for the holdout: {failed}")
        self.drop(CHECKPOINTS)

    def forget(self, folder: Path) -> None:
        """Remove a trial's checkpoint."""
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        with suppress(OSError):
            self._paths.mark(folder).unlink()

    def sweep(self) -> None:
        """Remove checkpoints that a killed loop left in the folders of finished trials."""
        for record in self._paths.runs.glob("*/trial.json"):
            if not self._paths.mark(record.parent).exists():
                self.forget(record.parent)

    def drop(self, but: int = 0, main: str = "") -> None:
        """Remove all but the newest and `main`'s; what is being scored stays until then."""
        runs = self._runs(main) if main else []
        for folder, record in [*self._marked()][but:]:
            if not self._is_owed(folder) and _run(record) not in runs:
                self.forget(folder)

    def _is_owed(self, folder: Path) -> bool:
        return any(folder == owed.folder for owed in self._owed.values())

    def _marked(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Run folders and their records, newest first."""
        for folder in sorted((path.parent for path in self._paths.marks()), reverse=True):
            try:
                found = json.loads((folder / "trial.json").read_bytes())
            except (OSError, ValueError):
                found = None
            yield folder, found if isinstance(found, dict) else {}

    def second_opinion(self, commit: str, setup: Setup, worker: Worker) -> str:
        """Why `main` may not move there: its score is another one when it is taken plainly. Empty if it may,
        also where its checkpoint is gone, or the machine failed at it; asked once."""
        if (commit, setup.setting) in self._opinions:
            return self._opinions[commit, setup.setting]
        found = self._scored(commit, setup.setting)
        if found is None:
            return ""
        self._tell("note", f"     a second opinion on {commit[:7]}, before main moves")
        with self._away():
            said = second_opinion(found[0], setup, lambda text: self._tell("note", text), worker)
        why = said.detail if isinstance(said, Failure) else ""
        if said is not None:
            self._experiments.note(commit, opinion=asdict(said))
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
        self._tried.add((commit, setting))
        self._tell("note", f"     the holdout of {commit[:7]}, which no decision sees")
        (folder, val_bpb), handle = found, RunHandle()

        def show(progress: Progress) -> None:
            handle.check()
            if not worker.is_shared:  # else the trial that is on it is shown
                self._show(progress, worker.place)

        def work() -> Holdout | Failure:
            return measure_holdout(
                folder, val_bpb, setup, show, lambda text: self._tell("note", text), worker, handle
            )

        self._owed[commit] = Owed(folder, setting, handle, worker.start(work))
        if not worker.has_room:
            self.settle(wait=True)

    def _scored(self, commit: str, setting: Setting) -> tuple[Path, float] | None:
        """Where a checkpoint of that commit is, and its score in that setting."""
        runs = self._runs(commit)
        for folder, record in self._marked():
            val_bpb = record.get("val_bpb")
            is_there = _run(record) in runs and (folder / "checkpoint").is_dir()
            if is_there and Setting.of(record) == setting and is_score(val_bpb):
                return folder, val_bpb
        return None

    def _runs(self, commit: str) -> list[tuple[Any, Any]]:
        return [_run(trial) for trial in self._experiments.trials(commit)]

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
                    noted = self._experiments.record(commit).get("holdout")
                    about = {**asdict(found), "setting": asdict(owed.setting)}
                    earlier = noted if isinstance(noted, list) else []
                    self._experiments.note(commit, holdout=[*earlier, about])
                    self.forget(owed.folder)  # else it stays: the next loop tries again
            except Exception as failed:  # noqa: BLE001 - whatever it is, no decision waits for it
                why = str(failed) or type(failed).__name__
            del self._owed[commit]
            if why:
                self._tell("trouble", f"     the holdout of {commit[:7]} was not scored: {why}")

    def close(self) -> None:
        """Cancel what was begun: the next loop finds its checkpoint."""
        for owed in self._owed.values():
            owed.handle.cancelled.set()


def _run(record: dict[str, Any]) -> tuple[Any, Any]:
    """What names a trial in its folder and in git: its commit was another one before it had a status."""
    return record.get("commit"), record.get("seed")
