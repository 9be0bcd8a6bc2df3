"""What views read of experiments' commits and records, kept from one command to the next: a view costs what
is new.

A file in the machine's cache, which may be deleted at any time and which no clone brings along. A commit
never changes, so that what was read of it holds for as long as its branch is where it was, and what was read
of a record for as long as that is the same blob; nothing else is taken from here, and a session reads git
alone.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness import __version__
from harness.paths import cache_dir, write_atomically
from harness.store.experiment import Experiment
from harness.store.message import TRAILERS
from harness.store.note import Gist

VERSION = " ".join((__version__, "2", *TRAILERS))  # by which messages are read
FEWEST, FEWEST_GISTS = 200, 20  # experiments, records that are new before it is written anew
SHARE = 20  # and one of so many

Key = tuple[str, str]
"""A branch's ref and its commit."""


class Kept(NamedTuple):
    """What was read."""

    experiments: Mapping[Key, Experiment]
    gists: Mapping[str, tuple[str, Gist]]
    """By commit: the blob that its record is, and what that said."""


def place(common: Path) -> Path:
    """Where it lies, for the repository with this `.git`."""
    return cache_dir() / "views" / hashlib.sha256(str(common.resolve()).encode()).hexdigest()[:32]


def read(common: Path) -> Kept:
    """What is kept; nothing where it can't be read."""
    with suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
        version, found, gists = DECODER.decode(place(common).read_bytes())
        if version == VERSION:
            return Kept({(each.name.ref, each.commit): each for each in found}, gists)
    return Kept({}, {})


def settled(known: Mapping[Key, Experiment]) -> dict[Key, Experiment]:
    """Without those whose parent may still change: by where `main` is, while they have no record."""
    return {key: each for key, each in known.items() if each.program}


def write(common: Path, now: Kept, before: Kept) -> None:
    """Keep what was read, if enough of it is new."""
    if _is_enough(now.experiments, before.experiments, FEWEST) or _is_enough(
        now.gists, before.gists, FEWEST_GISTS
    ):
        every = [each for (ref, _), each in settled(now.experiments).items() if ref == each.name.ref]
        with suppress(OSError, OverflowError, UnicodeError):  # of nonsense in a note
            place(common).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place(common), msgspec.msgpack.encode((VERSION, every, now.gists)))


def _is_enough(now: Mapping[Any, Any], before: Mapping[Any, Any], fewest: int) -> bool:
    new = sum(before.get(key) is not found for key, found in now.items())
    return new >= fewest and new * SHARE >= len(now)


DECODER = msgspec.msgpack.Decoder(tuple[str, list[Experiment], dict[str, tuple[str, Gist]]])
