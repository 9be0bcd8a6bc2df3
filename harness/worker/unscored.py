"""Runs that trained and have no score, since whatever scored them died: their checkpoint is scored then, and
not trained anew.

That a folder is one is said outside of the repository, in the machine's cache, which neither a clone brings
along nor any sandbox sees: else anybody's checkpoint could be put there to be scored.
"""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

from harness.paths import cache_dir, write_atomically
from harness.store.note import read_run, write_run
from harness.store.records import RunRecord, Setting


def _said(folder: Path) -> Path:
    return cache_dir() / "unscored" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def keep(folder: Path, run: RunRecord) -> None:
    """Say that its training is over and good, and who is about to score it."""
    with suppress(OSError):  # then it is trained anew
        _said(folder).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_said(folder), f"{platform.node()} {os.getpid()}\n".encode() + write_run(run))


def is_in(folder: Path) -> bool:
    """Whether a checkpoint waits there for its score."""
    return _said(folder).exists()


def find(runs: Path, commit: str, setting: Setting) -> list[tuple[Path, RunRecord]]:
    """What is left of a commit's runs in a setting, newest first; not what a living process scores.

    Args:
        runs: the folder of run folders.
    """
    found = []
    for folder in sorted(runs.glob(f"*-{commit[:7]}-s*"), reverse=True):
        try:
            who, _, data = _said(folder).read_bytes().partition(b"\n")
            host, _, process = who.decode().rpartition(" ")
            if host != platform.node() or _is_alive(int(process)):
                continue
        except (OSError, ValueError):
            continue
        run = read_run(data)
        plain = folder.is_dir() and (folder / "checkpoint").is_dir() and not _has_links(folder)
        if plain and run is not None and run.commit == commit and run.setting == setting:
            found.append((folder, run))
    return found


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return True
    except ProcessLookupError:
        return False


def _has_links(folder: Path) -> bool:
    return folder.is_symlink() or any(path.is_symlink() for path in folder.rglob("*"))


def drop(folder: Path) -> None:
    """Nothing there waits any more."""
    with suppress(OSError):
        _said(folder).unlink()
