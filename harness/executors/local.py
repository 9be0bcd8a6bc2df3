"""The crew: which trial runs on which station. Whoever asks for a trial hears of it when it is over.

A station has one trial that trains or is scored, and at most one that starts meanwhile, where the GPU
has room for both: while the other one trains, if the driver tells their work and memory apart. That one
gets its first batch when the loop has taken in what the other one gave, and knows `main`. (A holdout's
scorer is neither.)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from harness.store.experiment import Experiment
from harness.store.records import Trial
from harness.worker.device import Device
from harness.worker.run import Bench
from harness.worker.worker import Station, Turn

AT_A_TIME = 2
ROOM = 0.6  # of a GPU's memory: what used more leaves none for another one's start while it is scored
ROOM_BESIDE = 0.5  # and while it trains: a start there may take what `conditions.AHEAD_MEMORY` says
CORES_BESIDE = 8  # fewer, and compiling would hold up what trains
TICK_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """A trial that is to be run."""

    commit: str
    source: bytes
    seed: int
    suspect_below: float = 0.0
    """A val_bpb that is not believed without a larger audit."""


@dataclass(eq=False)
class Job:
    """A trial that was asked for; `experiment` is None for one of `main`."""

    order: Order
    bench: Bench
    experiment: Experiment | None = None
    propose_seconds: float = 0.0
    turn: Turn = field(default_factory=Turn)
    station: Station = field(default_factory=Station)
    future: "Future" = field(default_factory=Future)

    @property
    def is_held(self) -> bool:
        """Whether it may not train yet."""
        return not self.turn.may_train.is_set()


class Crew:
    """Attributes: `running`, the jobs that are not over, in the order of their start."""

    def __init__(
        self, run: Callable[[Order, Bench, Station, Turn], Any], devices: list[Device] | None, places: int = 1
    ) -> None:
        """`run`: does one, in any thread. `devices`: one for each station; None: `places` stations on the one
        that the config means."""
        self._run_one, self._devices = run, devices
        self._stations = [Station(place) for place in range(len(devices) if devices else places)]
        self._events: SimpleQueue[None] = SimpleQueue()
        self.running: list[Job] = []

    def __len__(self) -> int:
        return len(self._stations)

    def bench(self, bench: Bench, station: Station | None = None) -> Bench:
        """The same for the device of a station, the first one if none is given."""
        place = station.place if station is not None else 0
        if self._devices:
            return replace(bench, device=self._devices[place])
        return replace(bench, device=replace(bench.device, place=place, places=len(self)))

    def free(self) -> list[Station]:
        """Where a trial may start now: the idle ones, then where one is scored, then where one trains."""
        found = [
            (len(self.at(station)) + self.is_training(station), station)
            for station in self._stations
            if self._may_start(station)
        ]
        return [station for _, station in sorted(found, key=lambda each: each[0])]

    def at(self, station: Station) -> list[Job]:
        """Whose trials are there: a further one starts held."""
        return [job for job in self.running if job.station is station]

    def runs_of(self, main: str) -> list[Job]:
        """That are not over; an experiment that a person moved `main` to is none."""
        return [job for job in self.running if job.experiment is None and job.order.commit == main]

    def is_training(self, station: Station) -> bool:
        """Whether a trial there is not over with its training."""
        return not all(job.turn.trained.is_set() for job in self.at(station))

    def _may_start(self, station: Station) -> bool:
        here = self.at(station)
        if not here:
            return True
        device = here[0].bench.device
        if len(here) >= AT_A_TIME or not device.has_room or here[0].turn.wants_room.is_set():
            return False
        if self.is_training(station):
            watch = here[0].turn.watch
            if watch is None or not watch.told_apart or device.core_count < CORES_BESIDE:
                return False
            return watch.peak_memory_mb < ROOM_BESIDE * device.memory_mb
        return station.has_room

    def start(self, job: Job, station: Station) -> None:
        job.station = station
        job.turn.on_trained = self._wake
        if not self.at(station):
            job.turn.may_train.set()
        self.running.append(job)
        job.future = station.start(lambda: self._run_one(job.order, job.bench, station, job.turn))
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

    def learn(self, job: Job, trial: Trial) -> None:
        """How much memory a training took."""
        if (seen := trial.training.conditions) is not None:
            device = job.bench.device
            job.station.has_room = device.has_room and seen.peak_memory_mb < ROOM * device.memory_mb

    def next_to_train(self) -> list[Job]:
        """Those that wait for their first batch where no other trial is."""
        return [
            job
            for job in self.running
            if job.is_held and not job.turn.cancelled.is_set() and len(self.at(job.station)) == 1
        ]

    def in_the_way(self) -> list[Job]:
        """Those that wait where another one is to have all the room."""
        return [
            job
            for job in self.running
            if job.is_held and not job.turn.cancelled.is_set()
            and any(other.turn.wants_room.is_set() for other in self.at(job.station))
        ]  # fmt: skip

    def cancel_held(self) -> None:
        for job in self.running:
            if job.is_held:
                job.turn.cancelled.set()

    def release(self, job: Job) -> None:
        """Let one that waits train."""
        if not job.turn.cancelled.is_set():
            job.turn.may_train.set()

    def close(self) -> None:
        """Cancel what runs, and wait until it is gone."""
        for job in self.running:
            job.turn.cancelled.set()
        for station in self._stations:
            station.close()
