"""Runs belong to a program, on whatever commit it stands: which commit stands for it, with which runs.

What a person put on `main` with the train.py of an earlier commit of it, or of an experiment, is that
program again: it has that one's scores and stands in its place, but not for what was kept on top: to move
`main` there would lose what the person did. Of an experiment and what is the same program once more, the last
one counts that reaches `main`; a run that both have counts once.
"""

from collections.abc import Callable, Collection, Container, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from harness.store.decisions import Measured
from harness.store.experiment import Experiment
from harness.store.metric import DIGITS
from harness.store.records import KEEP

Runs = dict[tuple[Any, float], tuple[float, str]]
"""Scores, each with what it was measured on, by what tells one run from another."""


def runs_of(scores: Iterable[tuple[Any, float, str]]) -> Runs:
    """Of seeds, scores and what those were measured on; a run is known by the first two, as precise as a
    message has them."""
    return {
        (seed if isinstance(seed, int) else None, round(score, DIGITS)): (score, on)
        for seed, score, on in scores
    }


def reaches(commit: str, every: Mapping[str, Experiment], line: Container[str]) -> bool:
    """Whether one of all experiments stands on a commit of the line, or is one."""
    while commit in every and commit not in line:
        commit = every[commit].parent
    return commit in line


class Programs:
    """The programs of one setting; it is told what git says, and asks for nothing.

    Args:
        every: all experiments by their commits, in the order of their numbers.
        line: the parent of each commit of `main`, newest first.
        gone: commits that a person took off `main`.
        runs: of every experiment and of every commit of the line.
        shorter: kept commits above `main` whose train.py has fewer lines than their parent's.
        program: what stands for a commit's train.py.
    """

    def __init__(
        self,
        every: Mapping[str, Experiment],
        line: Mapping[str, str],
        gone: Collection[str],
        runs: Mapping[str, Runs],
        shorter: Container[str],
        program: Callable[[str], Hashable],
    ) -> None:
        self._every, self._line, self._shorter, self._program = every, line, shorter, program
        self._gone, self._runs = set(gone), dict(runs)
        self._now: dict[str, str] = {}  # what stands in whose place
        self._found: dict[str, Measured] = {}
        self._by_hand: dict[Hashable, str] = {}  # what a person put on `main`, by program

    def measured(self) -> list[Measured]:
        """Every commit that has a score and stands for a program: experiments first, then `main`, oldest
        first."""
        for commit in self._every:
            self._join(commit)
        for commit, experiment in self._every.items():
            if self._runs.get(commit):
                kept = experiment.status == KEEP and commit not in self._gone
                self._found[commit] = Measured(
                    commit, experiment.parent, (), kept, kept and commit in self._shorter
                )
        for commit in self._line:
            if commit not in self._now:
                self._place(commit)
        self._take()
        last = {commit: place for place, commit in enumerate(reversed(self._by_hand.values()))}
        scored = (
            Measured(
                e.commit, e.parent if e.kept else self._last(e.parent), tuple(score for score, _ in runs),
                kept=e.kept, shorter=e.shorter, hosts=tuple(on for _, on in runs),
            )
            for e in self._found.values() if (runs := self._runs[e.commit].values())
        )  # fmt: skip
        return sorted(scored, key=lambda each: last.get(each.commit, len(last)))

    def _join(self, commit: str) -> None:
        """An experiment and the one that it is once more."""
        first = self._last(self._every[commit].origin)
        scored = first in self._every and self._runs.get(first) and self._runs.get(commit)
        if not scored or not self._are_one(commit, first):
            return
        if self._reaches(commit) or not self._reaches(first):
            self._put(commit, first)
        else:  # its main is no more
            self._put(first, commit)
            self._gone |= {first} if commit in self._gone else set()

    def _place(self, commit: str) -> None:
        """One of `main`'s, after the newer ones: an experiment, or what a person put there."""
        of = self._found.get(commit) or Measured(commit, self._line[commit], (), kept=True)
        program = self._program(commit)
        if (again := self._by_hand.get(program)) is not None:
            self._put(again, commit)
            self._found.pop(commit, None)
            self._found[again] = replace(self._found[again], parent=of.parent, shorter=of.shorter)
        elif commit not in self._found:
            self._by_hand[program], self._found[commit] = commit, of

    def _take(self) -> None:
        """What a person put at the head of `main` has the runs of the experiments that it is."""
        head = next(iter(self._line))
        for commit in list(self._found) if head not in self._every else ():
            if commit not in self._line and self._are_one(commit, head):
                self._put(head, commit)
                del self._found[commit]

    def _put(self, new: str, old: str) -> None:
        """One commit in another one's place, with the runs of both."""
        self._now[old], self._runs[new] = new, {**self._runs.pop(old), **self._runs[new]}

    def _last(self, commit: str) -> str:
        """What stands in a commit's place."""
        while commit in self._now:
            commit = self._now[commit]
        return commit

    def _are_one(self, one: str, other: str) -> bool:
        return self._program(one) == self._program(other)

    def _reaches(self, commit: str) -> bool:
        return reaches(commit, self._every, self._line)
