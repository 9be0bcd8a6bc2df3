"""A folder of prepared data: made whole or not at all, with a manifest that has the sha256 of each file.

The manifest's digest, but for where the source lay, is the data's id: the same data in another folder or on
another machine are the same. A file is hashed again only when its inode, size or times changed since it was
last found right.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.lock import held
from harness.paths import lock_file, write_atomically

MANIFEST = "manifest.json"
MOST_UNREAD = 0.01  # of what a source has; more is a mistake rather than a fault of the data
FEW = 20  # of which a single one is none
LISTED = 5
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, of how much; 0 for nobody knows."""


def refuse(source: str, unread: Mapping[str, str], of: int, what: str) -> None:
    """Raise if too much can't be read.

    Args:
        unread: places, and why.
        of: how many there are in all.
        what: they are.
    """
    if len(unread) > max(MOST_UNREAD * of, of >= FEW):
        listed = "; ".join(f"{name}: {why}" for name, why in islice(unread.items(), LISTED))
        more = f"; and {len(unread) - LISTED} more" if len(unread) > LISTED else ""
        raise HarnessError(
            f"{source}: {len(unread)} of {of} {what} can't be read (1% may be): {listed}{more}",
            "to mend them, or to move them elsewhere",
        )


def begins_at(source: Path) -> Path:
    """A source itself; of a pattern, the folder before its first `*`, `?` or `[`."""
    if source.exists():
        return source
    return Path(*takewhile(lambda part: not set(part) & set("*?["), source.parts))


def make(folder: Path, recipe: dict[str, Any], again: bool, build: Callable[[Path], None]) -> None:
    """Have `build` fill a folder beside it, which then takes its place; unless it is there by that `recipe`.

    A second process waits, then finds it done.

    Raises:
        HarnessError: of `build`; or the disk is full, or no place to write to.
    """
    make_place(folder.parent)
    make_place(lock_file("").parent)
    with held(lock_file(f"prepare-{folder.name}"), lambda _: None):
        if not again and is_of(folder, recipe):
            return
        building = folder.with_name(f"{folder.name}.building")
        if again:
            shutil.rmtree(building, ignore_errors=True)
        try:
            building.mkdir(parents=True, exist_ok=True)
            build(building)
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        except HarnessError:
            shutil.rmtree(building, ignore_errors=True)
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HarnessError(
                f"the disk is full: {building} could not be written",
                f"free some space on it (or set HARNESS_CACHE), then the same command again: {error}",
            ) from None


def make_place(folder: Path) -> None:
    """A folder of the cache.

    Raises:
        HarnessError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"can't make {folder}: {error.strerror}"
        raise HarnessError(why, "HARNESS_CACHE=/another/folder") from None


def is_there(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def is_of(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether it was made by that recipe."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        return False


def seal(folder: Path, recipe: dict[str, Any], facts: dict[str, Any], files: Sequence[str]) -> None:
    """Write the manifest, of files that are there; `recipe` has a `name` and a `source`."""
    digests = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in files
    }
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    manifest = {"recipe": recipe, **facts, "files": digests}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def read(folder: Path, prepare: str, files: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Its id and its manifest, after `files` were found to be what that says.

    Args:
        prepare: the command that makes it.

    Raises:
        HarnessError: it is missing, incomplete, or a file's digest differs from its manifest's.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        recipe, digests = manifest["recipe"], manifest["files"]
        anywhere = json.dumps({**manifest, "recipe": recipe | {"source": recipe["name"]}}, indent=1)
        found = f"{recipe['name']}@{hashlib.sha256(anywhere.encode()).hexdigest()[:7]}"
    except FileNotFoundError:
        raise HarnessError(f"no prepared data at {folder}", prepare) from None
    except (ValueError, KeyError, TypeError):
        raise HarnessError(f"{path} is not a manifest", f"{prepare} --again") from None
    _verify(folder, digests, prepare, files)
    return found, manifest


def _verify(folder: Path, digests: dict[str, Any], prepare: str, files: Sequence[str]) -> None:
    seen_path = folder / "verified.json"
    try:
        seen = json.loads(seen_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        seen = {}
    found = {}
    for name in files:
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            raise HarnessError(f"{folder / name} is missing", f"{prepare} --again") from None
        wanted = digests[name]["sha256"]
        mark = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, wanted]
        if seen.get(name) != mark and sha256(folder / name) != wanted:
            raise HarnessError(
                f"{folder / name} was altered: its sha256 differs from the manifest's", f"{prepare} --again"
            )
        found[name] = mark
    if found != seen:
        with suppress(OSError):  # a full or read-only disk: then it is hashed again next time
            write_atomically(seen_path, json.dumps(found).encode())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
