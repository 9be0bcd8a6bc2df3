"""A worker: one device, the threads that do its runs, and the prestarted process for the next one.

One run trains or is scored; on a GPU with room for it another may start meanwhile: imports, compiles,
and then waits for its first batch until it may train. A holdout's scorer may wait there too. Processes
are started in the worker's own threads, which live as long as they may: the kernel kills a child when the
thread that made it ends.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from harness.config import RunConfig
from harness.sandbox.isolation import Isolation
from harness.worker.device import Device, exclusive
from harness.worker.monitor import Monitor
from harness.worker.prestart import Prestarted

CLOSING_SECONDS = 10.0


class Cancelled(BaseException):
    """Raised where progress is shown, in a run that nobody waits for any more."""


@dataclass(eq=False)
class RunHandle:
    """What one run and whoever started it tell each other."""

    on_trained: Callable[[], None] = lambda: None
    """Called when it doesn't train any more: another one may start."""
    on_release: Callable[[], None] = lambda: None
    on_cancel: Callable[[], None] = lambda: None
    may_train: threading.Event = field(default_factory=threading.Event)
    trained: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    watch: Monitor | None = None
    """Of the device, while it trains."""
    was_joined: bool = False
    """Whether another one started beside its training."""
    waits: bool = False
    """For the device, which somebody else has."""
    wants_room: threading.Event = field(default_factory=threading.Event)
    """Nothing else may be where it is: it ran out of memory beside another one."""

    @classmethod
    def alone(cls) -> "RunHandle":
        handle = cls()
        handle.may_train.set()
        return handle

    def release(self) -> None:
        """It may train now."""
        self.may_train.set()
        self.on_release()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled.set()
        self.on_cancel()

    def has_trained(self) -> None:
        self.trained.set()
        self.on_trained()

    def check(self) -> None:
        """To be called wherever a run shows progress.

        Raises:
            Cancelled: nobody waits for it any more.
        """
        if self.cancelled.is_set():
            raise Cancelled


class Worker:
    """Without `start` it is used by the thread that has it.

    Attributes:
        trains: the handle of the run that has the device for its training now.
        trained_at: when the last training here ended, by the monotonic clock.
        has_room: whether something else may start there beside a run, by what the last one took.
    """

    def __init__(self, place: int = 0) -> None:
        self.place = place
        self.trains: RunHandle | None = None
        self.trained_at: float | None = None
        self.has_room = False
        self._spare: tuple[Any, Prestarted] | None = None
        self._lock = threading.Lock()
        self._holding = threading.Lock()
        self._work = threading.Lock()
        self._holders = 0
        self._held: Any = None
        self._idle: list[SimpleQueue[Any]] = []
        self._threads: list[tuple[threading.Thread, SimpleQueue[Any]]] = []

    @property
    def is_shared(self) -> bool:
        """Whether two runs are on it now, or a run and the score of a holdout."""
        return self._holders > 1

    @property
    def is_used(self) -> bool:
        return self._holders > 0

    @contextmanager
    def hold(
        self, device: Device, on_wait: Callable[[str], None], waits: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Keep others off the device, while any run of this worker is on it; `waits`: see `exclusive`."""
        with self._holding:
            if not self._holders:
                self._held = exclusive(device, on_wait, waits)
                self._held.__enter__()
            self._holders += 1
        try:
            yield
        finally:
            with self._holding:
                self._holders -= 1
                if not self._holders:
                    self._held.__exit__(None, None, None)

    def take(self, seconds: float = 0.0) -> bool:
        """Have the device for one's own work, from a first batch to a score; False if another one has it."""
        return self._work.acquire(timeout=seconds)

    def leave(self) -> None:
        self._work.release()

    # ── prestarted processes ──────────────────────────────────────────────────────────────────────

    def prestarted(
        self, config: RunConfig, isolation: Isolation, device: Device, compiled: Any
    ) -> Prestarted:
        """The one that is ready, or a new one.

        Raises:
            OSError: no process could be started.
        """
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            if spare[0] == (config, isolation, device) and spare[1].is_free:
                return spare[1]
            spare[1].close()
        return Prestarted(config, isolation, device, compiled)

    def prepare(self, config: RunConfig, isolation: Isolation, device: Device, compiled: Any) -> None:
        """Make the next one, if there is none, while a run on a GPU trains or waits to; on a processor it
        would be in the way."""
        with self._lock:
            if device.kind == "cuda" and self._spare is None:
                made = Prestarted(config, isolation, device, compiled)
                self._spare = (config, isolation, device), made

    # ── its threads ───────────────────────────────────────────────────────────────────────────

    def start(self, work: Callable[[], Any]) -> "Future[Any]":
        """Have it done in a thread of the worker's."""
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        if lane is None:
            lane = SimpleQueue()
            name = f"worker-{self.place}"
            thread = threading.Thread(target=self._run, args=(lane,), name=name, daemon=True)
            self._threads.append((thread, lane))
            thread.start()
        future: Future[Any] = Future()
        lane.put((work, future))
        return future

    def _run(self, lane: SimpleQueue[Any]) -> None:
        while (given := lane.get()) is not None:
            work, future = given
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 - whoever asks for the result gets it
                result, error = None, raised
            with self._lock:
                self._idle.append(lane)
            future.set_exception(error) if error is not None else future.set_result(result)

    def close(self) -> None:
        """End the threads, whose runs were cancelled, and the spare process."""
        for _, lane in self._threads:
            lane.put(None)
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare[1].close()
        for thread, _ in self._threads:
            thread.join(CLOSING_SECONDS)
