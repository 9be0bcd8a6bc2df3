"""The person's checkout: what a session needs of it, and how it follows `main`."""

import contextlib
import time
from pathlib import Path

import pygit2

from harness.errors import HarnessError
from harness.paths import write_atomically, write_over
from harness.store import refs
from harness.store.repo import LOCK_SECONDS, Repository

BEGUN = {
    "MERGE_HEAD": ("a merge", "git merge --continue, or --abort"),
    "CHERRY_PICK_HEAD": ("a cherry-pick", "git cherry-pick --continue, or --abort"),
    "REVERT_HEAD": ("a revert", "git revert --continue, or --abort"),
    "rebase-merge": ("a rebase", "git rebase --continue, or --abort"),
    "rebase-apply": ("a rebase", "git rebase --continue, or --abort"),
    "BISECT_LOG": ("a bisect", "git bisect reset"),
}  # files and folders of git's, in its own of this work tree
FILTERED = "echo 'train.py -filter' >> .gitattributes; git add --renormalize .; git commit"


class Checkout:
    """Of one repository. A person works in it meanwhile: what is theirs stays as it is."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @property
    def train_is_dirty(self) -> bool:
        """Whether the working copy's train.py differs from HEAD's: runs measure commits only."""
        try:
            status = self._repository.git.status_file("train.py")
        except KeyError:
            return False
        clean = (pygit2.enums.FileStatus.CURRENT, pygit2.enums.FileStatus.IGNORED)
        return status not in clean or self._is_kept_from_git

    @property
    def _is_kept_from_git(self) -> bool:
        """Whether a person changed train.py and told git not to look (`update-index --skip-worktree`)."""
        train = self._repository.paths.train
        if not train.exists() or train.read_bytes() == self._repository.commit("HEAD").source:
            return False
        flag = self._repository.ask("ls-files", "-v", "--", "train.py").stdout[:1]
        return flag.islower() or flag == "S"

    def _dirty(self, so: str = "") -> HarnessError:
        if self._is_kept_from_git:
            said, mend = "has changes that git was told not to see", "git update-index --no-skip-worktree "
            return HarnessError(f"train.py {said}{so}", f"{mend}--no-assume-unchanged train.py")
        return HarnessError(
            f"train.py has uncommitted changes{so}", "git commit train.py, or git stash -- train.py"
        )

    def check_ready(self) -> None:
        """What a loop needs of the person's checkout.

        Raises:
            HarnessError: no commit, no identity, half a history, `main` where it can't be moved, or a lock.
        """
        self._check_locks()
        self._repository.commit("HEAD")
        _ = self._repository.signature
        if self._repository.git.is_shallow:
            raise HarnessError("this clone is shallow, its history is cut off", "git fetch --unshallow")
        if self._repository.git.head_is_detached:
            if (begun := self._begun()) is not None:
                raise HarnessError(f"{begun[0]} is in progress, so main can't be followed", begun[1])
            raise HarnessError("HEAD is detached, so main can't be followed", "git switch main")
        if (elsewhere := self._main_elsewhere()) is not None:
            raise HarnessError(f"main is checked out in {elsewhere}", f"cd {elsewhere}")
        said = self._repository.ask("check-attr", "filter", "--", "train.py").stdout
        if (name := said.rpartition(": ")[2].strip()) not in ("", "unspecified", "unset"):
            # A run has what is committed, and that isn't what lies there.
            raise HarnessError(f"train.py goes through git's filter {name!r}", FILTERED)

    def _check_locks(self) -> None:
        """Remove locks of refs that a killed process left. To be called by who holds the session's lock.

        Raises:
            HarnessError: the index is locked, which an editor of `git commit` does for minutes.
        """
        ours = [refs.MAIN, refs.NOTES, "packed-refs"]
        paths = [self._repository.common / f"{name}.lock" for name in ours]
        paths += (self._repository.common / refs.EXPERIMENTS).glob("*.lock")
        index = Path(self._repository.git.path) / "index.lock"
        for path in (*paths, index):
            deadline = time.monotonic() + LOCK_SECONDS  # its own time may lie in the future
            while path.exists() and time.time() - path.stat().st_mtime < LOCK_SECONDS:
                time.sleep(0.1)
                if time.monotonic() > deadline:
                    break
        for path in filter(Path.exists, paths):
            if (owner := self._git_at_work()) is not None:
                raise HarnessError(f"{path} is there: git is at work (process {owner})", "wait for its end")
            path.unlink(missing_ok=True)
        if index.exists():
            raise HarnessError(f"{index} is there: another git is at work, or was killed", f"rm {index}")

    def _git_at_work(self) -> int | None:
        """A process of git's in this repository; None where there is none, or it can't be known."""
        places = {str(self._repository.paths.root.resolve()), str(self._repository.common.resolve())}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "comm").read_text().startswith("git"):
                    where = (process / "cwd").resolve()
                    if any(str(place) in places for place in (where, *where.parents)):
                        return int(process.name)
        return None

    def check_clean(self) -> None:
        """Whether a moving `main` would meet no changes of a person.

        Raises:
            HarnessError: train.py has some.
        """
        if self.train_is_dirty:
            raise self._dirty()

    def _taken(self, ref: str) -> HarnessError | None:
        """Why a branch is not to be moved: a person is at work on it, and would undo or lose the move."""
        for place in (self._repository.common, *self._repository.common.glob("worktrees/*")):
            heads = place.glob("rebase-*/head-name")
            if any(head.read_text().strip() == ref for head in heads):
                return HarnessError("main is being rebased", "git rebase --continue, or --abort")
        if (elsewhere := self._main_elsewhere()) is not None:
            return HarnessError(f"main is checked out in {elsewhere}", f"git -C {elsewhere} switch --detach")
        return None

    def _begun(self) -> tuple[str, str] | None:
        """What a person began in this work tree, and what ends it; git moves nothing until then."""
        for name, (what, mend) in BEGUN.items():
            if (Path(self._repository.git.path) / name).exists():
                return what, mend
        return None

    def _main_elsewhere(self) -> Path | None:
        """The other work tree of this repository that has `main` checked out."""
        done = self._repository.ask("worktree", "list", "--porcelain")
        for block in done.stdout.split("\n\n"):
            lines = block.splitlines()
            if f"branch {refs.MAIN}" in lines and not any(line.startswith("prunable") for line in lines):
                place = Path(lines[0].removeprefix("worktree ")).resolve()
                # Of a submodule, or where .git lies elsewhere, git names that folder in place of the tree.
                here = place in (self._repository.paths.root.resolve(), self._repository.common.resolve())
                return None if here else place
        return None

    def fast_forward(self, ref: str, old: str, new: str) -> bool:
        """Move a branch from `old` to its child `new`, and the checkout with it where there is one.

        Files first, then the ref, as git itself does: killed in between, the next start finds the new
        train.py in place and only moves the ref. False if the branch isn't at `old` any more.
        """
        reference = self._repository.git.references.get(ref)
        if reference is None or str(reference.target) != old:
            return False
        if (taken := self._taken(ref)) is not None:
            raise taken
        train, source, here = self._repository.paths.train, self._repository.commit(new).source, None
        if follows := self._repository.branch == ref.removeprefix("refs/heads/"):
            if (begun := self._begun()) is not None:
                raise HarnessError(f"{begun[0]} is in progress, so main can't move", begun[1])
            here = train.read_bytes() if train.exists() else None
            if self.train_is_dirty and here != source:
                raise self._dirty(", so main can't move to a kept experiment")
            if here is None:
                write_atomically(train, source)
            elif not write_over(train, source, here):
                raise self._dirty(", so main can't move to a kept experiment")
            try:
                self._stage_train()
            except (OSError, pygit2.GitError):  # an editor of `git commit` is open: all stays as it was
                self._put_back(here)
                raise
        try:
            reference.set_target(new)
        except pygit2.GitError:
            if follows and train.read_bytes() == source:
                self._put_back(here)
                self._stage_train()
            return False
        return True

    def _stage_train(self) -> None:
        """Have the index hold train.py as it lies there."""
        self._repository.git.index.read()
        if self._repository.paths.train.exists():
            self._repository.git.index.add("train.py")
        else:
            self._repository.git.index.remove("train.py")
        self._repository.git.index.write()

    def _put_back(self, content: bytes | None) -> None:
        """What the checkout's train.py held before; None: there was none."""
        if content is None:
            self._repository.paths.train.unlink()
        else:
            write_atomically(self._repository.paths.train, content)
        self._repository.git.index.read()
