"""The compile cache: what one trial compiled, neither the next one nor its own model servers need to.

A train.py may write anything there, so the cache must not become a way past the budget, the weights of
one trial handed to the next. Taken over is only what was there before the trial got its first training
token: nothing in it can have been learned from data. What is there is never replaced, it has bounds, no
file may lie where the compilers make folders, and the scorer itself doesn't use it. Not covered: a file
that a hostile trial puts where a later one looks for a kernel.
"""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path

MOST_BYTES = 256 * 2**20  # of one trial
ALL_BYTES = 2**30
MOST_FILES = 5_000  # of one trial; one that compiles everything has some hundreds
ALL_FILES = 50_000
LEAST_PARTS = {"inductor": 3, "triton": 3, "inductor/fxgraph": 5, "inductor/aotautograd": 5}
MOST_PARTS = 8
NAMES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# PyTorch's cache of whole backward passes knows a custom operator by its name: a program with another
# gradient for it would train with the one before. Its cache of graphs has what each consists of.
FRESH_BACKWARD = {"TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}

# ── inside the sandbox ────────────────────────────────────────────────────────────────────────


def unpack(known: Path) -> None:
    """Put what is known where the compilers look for it, and may write."""
    place = _place()
    with contextlib.suppress(OSError, shutil.Error):  # without it, it is only slower
        shutil.copytree(known, place, dirs_exist_ok=True)
    for variable, name in NAMES.items():
        os.environ[variable] = str(place / name)
    os.environ |= FRESH_BACKWARD


def pack(known: Path) -> int:
    """The descriptor of an archive of what is new."""
    place = _place()
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as its descriptor
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place)
            if path.is_file() and not path.is_symlink() and not (known / name).exists():
                tar.add(path, str(name), recursive=False)
    archive.flush()
    descriptor = os.dup(archive.fileno())
    archive.close()
    return descriptor


def _place() -> Path:
    return Path(tempfile.gettempdir()) / "compiled"


# ── outside ───────────────────────────────────────────────────────────────────────────────────


def take(descriptor: int, folder: Path) -> int:
    """Add what a trial packed to the cache in `folder`; returns the number of files. Never raises for
    what it reads: a hostile archive is one that has nothing in it."""
    size = min(os.fstat(descriptor).st_size, MOST_BYTES)
    added = 0
    try:
        data = os.pread(descriptor, size, 0)  # ours from here on
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        room, most = ALL_BYTES - sum(sizes), min(MOST_FILES, ALL_FILES - len(sizes))
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if added >= most:
                    break
                if _is_fine(member, min(room, len(data))) and _put(tar, member, folder):
                    room, added = room - member.size, added + 1
    except Exception:  # noqa: BLE001, S110 - whatever a hostile archive makes of the reader
        pass
    return added


def _is_fine(member: tarfile.TarInfo, room: int) -> bool:
    """A plain file, no larger than what was read, as deep in one of the folders as the compilers' own."""
    parts = member.name.split("/")
    least = LEAST_PARTS.get("/".join(parts[:2])) or LEAST_PARTS.get(parts[0]) or MOST_PARTS + 1
    named = least <= len(parts) <= MOST_PARTS and all(map(_is_plain, parts))
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None
    return named and plain and 0 <= member.size <= room


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> bool:
    """Write it whole or not at all; False if it is there, or something else is in its place."""
    path = folder / member.name
    if not path.resolve().is_relative_to(folder.resolve()) or path.exists():
        return False
    content = tar.extractfile(member)
    if content is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `write_atomically`: a cold trial has hundreds of files, and none is worth waiting for the disk.
    temporary = path.with_name(f".{threading.get_native_id()}.tmp")
    temporary.write_bytes(content.read(member.size))
    temporary.replace(path)
    return True


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and len(part) < 200 and part.isascii() and part.isprintable()
