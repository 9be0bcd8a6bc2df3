"""Experiments put on another commit: one that was begun when the head moved, and winners beside each other.

Guarantees: what is put there applies, is no program that was tried, and keeps its title and hypothesis.
"""

import dataclasses
from collections.abc import Callable

from harness.agents import NoProposal, program
from harness.gate.standing import Standing
from harness.session.runner import Runner
from harness.store.decisions import Proposal
from harness.store.experiment import Experiment
from harness.store.records import KEEP
from harness.store.repo import Moved


class Moving:
    """Of one session's experiments."""

    def __init__(self, runner: Runner, tell: Callable[[str, str], None]) -> None:
        self._runner, self._experiments, self._tell = runner, runner.experiments, tell

    def moved(self, experiment: Experiment, onto: str) -> Experiment | None:
        """One that was begun and not measured, put on another commit; None where it doesn't apply there, is a
        program that was tried, was measured, or a person moved it."""
        if self._experiments.runs(experiment.commit):
            return None
        try:
            proposal = self.reapplied(self._experiments.proposal(experiment), experiment.parent, onto)
            mark = mark_of(proposal.source)
            if mark == mark_of(self._experiments.source(onto)) or self.is_tried(proposal, mark):
                return None
            return self._experiments.put(experiment, proposal.source, onto, mark)
        except (NoProposal, Moved):
            return None

    def begin_again(self, kept: Experiment, onto: str, base: str = "") -> list[Experiment]:
        """A kept experiment that `main` passed by, begun anew there: all that it has on top of `base`.

        Nothing where it doesn't apply, a person took it over by hand, or it needs no run there.

        Args:
            base: else where the two part.
        """
        base = base or self._fork(kept.parent, onto)
        if self._carried(kept, onto, base):
            return []
        proposal = self._experiments.proposal(kept)
        if kept.parent != base:
            proposal = dataclasses.replace(proposal, title=f"{proposal.title}, and what it stood on")
        try:
            again = self.reapplied(proposal, base, onto)
            if again.source == self._experiments.source(onto):
                return []
            if self.is_tried(again, mark := mark_of(again.source)):
                raise NoProposal(f"{proposal.title!r} there is a program that was tried before")
            begun = self._experiments.begin(again, onto, mark)
        except NoProposal as why:
            self._runner.tell_once("frontier", f"     the frontier moved: {why}")
            return []
        number, which = begun.name.digits, kept.name.digits
        self._tell("frontier", f"     the frontier moved: {which} is applied to {onto[:7]}, as {number}")
        return [begun]

    def _carried(self, kept: Experiment, onto: str, base: str) -> bool:
        """Put a kept experiment, and what it stands on above `base`, on a commit that has the train.py of one
        of those, or of `base`: they are the same programs there. False where it has another one."""
        below, stack = {e.commit: e for e in self._experiments}, [kept]
        while stack[0].parent != base and stack[0].parent in below:
            stack.insert(0, below[stack[0].parent])
        points = [stack[0].parent, *(e.commit for e in stack)]
        same = [n for n, commit in enumerate(points) if self._experiments.are_one_program(commit, onto)]
        if not same or not self._experiments.gone.isdisjoint(points[1:]):
            return False
        for link in stack[same[-1] :]:
            copies = (e for e in self._experiments if e.origin == link.commit and e.status == KEEP)
            there = next((e for e in copies if e.parent == onto), None)  # a loop was killed after it
            made = there or self._experiments.carried(link, onto)
            number, which = made.name.digits, link.name.digits
            self._tell(
                "frontier", f"     {which} is the same program on {onto[:7]}: it needs no run as {number}"
            )
            onto = made.commit
        return True

    def meet(self, done: Experiment, before: Standing, now: Standing) -> list[Experiment]:
        """Two winners beside each other: the change of the one that is not on the line is begun anew on
        the frontier's head, since gains don't always add up."""
        other = done.commit if done.commit not in now.chain else before.chain[-1]
        beside = next((e for e in self._experiments if e.commit == other and other not in now.chain), None)
        return [] if beside is None else self.begin_again(beside, now.incumbent.commit)

    def _fork(self, commit: str, head: str) -> str:
        """Below a stack of experiments, what `head` stands on too, or what none of ours is below."""
        below = {e.commit: e.parent for e in self._experiments}
        while commit in below and not self._experiments.is_below(commit, head):
            commit = below[commit]
        return commit

    def is_tried(self, proposal: Proposal, mark: str) -> bool:
        """Whether it is not to be run again; its own may be: a person may want that measured anew."""
        own = proposal.origin
        tried = {e.program for e in self._experiments if not own or own not in (e.commit, e.origin)}
        return not tried.isdisjoint({mark, *program.former_digests(proposal.source)})

    def reapplied(self, proposal: Proposal, base: str, onto: str) -> Proposal:
        """The same change on another commit.

        Raises:
            NoProposal: the two changes touch the same lines.
        """
        if base == onto:
            return proposal
        source = self._experiments.reapplied(proposal.source, base, onto)
        if source is None:
            raise NoProposal(f"{proposal.title!r} doesn't apply to the new incumbent, which came after it")
        return dataclasses.replace(proposal, source=source)


def mark_of(source: bytes) -> str:
    """The digest of a program.

    Raises:
        NoProposal: it is nested too deeply, or has numbers too long, to be read.
    """
    try:
        return program.digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoProposal(f"its train.py can't be read: {type(error).__name__}") from None
