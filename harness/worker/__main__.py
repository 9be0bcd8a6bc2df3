"""`python -m harness.worker PLACE RUNS ROOT`: a worker in a process of its own.

Reads orders from stdin and answers on stdout, see `harness.worker.messages`. It ends when its stdin does,
however whoever had it ended, and everything that it started ends with it.
"""

import os
import platform
import sys
import threading
import tomllib
import traceback
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from harness import __version__
from harness import config as configs
from harness.errors import DeviceLost, HarnessError
from harness.store.decisions import Opinion
from harness.store.records import Failure
from harness.worker import messages as m
from harness.worker.orders import Hears
from harness.worker.run import Setup, open_setup
from harness.worker.service import Service
from harness.worker.worker import Cancelled, RunHandle

TICK_SECONDS = 0.1
ENDING_SECONDS = 4.0  # for runs to take their folders along


class Process:
    """A service behind two pipes."""

    def __init__(self, service: Service, root: Path, out: BinaryIO) -> None:
        self._service, self._root, self._out = service, root, out
        self._lock = threading.Lock()
        self._room: m.Room | None = None
        self._last = 0
        self._handles: dict[int, RunHandle] = {}
        self._opened: tuple[str, Setup] | None = None

    def serve(self, orders: BinaryIO) -> None:
        """Until there are no more of them."""
        self._say(m.Hello(platform.node(), os.getpid(), __version__))
        threading.Thread(target=self._watch, daemon=True).start()
        for line in orders:
            self._take(m.read(line))
        for handle in list(self._handles.values()):
            handle.cancel()

    def _take(self, order: m.Message) -> None:
        if isinstance(order, m.Go | m.Cancel):
            if (handle := self._handles.get(order.id)) is not None:
                handle.release() if isinstance(order, m.Go) else handle.cancel()
            return
        number, hears = order.id, self._hears(order.id)
        handle = self._handles[number] = RunHandle(on_trained=partial(self._trained, number))
        try:
            setup = self._setup(order.bench)
        except (HarnessError, OSError) as failed:
            return self._say(_failed(number, failed))
        work: Future[Any]
        if isinstance(order, m.Start):
            if order.go:
                handle.release()
            work = self._service.start(order.order, setup, handle, hears)
            self._last = number
            self._look()
        elif isinstance(order, m.ScoreHoldout):
            work = self._service.score_holdout(order.folder, order.value, setup, handle, hears)
            self._last = number
            self._look()
        else:
            work = self._service.second_opinion(order.folder, setup, hears)
        work.add_done_callback(partial(self._over, order))

    def _setup(self, bench: m.Bench) -> Setup:
        """By a config, on this device.

        Raises:
            HarnessError: this host can't do it, without a sandbox, or its scores would be of another setting.
        """
        known = self._opened
        if known is None or known[0] != bench.config or not known[1].task.data.folder.exists():
            config = configs.from_table(tomllib.loads(bench.config))
            known = self._opened = bench.config, open_setup(config, self._root)
        setup = replace(known[1], device=bench.device)
        if setup.setting != bench.setting:
            raise HarnessError(f"a worker on {platform.node()} has {setup.setting}, not {bench.setting}")
        if bench.isolation == "bwrap" != setup.isolation.kind:
            why = f"a worker on {platform.node()} has no sandbox any more: {setup.isolation.why}"
            raise HarnessError(why, "harness doctor, then harness loop")
        return setup

    def _hears(self, number: int) -> Hears:
        return Hears(
            lambda kind, text: self._say(m.Told(number, kind, text)),
            lambda progress: self._say(m.Shown(number, progress)),
        )

    def _trained(self, number: int) -> None:
        self._look()
        self._say(m.Trained(number))

    def _over(self, order: m.Message, work: "Future[Any]") -> None:
        try:
            self._answer(order, work)
        except Exception as failed:  # noqa: BLE001 - else nobody would hear of it
            self._say(_failed(order.id, failed))

    def _answer(self, order: m.Message, work: "Future[Any]") -> None:
        number = order.id
        self._look()  # first: by what it took there may be room now
        del self._handles[number]
        if (error := work.exception()) is not None:
            return self._say(_failed(number, error))
        found = work.result()
        if isinstance(order, m.Start):
            self._say(m.Ran(number, *found))
        elif isinstance(order, m.ScoreHoldout):
            is_failure = isinstance(found, Failure)
            self._say(m.Scored(number, None if is_failure else found, found if is_failure else None))
        else:
            opinion = found if isinstance(found, Opinion) else None
            self._say(m.Looked(number, opinion, found if isinstance(found, Failure) else None))

    def _watch(self) -> None:
        """Say when there is room, or none, and who wants it."""
        told: set[int] = set()
        while True:
            threading.Event().wait(TICK_SECONDS)
            self._look()
            for number, handle in list(self._handles.items()):
                if handle.wants_room.is_set() and number not in told:
                    told.add(number)
                    self._say(m.WantsRoom(number))

    def _look(self) -> None:
        with self._lock:
            room = m.Room(self._service.may_start, self._service.has_room, self._last)
            if room != self._room:
                self._room = room
                self._write(room)

    def _say(self, message: m.Message) -> None:
        with self._lock:
            self._write(message)

    def _write(self, message: m.Message) -> None:
        try:
            self._out.write(m.written(message))
            self._out.flush()
        except OSError:
            os._exit(0)  # nobody reads it any more


def _failed(number: int, error: BaseException) -> m.Failed:
    if isinstance(error, Cancelled):
        return m.Failed(number, "cancelled", "")
    if isinstance(error, HarnessError):
        kind = "device" if isinstance(error, DeviceLost) else "person"
        return m.Failed(number, kind, error.message, error.fix)
    if isinstance(error, OSError):
        return m.Failed(number, "machine", str(error))
    return m.Failed(number, "bug", "".join(traceback.format_exception(error)))


def main(place: str, runs: str, root: str) -> None:
    # What a library prints is no answer of ours.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    service = Service(int(place), Path(runs))
    Process(service, Path(root), out).serve(sys.stdin.buffer)
    ending = threading.Thread(target=service.close, daemon=True)
    ending.start()
    ending.join(ENDING_SECONDS)
    os._exit(0)  # what it started dies with the threads that did


if __name__ == "__main__":
    main(*sys.argv[1:])
