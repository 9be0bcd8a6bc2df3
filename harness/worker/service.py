"""What a worker does for whoever sends it orders: runs, scores of holdouts, second opinions.

One object a device. It lives in a process of its own, see `harness.worker.__main__`, or in the one that has
it, where a person waits for a single run.
"""

import platform
from concurrent.futures import Future
from pathlib import Path

from harness.errors import MachineFailed
from harness.store.decisions import Holdout, Opinion
from harness.store.records import Failure, RunRecord
from harness.worker.attempts import attempt
from harness.worker.device import Device
from harness.worker.orders import Hears, Order
from harness.worker.progress import Progress
from harness.worker.run import Setup, measure_holdout, second_opinion
from harness.worker.worker import RunHandle, Worker

AT_A_TIME = 2
ROOM = 0.6  # of a GPU's memory: what used more leaves none for another one's start while it is scored
ROOM_BESIDE = 0.5  # and while it trains: a start there may take what `monitor.AHEAD_MEMORY` says
CORES_BESIDE = 8  # fewer, and compiling would hold up what trains


class Service:
    """Attributes: `place`, its number among those of its host; `has_room`, whether a run and the score of a
    holdout may be there at a time, by what the last run took."""

    def __init__(self, place: int, runs: Path, device: Device | None = None) -> None:
        """`runs`: where run folders are made; `device`: None for the one that a config means."""
        self.place, self.device, self._runs = place, device, runs
        self.host = platform.node()
        self._worker = Worker(place)
        self._here: dict[RunHandle, Setup] = {}  # whose runs are not over, in the order of their start
        self._beside: set[RunHandle] = set()  # holdouts that are being scored

    @property
    def is_alive(self) -> bool:
        return True

    def has(self, folder: Path) -> bool:
        """Whether a run's folder is on this host."""
        return True

    @property
    def has_room(self) -> bool:
        return self._worker.has_room

    @property
    def may_start(self) -> bool:
        """Whether another run may start here now."""
        here = list(self._here.items())
        if self._beside and not self.has_room:
            return False
        if not here:
            return True
        (handle, setup), device = here[0], here[0][1].device
        allowed = setup.config.trial.prestart
        if allowed == "off" or len(here) >= AT_A_TIME or not device.has_room or handle.wants_room.is_set():
            return False
        if all(each.trained.is_set() for each, _ in here):
            return self._worker.has_room
        if allowed == "scoring":
            return False
        watch = handle.watch
        if watch is None or not watch.told_apart or device.core_count < CORES_BESIDE:
            return False
        return watch.peak_memory_mb < ROOM_BESIDE * device.memory_mb

    def start(
        self, order: Order, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[tuple[RunRecord, Path]]":
        """A run, and its folder; it trains once `handle` says so."""
        self._here[handle] = setup

        def work() -> tuple[RunRecord, Path]:
            try:
                found = attempt(order, setup, self._runs, self._worker, handle, hears)
                self._learn(setup, found[0])
                return found
            except OSError as failed:
                raise MachineFailed(str(failed)) from failed
            finally:
                del self._here[handle]

        return self._worker.start(work)

    def score_holdout(
        self, folder: Path, value: float, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[Holdout | Failure]":
        """Of a checkpoint that was kept, see `measure_holdout`."""

        def show(progress: Progress) -> None:
            handle.check()
            if not self._worker.is_shared:  # else the run that is on it is shown
                hears.show(progress)

        self._beside.add(handle)

        def work() -> Holdout | Failure:
            try:
                return measure_holdout(folder, value, setup, show, hears.note, self._worker, handle)
            finally:
                self._beside.discard(handle)

        return self._worker.start(work)

    def second_opinion(self, folder: Path, setup: Setup, hears: Hears) -> "Future[Opinion | Failure | None]":
        """Of a checkpoint that was kept."""
        return self._worker.start(lambda: second_opinion(folder, setup, hears.note, self._worker))

    def _learn(self, setup: Setup, run: RunRecord) -> None:
        """How much memory a training took."""
        if (seen := run.training.conditions) is not None:
            device = setup.device
            self._worker.has_room = device.has_room and seen.peak_memory_mb < ROOM * device.memory_mb

    def close(self) -> None:
        """Cancel what runs, and wait until it is gone."""
        for handle in list(self._here):
            handle.cancel()
        self._worker.close()
