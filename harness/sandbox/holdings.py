"""What a sealed process still holds: files that it has open or mapped, and what those could tell it.

A sealed server can open nothing more. But which pages of a file are in memory is common to all processes, and
the time of a first touch tells it: so all that it holds is brought into memory before the first row. And some
files of the kernel's count what all processes do: whoever keeps one open is not sealed.
"""

import ctypes
import mmap
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MOST_BYTES = 64 * 2**30
PROC, SYS, CGROUP, CGROUP2 = (
    0x9FA0,
    0x62656572,
    0x27E0EB,
    0x63677270,
)  # file systems that are the kernel's word
TOLD = {PROC, SYS, CGROUP, CGROUP2}
IN_MEMORY = (
    0x01021994  # a file system whose files are, and are the process's own; those with holes would grow
)
EVICTIONS = ("pgsteal_", "pginodesteal ", "kswapd_inodesteal ", "drop_pagecache ")  # of /proc/vmstat


def evicted() -> int | None:
    """How many pages the kernel put out of memory until now, except by a group's limit; None if unknown."""
    with suppress(OSError, ValueError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        found = [int(line.split()[1]) for line in lines if line.startswith(EVICTIONS)]
        return sum(found) if found else None
    return None


@dataclass(frozen=True)
class Touched:
    """What was brought into memory."""

    files: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode."""
    evicted: int | None = field(default_factory=evicted)
    """When it began."""

    def is_all_there(self) -> bool:
        """Whether the kernel had no need of memory since."""
        return self.evicted is not None and evicted() == self.evicted


def touch(processes: Iterable[int], touched: Touched) -> str:
    """Bring into memory all that these processes hold of files; empty, or why they can't be sealed.

    Args:
        touched: what needn't be touched; added to.
    """
    size = 0
    for process in processes:
        if _in_flight(process):
            return "it has descriptors on their way between its own sockets"
        for path in _held(process):
            with suppress(OSError):  # gone, or no file of a disk's
                if (kind := _file_system(path)) in TOLD:
                    return "it keeps a file open that counts what all processes do (below /proc or /sys)"
                if kind == IN_MEMORY:
                    continue
                file = path.stat()
                known = (file.st_dev, file.st_ino) in touched.files
                if known or not (stat.S_ISREG(file.st_mode) and file.st_size):
                    continue
                if (size := size + file.st_size) > MOST_BYTES:
                    return f"it holds more than {MOST_BYTES // 2**30} GB of files"
                _touch(path, file.st_size)
                touched.files.add((file.st_dev, file.st_ino))
    return ""


def _held(process: int) -> Iterable[Path]:
    """As they are reached from here; a mapped file without a name lies in memory anyway."""
    home = Path("/proc", str(process))
    with suppress(OSError):
        for thread in (home / "task").iterdir():  # each may have descriptors of its own
            yield from (thread / "fd").iterdir()
    names = set()
    with suppress(OSError):
        for line in (home / "maps").read_text(errors="surrogateescape").splitlines():
            names.add(line.partition("/")[2])
    yield from (home / "root" / name for name in sorted(names - {""}) if not name.endswith(" (deleted)"))


def _in_flight(process: int) -> bool:
    """Whether a socket of it holds descriptors that were sent and not received (said from Linux 5.10 on)."""
    for about in Path("/proc", str(process)).glob("task/*/fdinfo/*"):
        with suppress(OSError):
            for line in about.read_text().splitlines():
                if line.startswith("scm_fds:") and line.split()[1] != "0":
                    return True
    return False


def _file_system(path: Path) -> int:
    """Its kind, as the kernel numbers them."""
    found = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), found) != 0:
        raise OSError(ctypes.get_errno(), "statfs")
    return int.from_bytes(found.raw[:8], "little")


def _touch(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ).close()
    finally:
        os.close(descriptor)
