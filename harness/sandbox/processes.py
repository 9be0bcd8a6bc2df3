"""Processes and those below them, by the kernel's word in `/proc` and never by their own."""

import os
import time
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
    return sum(cpu_seconds_below(ancestor).values())


def cpu_seconds_below(ancestor: int) -> dict[int, float]:
    """Of a process and all that descend from it, by its number; with what it waited for the end of."""
    return {process: _cpu_seconds(fields) for process, fields in _below(ancestor).items()}


def cpu_seconds_of(processes: Iterable[int]) -> dict[int, float]:
    """The same of these, without those that are gone."""
    found = {}
    for process in processes:
        with suppress(OSError):
            stat = Path(f"/proc/{process}/stat").read_text()
            found[process] = _cpu_seconds(stat.rpartition(")")[2].split())
    return found


def own_cpu_seconds() -> float:
    """Of this process and what it started."""
    ended = os.times()
    found = time.process_time() + ended.children_user + ended.children_system
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += sum(map(cpu_seconds, map(int, children.read_text().split())))
    return found


def _cpu_seconds(fields: Sequence[str]) -> float:
    """`fields`: of a stat file, behind the name."""
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


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


def would_go_on(ancestor: int) -> bool:
    """Whether a thread below it computes, or would if it had a processor, or its memory from disk."""
    for process in _below(ancestor):
        for thread in Path(f"/proc/{process}/task").glob("*/stat"):
            with suppress(OSError):
                if thread.read_text().rpartition(")")[2].split()[0] in "RD":
                    return True
    return False
