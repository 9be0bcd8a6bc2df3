"""Commits of a repository: `main` and its line, what stands on what, train.py in each, and their records."""

from collections.abc import Collection, Iterator

import pygit2

from harness.errors import HarnessError
from harness.store import notes, refs
from harness.store.note import Gist, Note
from harness.store.records import RunRecord
from harness.store.repo import Repository

HISTORY = 100  # commits of `main` that are looked back at


class Commits:
    """Asked of git each time; writes nothing."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._git = repository.git
        self._programs: dict[str, pygit2.Oid | str] = {}

    @property
    def main(self) -> str:
        """The commit of `main`.

        Raises:
            HarnessError: there is no such branch.
        """
        reference = self._git.references.get(refs.MAIN)
        if reference is None:
            raise self._repository.without("main")
        if not isinstance(reference.target, pygit2.Oid):
            raise HarnessError(
                "main is only another name for a branch", "git symbolic-ref -d refs/heads/main"
            )
        return str(reference.target)

    def source(self, commit: str) -> bytes:
        """train.py in a commit."""
        return self._repository.commit(commit).source

    def source_or_nothing(self, commit: str) -> bytes:
        """The same; empty where a commit made by hand has none that could be used."""
        try:
            return self.source(commit)
        except HarnessError:
            return b""

    def difference(self, old: str, new: str) -> str:
        """Of train.py, as `git diff` shows it; a commit without one has an empty one."""
        one, other = self.source_or_nothing(old), self.source_or_nothing(new)
        text = pygit2.Patch.create_from(one, other, old_as_path="train.py", new_as_path="train.py").data
        return text.decode("utf-8", "replace")

    def note(self, commit: str) -> Note:
        """The record of a commit."""
        return notes.read(self._git, commit)

    def gist(self, commit: str) -> Gist:
        """What the gate goes by, of the record of a commit."""
        return self.note(commit).gist

    def runs(self, commit: str) -> tuple[RunRecord, ...]:
        """Of a commit; none where it was never measured."""
        return self.note(commit).runs

    def are_one_program(self, one: str, other: str) -> bool:
        """Whether two commits have the same train.py."""
        return self.program(one) == self.program(other)

    def program(self, commit: str) -> pygit2.Oid | str:
        """What stands for its train.py; its own name where it has none."""
        if commit not in self._programs:
            found = self._git.get(commit)
            if isinstance(found, pygit2.Commit) and "train.py" in found.tree:
                self._programs[commit] = found.tree["train.py"].id
            else:
                self._programs[commit] = commit
        return self._programs[commit]

    @property
    def history(self) -> Iterator[tuple[str, str]]:
        """Commits of `main` and the first parent of each, empty for the first one; newest first."""
        return self._line(self.main)

    def _line(self, commit: str) -> Iterator[tuple[str, str]]:
        for _ in range(HISTORY):
            found = self._git[commit]
            assert isinstance(found, pygit2.Commit)
            parent = str(found.parent_ids[0]) if found.parent_ids else ""
            yield commit, parent
            if not parent:
                return
            commit = parent

    def on_main(self, commit: str) -> bool:
        """Whether `main` is there or went on from there."""
        return self.is_below(commit, self.main)

    def all_on_main(self, commits: Collection[str]) -> set[str]:
        """Those of them, asked at once."""
        if not commits:
            return set()
        walk = self._git.walk(None)
        for commit in commits:
            walk.push(commit)
        walk.hide(self.main)
        return {*commits} - {str(beyond.id) for beyond in walk}

    def is_below(self, commit: str, head: str) -> bool:
        """Whether `head` is that commit or stands on it."""
        return head == commit or self._git.descendant_of(head, commit)

    def are_in_line(self, one: str, other: str) -> bool:
        """Whether one of two commits stands on the other."""
        return self.is_below(one, other) or self.is_below(other, one)
