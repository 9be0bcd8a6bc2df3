"""What a worker's process and whoever has it say to each other: a JSON object a line, on stdin and stdout.

Orders go down: `Start`, `Go`, `Cancel`, `ScoreHoldout`, `SecondOpinion`. Answers come up: `Hello`; for each
order `Told` and `Shown` as it goes on, `Trained` and `WantsRoom` where they happen, and at its end one of
`Ran`, `Scored`, `Looked` or `Failed`; and `Room` when that changes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.store.decisions import Holdout, Opinion
from harness.store.records import Failure, RunRecord, Setting
from harness.worker.device import Device
from harness.worker.orders import Order
from harness.worker.progress import Progress


@dataclass(frozen=True)
class Bench:
    """What a setup is opened from, and the setting that must come of it."""

    config: str
    """As a file has it."""
    device: Device
    setting: Setting
    isolation: str
    """Of the session: where that is `bwrap`, no worker may do with less."""


@dataclass(frozen=True)
class Start:
    id: int
    order: Order
    bench: Bench
    go: bool
    """Whether it may train at once."""


@dataclass(frozen=True)
class Go:
    id: int


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class ScoreHoldout:
    id: int
    folder: Path
    value: float
    bench: Bench


@dataclass(frozen=True)
class SecondOpinion:
    id: int
    folder: Path
    bench: Bench


@dataclass(frozen=True)
class Hello:
    """The first thing that a worker says."""

    host: str
    process: int
    version: str
    """Of the harness."""


@dataclass(frozen=True)
class Told:
    id: int
    kind: str
    text: str


@dataclass(frozen=True)
class Shown:
    id: int
    progress: Progress


@dataclass(frozen=True)
class Trained:
    id: int


@dataclass(frozen=True)
class WantsRoom:
    id: int


@dataclass(frozen=True)
class Room:
    may_start: bool
    has_room: bool
    after: int
    """The last run that was begun here."""


@dataclass(frozen=True)
class Ran:
    id: int
    run: RunRecord
    folder: Path


@dataclass(frozen=True)
class Scored:
    id: int
    holdout: Holdout | None
    failure: Failure | None


@dataclass(frozen=True)
class Looked:
    id: int
    opinion: Opinion | None
    failure: Failure | None


@dataclass(frozen=True)
class Failed:
    """`kind`: `cancelled`; `person`, who can mend it by `fix`; `device`, which is lost; `machine`;
    or `bug`, ours."""

    id: int
    kind: str
    text: str
    fix: str = ""


Message = Any  # one of these
KINDS: dict[str, type] = {
    each.__name__: each
    for each in (
        Start, Go, Cancel, ScoreHoldout, SecondOpinion,
        Hello, Told, Shown, Trained, WantsRoom, Room, Ran, Scored, Looked, Failed,
    )
}  # fmt: skip


def written(message: Message) -> bytes:
    """As a line."""
    about = msgspec.to_builtins(message, enc_hook=str)  # paths
    return json.dumps({"do": type(message).__name__, **about}).encode() + b"\n"


def read(line: bytes) -> Message:
    """Of a line.

    Raises:
        ValueError: it is no message.
    """
    about = json.loads(line)  # not msgspec's: a loss may be NaN
    if not isinstance(about, dict) or about.get("do") not in KINDS:
        raise ValueError(f"no message: {line[:80]!r}")
    return msgspec.convert(about, KINDS[about.pop("do")], dec_hook=lambda kind, value: kind(value))
