"""What the files of a source were when they were prepared, so that later ones are noticed.

A file whose size and time are as they were isn't read again; of another one its content decides.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.tasks.folder import Progress

FILE = "source.json"
Files = Sequence[tuple[Path, str]]


def write(folder: Path, files: Files, progress: Progress) -> None:
    """Beside what was made of them."""
    found = {}
    for done, (path, name) in enumerate(files):
        progress("remember the files", done, len(files))
        with suppress(OSError):  # gone since, which the next look tells
            found[name] = [*_mark(path), _digest(path)]
    progress("remember the files", len(files), len(files))
    (folder / FILE).write_text(json.dumps(found), encoding="utf-8")


def differs(folder: Path, files: Files) -> str:
    """How, in words; empty where they don't, or where there are none any more."""
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    there = dict((name, path) for path, name in files)
    if not there:
        return ""
    more, fewer = len(there.keys() - known.keys()), len(known.keys() - there.keys())
    other = sum(_is_other(path, known[name]) for name, path in there.items() if name in known)
    parts = ((more, "more"), (fewer, "fewer"), (other, "of other content"))
    return ", ".join(f"{count:,} {what}" for count, what in parts if count)


def _is_other(path: Path, known: list[object]) -> bool:
    try:
        return _mark(path) != known[:2] and _digest(path) != known[2]
    except OSError:
        return True


def _mark(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
