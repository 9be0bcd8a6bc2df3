"""Checkpoints: which are held on to, and what they score on the holdout, which no decision sees.

On a GPU with room nothing waits for the holdout's processes: they start while the next trial trains, and
score between two trainings. Elsewhere they would be in that trial's way, and are waited for.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from harness.errors import HarnessError
from harness.ledger.experiments import Experiments
from harness.paths import Paths
from harness.records import Failure, Holdout, Setting, Trial
from harness.trial.measure import Bench, measure_holdout
from harness.trial.station import Station, Turn
from harness.trial.supervisor import Progress

SCORED = "scored.json"  # beside a checkpoint: its own score and setting
CHECKPOINTS = 8  # of kept experiments that are held on to at a time


class Kept:
    """Of one repository, a folder for each commit."""

    def __init__(
        self, paths: Paths, experiments: Experiments, tell: Callable[[str, str], None],
        show: Callable[[Progress, int], None], away: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """`tell` hears a kind and a line, `show` progress and its place; `away` is around each wait."""
        self._folder, self._runs, self._experiments = paths.kept, paths.runs, experiments
        self._tell, self._show, self._away = tell, show, away
        self._owed: dict[str, tuple[Turn, Future[Holdout | Failure]]] = {}
        self._tried: set[tuple[str, Setting]] = set()

    def keep(self, folder: Path, commit: str, trial: Trial) -> None:
        """Hold on to a trial's checkpoint: `main` may move to its commit, which may be a newer one than
        the trial's."""
        if commit in self._owed:  # an earlier run's is being scored: one of them is enough
            return self.forget(folder)
        place = self._folder / commit
        shutil.rmtree(place, ignore_errors=True)
        if place.is_file():
            place.unlink()
        place.mkdir(parents=True, exist_ok=True)
        scored = {"val_bpb": trial.val_bpb, **asdict(trial.setting)}
        (place / SCORED).write_text(json.dumps(scored))
        for name in ("train.py", "checkpoint"):
            if (folder / name).exists():
                shutil.move(folder / name, place / name)
        self.drop(CHECKPOINTS)

    def forget(self, folder: Path) -> None:
        """Remove a trial's checkpoint."""
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)

    def sweep(self) -> None:
        """Remove checkpoints that a killed loop left in the folders of finished trials."""
        for record in self._runs.glob("*/trial.json"):
            self.forget(record.parent)

    def drop(self, but: int = 0) -> None:
        """Remove all but the newest; what is being scored stays until then."""
        newest = sorted(self._folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest[but:]:
            if old.name not in self._owed:
                shutil.rmtree(old, ignore_errors=True)

    def score_holdout(self, commit: str, bench: Bench, station: Station) -> None:
        """With the checkpoint that was kept, once, if one of this setting is still there."""
        place, setting = self._folder / commit, bench.setting
        tried = (commit, setting) in self._tried or self._experiments.holdout(commit, setting) is not None
        if tried or commit in self._owed or (val_bpb := self._score(place, setting)) is None:
            return
        self._tried.add((commit, setting))
        self._tell("note", f"     the holdout of {commit[:7]}, which no decision sees")
        turn = Turn()

        def show(progress: Progress) -> None:
            turn.check()
            self._show(progress, station.place)

        def work() -> Holdout | Failure:
            return measure_holdout(
                place, val_bpb, bench, show, lambda text: self._tell("note", text), station, turn
            )

        self._owed[commit] = turn, station.start(work)
        if not station.has_room:
            self.settle(wait=True)

    @staticmethod
    def _score(place: Path, setting: Setting) -> float | None:
        """Of the checkpoint there, in that setting."""
        try:
            scored = json.loads((place / SCORED).read_bytes())
        except (OSError, ValueError):
            return None
        is_there = Setting.of(scored) == setting and (place / "checkpoint").is_dir()
        return scored["val_bpb"] if is_there else None

    def settle(self, wait: bool = False) -> None:
        """Note the scores that are there; `wait`: all that were begun."""
        for commit, (_, future) in list(self._owed.items()):
            if not (wait or future.done()):
                continue
            try:
                with self._away():
                    found = future.result()
                if isinstance(found, Failure):
                    raise HarnessError(found.detail)
                noted = self._experiments.record(commit).get("holdout")
                earlier = noted if isinstance(noted, list) else []
                self._experiments.note(commit, holdout=[*earlier, asdict(found)])
            except (HarnessError, OSError) as failed:
                self._tell("trouble", f"     the holdout of {commit[:7]} was not scored: {failed}")
            del self._owed[commit]
            shutil.rmtree(self._folder / commit, ignore_errors=True)

    def close(self) -> None:
        """Cancel what was begun: the next loop finds its checkpoint."""
        for turn, _ in self._owed.values():
            turn.cancelled.set()
