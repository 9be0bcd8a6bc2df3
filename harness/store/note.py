"""A commit's record: the only place where one is read or written.

Parts are read when they are asked for. What can't be read as what it should be is left out, and kept as it
is stored: a note may be anybody's, or of a later version. Version 1, of release 0.1.0, lacks some figures,
which are None, and `runtime`; see `harness.store.aliases`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from harness.store.aliases import renamed
from harness.store.decisions import Decision, Holdout, HoldoutFailure, Move, Opinion
from harness.store.records import INVALID, OK, Failure, RunRecord, Setting

T = TypeVar("T")
LISTS = ("trials", "holdout")  # which two machines' notes have both of
MOST_LINES = 100
MOST_DIGITS = 18  # of a whole number


@dataclass(frozen=True)
class Scored:
    """A run that gave a score."""

    seed: int
    value: float
    on: str
    """What it was measured on: see `RunRecord.measured_on`."""
    setting: Setting


@dataclass(frozen=True)
class Gist:
    """What the gate and the views of many commits go by, of a commit's record."""

    runs: tuple[Scored, ...] = ()
    is_shorter: bool = False
    """Whether its train.py has fewer lines than its parent's."""
    has_reached: bool = False
    """Whether `main` was moved there by a loop."""
    is_doubted: bool = False
    """Whether a second opinion found another score."""
    stored_holdouts: tuple[Any, ...] = ()

    @property
    def holdouts(self) -> tuple[Holdout | HoldoutFailure, ...]:
        """One a setting; of several the first score counts."""
        read = (_read(each, Holdout) or _read(each, HoldoutFailure) for each in self.stored_holdouts)
        return tuple(each for each in read if each is not None)


@dataclass(frozen=True)
class Note:
    """What is known of a commit besides its message."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    """As in git."""

    @cached_property
    def runs(self) -> tuple[RunRecord, ...]:
        """In the order that they were measured in."""
        return _each(self.stored.get("trials"), RunRecord)

    @cached_property
    def decision(self) -> Decision | None:
        return _read(self.stored.get("decision"), Decision)

    @cached_property
    def proven(self) -> Move | None:
        """What let `main` move there."""
        return _read(self.stored.get("proven"), Move)

    @property
    def gist(self) -> Gist:
        scored = [(run, run.value) for run in self.runs if run.status == OK and run.value is not None]
        return Gist(
            tuple(Scored(run.seed, value, run.measured_on, run.setting) for run, value in scored),
            bool(self.decision and self.decision.shorter),
            bool(self.stored.get("reached")),
            isinstance(self.opinion, Failure) and self.opinion.status == INVALID,
            tuple(_list(self.stored.get("holdout"))),
        )

    @cached_property
    def opinion(self) -> Opinion | Failure | None:
        """Of the second look before `main` moved."""
        found = self.stored.get("opinion")
        return _read(found, Opinion) or _read(found, Failure)

    @property
    def holdouts(self) -> tuple[Holdout | HoldoutFailure, ...]:
        return self.gist.holdouts

    def with_run(self, run: RunRecord) -> "Note":
        return Note({**self.stored, "trials": [*_list(self.stored.get("trials")), asdict(run)]})

    def with_holdout(self, found: Holdout | HoldoutFailure) -> "Note":
        return Note({**self.stored, "holdout": [*_list(self.stored.get("holdout")), asdict(found)]})

    def with_parts(
        self, decision: Decision | None = None, proven: Move | None = None,
        opinion: Opinion | Failure | None = None, reached: bool = False,
    ) -> "Note":  # fmt: skip
        """With those that are given, in place of what was there."""
        parts = {"decision": decision, "proven": proven, "opinion": opinion}
        stored: dict[str, Any] = {name: asdict(part) for name, part in parts.items() if part is not None}
        return Note({**self.stored, **stored, **({"reached": True} if reached else {})})

    def scored(self) -> "Note":
        """Its runs that gave a score, for the same program once more."""
        return Note({"trials": [asdict(run) for run in self.runs if run.status == OK]})

    def carried(self) -> "Note":
        """What holds of the same program on another commit."""
        return Note({name: self.stored[name] for name in ("trials", "decision") if name in self.stored})


def read_note(data: bytes) -> Note:
    """Of JSON; empty where it is none. Two machines' notes that git merged as lines (`-s union`) are one
    with the runs of both."""
    stored: dict[str, Any] = {}
    for line in data.splitlines()[:MOST_LINES]:
        found = _object(line)
        if found is None:
            return Note()
        for name in LISTS:
            ours, theirs = stored.get(name), found.get(name)
            if isinstance(ours, list) and isinstance(theirs, list):
                found[name] = ours + [each for each in theirs if each not in ours]
        stored = {**stored, **found}
    return Note(stored)


def write_note(note: Note) -> bytes:
    return json.dumps(note.stored, separators=(",", ":")).encode()


def read_run(data: bytes) -> RunRecord | None:
    """Of one run alone, as its folder has it."""
    return _read(_object(data), RunRecord)


def write_run(run: RunRecord) -> bytes:
    return json.dumps(asdict(run)).encode()


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data, parse_int=_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(digits: str) -> int | float:
    """No figure of ours is longer; nobody is to compute with one of thousands of digits."""
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def _each(found: Any, kind: type[T]) -> tuple[T, ...]:
    return tuple(one for each in _list(found) if (one := _read(each, kind)) is not None)


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _read(found: Any, kind: type[T]) -> T | None:
    try:
        return msgspec.convert(renamed(found), kind)
    except (msgspec.ValidationError, ValueError, RecursionError):  # to say which, msgspec may fail itself
        return None
