"""The compile cache: what one run compiled, neither the next one nor its own model servers need to.

A train.py may write anything there, so the cache must not become a way past the budget, the weights of
one run handed to the next. Taken over is only what was there before the run got its first training
token: nothing in it can have been learned from data. What is there is never replaced, it has bounds, no
file may lie where the compilers make folders, and the scorer itself doesn't use it. Not covered: a file
that a hostile run puts where a later one looks for a kernel.
"""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path

MOST_BYTES = 256 * 2**20  # of one run
ALL_BYTES = 2**30
MOST_FILES = 5_000  # of one run; one that compiles everything has some hundreds
ALL_FILES = 50_000
LEAST_PARTS = {"inductor": 3, "triton": 3, "inductor/fxgraph": 5, "inductor/aotautograd": 5}
MOST_PARTS = 8
USED = "used"  # in an archive: names of what was there already, and was read
USED_BYTES = 2**20
NAMES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# PyTorch's cache of whole backward passes knows a custom operator by its name: a program with another
# gradient for it would train with the one before. Its cache of graphs has what each consists of.
FRESH_BACKWARD = {"TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}

# ── inside the sandbox ────────────────────────────────────────────────────────────────────────


def unpack(known: Path) -> None:
    """Put what is known where the compilers look for it, and may write."""
    place = _place()
    with contextlib.suppress(OSError, shutil.Error):  # without it, it is only slower
        shutil.copytree(known, place, dirs_exist_ok=True, copy_function=_copied)
    for variable, name in NAMES.items():
        os.environ[variable] = str(place / name)
    os.environ |= FRESH_BACKWARD


def _copied(source: str, target: str) -> None:
    """With times by which it shows whether it is read."""
    shutil.copyfile(source, target)
    os.utime(target, ns=(0, 1))


def pack(known: Path) -> int:
    """The descriptor of an archive of what is new, and of the names of what was read of the rest."""
    place = _place()
    used: list[str] = []
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as its descriptor
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place)
            if not path.is_file() or path.is_symlink():
                continue
            if not (known / name).exists():
                tar.add(path, str(name), recursive=False)
            elif path.stat().st_atime_ns:
                used.append(str(name))
        names = tarfile.TarInfo(USED)
        data = "\n".join(used).encode()[:USED_BYTES]
        names.size = len(data)
        tar.addfile(names, io.BytesIO(data))
    archive.flush()
    descriptor = os.dup(archive.fileno())
    archive.close()
    return descriptor


def _place() -> Path:
    return Path(tempfile.gettempdir()) / "compiled"


# ── outside ───────────────────────────────────────────────────────────────────────────────────


def take(descriptor: int, folder: Path) -> int:
    """Add what a run packed to the cache in `folder`; returns the number of files. Never raises for
    what it reads: a hostile archive is one that has nothing in it."""
    size = min(os.fstat(descriptor).st_size, MOST_BYTES)
    added = 0
    try:
        data = os.pread(descriptor, size, 0)  # ours from here on
        evict(folder, ALL_BYTES - len(data), ALL_FILES - MOST_FILES)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.name == USED:
                    _mark_used(tar, member, folder)
                elif added < MOST_FILES and _is_fine(member, len(data)) and _put(tar, member, folder):
                    added += 1
    except Exception:  # noqa: BLE001, S110 - whatever a hostile archive makes of the reader
        pass
    return added


def evict(folder: Path, most_bytes: int, most_files: int) -> None:
    """Remove what was not used for longest, a folder of the compilers' at a time, until so much is left."""
    found: dict[Path, list[os.stat_result]] = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                found.setdefault(path.parent, []).append(path.stat())
    size = sum(about.st_size for each in found.values() for about in each)
    count = sum(map(len, found.values()))
    for place, files in sorted(found.items(), key=lambda item: max(about.st_mtime for about in item[1])):
        if size <= most_bytes and count <= most_files:
            return
        for path in place.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)
        size, count = size - sum(about.st_size for about in files), count - len(files)


def _mark_used(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """By the word of a run: it decides what is removed last, and nothing else."""
    content = tar.extractfile(member) if member.size <= USED_BYTES else None
    for name in content.read().decode().split("\n")[:ALL_FILES] if content is not None else ():
        path = folder / name
        if name and path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            os.utime(path)


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
    # Not `write_atomically`: a cold run has hundreds of files, and none is worth waiting for the disk.
    temporary = path.with_name(f".{threading.get_native_id()}.tmp")
    temporary.write_bytes(content.read(member.size))
    temporary.replace(path)
    return True


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and len(part) < 200 and part.isascii() and part.isprintable()
