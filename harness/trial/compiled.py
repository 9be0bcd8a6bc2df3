"""The compile cache: what one trial compiled, the next need not.

A train.py may write anything there, so the cache must not become a way past the budget, the weights of
one trial handed to the next. Taken over is only what was there before the trial got its first training
token: nothing in it can have been learned from data. What is there is never replaced, it has bounds,
no scorer sees it, and a run that proves a tip before `main` moves compiles everything anew.
"""

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

MOST_BYTES = 256 * 2**20  # of one trial
ALL_BYTES = 2**30
MOST_FILES = 20_000
MOST_PARTS = 8
NAMES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}

# ── inside the sandbox ────────────────────────────────────────────────────────────────────────


def unpack(known: Path) -> None:
    """Put what is known where the compilers look for it, and may write."""
    place = _place()
    if known.is_dir():
        shutil.copytree(known, place, dirs_exist_ok=True)
    for variable, name in NAMES.items():
        os.environ[variable] = str(place / name)


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
    try:
        data = os.pread(descriptor, size, 0)  # ours from here on
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return _add(tar, folder, ALL_BYTES - _size(folder))
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError):
        return 0


def _add(tar: tarfile.TarFile, folder: Path, room: int) -> int:
    added = 0
    for member in tar:
        parts = PurePosixPath(member.name).parts
        odd = not parts or len(parts) > MOST_PARTS or not all(map(_is_plain, parts))
        if odd or not member.isreg() or member.size > room or added >= MOST_FILES:
            continue
        path = folder.joinpath(*parts)
        if path.exists() or (content := tar.extractfile(member)) is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read())
        room, added = room - member.size, added + 1
    return added


def _is_plain(part: str) -> bool:
    return part not in (".", "..") and len(part) < 200 and part.isascii() and part.isprintable()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
