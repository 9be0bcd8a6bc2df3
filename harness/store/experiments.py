"""Experiments in git: begun as a branch, completed with their trailers.

An experiment is committed before its run: killed in between, it is simply measured again. Completing
it writes the note first, then moves the branch, then `main`, so that every kill leaves a state that the
next start can finish.
"""

from collections.abc import Callable

import pygit2

from harness.store import message as messages
from harness.store import notes, refs
from harness.store.checkout import Checkout
from harness.store.decisions import Decision, Proposal
from harness.store.experiment import Experiment
from harness.store.history import BLOB_DIGITS, History
from harness.store.message import Message
from harness.store.note import Note
from harness.store.records import ERROR, RunRecord
from harness.store.refs import Name
from harness.store.repo import patiently

AGENT_EMAIL = "agent@autoresearch.invalid"


class Experiments(History):
    """All experiments of a repository, and the only writer of their refs."""

    @patiently
    def begin(self, proposal: Proposal, parent: str, program: str) -> Experiment:
        """Commit a proposal on a new branch that starts at `parent`. Nothing is measured yet, or it is the
        program that it comes from once more: it has the runs of that."""
        trailers = {**self._names(program, proposal.source), messages.AGENT: proposal.agent}
        if proposal.origin:
            trailers[messages.ORIGIN] = proposal.origin
        if proposal.cost_usd is not None:
            trailers[messages.COST] = f"{proposal.cost_usd:.4f}"
        title = messages.unclaimed(proposal.title)
        title = title if title.strip() else "Untitled"
        text = Message(title, proposal.hypothesis, trailers).text()
        committer = self._repository.signature
        name = proposal.agent.strip() or "?"
        author = pygit2.Signature(name, AGENT_EMAIL, committer.time, committer.offset)
        made = self._commit(proposal.source, parent, author, text)
        is_known = proposal.origin and self.are_one_program(proposal.origin, str(made))
        if is_known and (scored := self.note(proposal.origin).scored()).runs:
            notes.write(self._git, str(made), scored, committer)
        return self._branched(proposal.title, made)

    @patiently
    def carried(self, experiment: Experiment, onto: str) -> Experiment:
        """A measured one on another commit, whose train.py is its parent's: the same program, so what was
        measured and decided holds there."""
        old, message = self._git[experiment.commit], experiment.message
        assert isinstance(old, pygit2.Commit)
        trailers = {**message.trailers, messages.ORIGIN: experiment.commit}
        text = Message(message.subject, message.hypothesis, trailers).text()
        made = self._commit(self.source(experiment.commit), onto, old.author, text)
        notes.write(self._git, str(made), self.note(experiment.commit).carried(), self._repository.signature)
        return self._branched(message.title, made)

    def _branched(self, title: str, made: pygit2.Oid) -> Experiment:
        """A commit on a new branch."""
        # Of all refs, those of hand-made branches and of other machines too: a number is one branch.
        taken = map(refs.parse, (refs.local(reference.name) for reference in self._git.references.iterator()))
        name = refs.name_for(max((name.number for name in taken if name), default=0) + 1, title)
        self._git.references.create(name.ref, made)
        return self._made(name, made)

    @patiently
    def put(self, experiment: Experiment, source: bytes, parent: str, program: str) -> Experiment:
        """One that was not measured yet, on another parent; its branch stays its own.

        Raises:
            Moved: a person moved the branch.
        """
        old = self._git[experiment.commit]
        assert isinstance(old, pygit2.Commit)
        message, named = experiment.message, self._names(program, source)
        text = Message(message.title, message.hypothesis, {**message.trailers, **named}).text()
        made = self._commit(source, parent, old.author, text)
        self._repository.move(experiment.name.ref, experiment.commit, str(made))
        return self._made(experiment.name, made)

    def _names(self, program: str, source: bytes) -> dict[str, str]:
        """Whose results a message has: a program's, and of which file, by which a copy is told from it."""
        return {"Program": program, messages.BLOB: str(self._git.create_blob(source))[:BLOB_DIGITS]}

    def _commit(self, source: bytes, parent: str, author: pygit2.Signature, text: str) -> pygit2.Oid:
        """`parent` with this train.py."""
        base = self._git[parent]
        assert isinstance(base, pygit2.Commit)
        builder = self._git.TreeBuilder(base.tree)
        builder.insert("train.py", self._git.create_blob(source), base.tree["train.py"].filemode)
        committer = self._repository.signature
        return self._git.create_commit(None, author, committer, text, builder.write(), [base.id])

    def _made(self, name: Name, commit: pygit2.Oid) -> Experiment:
        made = self._git[commit]
        assert isinstance(made, pygit2.Commit)
        experiment = self._read(name, made)
        assert experiment is not None
        return experiment

    @patiently
    def complete(self, experiment: Experiment, last: RunRecord, decision: Decision) -> Experiment:
        """Put what was measured into the commit's message and its note, and move the branch to it.

        Args:
            run: the last one; earlier runs are noted already.
        """
        old = self._git[experiment.commit]
        assert isinstance(old, pygit2.Commit)
        known = experiment.message
        figure = f"{known.title} ({messages.verdict(decision, last.metric)})"
        kept = {name: known.trailers[name] for name in messages.PROPOSED if name in known.trailers}
        note = self.note(experiment.commit).with_run(last)
        counted = [run for run in note.runs if run.setting == last.setting and run.status != ERROR]
        text = Message(
            figure, known.hypothesis, {**kept, **messages.measured(last, counted or [last], decision)}
        ).text()
        made = self._git.create_commit(
            None, old.author, self._repository.signature, text, old.tree_id, old.parent_ids
        )
        notes.write(self._git, str(made), note.with_parts(decision=decision), self._repository.signature)
        self._repository.move(experiment.name.ref, experiment.commit, str(made))
        return self._made(experiment.name, made)

    @patiently
    def forget(self, commit: str) -> None:
        """Remove the record of a commit that has become another one."""
        if self.note(commit).stored:
            notes.write(self._git, commit, None, self._repository.signature)

    def add_run(self, commit: str, run: RunRecord) -> None:
        """To the record of a commit whose message stays as it is."""
        self.amend(commit, lambda note: note.with_run(run))

    @patiently
    def amend(self, commit: str, change: Callable[[Note], Note]) -> None:
        """Change the record of a commit whose message stays as it is."""
        notes.write(self._git, commit, change(self.note(commit)), self._repository.signature)

    def reapplied(self, source: bytes, base: str, onto: str) -> bytes | None:
        """The change from `base`'s train.py to `source`, made to `onto`'s; None where they conflict."""
        return self._repository.merged(self.source(base), self.source(onto), source)

    @patiently
    def advance(self, old: str, new: str) -> bool:
        """Fast-forward `main` from `old` to a kept experiment on it; False if it isn't at `old` any more.

        Raises:
            HarnessError: the checkout's train.py has changes that the move would lose.
        """
        return Checkout(self._repository).fast_forward(refs.MAIN, old, new)
