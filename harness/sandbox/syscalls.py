"""System calls that a sandboxed process does without: those that see or alter what all processes share.

What a run sees is read-only, but the kernel keeps state beside it: which pages of those files are in
memory, who holds locks on them, who watches them, hints on how long they will live, keys of the user's; and
the nodes below /dev are the host's own. One program can leave a note there that another reads. Advice is
taken and not followed, locks are granted and not held (nothing else of a run's is shared), modes, owners,
times, attributes, cores and priorities seem to be set, questions get an error. Of sockets there are only
those that connect processes of one sandbox, and none that looks up a name for each message.

What only leaves traces by being asked (a name that is looked up) is no matter of this list: see `seal`.
"""

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

NO_NEW_PRIVS, SET_MODE_FILTER = 38, 1
ALL_THREADS, SPECULATION_STAYS = 1, 4  # the latter, from 4.17 on: else slower before 5.16
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, AND, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06  # of classic BPF
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in what the filter sees, arguments of 8 bytes each
DONE, UNKNOWN, REFUSED = ERROR, ERROR | errno.ENOSYS, ERROR | errno.EINVAL
X32 = 0x40000000  # calls of that interface have numbers from here on
NEWER = 463  # the first call that came after Linux 6.12: what it does nobody here has looked at


@dataclass(frozen=True)
class Machine:
    audit_name: int
    """For the kernel's audit."""
    seccomp: int
    """The number of that call."""
    calls: Mapping[str, int]


MACHINES = {
    "x86_64": Machine(0xC000003E, 317, {
        "flock": 73, "fadvise64": 221, "readahead": 187, "mincore": 27, "madvise": 28, "fcntl": 72,
        "preadv2": 327, "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300, "ptrace": 101,
        "io_uring_setup": 425, "process_madvise": 440, "cachestat": 451, "perf_event_open": 298,
        "add_key": 248, "request_key": 249, "keyctl": 250, "userfaultfd": 323, "bpf": 321, "quotactl": 179,
        "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "socket": 41, "socketpair": 53,
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93,
        "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "sched_setaffinity": 203, "setpriority": 141, "sched_setparam": 142,
        "sched_setscheduler": 144, "sched_setattr": 314, "ioprio_set": 251,
    }),
    "aarch64": Machine(0xC00000B7, 277, {
        "flock": 32, "fadvise64": 223, "readahead": 213, "mincore": 232, "madvise": 233, "fcntl": 25,
        "preadv2": 286, "inotify_init1": 26, "fanotify_init": 262, "ptrace": 117,
        "io_uring_setup": 425, "process_madvise": 440, "cachestat": 451, "perf_event_open": 241,
        "add_key": 217, "request_key": 218, "keyctl": 219, "userfaultfd": 282, "bpf": 280, "quotactl": 60,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "socket": 198, "socketpair": 199,
        "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "utimensat": 88,
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15,
        "fremovexattr": 16, "sched_setaffinity": 122, "setpriority": 140, "sched_setparam": 118,
        "sched_setscheduler": 119, "sched_setattr": 274, "ioprio_set": 30,
    }),
}  # fmt: skip
GRANTED = {
    "flock", "fadvise64", "readahead", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown",
    "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr",
    "removexattr", "lremovexattr", "fremovexattr", "sched_setaffinity", "setpriority",
    "sched_setparam", "sched_setscheduler", "sched_setattr", "ioprio_set",
}  # fmt: skip
# By one argument: its place, how it is compared, and an answer for each value; all others are allowed.
RANDOM, SEQUENTIAL, WILLNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE = (
    1,
    2,
    3,
    20,
    21,
    22,
    23,
    25,
)
GETLK, SETLK, SETLKW, OFD_GETLK, OFD_SETLK, OFD_SETLKW = 5, 6, 7, 36, 37, 38
SETLEASE, GETLEASE, NOTIFY = 1024, 1025, 1026
WRITE_HINTS = (1035, 1036, 1037, 1038)  # of an inode or an open file, read and set
NOWAIT = 8
BY_ARGUMENT = {
    "madvise": (2, EQUAL, {
        **dict.fromkeys((RANDOM, SEQUENTIAL, WILLNEED, COLD, PAGEOUT, COLLAPSE), DONE),
        **dict.fromkeys((POPULATE_READ, POPULATE_WRITE), REFUSED),
    }),
    "fcntl": (1, EQUAL, {
        **dict.fromkeys((SETLK, SETLKW, OFD_SETLK, OFD_SETLKW), DONE),
        **dict.fromkeys((GETLK, OFD_GETLK, SETLEASE, GETLEASE, NOTIFY, *WRITE_HINTS), REFUSED),
    }),
    "preadv2": (5, ANY_BIT, {NOWAIT: ERROR | errno.EOPNOTSUPP}),
}  # fmt: skip
UNIX, TYPES, KINDS = (
    1,
    0xF,
    (1, 5),
)  # a socket's family; the bits of its kind; of a stream, of packets in order
NO_FAMILY, NO_KIND = ERROR | errno.EAFNOSUPPORT, ERROR | errno.ESOCKTNOSUPPORT


def _program(machine: str) -> bytes:
    """The filter: instructions of (code, jump if true, jump if false, constant)."""
    here = MACHINES[machine]
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, here.audit_name), (RETURN, 0, 0, KILL)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, NEWER), (RETURN, 0, 0, UNKNOWN)]  # X32 is above it
    for call, number in here.calls.items():
        answer = _answer(call)
        steps += [(EQUAL, 0, len(answer), number), *answer]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])


def _answer(call: str) -> list[tuple[int, int, int, int]]:
    """The instructions for one call, ending in an answer."""
    if call in ("socket", "socketpair"):
        family, kind = ((LOAD, 0, 0, ARGUMENTS + 8 * place) for place in (0, 1))
        steps = [family, (EQUAL, 1, 0, UNIX), (RETURN, 0, 0, NO_FAMILY), kind, (AND, 0, 0, TYPES)]
        steps += [(EQUAL, len(KINDS) - place, 0, value) for place, value in enumerate(KINDS)]
        return [*steps, (RETURN, 0, 0, NO_KIND), (RETURN, 0, 0, ALLOW)]
    if call not in BY_ARGUMENT:
        return [(RETURN, 0, 0, DONE if call in GRANTED else UNKNOWN)]
    place, compare, answers = BY_ARGUMENT[call]
    steps = [(LOAD, 0, 0, ARGUMENTS + 8 * place)]
    for value, answer in answers.items():
        steps += [(compare, 0, 1, value), (RETURN, 0, 0, answer)]
    return [*steps, (RETURN, 0, 0, ALLOW)]


def renounce() -> None:
    """For this process, and all that it starts from now on; where the kernel can't, its log says so."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return
    steps = ctypes.create_string_buffer(program := _program(platform.machine()), len(program))
    packed = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    libc, seccomp = ctypes.CDLL(None), MACHINES[platform.machine()].seccomp
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    for flags in (ALL_THREADS | SPECULATION_STAYS, ALL_THREADS):
        if libc.syscall(seccomp, SET_MODE_FILTER, flags, ctypes.c_char_p(packed)) == 0:
            return
    sys.stderr.write("no system call filter: this kernel takes none\n")
