"""Taking over a checkpoint: descriptors from a process that is dead by then, checked and copied."""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.config import RunConfig
from harness.sandbox.text import one_line
from harness.store.records import CRASH, INVALID, Failure, Kind

LATE_SECONDS = 1.0  # an honest train.py starts no step that doesn't fit; this is for jitter
SAVE_BYTES_PER_SECOND = {"memory": 500e6, "disk": 50e6}  # the slowest that saving is excused by
NAME_CHARS = 100
COPY_BYTES = 2**24
COPIERS = 4  # at a time: 2.2 GB in 0.8 s, where one takes 1.1 to 1.5 s
JITTER_NS = 100_000_000  # files are dated by a clock of coarse ticks


@dataclass(frozen=True)
class Handed:
    """What was handed over, and when; None for what never happened."""

    names: Sequence[str]
    descriptors: Sequence[int]
    trained_seconds: float | None
    """From the first batch, by the training's clock, as the next one."""
    spent_seconds: float | None
    """To the end of saving."""
    first_batch_ns: int = 0
    """Of the clock that files are dated by."""
    tokens: int = -1
    """The descriptor of the training tokens, which it was given."""
    loss_seconds: float = 0.0
    """What it says that `submit`'s loss took, of what was spent."""


def take(handed: Handed, folder: Path, config: RunConfig, in_memory: bool) -> Failure | None:
    """Copy it into `folder`; nothing changes under our hands, since who wrote it is dead.

    Args:
        in_memory: whether it lies on a tmpfs, which counts what it holds.

    Raises:
        OSError: our disk failed.
    """
    trained, spent = handed.trained_seconds, handed.spent_seconds
    if trained is None or spent is None:
        return Failure(INVALID, "submitted without training: it never asked for a batch")
    if (late := trained - config.budget_seconds) > LATE_SECONDS:
        why = f"trained {late:.1f} s past its budget (on a busy machine, run it again)"
        return Failure(INVALID, why, Kind.LATE)
    if not handed.descriptors:
        return Failure(CRASH, "submitted an empty checkpoint")
    if not len(handed.names) == len(set(handed.names)) == len(handed.descriptors):
        return Failure(INVALID, "submitted files without a name each")
    size = written = saved = 0
    seen = {_identity(handed.tokens)} if handed.tokens >= 0 else set()
    for name, descriptor in zip(handed.names, handed.descriptors, strict=True):
        file = os.fstat(descriptor)
        if not _is_plain(name) or not stat.S_ISREG(file.st_mode):
            return Failure(INVALID, f"checkpoint file {one_line(name, 60)!r} is not a plain file")
        if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY or _identity(descriptor) in seen:
            return Failure(INVALID, f"checkpoint file {name!r} is one that it was given, or submitted twice")
        seen.add(_identity(descriptor))
        size += file.st_size
        written += 512 * file.st_blocks
        born = _born_ns(descriptor)
        if born is None or born >= handed.first_batch_ns - JITTER_NS:
            saved += file.st_size  # what was there before the first batch took no time to save
    if size > config.disk_mb * 2**20:
        return Failure(INVALID, f"a checkpoint of {size / 2**20:.0f} MB, over disk_mb")
    if size > written and in_memory:
        return Failure(INVALID, "a checkpoint with holes: its files are larger than what was written")
    rate = SAVE_BYTES_PER_SECOND["memory" if in_memory else "disk"]
    excused = min(config.save_seconds, LATE_SECONDS + saved / rate)
    if (late := spent - config.budget_seconds) > excused:
        why = f"handed {saved / 2**20:.1f} MB over {late:.1f} s after its budget, {excused:.1f} s would do"
        if handed.loss_seconds > late - excused:
            why += "; it was submit's loss: ask for it once before the first batch, so that all is loaded"
        return Failure(INVALID, why)
    for name, descriptor in zip(handed.names, handed.descriptors, strict=True):
        try:
            _copy(descriptor, folder / name)
        except _Unreadable as error:  # what it gave us to read is its fault, not the disk's
            return Failure(INVALID, f"checkpoint file {name!r} can't be read: {error}")
    return None


class _Unreadable(Exception):
    pass


def _copy(descriptor: int, path: Path) -> None:
    with path.open("xb", buffering=0) as copy, ThreadPoolExecutor(COPIERS) as pool:

        def piece(offset: int) -> None:
            try:
                data = os.pread(descriptor, COPY_BYTES, offset)
            except OSError as error:
                raise _Unreadable(error) from None
            while data:
                written = os.pwrite(copy.fileno(), data, offset)
                data, offset = data[written:], offset + written

        for _ in pool.map(piece, range(0, os.fstat(descriptor).st_size, COPY_BYTES)):
            pass


def _identity(descriptor: int) -> tuple[int, int]:
    file = os.fstat(descriptor)
    return file.st_dev, file.st_ino


def _born_ns(descriptor: int) -> int | None:
    """When a file was made, which nobody can set; None where the kernel doesn't say (Linux before 5.18)."""
    if sys.platform != "linux":
        return None
    found, itself, birth = ctypes.create_string_buffer(256), 0x1000, 0x800  # AT_EMPTY_PATH, STATX_BTIME
    if ctypes.CDLL(None).statx(descriptor, b"", itself, birth, found) != 0:
        return None
    has, *_ = struct.unpack_from("I", found)
    seconds, nanoseconds = struct.unpack_from("qI", found, 80)
    return seconds * 1_000_000_000 + nanoseconds if has & birth else None


def _is_plain(name: str) -> bool:
    return (
        0 < len(name) <= NAME_CHARS
        and not name.startswith(".")
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    )
