"""Taking over a checkpoint: descriptors from a process that is dead by then, checked and copied."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import TrialConfig
from harness.records import CRASH, INVALID, LATE, Failure
from harness.trial.text import one_line

LATE_SECONDS = 1.0  # an honest train.py starts no step that doesn't fit; this is for jitter
SAVE_BYTES_PER_SECOND = 50e6  # the slowest disk that saving is excused by
NAME_CHARS = 100
COPY_BYTES = 2**24


@dataclass(frozen=True)
class Handed:
    """What was handed over, and when; seconds of one clock, None for what never happened."""

    names: Sequence[str]
    descriptors: Sequence[int]
    first_batch_at: float | None
    saving_at: float | None
    submitted_at: float | None


def take(handed: Handed, folder: Path, config: TrialConfig, in_memory: bool) -> Failure | None:
    """Copy it into `folder`; nothing changes under our hands, since who wrote it is dead.

    Args:
        in_memory: whether it lies on a tmpfs, which counts what it holds.

    Raises:
        OSError: our disk failed.
    """
    first, saving, submitted = handed.first_batch_at, handed.saving_at, handed.submitted_at
    if first is None or submitted is None or saving is None:
        return Failure(INVALID, "submitted without training: it never asked for a batch")
    if (late := saving - first - config.budget_seconds) > LATE_SECONDS:
        return Failure(INVALID, f"trained {late:.1f} s {LATE} (on a busy machine, run it again)")
    if not handed.descriptors:
        return Failure(CRASH, "submitted an empty checkpoint")
    if not len(handed.names) == len(set(handed.names)) == len(handed.descriptors):
        return Failure(INVALID, "submitted files without a name each")
    size = written = 0
    for name, descriptor in zip(handed.names, handed.descriptors, strict=True):
        if not _is_plain(name) or not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return Failure(INVALID, f"checkpoint file {one_line(name, 60)!r} is not a plain file")
        size += os.fstat(descriptor).st_size
        written += 512 * os.fstat(descriptor).st_blocks
    if size > config.disk_mb * 2**20:
        return Failure(INVALID, f"a checkpoint of {size / 2**20:.0f} MB, over disk_mb")
    if size > written and in_memory:
        return Failure(INVALID, "a checkpoint with holes: its files are larger than what was written")
    excused = min(config.save_seconds, LATE_SECONDS + size / SAVE_BYTES_PER_SECOND)
    if (late := submitted - first - config.budget_seconds) > excused:
        return Failure(
            INVALID,
            f"handed {size / 2**20:.1f} MB over {late:.1f} s after its budget, {excused:.1f} s would do",
        )
    for name, descriptor in zip(handed.names, handed.descriptors, strict=True):
        with (folder / name).open("xb") as copy:
            for offset in range(0, os.fstat(descriptor).st_size, COPY_BYTES):
                try:
                    data = os.pread(descriptor, COPY_BYTES, offset)
                except OSError as error:  # what it gave us to read is its fault, not the disk's
                    return Failure(INVALID, f"checkpoint file {name!r} can't be read: {error}")
                copy.write(data)
    return None


def _is_plain(name: str) -> bool:
    return (
        0 < len(name) <= NAME_CHARS
        and not name.startswith(".")
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    )
