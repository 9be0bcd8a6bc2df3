"""What views read of experiments' commits, kept from one command to the next: a view costs what is new.

A file in the machine's cache, which may be deleted at any time and which no clone brings along. A commit
never changes, so that what was read of it holds for as long as its branch is where it was; nothing else is
taken from here, and a session reads git alone.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from harness import __version__
from harness.paths import cache_dir, write_atomically
from harness.store.experiment import Experiment
from harness.store.message import TRAILERS

VERSION = " ".join((__version__, *TRAILERS))  # by which messages are read
FEWEST, SHARE = 200, 20  # that are new before it is written anew: so many, and one of so many

Key = tuple[str, str]
"""A branch's ref and its commit."""


def place(common: Path) -> Path:
    """Where it lies, for the repository with this `.git`."""
    return cache_dir() / "views" / hashlib.sha256(str(common.resolve()).encode()).hexdigest()[:32]


def read(common: Path) -> dict[Key, Experiment]:
    """What is kept; nothing where it can't be read."""
    with suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
        version, found = DECODER.decode(place(common).read_bytes())
        if version == VERSION:
            return {(each.name.ref, each.commit): each for each in found}
    return {}


def write(common: Path, known: Mapping[Key, Experiment], new: int) -> None:
    """Keep what was read, if enough of it is `new`. What has no record yet may still change its parent."""
    if new >= FEWEST and new * SHARE >= len(known):
        every = [each for (ref, _), each in known.items() if each.program and ref == each.name.ref]
        with suppress(OSError):
            place(common).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place(common), msgspec.msgpack.encode((VERSION, every)))


DECODER = msgspec.msgpack.Decoder(tuple[str, list[Experiment]])
