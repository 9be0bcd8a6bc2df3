"""Limits that a sandboxed process puts on itself before any untrusted line runs."""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from pathlib import Path

from harness.sandbox import syscalls

PR_SET_PDEATHSIG = 1
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL = {"x86_64": 250, "aarch64": 219}  # the system call's number


def apply() -> None:
    """Read HARNESS_LIMITS and set them: hard, so that nothing later can raise them.

    `memory_bytes` bounds private memory (RLIMIT_DATA: it leaves CUDA's reservations alone). `cores` are
    where it stays, so that runs beside each other don't disturb. The kernel is also told to end this
    process first when the machine runs out of memory.
    """
    limits = json.loads(os.environ.get("HARNESS_LIMITS", "{}"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    die_with_parent()
    if cores := limits.get("cores"):
        os.sched_setaffinity(0, cores)
    _leave_the_session_keyring()
    if memory := int(limits.get("memory_bytes", 0)):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    Path("/proc/self/oom_score_adj").write_text("1000")
    syscalls.renounce()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_the_session_keyring() -> None:
    """Take an empty one: an inherited keyring holds a person's keys, and notes for the next run."""
    if (number := KEYCTL.get(platform.machine())) is not None:
        ctypes.CDLL(None).syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)
