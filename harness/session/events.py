"""What a session says while it runs: to whoever watches, and into `.autoresearch/events.jsonl`.

The file is of this session or the last one, an object a line. Nothing depends on it: it may be deleted at any
time, and what can't be read is left out.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from harness.session.limits import Limits
from harness.store.experiment import Experiment
from harness.worker.orders import Order
from harness.worker.progress import Progress

PROGRESS_SECONDS = 5.0
FIRST_BYTES, READ_BYTES = 4096, 2**22
MOST_RUNNING, POINTS = 1000, 400  # that are looked at; of a curve, before every other one is left out
BEGUN, MEASURED, PUT_BACK, MOVED = "begun", "measured", "put back", "main"


@dataclass(frozen=True)
class Run:
    """Which one: what names it to a person, and what in git."""

    name: str
    """An experiment's number, or `baseline`."""
    commit: str
    seed: int
    place: int = 0
    """Of its worker."""

    @property
    def key(self) -> str:
        """An experiment's runs are one after another; those of a baseline may be at the same time."""
        return self.name if self.name.isdecimal() else f"{self.commit} {self.seed}"


@dataclass(frozen=True)
class Event:
    """Something that stays said: a line of text, and what it is about."""

    kind: str
    """`begun`, `measured`, `put back` (it begins once more later), `main` (it moved), `frontier`, `trouble`
    or `note`."""
    text: str
    experiment: Experiment | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Watcher:
    """Where events go, and progress, which doesn't stay."""

    tell: Callable[[Event], None]
    show: Callable[[Progress, Run], None]


class Tell(Protocol):
    """An event, from whoever makes it."""

    def __call__(
        self, kind: str, text: str, experiment: Experiment | None = None, order: Order | None = None
    ) -> None: ...


class Journal:
    """Both, of one session: who watches, and the file. Any thread may write: a line is one write."""

    def __init__(self, path: Path, limits: Limits, watcher: Watcher, spent_usd: Callable[[], float]) -> None:
        self._path, self._limits, self._watcher, self._spent_usd = path, limits, watcher, spent_usd
        self._measured = 0
        self._shown: dict[str, tuple[str, float]] = {}  # phase and time of what was written last, by run

    def begin(self) -> None:
        """From here on the file is this session's: no other one runs."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._write({"kind": "session", "limits": asdict(self._limits)})

    def tell(
        self, kind: str, text: str, experiment: Experiment | None = None, order: Order | None = None
    ) -> None:
        """An event, and in the file what this session has measured and paid so far."""
        run = Run(order.name, order.commit, order.seed) if order is not None else None
        about: dict[str, Any] = {"kind": kind, "text": text.strip()}
        if experiment is not None:
            self._measured += kind == MEASURED
            about |= {"status": experiment.status, experiment.metric.name: experiment.value}
        self._write(about | {"measured": self._measured, "spent_usd": self._spent_usd()} | _of(run))
        self._watcher.tell(Event(kind, text, experiment, run))

    def show(self, progress: Progress, run: Run) -> None:
        """In the file now and then, and at each new phase."""
        self._watcher.show(progress, run)
        phase, at = self._shown.get(run.key, ("", 0.0))
        if phase == progress.phase and time.monotonic() - at < PROGRESS_SECONDS:
            return
        self._shown[run.key] = progress.phase, time.monotonic()
        about = {
            "kind": "progress", "phase": progress.phase, "seconds": round(progress.elapsed_seconds, 1),
            "step": progress.step, "loss": progress.loss, "tokens": progress.tokens,
        }  # fmt: skip
        self._write(about | _of(run))

    def _write(self, about: Mapping[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 1), **about}) + "\n"
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            file.write(line.encode())


def _of(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {}
    return {"run": run.name, "commit": run.commit, "seed": run.seed, "gpu": run.place}


@dataclass(frozen=True)
class Running:
    """A run, as far as it was written."""

    run: Run
    title: str
    since: float
    """Seconds since 1970."""
    phase: str = ""
    seconds: float = 0.0
    """Of its phase."""
    step: int | None = None
    loss: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    """Seconds of training, and the loss then."""


@dataclass(frozen=True)
class Session:
    """What the file says of a session."""

    began: float = field(default_factory=time.time)
    limits: Mapping[str, float | None] = field(default_factory=dict)
    measured: int = 0
    spent_usd: float = 0.0
    running: tuple[Running, ...] = ()


@dataclass(frozen=True)
class _Line:
    """All that a line may have."""

    time: float
    kind: str
    text: str = ""
    limits: dict[str, float | None] = field(default_factory=dict)
    measured: int | None = None
    spent_usd: float | None = None
    run: str = ""
    commit: str = ""
    seed: int = 0
    gpu: int = 0
    phase: str = ""
    seconds: float = 0.0
    step: int | None = None
    loss: float | None = None


class Tail:
    """The file, read again and again: each look costs what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self, first: bytes = b"") -> None:
        self._first, self._read = first, 0  # a session's first line has its time
        self._session, self._running = Session(), dict[str, Running]()

    def session(self) -> Session:
        """Of what writes there, or did."""
        with suppress(OSError), self._opened() as file:
            if (first := file.read(FIRST_BYTES).partition(b"\n")[0]) != self._first:
                self._begin(first)  # another session's
            file.seek(self._read)
            while data := file.read(READ_BYTES):
                whole = data[: data.rfind(b"\n") + 1]  # the rest is being written
                if not whole and len(data) < READ_BYTES:
                    break
                self._read += len(whole) or len(data)  # no line of ours is so long
                file.seek(self._read)
                for line in whole.splitlines():
                    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
                        self._take(msgspec.json.decode(line, type=_Line))
        return replace(self._session, running=tuple(self._running.values()))

    def _opened(self) -> BinaryIO:
        file = open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: PTH123, SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError("no file")
        return file

    def _take(self, line: _Line) -> None:
        run, running = Run(line.run, line.commit, line.seed, line.gpu), self._running
        if line.kind == "session":
            self._session = Session(line.time, line.limits)
            running.clear()
        elif line.kind == "progress" and (known := running.get(run.key)) is not None:
            running[run.key] = replace(
                known, run=run, phase=line.phase, seconds=line.seconds, step=line.step, loss=line.loss,
                curve=_with_point(known.curve, line),
            )  # fmt: skip
        elif line.kind == BEGUN and len(running) < MOST_RUNNING:
            running[run.key] = Running(run, line.text, line.time)
        elif line.kind in (MEASURED, PUT_BACK):
            running.pop(run.key, None)
        if line.measured is not None:
            spent = line.spent_usd or 0.0
            self._session = replace(self._session, measured=line.measured, spent_usd=spent)


def _with_point(curve: tuple[tuple[float, float], ...], line: _Line) -> tuple[tuple[float, float], ...]:
    if line.phase != "training" or line.loss is None:
        return curve
    return (*(curve if len(curve) < POINTS else curve[::2]), (line.seconds, line.loss))


def read(path: Path) -> Session:
    """Of the session that writes there, or did."""
    return Tail(path).session()
