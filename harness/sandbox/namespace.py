"""Processes under bubblewrap, and making sure that all of them end."""

import contextlib
import functools
import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

DEATH_SECONDS = 10.0
OURS = "HARNESS_NAMESPACE"  # in the environment of what is started here
NODES = ("null", "zero", "full", "random", "urandom")  # of the host's /dev, which every namespace has


class Namespace:
    """A command in a session of its own; under bubblewrap, in a process namespace that dies as a whole."""

    def __init__(
        self,
        bwrap: Sequence[str],
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
        folder: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        output: int | IO[bytes],
        errors: int | IO[bytes] = subprocess.STDOUT,
    ) -> None:
        """Start it.

        Args:
            bwrap: bubblewrap and its options, or nothing.
            descriptors: those that it inherits.
        """
        _nodes()
        if bwrap:
            _sweep()
        self._inside: int | None = None  # pidfd of the namespace's init
        info, said = os.pipe() if bwrap else (None, None)
        options = ["--info-fd", str(said), "--"] if bwrap else []
        passed = [*descriptors, *([said] if said is not None else [])]
        self.process = subprocess.Popen(
            [*bwrap, *options, *command], cwd=folder, env={**environment, OURS: "1"}, stdin=stdin,
            stdout=output, stderr=errors, pass_fds=passed, start_new_session=True,
        )  # fmt: skip
        if info is None or said is None:
            return
        os.close(said)
        with os.fdopen(info, "rb") as stream:
            text = stream.read()
        try:
            self._inside = os.pidfd_open(json.loads(text)["child-pid"])
        except (ValueError, KeyError, ProcessLookupError):
            pass  # it ended before we could look: then nothing is left to wait for

    def kill(self) -> None:
        """Kill everything that it started, and wait until the kernel says that all is gone."""
        inside, self._inside = self._inside, None
        if inside is not None:
            # Directly too: what runs inside can free its init from dying with bwrap. And the init is
            # only gone when every process of the namespace is.
            try:
                signal.pidfd_send_signal(inside, signal.SIGKILL)
            except ProcessLookupError:
                pass
            select.select([inside], [], [], DEATH_SECONDS)
            os.close(inside)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        _restore_nodes()


@functools.cache
def _sweep() -> None:
    """End what a harness left that was killed in the milliseconds in which it started one.

    Bubblewrap's processes bind their lives to each other one after the other. What waits for one that is dead
    by then has no user yet, and waits for ever; what came later is a child of the machine's first process.
    """
    first = Path("/proc/1/cmdline").read_bytes()  # bubblewrap is Linux's
    adopts = ["1"] if not re.search(rb"python|harness", first) else []  # else it may be a harness itself
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if (place / "comm").read_text() != "bwrap\n" or OURS.encode() not in (
                place / "environ"
            ).read_bytes():
                continue
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            is_called = Path("/proc", parent, "comm").read_text()
            waits = not (place / "uid_map").read_text().strip() and is_called != "bwrap\n"
            if waits or parent in adopts or is_called == "systemd\n":
                os.kill(int(place.name), signal.SIGKILL)


@functools.cache
def _nodes() -> dict[Path, os.stat_result]:
    """How the host's nodes were before anything untrusted ran; none where they can't be altered."""
    paths = [Path("/dev", name) for name in NODES] if os.geteuid() == 0 else []
    return {path: path.stat() for path in paths if path.exists()}


def _restore_nodes() -> None:
    """Run by root, what is inside owns them: modes and times there would outlast it, for all to see."""
    for path, was in _nodes().items():
        with contextlib.suppress(OSError):
            now = path.stat()
            if now.st_mode != was.st_mode:
                path.chmod(was.st_mode & 0o7777)
            if now.st_mtime_ns != was.st_mtime_ns or now.st_atime_ns != was.st_atime_ns:
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
