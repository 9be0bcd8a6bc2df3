"""Processes and those below them, by the kernel's word in `/proc` and never by their own."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path


def descends(process: int, ancestor: int) -> bool | None:
    """Whether it is that one or below it; None for one unseen: a container shows only its own."""
    while process > 0:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return False


def _below(ancestor: int) -> dict[int, list[str]]:
    """A process and all that descend from it: what `/proc/PID/stat` says behind the name, by number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            if fields := entry.read_text().rpartition(")")[2].split():
                found[int(entry.parent.name)] = fields
    own = {ancestor}
    while below := {pid for pid, fields in found.items() if int(fields[1]) in own} - own:
        own |= below
    return {pid: found[pid] for pid in own & found.keys()}


def tree(ancestor: int) -> list[int]:
    """A process and all that descend from it."""
    return [*_below(ancestor)]


def is_alive(process: int) -> bool:
    """Whether a thread of it is left: one whose first thread ended looks like a dead one."""
    for thread in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def is_filtered(process: int) -> bool:
    """Whether its system calls go through a filter; also where it is gone."""
    with suppress(OSError):
        return "\nSeccomp:\t2\n" in Path(f"/proc/{process}/status").read_text()
    return True


def stand_still(processes: Iterable[int]) -> bool:
    """Whether all threads of these are stopped, or gone."""
    for process in processes:
        for thread in Path(f"/proc/{process}/task").glob("*/stat"):
            with suppress(OSError):
                if thread.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                    return False
    return True


def cpu_seconds(ancestor: int) -> float:
    """Of all processes below it, and of those of them that ended."""
    return _cpu_seconds(_below(ancestor).values())


def cpu_seconds_of(processes: Iterable[int]) -> float:
    """Of these, which start no more, and of what they started that ended."""
    found = []
    for process in processes:
        with suppress(OSError):
            found.append(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split())
    return _cpu_seconds(found)


def _cpu_seconds(stats: Iterable[Sequence[str]]) -> float:
    return sum(int(tick) for fields in stats for tick in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def out_of_memory_kills() -> int:
    """How many processes here the kernel ended for want of memory, so far; 0 where it doesn't say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def delayed_seconds(ancestor: int) -> float:
    """For how long the first thread of a process below it could have run and waited for a processor, so far;
    of all the one that waited longest. 0 where the kernel doesn't say."""
    longest = 0.0
    for pid in _below(ancestor):
        with suppress(OSError, ValueError, IndexError):
            longest = max(longest, int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9)
    return longest
