"""The local executor: which run is on which worker. Whoever asks for a run hears of it when it is over.

A worker has one run that trains or is scored, and at most one that starts meanwhile, where the GPU
has room for both: while the other one trains, if the driver tells their work and memory apart. That one
gets its first batch when the loop has taken in what the other one gave, and knows `main`. (A holdout's
scorer is neither.)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from harness.store.experiment import Experiment
from harness.store.records import RunRecord, Training
from harness.worker.device import Device
from harness.worker.run import Setup
from harness.worker.worker import RunHandle, Worker

AT_A_TIME = 2
ROOM = 0.6  # of a GPU's memory: what used more leaves none for another one's start while it is scored
ROOM_BESIDE = 0.5  # and while it trains: a start there may take what `conditions.AHEAD_MEMORY` says
CORES_BESIDE = 8  # fewer, and compiling would hold up what trains
TICK_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """A run that is wanted."""

    commit: str
    source: bytes
    seed: int
    name: str
    """For a person: an experiment's number, or what `main` is run for."""
    suspect_beyond: float | None = None
    """What is better than that is not taken without a larger audit."""
    trained: tuple[Path, Training] | None = None
    """A folder in which an earlier session trained it and did not come to its score."""


@dataclass(eq=False)
class Job:
    """A run that was asked for; `experiment` is None for one of `main`."""

    order: Order
    setup: Setup
    experiment: Experiment | None = None
    propose_seconds: float = 0.0
    handle: RunHandle = field(default_factory=RunHandle)
    worker: Worker = field(default_factory=Worker)
    future: "Future" = field(default_factory=Future)

    @property
    def is_held(self) -> bool:
        """Whether it may not train yet."""
        return not self.handle.may_train.is_set()


class LocalExecutor:
    """Attributes: `running`, the jobs that are not over, in the order of their start."""

    def __init__(
        self,
        run: Callable[[Order, Setup, Worker, RunHandle], Any],
        devices: list[Device] | None,
        places: int = 1,
    ) -> None:
        """`run`: does one, in any thread. `devices`: one for each worker; None: `places` workers on the one
        that the config means."""
        self._run_one, self._devices = run, devices
        self._workers = [Worker(place) for place in range(len(devices) if devices else places)]
        self._events: SimpleQueue[None] = SimpleQueue()
        self.running: list[Job] = []

    def __len__(self) -> int:
        return len(self._workers)

    def setup(self, setup: Setup, worker: Worker | None = None) -> Setup:
        """The same for the device of a worker, the first one if none is given."""
        place = worker.place if worker is not None else 0
        if self._devices:
            return replace(setup, device=self._devices[place])
        return replace(setup, device=replace(setup.device, place=place, places=len(self)))

    def free(self) -> list[Worker]:
        """Where a run may start now: the idle ones, then where one is scored, then where one trains."""
        found = [
            (len(self.at(worker)) + self.is_training(worker), worker)
            for worker in self._workers
            if self._may_start(worker)
        ]
        return [worker for _, worker in sorted(found, key=lambda each: each[0])]

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
        device = here[0].setup.device
        if len(here) >= AT_A_TIME or not device.has_room or here[0].handle.wants_room.is_set():
            return False
        if self.is_training(worker):
            watch = here[0].handle.watch
            if watch is None or not watch.told_apart or device.core_count < CORES_BESIDE:
                return False
            return watch.peak_memory_mb < ROOM_BESIDE * device.memory_mb
        return worker.has_room

    def start(self, job: Job, worker: Worker) -> None:
        job.worker = worker
        job.handle.on_trained = self._wake
        if not self.at(worker):
            job.handle.may_train.set()
        self.running.append(job)
        job.future = worker.start(lambda: self._run_one(job.order, job.setup, worker, job.handle))
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

    def learn(self, job: Job, run: RunRecord) -> None:
        """How much memory a training took."""
        if (seen := run.training.conditions) is not None:
            device = job.setup.device
            job.worker.has_room = device.has_room and seen.peak_memory_mb < ROOM * device.memory_mb

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
                job.handle.cancelled.set()

    def release(self, job: Job) -> None:
        """Let one that waits train."""
        if not job.handle.cancelled.is_set():
            job.handle.may_train.set()

    def close(self) -> None:
        """Cancel what runs, and wait until it is gone."""
        for job in self.running:
            job.handle.cancelled.set()
        for worker in self._workers:
            worker.close()
