"""Processes and those below them, by the kernel's word in `/proc` and never by their own."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path


def _stat(path: Path) -> list[str] | None:
    """What a `stat` file says behind the name, which may be any bytes; None if it is gone."""
    try:
        return path.read_text(errors="replace").rpartition(")")[2].split() or None
    except OSError:
        return None


def descends(process: int, ancestor: int) -> bool | None:
    """Whether it is that one or below it; None for one unseen: a container shows only its own."""
    while process > 0:
        if process == ancestor:
            return True
        if (fields := _stat(Path(f"/proc/{process}/stat"))) is None:
            return None
        process = int(fields[1])
    return False


def _below(ancestor: int) -> dict[int, list[str]]:
    """A process and all that descend from it: what `/proc/PID/stat` says behind the name, by number."""
    found, children = {}, dict[int, list[int]]()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(entry)) is not None:
            process = int(entry.parent.name)
            found[process] = fields
            children.setdefault(int(fields[1]), []).append(process)
    below, left = {}, [ancestor]
    while left:  # a chain of ten thousand is walked once
        process = left.pop()
        left += children.get(process, ())
        if process in found:
            below[process] = found[process]
    return below


def tree(ancestor: int) -> list[int]:
    """A process and all that descend from it."""
    return [*_below(ancestor)]


def anonymous_bytes(processes: Iterable[int]) -> int:
    """What they hold of memory that no file stands for."""
    found = 0
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            found += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return found


def _states(process: int) -> Iterator[str]:
    """Of its threads, a letter each."""
    for thread in Path(f"/proc/{process}/task").glob("*/stat"):
        if (fields := _stat(thread)) is not None:
            yield fields[0]


def is_alive(process: int) -> bool:
    """Whether a thread of it is left: one whose first thread ended looks like a dead one."""
    return any(state not in "ZX" for state in _states(process))


def is_filtered(process: int) -> bool:
    """Whether its system calls go through a filter; also where it is gone."""
    with suppress(OSError):
        return "\nSeccomp:\t2\n" in Path(f"/proc/{process}/status").read_text()
    return True


def stand_still(processes: Iterable[int]) -> bool:
    """Whether all threads of these are stopped, or gone."""
    return all(state in "TtZX" for process in processes for state in _states(process))


def would_compute(processes: Iterable[int]) -> bool:
    """Whether a thread of these computes, or would if it had a processor."""
    return any(state == "R" for process in processes for state in _states(process))


def cpu_seconds(ancestor: int) -> float:
    """Of all processes below it, and of those of them that ended."""
    return sum(map(_cpu_seconds, _below(ancestor).values()))


def cpu_seconds_of(processes: Iterable[int]) -> float:
    """Of these, which start no more, and of what they started that ended."""
    found = (_stat(Path(f"/proc/{process}/stat")) for process in processes)
    return sum(_cpu_seconds(fields) for fields in found if fields is not None)


def own_seconds_of(process: int) -> float | None:
    """Its processors' time to the nanosecond, without that of what it started; None if it is gone."""
    try:
        return time.clock_gettime(_clock_of(process))
    except OSError:  # gone; or a kernel that doesn't tell, but for ticks of 10 ms
        fields = _stat(Path(f"/proc/{process}/stat"))
        return None if fields is None else _cpu_seconds([*fields[:13], "0", "0"])


class OwnClock:
    """Processors' seconds of this process and those that it has started by now. To look at it opens and names
    no file: a seal would have each such call answered outside."""

    def __init__(self) -> None:
        self._others = [process for process in tree(os.getpid()) if process != os.getpid()]
        self._most = 0.0

    def __call__(self) -> float:
        ended = os.times()
        found = time.process_time() + ended.children_user + ended.children_system
        for process in self._others:
            with suppress(OSError):  # gone
                found += time.clock_gettime(_clock_of(process))
        self._most = max(self._most, found)  # of one that nobody waited for nothing is left
        return self._most


def _clock_of(process: int) -> int:
    """What clock_getcpuclockid(3) gives."""
    return (~process << 3) | 2


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
