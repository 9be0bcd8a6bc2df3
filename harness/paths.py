"""The one place that knows every file name, in a research repository and outside it.

Tracked by git: `train.py`, `.autoresearch/config.toml`, `.autoresearch/program.md`. Ignored by git:
`.autoresearch/runs`, `.autoresearch/worktrees`, `.autoresearch/events.jsonl`. Prepared data is shared by all
clones of one person and lives in the cache, never in a repository.
"""

import os
import re
import shutil
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if path.exists():
                shutil.copymode(path, temporary)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
