"""Checkpoints that are held on to, and what they score on the holdout, which no decision sees.

On a GPU nothing waits for the holdout's processes: they start while the next trial trains, and score between
two trainings. On a processor they would be in that trial's way, and are waited for.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

from harness.errors import HarnessError
from harness.ledger.experiments import Experiments
from harness.records import Holdout, Setting
from harness.trial.measure import Bench, measure_holdout
from harness.trial.station import Station, Turn
from harness.trial.supervisor import Progress

CHECKPOINTS = 8  # of kept experiments that are held on to at a time


class Kept:
    """Of one repository, a folder for each commit. `tell` hears a kind and a line, `show` progress and its
    place."""

    def __init__(
        self, folder: Path, experiments: Experiments,
        tell: Callable[[str, str], None], show: Callable[[Progress, int], None],
    ) -> None:  # fmt: skip
        self._folder, self._experiments, self._tell, self._show = folder, experiments, tell, show
        self._owed: dict[str, tuple[Turn, Future[Holdout | None]]] = {}
        self._tried: set[tuple[str, Setting]] = set()

    def keep(self, folder: Path, commit: str) -> None:
        """Hold on to a trial's checkpoint: `main` may move to its commit."""
        if commit in self._owed:  # an earlier run's is being scored: one of them is enough
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            return
        place = self._folder / commit
        shutil.rmtree(place, ignore_errors=True)
        if place.is_file():
            place.unlink()
        place.mkdir(parents=True, exist_ok=True)
        for name in ("train.py", "checkpoint"):
            if (folder / name).exists():
                shutil.move(folder / name, place / name)
        self.drop(CHECKPOINTS)

    def drop(self, but: int = 0) -> None:
        """Remove all but the newest; what is being scored stays until then."""
        newest = sorted(self._folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest[but:]:
            if old.name not in self._owed:
                shutil.rmtree(old, ignore_errors=True)

    def score_holdout(self, commit: str, bench: Bench, station: Station) -> None:
        """With the checkpoint of its last run, once, if that is still there; for the person only."""
        place, scores = self._folder / commit, self._experiments.scores(commit, bench.setting)
        tried = (commit, bench.setting) in self._tried
        known = tried or self._experiments.holdout(commit, bench.setting) is not None
        if known or commit in self._owed or not scores or not (place / "checkpoint").is_dir():
            return
        self._tried.add((commit, bench.setting))
        self._tell("note", f"     the holdout of {commit[:7]}, which no decision sees")
        turn = Turn()

        def show(progress: Progress) -> None:
            turn.check()
            self._show(progress, station.place)

        def work() -> Holdout | None:
            return measure_holdout(
                place, scores[-1], bench, show, lambda text: self._tell("note", text), station, turn
            )

        self._owed[commit] = turn, station.start(work)
        if bench.device.kind != "cuda":
            self.settle(wait=True)

    def settle(self, wait: bool = False) -> None:
        """Note the scores that are there; `wait`: all that were begun."""
        for commit, (_, future) in list(self._owed.items()):
            if not (wait or future.done()):
                continue
            try:
                found = future.result()
                if found is not None:
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
