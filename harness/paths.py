"""The one place that knows every file name, in a research repository and outside it.

Tracked by git: `train.py`, `.autoresearch/config.toml`, `.autoresearch/program.md`. Ignored by git:
`.autoresearch/runs`, `.autoresearch/worktrees`, `.autoresearch/events.jsonl`. Prepared data is shared by all
clones of one person and lives in the cache, never in a repository.
"""

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOOKS = ("pre-commit", "commit-msg", "reference-transaction")
OWN = ("program.md", "AGENTS.md", "SKILL.md")
STARTER_FOLDERS = {"train.py": ".", **dict.fromkeys(OWN, ".autoresearch"), **dict.fromkeys(HOOKS, "hooks")}


def cache_dir() -> Path:
    """Where prepared data and machine-wide locks live: $HARNESS_CACHE, else the XDG cache."""
    if override := os.environ.get("HARNESS_CACHE"):
        return Path(override).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "autoresearch"


def data_dir(source: str, recipe: str) -> Path:
    """The prepared corpus of one recipe. `source` is a name or a path, folded to a file name."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", source).strip("-.")[-60:] or "data"
    return cache_dir() / "data" / f"{slug}-{recipe}"


def downloads_dir() -> Path:
    return cache_dir() / "downloads"


def lock_file(name: str) -> Path:
    return cache_dir() / "locks" / f"{name}.lock"


@dataclass(frozen=True)
class Paths:
    """The files of one research repository; `root` is its work tree."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "train.py"

    @property
    def hooks(self) -> Path:
        return self.root / "hooks"

    @property
    def home(self) -> Path:
        return self.root / ".autoresearch"

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def task(self) -> Path:
        """A person's own."""
        return self.home / "task.py"

    @property
    def edits(self) -> Path:
        """Edits that search may try, a person's own."""
        return self.home / "edits.toml"

    @property
    def program(self) -> Path:
        return self.home / "program.md"

    def read_program(self) -> str:
        """program.md; empty where it is missing."""
        try:
            return self.program.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @staticmethod
    def mark(run: Path) -> Path:
        """In the run folder of a kept experiment that `main` may move to: its checkpoint stays there."""
        return run / "kept"

    def marks(self) -> list[Path]:
        return list(self.runs.glob("*/kept"))

    @property
    def compiled(self) -> Path:
        """What runs compiled, by device and torch."""
        return self.runs / "compiled"

    @staticmethod
    def megabytes(folder: Path) -> float:
        """Of all files below it."""
        return sum(file.lstat().st_size for file in folder.rglob("*")) / 2**20

    @property
    def events(self) -> Path:
        """What a session does, a line each."""
        return self.home / "events.jsonl"

    @property
    def agent_log(self) -> Path:
        """What an agent said last."""
        return self.runs / "agent.log"

    @property
    def worktrees(self) -> Path:
        return self.home / "worktrees"


def write_atomically(path: Path, data: bytes) -> None:
    """Temp name, fsync, rename: a reader sees the old file or the whole new one, with the old mode."""
    with _beside(path, data) as temporary:
        temporary.rename(path)


def write_over(path: Path, data: bytes, was: bytes) -> bool:
    """The same, if the file still holds `was`; False where somebody wrote to it meanwhile, whose it stays."""
    with _beside(path, data) as temporary:
        if not _exchange(temporary, path):  # elsewhere than on Linux: somebody may come between these two
            if path.read_bytes() != was:
                return False
            temporary.rename(path)
            return True
        if temporary.read_bytes() == was:
            return True
        _exchange(temporary, path)
        return False


@contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    """A file with these bytes and the mode of `path`, in its folder; what has its name in the end goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if path.exists():
                shutil.copymode(path, temporary)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two files in one step; False where that can't be done here."""
    if sys.platform != "linux":
        return False
    swap, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
    try:
        return ctypes.CDLL(None).renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0
    except AttributeError:  # an old C library
        return False


def starter(name: str, task: str = "lm") -> Path:
    """A file that `harness init` copies into a new repository: packaged, or this source tree's."""
    package = Path(__file__).parent
    inner = name if task == "lm" else f"examples/{task}/{name}"
    packaged = package / "starter" / inner
    if packaged.exists():
        return packaged
    return package.parent / (inner if task != "lm" else f"{STARTER_FOLDERS[name]}/{name}")


def examples() -> list[str]:
    """Tasks that come with a starter of their own, by name."""
    package = Path(__file__).parent
    folders = (package / "starter" / "examples", package.parent / "examples")
    found = next((folder for folder in folders if folder.is_dir()), None)
    return sorted(path.parent.name for path in found.glob("*/train.py")) if found else []
