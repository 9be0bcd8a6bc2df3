"""A worker that lives in another process: orders go down a pipe to it, answers come up.

To whoever has it, it looks like a `harness.worker.service.Service`. How the pipe is made is its executor's
affair.
"""

import itertools
import platform
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness import config as configs
from harness.errors import DeviceLost, HarnessError, MachineFailed
from harness.store.decisions import Holdout, Opinion
from harness.store.records import Failure, RunRecord
from harness.worker import messages as m
from harness.worker.device import Device
from harness.worker.orders import Hears, Order
from harness.worker.run import Setup
from harness.worker.worker import Cancelled, RunHandle


class Lost(Exception):
    """Raised by what a worker was asked for that is gone: nobody knows how it went."""

    def __init__(self) -> None:
        super().__init__("its worker is gone")


class Pipe(Protocol):
    """To one process."""

    def send(self, line: bytes) -> None:
        """Raises:
        OSError: nobody reads there any more."""

    def close(self) -> None:
        """Have it end, and wait until it is gone."""


@dataclass(frozen=True)
class Asked:
    """What an answer is waited for of."""

    handle: RunHandle
    hears: Hears
    future: "Future[Any]" = field(default_factory=Future)


class Remote:
    """Attributes: `place`; `is_alive`; `hello`, what it said of itself, None until then; `may_start` and
    `has_room`, see `Service`."""

    def __init__(self, place: int, device: Device | None, connect: "Callable[[Remote], Pipe]") -> None:
        """`connect`: makes the process, whose lines are to come to `hear`, and its end to `lost`."""
        self.place, self.device = place, device
        self.host = platform.node()
        self.is_alive, self.may_start, self.has_room = True, True, False
        self.hello: m.Hello | None = None
        self._begun = 0  # the number of the last run
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._asked: dict[int, Asked] = {}
        self._pipe = connect(self)

    def has(self, folder: Path) -> bool:
        return True

    def start(
        self, order: Order, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[tuple[RunRecord, Path]]":
        go = handle.may_train.is_set()

        def begin(number: int) -> m.Start:
            self._begun, self.may_start = number, False
            return m.Start(number, order, _bench(setup), go)

        return self._ask(begin, handle, hears)

    def score_holdout(
        self, folder: Path, value: float, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[Holdout | Failure]":
        def begin(number: int) -> m.ScoreHoldout:
            if not self.has_room:
                self._begun, self.may_start = number, False
            return m.ScoreHoldout(number, folder, value, _bench(setup))

        return self._ask(begin, handle, hears)

    def second_opinion(self, folder: Path, setup: Setup, hears: Hears) -> "Future[Opinion | Failure | None]":
        return self._ask(lambda number: m.SecondOpinion(number, folder, _bench(setup)), RunHandle(), hears)

    def close(self) -> None:
        self._pipe.close()

    # ── down ──────────────────────────────────────────────────────────────────────────────────

    def _ask(self, order: Callable[[int], m.Message], handle: RunHandle, hears: Hears) -> "Future[Any]":
        number = next(self._numbers)
        asked = Asked(handle, hears)
        handle.on_release = lambda: self._send(m.Go(number))
        handle.on_cancel = lambda: self._send(m.Cancel(number))
        with self._lock:
            if not self.is_alive:
                asked.future.set_exception(Lost())
                return asked.future
            self._asked[number] = asked
        self._send(order(number))
        return asked.future

    def _send(self, message: m.Message) -> None:
        try:
            self._pipe.send(m.written(message))
        except OSError:
            self.lost()

    # ── up, in the thread that reads ──────────────────────────────────────────────────────────

    def hear(self, line: bytes) -> None:
        """A line of the worker's."""
        message = m.read(line)
        if isinstance(message, m.Hello):
            self.hello = message
            return
        if isinstance(message, m.Room):
            self.has_room = message.has_room
            if message.after >= self._begun:  # else it doesn't know of that one yet
                self.may_start = message.may_start
            return
        if (asked := self._asked.get(message.id)) is None:
            return  # it was given up
        if isinstance(message, m.Shown):
            asked.handle.waits = message.progress.phase == "waiting"
        if isinstance(message, m.Told | m.Shown):
            try:
                _pass_on(asked.hears, message)
            except Exception as failed:  # noqa: BLE001 - whoever waits for the run gets it
                asked.handle.cancel()
                if self._answered(message.id):
                    asked.future.set_exception(failed)
        elif isinstance(message, m.Trained):
            asked.handle.has_trained()
        elif isinstance(message, m.WantsRoom):
            asked.handle.wants_room.set()
        elif self._answered(message.id):
            _answer(asked.future, message)

    def _answered(self, number: int) -> bool:
        """Whether nobody else says what came of it: its end may be told in two threads at once."""
        with self._lock:
            return self._asked.pop(number, None) is not None

    def lost(self) -> None:
        """It is gone: so is what it was asked for."""
        with self._lock:
            self.is_alive = self.may_start = False
            given_up, self._asked = self._asked, {}
        for asked in given_up.values():
            asked.future.set_exception(Lost())


def _pass_on(hears: Hears, message: m.Told | m.Shown) -> None:
    if isinstance(message, m.Told):
        hears.tell(message.kind, message.text)
    else:
        hears.show(message.progress)


def _answer(future: "Future[Any]", message: m.Message) -> None:
    if isinstance(message, m.Ran):
        future.set_result((message.run, message.folder))
    elif isinstance(message, m.Scored):
        future.set_result(message.holdout or message.failure)
    elif isinstance(message, m.Looked):
        future.set_result(message.opinion or message.failure)
    elif message.kind == "cancelled":
        future.set_exception(Cancelled())
    elif message.kind in ("person", "device"):
        kind = DeviceLost if message.kind == "device" else HarnessError
        future.set_exception(kind(message.text, message.fix))
    elif message.kind == "machine":
        future.set_exception(MachineFailed(message.text))
    else:
        future.set_exception(RuntimeError(f"in a worker:\n{message.text}"))


def _bench(setup: Setup) -> m.Bench:
    return m.Bench(configs.dump(setup.config), setup.device, setup.setting, setup.isolation.kind)
