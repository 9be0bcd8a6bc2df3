"""The research repository: opened, its commits resolved, a commit's train.py read as a blob."""

import functools
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import pygit2
from pygit2.enums import FileMode

from harness.errors import HarnessError
from harness.paths import Paths

TRAIN_BYTES = 256 * 1024
LOCK_SECONDS = 3.0
PERSON_SECONDS = 10.0  # that who commits is remembered: to ask git takes a process
P = ParamSpec("P")
T = TypeVar("T")
IDENTITY = "git config user.name 'Your Name' && git config user.email you@example.org"


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


def _changes(difference: pygit2.Diff) -> list[Change]:
    return [
        Change(delta.new_file.path, delta.old_file.mode, delta.new_file.mode) for delta in difference.deltas
    ]


class Moved(HarnessError):
    """A ref isn't where it was left: somebody else moved it."""


def patiently(write: Callable[P, T]) -> Callable[P, T]:
    """A writer of refs that waits for other gits' locks, then says so in one line."""

    @functools.wraps(write)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return write(*args, **kwargs)
            except (OSError, pygit2.GitError) as error:
                if time.monotonic() > deadline:
                    raise HarnessError(f"git can't write here: {error}", "harness loop, then") from None
                time.sleep(0.1)

    return waiting


class Repository:
    """One research repository."""

    def __init__(self, git: pygit2.Repository) -> None:
        self.git = git
        self.paths = Paths(Path(git.workdir))
        self._person: tuple[str, str, float] | None = None  # name, address, and when git said so

    @property
    def signature(self) -> pygit2.Signature:
        """The person, who commits, as git itself finds them; now.

        Raises:
            HarnessError: git doesn't know who that is.
        """
        if self._person is not None and time.monotonic() - self._person[2] < PERSON_SECONDS:
            return pygit2.Signature(*self._person[:2])
        done = self.ask("var", "GIT_COMMITTER_IDENT")
        found = re.fullmatch(r"(.+) <(.+)> \d+ [+-]\d{4}\s*", done.stdout)
        if done.returncode or found is None:
            raise HarnessError("git does not know who you are", IDENTITY)
        self._person = found[1], found[2], time.monotonic()
        return pygit2.Signature(found[1], found[2])

    def ask(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """The real git, for what libgit2 doesn't do.

        Raises:
            HarnessError: it isn't installed.
        """
        try:
            return subprocess.run(
                ["git", *args], cwd=self.paths.root, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise HarnessError("git is not installed", "apt install git") from None

    def move(self, ref: str, old: str, new: str) -> None:
        """Compare-and-swap of a ref.

        Raises:
            HarnessError: it isn't at `old` any more.
        """
        reference = self.git.references.get(ref)
        if reference is None or str(reference.target) != old:
            raise Moved(f"{ref} was moved by somebody else", "harness loop")
        reference.set_target(new)  # libgit2 compares again with what it read above, under its lock

    def been_at(self, ref: str) -> set[str]:
        """Commits that a branch was at in this clone, where it is now left out."""
        reference = self.git.references.get(ref)
        if reference is None:
            return set()
        return {str(entry.oid_new) for entry in reference.log()} - {str(reference.target)}

    def tidy(self) -> None:
        """Have git pack what has gathered, if it thinks it is time: libgit2 never does."""
        self.ask("-c", "gc.autoDetach=false", "gc", "--auto", "--quiet")

    @property
    def branch(self) -> str:
        """The checked-out branch, `main` or `exp/0001-...`; empty on a detached HEAD."""
        try:
            target = self.git.lookup_reference("HEAD").target
        except KeyError:
            return ""
        return target.removeprefix("refs/heads/") if isinstance(target, str) else ""

    @property
    def common(self) -> Path:
        """What all work trees of this repository share."""
        folder = Path(self.git.path)
        pointer = folder / "commondir"  # there in a linked worktree
        return folder / pointer.read_text().strip() if pointer.exists() else folder

    @property
    def loop_lock(self) -> Path:
        """There is one loop in a repository, whichever work tree it was started in."""
        return self.common / "harness-loop.pid"

    @property
    def events(self) -> Path:
        """What the loop says while it runs; of the main work tree, where there are several."""
        root = self.common.parent if self.common.name == ".git" else self.paths.root
        return Paths(root).events

    def exclude(self, path: Path) -> None:
        """Have git leave a file in `.autoresearch` alone, where an earlier .gitignore shows it."""
        name, file = "/".join(path.parts[-2:]), self.common / "info" / "exclude"
        if not self.git.path_is_ignored(name):
            with suppress(OSError):
                file.parent.mkdir(exist_ok=True)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(f"\n/{name}\n")

    @property
    def _index(self) -> pygit2.Index:
        """The index of a commit that is being made: `git commit -a` has one of its own."""
        other = os.environ.get("GIT_INDEX_FILE")
        return pygit2.Index(str(self.paths.root / other)) if other else self.git.index

    def without(self, branch: str) -> HarnessError:
        """What to say of a branch that isn't there; HEAD may be at one, as while git renames it."""
        if self.git.head_is_unborn and not list(self.git.references):
            return HarnessError("this repository has no commit yet", "git add -A && git commit -m baseline")
        return HarnessError(
            f"this repository has no branch {branch!r}", f"git branch -m {shlex.quote(branch)}"
        )

    def staged(self) -> list[Change]:
        """What the index would change in HEAD, renames not folded."""
        base = None if self.git.head_is_unborn else self.git.head.peel(pygit2.Tree)
        if base is None:
            return []
        return _changes(base.diff_to_index(self._index))

    def changes(self, old: str, new: str) -> list[Change]:
        """Between two commits, renames not folded."""
        before, after = (self.git[commit].peel(pygit2.Tree) for commit in (old, new))
        return _changes(before.diff_to_tree(after))

    def staged_source(self) -> bytes:
        """train.py as the index has it; empty where it is not there."""
        try:
            blob = self.git[self._index["train.py"].id]
        except KeyError:
            return b""
        return blob.data if isinstance(blob, pygit2.Blob) else b""

    def commit(self, revision: str) -> Commit:
        """Resolve a revision to a commit with a train.py.

        Raises:
            HarnessError: no commit yet, no such revision, or no usable train.py in it.
        """
        try:
            target = self.git.revparse_single(revision)
            found = target.peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError):
            if self.git.head_is_unborn and revision == "HEAD":
                head = str(self.git.lookup_reference("HEAD").target)
                raise self.without(head.removeprefix("refs/heads/")) from None
            raise HarnessError(f"no commit {revision!r} here", "git log --oneline --all") from None
        return Commit(
            str(found.id), found.raw_message.decode("utf-8", "replace").split("\n", 1)[0], self._source(found)
        )

    def merged(self, ancestor: bytes, ours: bytes, theirs: bytes) -> bytes | None:
        """Both changes of a train.py in one, as git merges them; None where they conflict."""

        def tree_of(source: bytes) -> pygit2.Oid:
            builder = self.git.TreeBuilder()
            builder.insert("train.py", self.git.create_blob(source), FileMode.BLOB)
            return builder.write()

        merged = self.git.merge_trees(tree_of(ancestor), tree_of(ours), tree_of(theirs))
        if merged.conflicts is not None:
            return None
        blob = self.git[merged["train.py"].id]
        assert isinstance(blob, pygit2.Blob)
        return blob.data

    def _source(self, commit: pygit2.Commit) -> bytes:
        short = str(commit.id)[:7]
        found = [entry for entry in commit.tree if entry.name == "train.py"]
        if not found:
            raise HarnessError(f"commit {short} has no train.py", "another commit")
        if len(found) > 1:  # git's own commands show one of them
            raise HarnessError(f"the tree of commit {short} has {len(found)} entries train.py", "git fsck")
        entry = found[0]
        if not isinstance(entry, pygit2.Blob) or entry.filemode == FileMode.LINK:
            raise HarnessError(f"train.py in commit {short} is not a regular file")
        if entry.size > TRAIN_BYTES:
            raise HarnessError(f"train.py in commit {short} is over {TRAIN_BYTES // 1024} KB")
        return entry.data
