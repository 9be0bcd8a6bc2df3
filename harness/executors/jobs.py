"""Which run is on which worker. Whoever asks for a run hears of it when it is over.

A worker has one run that trains or is scored, and at most one that starts meanwhile, where the device
has room for both. That one gets its first batch when the loop has taken in what the other one gave, and
knows `main`. (A holdout's scorer is neither.)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from harness.store.decisions import Holdout, Opinion
from harness.store.experiment import Experiment
from harness.store.records import Failure, RunRecord, measured_on
from harness.worker.device import Device
from harness.worker.orders import Hears, Order
from harness.worker.run import Setup
from harness.worker.service import AT_A_TIME
from harness.worker.worker import RunHandle

TICK_SECONDS = 0.2


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
        self._events: SimpleQueue[None] = SimpleQueue()
        self.running: list[Job] = []

    def __len__(self) -> int:
        return len(self._workers)

    def setup(self, setup: Setup, worker: Worker | None = None) -> Setup:
        """The same for the device of a worker, the first one if none is given."""
        worker = worker or self._workers[0]
        device = worker.device or replace(setup.device, place=worker.place, places=len(self))
        return replace(setup, device=device)

    def free(self) -> list[Worker]:
        """Where a run may start now: the idle ones, then where one is scored, then where one trains."""
        self._workers = self._pool.workers() or self._workers
        found = [
            (len(self.at(worker)) + self.is_training(worker), worker)
            for worker in self._workers
            if worker.is_alive and self._may_start(worker)
        ]
        return [worker for _, worker in sorted(found, key=lambda each: each[0])]

    def on(self, worker: Worker, setup: Setup) -> str:
        """What runs of a worker are measured on, see `RunRecord.measured_on`."""
        return measured_on(self.setup(setup, worker).device.uuid or worker.host)

    def are_elsewhere(self, worker: Worker, setup: Setup) -> bool:
        """Whether there are workers on another device of the kind, too."""
        here = self.on(worker, setup)
        return any(self.on(other, setup) != here for other in self._workers if other.is_alive)

    def with_folder(self, folder: Path, worker: Worker) -> Worker | None:
        """Who can read a run's folder: this one, if it can; None if nobody is there that can."""
        able = (each for each in (worker, *self._workers) if each.is_alive and each.has(folder))
        return next(able, None)

    def at(self, worker: Worker) -> list[Job]:
        """Whose runs are there: a further one starts held."""
        return [job for job in self.running if job.worker is worker]

    def runs_of(self, main: str) -> list[Job]:
        """That are not over; an experiment that a person moved `main` to is none."""
        return [job for job in self.running if job.experiment is None and job.order.commit == main]

    def is_training(self, worker: Worker) -> bool:
        """Whether a run there is not over with its training."""
        return not all(job.handle.trained.is_set() for job in self.at(worker))

    def _may_start(self, worker: Worker) -> bool:
        here = self.at(worker)
        if not here:
            return True
        is_over = all(job.future.done() for job in here)  # and not taken in yet
        return len(here) < AT_A_TIME and worker.may_start and (worker.has_room or not is_over)

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

    def next_to_train(self) -> list[Job]:
        """Those that wait for their first batch where no other run is."""
        return [
            job
            for job in self.running
            if job.is_held and not job.handle.cancelled.is_set() and len(self.at(job.worker)) == 1
        ]

    def in_the_way(self) -> list[Job]:
        """Those that wait where another one is to have all the room."""
        return [
            job
            for job in self.running
            if job.is_held and not job.handle.cancelled.is_set()
            and any(other.handle.wants_room.is_set() for other in self.at(job.worker))
        ]  # fmt: skip

    def cancel_held(self) -> None:
        for job in self.running:
            if job.is_held:
                job.handle.cancel()

    def release(self, job: Job) -> None:
        """Let one that waits train."""
        if not job.handle.cancelled.is_set():
            job.handle.release()

    def close(self) -> None:
        """Cancel what runs, and wait until it is gone."""
        for job in self.running:
            job.handle.cancel()
        self._pool.close()
