"""What git knows of experiments: read from refs, messages and notes. Nothing is stored anywhere else.

An experiment is one commit on a branch of its own, and has no `Status` until it was measured.
"""

import re
from collections.abc import Container, Iterator, Sequence
from functools import cached_property

import pygit2

from harness.errors import HarnessError
from harness.store import message as messages
from harness.store import notes, refs, views
from harness.store.commits import HISTORY, Commits
from harness.store.decisions import Holdout, HoldoutFailure, Measured, Proposal
from harness.store.experiment import Experiment
from harness.store.message import Message
from harness.store.note import Gist, Note
from harness.store.programs import Programs, Runs, runs_of
from harness.store.records import KEEP, Setting
from harness.store.refs import Name
from harness.store.repo import Change, Repository

SEED = re.compile(r"[0-9]{1,9}")
BLOB_DIGITS = 12  # of the blob's name


class History(Commits):
    """All experiments of a repository, in the order of their numbers; writes nothing."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        self._known: dict[tuple[str, str], Experiment] = {}  # parsed once: a commit never changes

    def __iter__(self) -> Iterator[Experiment]:
        """In the order of their numbers."""
        seen: dict[tuple[str, str], Experiment] = {}
        for reference in self._git.references.iterator():
            if (name := refs.parse(reference.name)) is None:
                continue
            key = (reference.name, str(reference.target))
            try:
                found = self._known.get(key) or self._read(name, reference.peel(pygit2.Commit))
            except (pygit2.GitError, KeyError, ValueError):
                continue  # it leads nowhere: somebody's own
            if found is not None:
                seen[key] = found
        self._known = seen
        return iter(sorted(seen.values(), key=lambda each: (each.name.number, each.name.slug)))

    def _read(self, name: Name, commit: pygit2.Commit) -> Experiment | None:
        if len(parents := commit.parent_ids) != 1:
            return None  # what else is on such a branch is somebody's own
        message = messages.parse(commit.raw_message.decode("utf-8", "replace"))
        parent = str(parents[0])
        if message.trailers.get("Status") == KEEP and not self._is_own(commit, message):
            message = Message(message.title, message.hypothesis)
        if "Program" not in message.trailers:
            parent = self._fork(parent)
        try:
            author = commit.author.name
        except (pygit2.GitError, AttributeError):
            author = "?"
        return Experiment(name, str(commit.id), parent, commit.commit_time, author, message)

    def _is_own(self, commit: pygit2.Commit, message: Message) -> bool:
        """Whether a message is of this train.py: a rebase takes the score of one along to another."""
        named = message.trailers.get(messages.BLOB)
        return named is None or str(self.program(str(commit.id))).startswith(named)

    def _fork(self, commit: str) -> str:
        """Where a branch that a person made begins, of one commit or several: at an experiment, or `main`."""
        reference = self._git.references.get(refs.MAIN)
        main, start = reference.target if reference is not None else None, commit
        been = self._repository.been_at(refs.MAIN)  # amended since, say
        for _ in range(HISTORY):
            found = self._git[commit]
            assert isinstance(found, pygit2.Commit)
            if "Program" in messages.parse(found.raw_message.decode("utf-8", "replace")).trailers:
                return commit
            if commit in been or not isinstance(main, pygit2.Oid) or self.is_below(commit, str(main)):
                return commit
            if len(found.parent_ids) != 1:
                break
            commit = str(found.parent_ids[0])
        return start

    def find(self, which: str) -> Experiment:
        """By number (`7`, `0007`), name, branch or the beginning of its commit.

        Raises:
            HarnessError: none, or several.
        """
        wanted = which.removeprefix("refs/heads/").removeprefix("exp/")
        found = [
            e for e in self
            if wanted in (str(e.name.number), f"{e.name.digits}", str(e.name))
            or (len(wanted) >= 5 and e.commit.startswith(wanted))
        ]  # fmt: skip
        if len(found) != 1:
            many = f"{len(found)} experiments are" if found else "there is no experiment"
            raise HarnessError(f"{many} {which!r}", "harness log --all")
        return found[0]

    def changes(self, experiment: Experiment) -> list[Change]:
        """Of files, in its parent."""
        return self._repository.changes(experiment.parent, experiment.commit)

    def proposal(self, experiment: Experiment) -> Proposal:
        """What it proposed, to be tried again elsewhere."""
        message = experiment.message
        by = message.trailers.get(messages.AGENT, experiment.author)
        return Proposal(
            message.title, message.hypothesis, self.source(experiment.commit), by,
            base=experiment.parent, origin=experiment.commit,
        )  # fmt: skip

    def scores(self, commit: str, setting: Setting) -> tuple[float, ...]:
        """Of its runs in this setting."""
        return tuple(score for score, _ in self.scored(commit, setting))

    def scored(self, commit: str, setting: Setting) -> tuple[tuple[float, str], ...]:
        """The same, each with what it was measured on."""
        return tuple(self._runs_of(commit, setting).values())

    @property
    def setting(self) -> Setting | None:
        """In which was measured last: what came back of experiments, or of `main` alone."""
        found = next((e.setting for e in reversed(list(self)) if e.setting is not None), None)
        return found or next((run.setting for run in reversed(self.runs(self.main))), None)

    def main_scores(self, setting: Setting) -> tuple[float, ...]:
        """Of `main`'s program in this setting: a commit that leaves train.py as it was needs no run."""
        return self.counted(self.main, setting)

    def counted(self, commit: str, setting: Setting) -> tuple[float, ...]:
        """All scores that the gate knows of a commit."""
        return next((each.scores for each in self.measured(setting) if each.commit == commit), ())

    def measured(self, setting: Setting, main: str = "") -> list[Measured]:
        """Every commit that has a score in this setting, oldest first: all that the gate knows.

        Args:
            main: a commit that is to stand for it.
        """
        every, line = {each.commit: each for each in self}, dict(self._line(main or self.main))
        gone = self._gone([*every.values()])
        runs = {commit: self._runs_of(commit, setting) for commit in line if commit not in every}
        runs |= {each.commit: self._all_runs(each, setting, gone, line) for each in every.values()}
        kept = (commit for commit, each in every.items() if each.status == KEEP and runs[commit])
        asked = (commit for commit in kept if commit not in line and commit not in gone)  # of a possible head
        shorter = {commit for commit in asked if self.gist(commit).is_shorter}
        return Programs(every, line, gone, runs, shorter, self.program).measured()

    def _runs_of(self, commit: str, setting: Setting) -> Runs:
        """The scores of its runs in this setting."""
        return runs_of(
            (run.seed, run.value, run.on) for run in self.gist(commit).runs
            if setting.metric.is_score(run.value) and run.setting == setting
        )  # fmt: skip

    def _all_runs(self, of: Experiment, setting: Setting, gone: set[str], line: Container[str]) -> Runs:
        """The same of an experiment, by its message where there is no more to know."""
        kept = of.status == KEEP and of.commit not in gone
        # It may have been run again since, which its message can't say any more.
        runs = self._runs_of(of.commit, setting) if kept or of.commit in line else {}
        if runs or of.value is None or of.setting != setting:
            return runs
        scores = [*filter(setting.metric.is_score, of.runs or [of.value])]
        seeds = [int(seed) for seed in of.message.trailers.get("Seeds", "").split() if SEED.fullmatch(seed)]
        on = of.message.trailers.get("Hosts", "").split()
        numbers = seeds if len(seeds) == len(scores) else range(-len(scores), 0)
        return runs_of(
            zip(numbers, scores, on if len(on) == len(scores) else [""] * len(scores), strict=True)
        )

    @property
    def gone(self) -> set[str]:
        """Commits that `main` was at or went past, and stands on no more: a person took them off it. And
        those whose score a second opinion didn't confirm.

        What is further below `main` than is looked back at is among them, too.
        """
        return self._gone(list(self))

    def _gone(self, every: Sequence[Experiment]) -> set[str]:
        line, below = {commit for commit, _ in self.history}, {e.commit: e.parent for e in every}
        seen = set(line)

        def leave(commit: str) -> None:
            while commit not in seen:
                seen.add(commit)
                commit = below.get(commit, commit)

        for commit in self._repository.been_at(refs.MAIN):
            leave(commit)
        doubted = set()
        for each in reversed(every):  # a reflog is not for ever; below the newest one no note need be read
            if each.commit in seen or each.status != KEEP:
                continue
            gist = self.gist(each.commit)
            if gist.has_reached:
                leave(each.commit)
            elif gist.is_doubted:
                doubted.add(each.commit)
        return (seen - line) | doubted

    def holdouts(self, setting: Setting) -> list[Holdout]:
        """What `main`'s commits scored on the holdout, oldest first. For the person only."""
        found = (self.holdout(commit, setting) for commit, _ in self.history)
        return [each for each in found if isinstance(each, Holdout)][::-1]

    def holdout(self, commit: str, setting: Setting) -> Holdout | str | None:
        """What one commit scored there, or why it has no score."""
        failed = None
        for found in self.gist(commit).holdouts:
            if found.setting != setting:
                continue
            if isinstance(found, HoldoutFailure):
                failed = f"{found.status}: {found.detail}"
            elif all(map(setting.metric.is_score, (found.value, found.holdout_value))):
                return found
        return failed


class HistorySnapshot(History):
    """For a command that looks once: what it was told the first time that it asked holds to its end."""

    def __init__(self, repository: Repository, before: "HistorySnapshot | None" = None) -> None:
        """`before`: an earlier one, whose commits and notes need not be read once more."""
        super().__init__(repository)
        self._before = views.Kept(views.settled(before._known), before._gists) if before else None
        self._notes_before = before._notes if before else {}
        self._every: list[Experiment] | None = None
        self._notes: dict[str, tuple[str, Note]] = {}  # and what each is stored as
        self._gists: dict[str, tuple[str, Gist]] = {}
        self._measured: dict[tuple[Setting, str], list[Measured]] = {}
        self._main = ""

    @cached_property
    def _kept(self) -> views.Kept:
        return self._before or views.read(self._repository.common)

    @property
    def main(self) -> str:
        self._main = self._main or super().main
        return self._main

    def __iter__(self) -> Iterator[Experiment]:
        if self._every is None:
            self._known = dict(self._kept.experiments)
            self._every = list(super().__iter__())
            views.write(self._repository.common, views.Kept(self._known, self._kept.gists), self._kept)
        return iter(self._every)

    def note(self, commit: str) -> Note:
        if commit not in self._notes:
            stored, before = notes.stored_as(self._git, commit), self._notes_before.get(commit)
            self._notes[commit] = before if before and before[0] == stored else (stored, super().note(commit))
        return self._notes[commit][1]

    def gist(self, commit: str) -> Gist:
        if commit not in self._gists:
            stored, kept = notes.stored_as(self._git, commit), self._kept.gists.get(commit)
            if kept is None or kept[0] != stored:
                note = self.note(commit)  # of the blob that was read, which may be an earlier one
                kept = self._notes[commit][0], note.gist
            self._gists[commit] = kept
        return self._gists[commit][1]

    def measured(self, setting: Setting, main: str = "") -> list[Measured]:
        key = setting, main or self.main
        if key not in self._measured:
            self._measured[key] = super().measured(*key)
            views.write(self._repository.common, views.Kept(self._known, self._gists), self._kept)
        return self._measured[key]
