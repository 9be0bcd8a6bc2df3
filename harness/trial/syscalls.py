"""System calls that a sandboxed process does without: those that see or alter what all processes share.

What a trial sees is read-only, but the kernel keeps state beside it: which pages of those files are in
memory, who holds locks on them, who watches them. One program can leave a note there that another reads, and
the first model server could tell the second, which is audited, what text comes next. Advice is taken and
not followed, locks are granted and not held (nothing else of a trial's is shared), questions get an error.

Not covered: how long it takes to read something for the first time.
"""

import ctypes
import errno
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER = 38, 1
ALL_THREADS, SPECULATION_STAYS = (
    1,
    4,
)  # the latter, from 4.17 on: else slower before 5.16
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in what the filter sees, arguments of 8 bytes each
DONE, UNKNOWN, REFUSED = ERROR, ERROR | errno.ENOSYS, ERROR | errno.EINVAL

# By machine: its name for the kernel's audit, the number of `seccomp`, and those of the calls.
MACHINES = {
    "x86_64": (0xC000003E, 317, {
        "flock": 73, "fadvise64": 221, "readahead": 187, "mincore": 27, "madvise": 28, "fcntl": 72,
        "preadv2": 327, "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300,
        "io_uring_setup": 425, "process_madvise": 440, "cachestat": 451, "perf_event_open": 298,
    }),
    "aarch64": (0xC00000B7, 277, {
        "flock": 32, "fadvise64": 223, "readahead": 213, "mincore": 232, "madvise": 233, "fcntl": 25,
        "preadv2": 286, "inotify_init1": 26, "fanotify_init": 262,
        "io_uring_setup": 425, "process_madvise": 440, "cachestat": 451, "perf_event_open": 241,
    }),
}  # fmt: skip
ANSWERS = {
    "flock": DONE, "fadvise64": DONE, "readahead": DONE, "mincore": UNKNOWN, "inotify_init": UNKNOWN,
    "inotify_init1": UNKNOWN, "fanotify_init": UNKNOWN, "io_uring_setup": UNKNOWN,
    "process_madvise": UNKNOWN, "cachestat": UNKNOWN, "perf_event_open": UNKNOWN,
}  # fmt: skip
# By one argument: its place, how it is compared, and an answer for each value.
RANDOM, SEQUENTIAL, WILLNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE = 1, 2, 3, 20, 21, 22, 23
GETLK, SETLK, SETLKW, OFD_GETLK, OFD_SETLK, OFD_SETLKW = 5, 6, 7, 36, 37, 38
SETLEASE, GETLEASE, NOTIFY = 1024, 1025, 1026
NOWAIT = 8
BY_ARGUMENT = {
    "madvise": (2, EQUAL, {
        **dict.fromkeys((RANDOM, SEQUENTIAL, WILLNEED, COLD, PAGEOUT), DONE),
        **dict.fromkeys((POPULATE_READ, POPULATE_WRITE), REFUSED),
    }),
    "fcntl": (1, EQUAL, {
        **dict.fromkeys((SETLK, SETLKW, OFD_SETLK, OFD_SETLKW), DONE),
        **dict.fromkeys((GETLK, OFD_GETLK, SETLEASE, GETLEASE, NOTIFY), REFUSED),
    }),
    "preadv2": (5, ANY_BIT, {NOWAIT: ERROR | errno.EOPNOTSUPP}),
}  # fmt: skip


def _program(machine: str) -> bytes:
    """The filter: instructions of (code, jump if true, jump if false, constant)."""
    name, _, numbers = MACHINES[machine]
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    steps += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, UNKNOWN)]  # x32's calls, under other numbers
    for call, number in numbers.items():
        if call in ANSWERS:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ANSWERS[call])]
            continue
        place, compare, answers = BY_ARGUMENT[call]
        steps += [(EQUAL, 0, 2 + 2 * len(answers), number), (LOAD, 0, 0, ARGUMENTS + 8 * place)]
        for value, answer in answers.items():
            steps += [(compare, 0, 1, value), (RETURN, 0, 0, answer)]
        steps += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])


def renounce() -> None:
    """For this process, and all that it starts from now on; where the kernel can't, its log says so."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return
    steps = ctypes.create_string_buffer(program := _program(platform.machine()), len(program))
    packed = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    libc, (_, seccomp, _) = ctypes.CDLL(None), MACHINES[platform.machine()]
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for flags in (ALL_THREADS | SPECULATION_STAYS, ALL_THREADS):
        if libc.syscall(seccomp, SET_MODE_FILTER, flags, ctypes.c_char_p(packed)) == 0:
            return
    sys.stderr.write("no system call filter: this kernel takes none\n")
