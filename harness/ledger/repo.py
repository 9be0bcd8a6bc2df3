"""The research repository: opened, its commits resolved, a commit's train.py read as a blob."""

import os
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from harness.errors import HarnessError
from harness.paths import Paths

TRAIN_BYTES = 256 * 1024


@dataclass(frozen=True)
class Commit:
    """A commit and its experiment."""

    id: str
    """40 hex digits."""
    subject: str
    source: bytes
    """train.py, as committed."""


@dataclass(frozen=True)
class Change:
    """One path of a diff, with its file modes before and after; 0 where it is not there."""

    path: str
    old_mode: int
    new_mode: int


class Repository:
    """One research repository."""

    def __init__(self, git: pygit2.Repository) -> None:
        self._git = git
        self.paths = Paths(Path(git.workdir))

    @property
    def train_is_dirty(self) -> bool:
        """Whether the working copy's train.py differs from HEAD's: runs measure commits only."""
        try:
            status = self._git.status_file("train.py")
        except KeyError:
            return False
        return status not in (pygit2.enums.FileStatus.CURRENT, pygit2.enums.FileStatus.IGNORED)

    @property
    def has_identity(self) -> bool:
        """Whether git knows who commits here, by its environment or its config."""
        config = self._git.config
        return all(
            os.environ.get(f"GIT_COMMITTER_{part}") or f"user.{part.lower()}" in config
            for part in ("NAME", "EMAIL")
        )

    @property
    def branch(self) -> str:
        """The checked-out branch, `main` or `exp/0001-...`; empty on a detached HEAD."""
        try:
            target = self._git.lookup_reference("HEAD").target
        except KeyError:
            return ""
        return target.removeprefix("refs/heads/") if isinstance(target, str) else ""

    @property
    def hooks_path(self) -> str | None:
        """`core.hooksPath`, where it is set."""
        config = self._git.config
        return config["core.hooksPath"] if "core.hooksPath" in config else None  # noqa: SIM401 - no .get there

    def set_hooks_path(self, path: str) -> None:
        self._git.config["core.hooksPath"] = path

    @property
    def own_hooks(self) -> Path:
        """Where git looks for hooks while `core.hooksPath` is not set."""
        return Path(self._git.path) / "hooks"

    def staged(self) -> list[Change]:
        """What the index would change in HEAD, renames not folded."""
        base = None if self._git.head_is_unborn else self._git.head.peel(pygit2.Tree)
        if base is None:
            return []
        difference = self._git.index.diff_to_tree(base, flags=pygit2.enums.DiffOption.REVERSE)
        return [
            Change(delta.new_file.path, delta.old_file.mode, delta.new_file.mode)
            for delta in difference.deltas
        ]

    def commit(self, revision: str) -> Commit:
        """Resolve a revision to a commit with a train.py.

        Raises:
            HarnessError: no commit yet, no such revision, or no usable train.py in it.
        """
        try:
            target = self._git.revparse_single(revision)
            found = target.peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError):
            if self._git.is_empty or self._git.head_is_unborn:
                raise HarnessError(
                    "this repository has no commit yet",
                    "git add -A && git commit -m baseline",
                ) from None
            raise HarnessError(f"no commit {revision!r} here", "git log --oneline --all") from None
        return Commit(
            str(found.id), found.raw_message.decode("utf-8", "replace").split("\n", 1)[0], self._source(found)
        )

    def _source(self, commit: pygit2.Commit) -> bytes:
        short = str(commit.id)[:7]
        try:
            entry = commit.tree["train.py"]
        except KeyError:
            raise HarnessError(f"commit {short} has no train.py", "another commit") from None
        if not isinstance(entry, pygit2.Blob) or entry.filemode == FileMode.LINK:
            raise HarnessError(f"train.py in commit {short} is not a regular file")
        if entry.size > TRAIN_BYTES:
            raise HarnessError(f"train.py in commit {short} is over {TRAIN_BYTES // 1024} KB")
        return entry.data


def open_repository(where: Path | None = None) -> Repository:
    """The repository that holds `where` (default: the current folder).

    Raises:
        HarnessError: there is none, or it has no work tree.
    """
    folder = (where or Path.cwd()).absolute()
    found = pygit2.discover_repository(str(folder)) if folder.exists() else None
    if found is None:
        raise HarnessError(f"{folder} is not in a git repository", "cd into one, or harness init DIR")
    git = pygit2.Repository(found)
    if git.is_bare or git.workdir is None:
        raise HarnessError(f"{folder} is a bare repository; a work tree is needed", "git clone it")
    return Repository(git)


def create_repository(folder: Path) -> Repository:
    """`git init -b main`, or the repository that is there."""
    if pygit2.discover_repository(str(folder)) is None:
        pygit2.init_repository(str(folder), initial_head="main")
    return open_repository(folder)
