"""The seal: what a sandboxed process may still ask of the kernel, decided outside of it.

Before it runs an untrusted line, a process of ours installs a filter that it can't take off again. Calls that
compute, use its own memory, or read and write what is open go on untouched. Every other call (looking up a
name, opening, a new process or thread, sockets, keys) stops until a `Seal`, in a process outside, lets it
through or refuses it. So the program inside can't skip its own seal, and no list of harmful calls is needed.

A model server is sealed before the first row that counts: it can leave no note for the next one, whatever the
kernel offers. A training, which must open and save files, has so many calls and no more once it knows the
text: what it leaves for a later one is as little as its own source could say.

Not covered: timing of what processes share in hardware. Needs Linux 5.7 and x86-64 or 64-bit Arm; elsewhere
`install` returns None, and the record says that nothing was sealed.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import select
import struct
import sys
import threading
import time

from harness.sandbox.syscalls import (
    ALL_THREADS,
    ALLOW,
    AND,
    ANY_BIT,
    ARCHITECTURE,
    ARGUMENTS,
    AT_LEAST,
    EQUAL,
    ERROR,
    KILL,
    LOAD,
    MACHINES,
    NO_NEW_PRIVS,
    NUMBER,
    RETURN,
    SET_MODE_FILTER,
    UNKNOWN,
    X32,
)  # fmt: skip

NOTIFY = 0x7FC00000
NEW_LISTENER, ALL_THREADS_OR_ERROR = 1 << 3, 1 << 4  # the latter from 5.7 on: a listener for all threads
# Of the kernel's interface, <linux/seccomp.h>: an id, the process, flags, the call's number and arguments.
NOTIFICATION = struct.Struct("QIIiI QQQQQQQ")
ANSWER = struct.Struct("QqiI")
GO_ON = 1  # an answer's flag: the call is carried out as it was asked
WAKE_ON_THE_SAME_CORE = 1  # from 6.6 on: the one that asked hardly waits

# Computing, memory, time, reading and writing what is open, ending. By machine, since their numbers differ.
FREE = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17,
        "pwrite64": 18,
        "readv": 19, "writev": 20, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28,
        "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60,
        "gettimeofday": 96, "getrusage": 98, "times": 100, "getppid": 110, "sigaltstack": 131,
        "gettid": 186, "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228,
        "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "tgkill": 234, "pselect6": 270,
        "ppoll": 271, "set_robust_list": 273, "epoll_pwait": 281, "getcpu": 309, "getrandom": 318,
        "membarrier": 324, "rseq": 334,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215,
        "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67,
        "pwrite64": 68, "readv": 65, "writev": 66, "sched_yield": 124, "mremap": 216, "madvise": 233,
        "nanosleep": 101, "getpid": 172, "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212,
        "exit": 93, "gettimeofday": 169, "getrusage": 165, "times": 153, "getppid": 173,
        "sigaltstack": 132, "gettid": 178, "sched_getaffinity": 123, "restart_syscall": 128,
        "clock_gettime": 113, "clock_nanosleep": 115, "exit_group": 94, "tgkill": 131, "pselect6": 72,
        "ppoll": 73, "set_robust_list": 99, "epoll_pwait": 22, "getcpu": 168, "getrandom": 278,
        "membarrier": 283, "rseq": 293,
    },
}  # fmt: skip
STARTS = {"x86_64": (56, 435, 57, 58), "aarch64": (220, 435)}  # clone, clone3, fork, vfork
A_THREAD = 0x10000  # of clone's flags
FORBIDDEN = ERROR | errno.EPERM
# Waiting for other threads. Without this flag it also waits for, and wakes, who has the same file in memory,
# in any sandbox.
FUTEX, ITS_OPERATION, PRIVATE = {"x86_64": 202, "aarch64": 98}, 1, 128
# How a GPU is used; on a processor nothing needs it. By the kind of request, in bits 8 to 15: the driver's is
# `F`, its part for common memory numbers plainly from 1, with two to begin and to end. A file system's are
# others.
IOCTL, ITS_REQUEST, KIND, DRIVER = {"x86_64": 16, "aarch64": 29}, 1, 0xFF00, ord("F") << 8
PLAIN, BEGIN_AND_END = 0x400, (0x30000001, 0x30000002)

MOST_STARTS = 1_000  # of processes, on a processor
MOST_CALLS = 100_000  # of a training after its first batch, of a model server while it loads

# ── inside the sandbox ────────────────────────────────────────────────────────────────────────


def install(gpu: bool, alone: bool = False) -> int | None:
    """Put the filter on all threads of this process; returns its listener, to be handed out and closed here.

    Args:
        gpu: whether a GPU's driver is talked to (`ioctl`).
        alone: it starts threads but no process: one that ended could have worked uncounted.

    On a processor what is started is known for a thread or a process, see `Seal.started_at`.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in FREE:
        return None
    steps = ctypes.create_string_buffer(program := _program(machine, gpu, alone), len(program))
    packed = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    flags = NEW_LISTENER | ALL_THREADS | ALL_THREADS_OR_ERROR
    listener = libc.syscall(MACHINES[machine].seccomp, SET_MODE_FILTER, flags, ctypes.c_char_p(packed))
    return listener if listener >= 0 else None


def _program(machine: str, gpu: bool, alone: bool) -> bytes:
    """The filter: instructions of (code, jump if true, jump if false, constant)."""
    free = [*FREE[machine].values()]
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, MACHINES[machine].audit_name), (RETURN, 0, 0, KILL)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, UNKNOWN)]
    clone, clone3, *others = STARTS[machine]
    if not gpu:  # without clone3, whose flags can't be read, glibc takes clone
        steps += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, UNKNOWN)]
    if alone:
        flags = (LOAD, 0, 0, ARGUMENTS)
        steps += [(EQUAL, 0, 4, clone), flags, (ANY_BIT, 1, 0, A_THREAD), (RETURN, 0, 0, FORBIDDEN)]
        steps += [(RETURN, 0, 0, NOTIFY)]
        for number in others:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, FORBIDDEN)]
    steps += [(EQUAL, 0, 4, FUTEX[machine]), _argument(ITS_OPERATION), (ANY_BIT, 0, 1, PRIVATE)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, NOTIFY)]
    if gpu:
        begin, end = BEGIN_AND_END
        steps += [(EQUAL, 0, 8, IOCTL[machine]), _argument(ITS_REQUEST), (AT_LEAST, 0, 5, PLAIN)]
        steps += [(EQUAL, 4, 0, begin), (EQUAL, 3, 0, end), (AND, 0, 0, KIND), (EQUAL, 1, 0, DRIVER)]
        steps += [(RETURN, 0, 0, NOTIFY), (RETURN, 0, 0, ALLOW)]
    steps += [(EQUAL, len(free) - place, 0, number) for place, number in enumerate(free)]
    steps += [(RETURN, 0, 0, NOTIFY), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _argument(place: int) -> tuple[int, int, int, int]:
    """Load the lower half of an argument."""
    return LOAD, 0, 0, ARGUMENTS + 8 * place


# ── outside ───────────────────────────────────────────────────────────────────────────────────


class Seal:
    """Answers the calls of one sandbox, to its end or `close`.

    Attributes:
        refused: how many calls were refused, by number.
        refused_starts: how many calls were a process's start that `no_more_starts` forbids.
        started_at: when a process was started last, by the monotonic clock; 0 for never. Where there is no
            clone3: a thread is none.
    """

    def __init__(self, listener: int) -> None:
        """`listener`: what `install` returned inside; closed in the end."""
        self._listener = listener
        self._left: int | None = None
        self._asked = bytearray(NOTIFICATION.size)
        self.refused: dict[int, int] = {}
        self.refused_starts = 0
        self.started_at = 0.0
        self._starts_left = MOST_STARTS
        self._starting = STARTS[platform.machine()]
        with contextlib.suppress(OSError):
            fcntl.ioctl(listener, _request(1, 4, 8), WAKE_ON_THE_SAME_CORE)
        _answering().add(listener, self)

    def limit(self, calls: int) -> None:
        """From now on let through so many calls and no more. 0 seals it."""
        with _answering().lock:
            self._left = calls

    def no_more_starts(self) -> None:
        """From now on refuse to start processes; threads may be started."""
        with _answering().lock:
            self._starts_left = 0

    def close(self) -> None:
        """What still runs inside gets an error for each such call."""
        if self._listener >= 0:
            _answering().drop(self._listener)
            os.close(self._listener)
            self._listener = -1

    def answer(self) -> None:
        """The next call, which waits for it."""
        self._asked[:] = bytes(len(self._asked))  # the kernel insists
        fcntl.ioctl(self._listener, RECEIVE, self._asked)
        which, _, _, number, _, _, flags, *_ = NOTIFICATION.unpack(self._asked)
        verdict = self._verdict(number)
        if number in self._starting and not (number == self._starting[0] and flags & A_THREAD):
            self._starts_left -= 1
            if self._starts_left < 0:
                self.refused_starts += 1
                verdict = -errno.EPERM, 0  # an honest one may try, and is told so
            else:
                self.started_at = time.monotonic()
        fcntl.ioctl(self._listener, SEND, ANSWER.pack(which, 0, *verdict))

    def _verdict(self, number: int) -> tuple[int, int]:
        """An answer's error and flags. Only the number is looked at: what a pointer points to may change."""
        if self._left is None:
            return 0, GO_ON
        if self._left > 0:
            self._left -= 1
            return 0, GO_ON
        self.refused[number] = self.refused.get(number, 0) + 1
        return -errno.EAGAIN if number in FUTEX.values() else -errno.EPERM, 0  # glibc knows no other answer


class _Answering:
    """The thread that answers for all seals of this process: two would wait for each other's interpreter."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._epoll = select.epoll()
        self._seals: dict[int, Seal] = {}
        threading.Thread(target=self._run, name="seals", daemon=True).start()

    def add(self, listener: int, seal: Seal) -> None:
        with self.lock:
            self._seals[listener] = seal
            self._epoll.register(listener, select.EPOLLIN)

    def drop(self, listener: int) -> None:
        with self.lock:
            if self._seals.pop(listener, None) is not None:
                self._epoll.unregister(listener)

    def _run(self) -> None:
        while True:
            for listener, event in self._epoll.poll():
                with self.lock:
                    seal = self._seals.get(listener)
                    if seal is None:
                        continue
                    if not event & select.EPOLLIN:  # nobody is left inside
                        del self._seals[listener]
                        self._epoll.unregister(listener)
                        continue
                    with contextlib.suppress(OSError):  # killed before it was heard, or answered
                        seal.answer()


def _answering() -> _Answering:
    with MAKING:
        return _made()


MAKING = threading.Lock()


@functools.cache
def _made() -> _Answering:
    return _Answering()


def _request(direction: int, number: int, size: int) -> int:
    """The number of one of the listener's ioctls."""
    return direction << 30 | size << 16 | ord("!") << 8 | number


RECEIVE, SEND = _request(3, 0, NOTIFICATION.size), _request(3, 1, ANSWER.size)
