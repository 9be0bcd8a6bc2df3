"""Which run is on which worker. Whoever asks for a run hears of it when it is over.

A worker has one run that trains or is scored, and at most one that starts meanwhile, where the device
has room for both. That one gets its first batch when the loop has taken in what the other one gave, and
knows `main`. (A holdout's scorer is neither.)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from harness.errors import HarnessError
from harness.executors.remote import Lost
from harness.store.decisions import Holdout, Opinion
from harness.store.experiment import Experiment
from harness.store.records import Failure, RunRecord, measured_on
from harness.worker.device import Device
from harness.worker.orders import Hears, Order
from harness.worker.run import Setup
from harness.worker.worker import RunHandle

TICK_SECONDS = 0.2
MOST_LOST = 3  # times in a row that workers were lost, with no result in between
TOGETHER_SECONDS = 20.0  # those of one host go at once


class Worker(Protocol):
    """What the loop sees of one: a `Service` here, or a `Remote` one."""

    @property
    def place(self) -> int: ...
    @property
    def device(self) -> Device | None: ...
    @property
    def host(self) -> str: ...
    @property
    def is_alive(self) -> bool: ...
    @property
    def has_room(self) -> bool: ...
    @property
    def may_start(self) -> bool: ...
    def has(self, folder: Path) -> bool: ...
    def start(
        self, order: Order, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[tuple[RunRecord, Path]]": ...
    def score_holdout(
        self, folder: Path, value: float, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[Holdout | Failure]": ...
    def second_opinion(
        self, folder: Path, setup: Setup, hears: Hears
    ) -> "Future[Opinion | Failure | None]": ...
    def close(self) -> None: ...


class Pool(Protocol):
    """Where workers come from."""

    def workers(self) -> list[Worker]:
        """Those that are there now, in the order of their places. A moment's work: it is asked for often."""

    def close(self) -> None:
        """End them."""


@dataclass(eq=False)
class Job:
    """A run that was asked for; `experiment` is None for one of `main`."""

    order: Order
    setup: Setup
    worker: Worker
    experiment: Experiment | None = None
    number: int = 0
    """Its own, of a session's."""
    propose_seconds: float = 0.0
    handle: RunHandle = field(default_factory=RunHandle)
    future: "Future[tuple[RunRecord, Path]]" = field(default_factory=Future)

    @property
    def is_held(self) -> bool:
        """Whether it may not train yet."""
        return not self.handle.may_train.is_set()


class Executor:
    """Attributes: `running`, the jobs that are not over, in the order of their start."""

    def __init__(self, pool: Pool, hears: Callable[[Order, int], Hears]) -> None:
        """`hears`: who is told of a run at a place."""
        self._pool, self._hears = pool, hears
        self._workers = pool.workers()
        self._left_alone: set[tuple[str, int]] = set()  # hosts and places
        self._lost, self._lost_at = 0, -TOGETHER_SECONDS
        self._events: SimpleQueue[None] = SimpleQueue()
        self.running: list[Job] = []

    def __len__(self) -> int:
        return len(self._workers)

    def setup(self, setup: Setup, worker: Worker | None = None) -> Setup:
        """The same for the device of a worker, the first one if none is given."""
        worker = worker or self._workers[0]
        device = worker.device or replace(setup.device, place=worker.place, places=len(self))
        return replace(setup, device=device)

    def workers(self) -> list[Worker]:
        """Those that are there now; where none is, the last that were."""
        there = [each for each in self._pool.workers() if (each.host, each.place) not in self._left_alone]
        self._workers = there or self._workers
        return self._workers

    def came_back(self) -> None:
        """A run gave a result."""
        self._lost = 0

    def lost(self, worker: Worker, why: Exception) -> str:
        """A run's worker is gone, or its machine failed it: then nothing more is begun there. In words, what
        comes of that.

        Raises:
            HarnessError: it happens again and again.
            DeviceLost, MachineFailed: `why`, where no other worker is left.
        """
        if isinstance(why, Lost):
            if time.monotonic() - self._lost_at > TOGETHER_SECONDS:
                self._lost, self._lost_at = self._lost + 1, time.monotonic()
            if self._lost >= MOST_LOST:
                raise HarnessError(f"runs were lost {self._lost} times in a row: {why}", "harness doctor")
            return ""
        others = [each for each in self.workers() if each is not worker]
        if not others:
            raise why
        self._left_alone.add((worker.host, worker.place))
        for job in self.at(worker):
            if job.is_held:
                job.handle.cancel()
        name = f"{worker.device.name} {worker.place}" if worker.device else f"worker {worker.place}"
        return f"; {name} of {worker.host} is left alone from now on"

    def on(self, worker: Worker, setup: Setup) -> str:
        """What runs of a worker are measured on, see `RunRecord.measured_on`."""
        return measured_on((worker.device or setup.device).uuid or worker.host)

    def with_folder(self, folder: Path, worker: Worker) -> Worker | None:
        """Who can read a run's folder: this one, if it can; None if nobody is there that can."""
        able = [each for each in (worker, *self._workers) if each.is_alive and each.has(folder)]
        return min(able, key=lambda each: len(self.at(each)), default=None)

    def at(self, worker: Worker) -> list[Job]:
        """Whose runs are there: a further one starts held."""
        return [job for job in self.running if job.worker is worker]

    def by_worker(self, workers: Sequence[Worker]) -> dict[Worker, list[Job]]:
        """What runs on each of them, and on those that are gone."""
        found: dict[Worker, list[Job]] = {worker: [] for worker in workers}
        for job in self.running:
            found.setdefault(job.worker, []).append(job)
        return found

    def start(self, job: Job) -> None:
        job.handle.on_trained = self._wake
        if not self.at(job.worker):
            job.handle.may_train.set()
        self.running.append(job)
        hears = self._hears(job.order, job.worker.place)
        job.future = job.worker.start(job.order, job.setup, job.handle, hears)
        job.future.add_done_callback(lambda _: self._wake())

    def _wake(self) -> None:
        self._events.put(None)

    def wait(self, also: "Future | None" = None) -> None:
        """Until something happens, or a moment is over."""
        if also is not None and not also.done():
            also.add_done_callback(lambda _: self._wake())
        try:
            self._events.get(timeout=TICK_SECONDS)
            while True:
                self._events.get_nowait()
        except Empty:
            pass

    def done(self) -> Iterator[Job]:
        """Jobs that are over, each told once; the next one counts as running until this one was taken in."""
        for job in list(self.running):
            if job.future.done():
                self.running.remove(job)
                yield job

    def cancel_held(self) -> None:
        """Those too that wait for a device which somebody else has."""
        for job in self.running:
            if (job.is_held or job.handle.waits) and not job.handle.cancelled.is_set():
                job.handle.cancel()

    def close(self) -> None:
        """Cancel what runs, and wait until it is gone."""
        for job in self.running:
            job.handle.cancel()
        self._pool.close()
