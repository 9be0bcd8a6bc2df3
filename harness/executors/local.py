"""Workers on this host: a process for each device, see `harness.worker.__main__`."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import harness
from harness.executors.jobs import Worker
from harness.executors.remote import Remote
from harness.paths import Paths
from harness.worker.device import Device

CLOSING_SECONDS = 8.0


class ProcessPipe:
    """To a worker that is started here."""

    def __init__(
        self, place: int, runs: Path, root: Path, hear: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        """`hear` takes each line of the worker's, `lost` is told of its end; both in a thread of its own."""
        self._hear, self._lost, self._lock = hear, lost, threading.Lock()
        # A session of its own: Ctrl-C is for the one that has the terminal, who ends it when it likes.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.worker", str(place), str(runs), str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=_environment(),
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                if line.endswith(b"\n"):  # else half of one, of a worker that was killed
                    self._hear(line)
        finally:
            self._process.kill()
            self._process.wait()
            self._lost()

    def send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except ValueError:  # it was closed
                raise BrokenPipeError from None

    def close(self) -> None:
        assert self._process.stdin is not None
        with self._lock, suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """In which a worker finds this harness, and never one that lies in the folder it is called from."""
    ours = str(Path(harness.__file__).parent.parent)
    paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def worker(place: int, runs: Path, root: Path, device: Device | None = None) -> Remote:
    """A worker in a process of its own.

    Args:
        place: its number on this host.
        runs: where run folders are made.
        root: the repository's folder, which no run sees.
        device: None for the one that a config means.
    """
    return Remote(place, device, lambda remote: ProcessPipe(place, runs, root, remote.hear, remote.lost))


class LocalPool:
    """Workers of one host, a new one in the place of one that died."""

    def __init__(
        self,
        connect: Callable[[int, Device | None], Worker],
        devices: Sequence[Device | None] | None,
        places: int,
    ) -> None:
        """`devices`: one for each worker; None: `places` workers on the one that the config means."""
        self._connect, self._devices = connect, devices or [None] * places
        self._workers = [connect(place, device) for place, device in enumerate(self._devices)]

    def workers(self) -> list[Worker]:
        for place, found in enumerate(self._workers):
            if not found.is_alive:
                self._workers[place] = self._connect(place, self._devices[place])
        return self._workers

    def close(self) -> None:
        for each in self._workers:
            each.close()


def pool(paths: Paths, devices: Sequence[Device] | None = None, places: int = 1) -> LocalPool:
    """A repository's, each worker a process of its own; see `LocalPool`."""
    return LocalPool(lambda place, device: worker(place, paths.runs, paths.root, device), devices, places)
