"""Telling somebody who is elsewhere: a command of theirs, with one JSON line on its standard input.

It never holds a session up: it runs in a thread of its own, is killed after a while, and where it fails that
is said once. What it is told are the harness's own words and titles of experiments, which are anybody's: it
gets them as data, never as a part of a command line.
"""

import os
import queue
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

MOST_SECONDS = 20.0  # of a command
WAITING = 16  # notices; of more the oldest is dropped
LOOK_SECONDS = 0.1
TIMED_OUT = (124, 137)  # what `timeout` says
LAST_BYTES = 4096  # of what it complains


class Notices:
    """What `[notify]` in the config names. Empty: nobody is told."""

    def __init__(self, command: str, root: Path, say: Callable[[str], None]) -> None:
        self._command, self._root, self._say = command, root, say
        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._failed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        if command:
            self._thread.start()

    def send(self, kind: str, text: str, about: Mapping[str, Any]) -> None:
        """Returns at once. `kind`: `main`, `end` or `error`."""
        if not self._command:
            return
        while self._queue.qsize() >= WAITING:
            with suppress(queue.Empty):
                self._queue.get_nowait()
        said = {
            "kind": kind,
            "text": text.strip(),
            "repository": str(self._root),
            "time": round(time.time(), 1),
        }
        self._queue.put(msgspec.json.encode({**said, **about}) + b"\n")  # NaN becomes null

    def close(self) -> None:
        """Wait for what is to be said yet, for as long as a command may take."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(MOST_SECONDS + 5)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            if (why := _told(self._command, self._root, line)) and not self._failed:
                self._failed = True
                self._say(f"WARNING: [notify] command: {why}")


def _limit() -> list[str]:
    """What ends it where we can't any more: a session that was killed leaves nothing for long."""
    return ["timeout", "-k", "1", f"{MOST_SECONDS:g}"] if shutil.which("timeout") else []


def _told(command: str, root: Path, line: bytes) -> str:
    """Run it; empty, or what went wrong. What it left running in the background is its own."""
    with tempfile.TemporaryFile() as said:  # a pipe would wait for who doesn't read
        said.write(line)
        said.seek(0)
        try:
            process = subprocess.Popen(
                [*_limit(), "sh", "-c", command], cwd=root, stdin=said, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            return str(error)
    assert process.stderr
    complaint, deadline = b"", time.monotonic() + MOST_SECONDS + 2
    with process.stderr:
        os.set_blocking(process.stderr.fileno(), False)
        while process.poll() is None and time.monotonic() < deadline:
            select.select([process.stderr], [], [], LOOK_SECONDS)
            complaint = (complaint + (process.stderr.read() or b""))[-LAST_BYTES:]
        complaint = (complaint + (process.stderr.read(LAST_BYTES) or b""))[-LAST_BYTES:]
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it was stopped after {MOST_SECONDS:g} s"
    if process.returncode in TIMED_OUT:
        return f"it was stopped after {MOST_SECONDS:g} s"
    last = (complaint.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    return f"exit {process.returncode}: {last[:200]}" if process.returncode else ""
