"""A lock that dies with its holder: the kernel's, on a file that names the process."""

import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError

TRIES, LOOK_SECONDS = 5, 0.02  # who only looks whether it is held has it for a moment


@contextmanager
def held(
    path: Path, on_busy: Callable[[str], None], waits: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold a lock file, after waiting for whoever has it.

    Args:
        on_busy: told the holder's process id before waiting; may raise instead.
        waits: called some times a second meanwhile; may raise, too.

    Raises:
        HarnessError: its file system has no locks, as NFS without its daemon or Lustre without `flock`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        for attempt in itertools.count(1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == TRIES:
                    file.seek(0)
                    on_busy(file.read().strip() or "?")
                if attempt % TRIES == 0:
                    waits()
                time.sleep(LOOK_SECONDS)  # often: between two runs of somebody else it is free for a moment
            except OSError as error:
                mend = f"mount -o remount,flock, or a local disk: see df {path.parent}, and HARNESS_CACHE"
                raise HarnessError(f"{path} can't be locked: {error.strerror}", mend) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(path: Path) -> int | None:
    """The process that holds a lock now; None if nobody does."""
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except OSError:
        pass
    return None


def refuse(process: str) -> None:
    """On a loop's lock: there is one in a repository."""
    raise HarnessError(
        f"another loop runs in this repository (process {process})",
        "Ctrl-C in its terminal, or wait for its end",
    )
