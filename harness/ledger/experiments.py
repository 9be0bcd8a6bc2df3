"""Experiments in git: begun as a branch, completed with their trailers, read back from refs.

An experiment is one commit on a branch of its own. It is committed before its trial and has no
`Status` until it was measured: killed in between, it is simply measured again. Completing it writes
the note first, then moves the branch, then `main`, so that every kill leaves a state that the next
start can finish. Nothing is stored anywhere else.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pygit2
from pygit2.enums import FileMode

from harness.errors import HarnessError
from harness.ledger import message as messages
from harness.ledger import notes, refs
from harness.ledger.message import Message
from harness.ledger.refs import Name
from harness.ledger.repo import Repository, patiently
from harness.records import KEEP, OK, Decision, Incumbent, Proposal, Setting, Trial

AGENT_EMAIL = "agent@autoresearch.invalid"


@dataclass(frozen=True)
class Experiment:
    """A hypothesis and what became of it, as its commit says."""

    name: Name
    commit: str
    parent: str
    seconds: int
    """Since 1970, when its commit was made or completed."""
    author: str
    message: Message

    @property
    def status(self) -> str | None:
        """`keep`, `discard`, `crash`, `invalid`, `error`; None while it is not measured."""
        return self.message.trailers.get("Status")

    @property
    def val_bpb(self) -> float | None:
        return _figure(self.message.trailers.get("Val-Bpb"))

    @property
    def runs(self) -> list[float]:
        """The scores that `val_bpb` is the mean of, where there are several."""
        figures = map(_figure, self.message.trailers.get("Val-Bpb-Runs", "").split())
        return [figure for figure in figures if figure is not None]

    @property
    def delta(self) -> float | None:
        return _figure(self.message.trailers.get("Delta"))

    @property
    def setting(self) -> Setting | None:
        """In which it was measured; None where its message doesn't say."""
        said, budget = self.message.trailers, _figure(self.message.trailers.get("Budget-Seconds"))
        if budget is None:
            return None
        return Setting(said.get("Device", ""), said.get("Data", ""), said.get("Evaluator", ""), budget)

    @property
    def program(self) -> str:
        """Digest of its syntax tree: what was tried before is not trained again."""
        return self.message.trailers.get("Program", "")


def comparable(experiments: list[Experiment]) -> list[Experiment]:
    """Those of the setting that the last scored one has, and those that were never scored."""
    now = next((e.setting for e in reversed(experiments) if e.val_bpb is not None), None)
    return [e for e in experiments if e.val_bpb is None or e.setting == now]


def best(experiments: list[Experiment]) -> Experiment | None:
    """The last kept one of the setting that was measured last."""
    return next((e for e in reversed(comparable(experiments)) if e.status == KEEP), None)


class Experiments:
    """All experiments of a repository, and the only writer of their refs."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._git = repository.git
        self._known: dict[tuple[str, str], Experiment] = {}  # parsed once: a commit never changes

    # ── reading ───────────────────────────────────────────────────────────────────────────────

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
        return iter(sorted(seen.values(), key=lambda experiment: experiment.name))

    def _read(self, name: Name, commit: pygit2.Commit) -> Experiment | None:
        if len(commit.parent_ids) != 1:
            return None  # what else is on such a branch is somebody's own
        text = commit.raw_message.decode("utf-8", "replace")
        parent = str(commit.parent_ids[0])
        try:
            author = commit.author.name
        except (pygit2.GitError, AttributeError):
            author = "?"
        return Experiment(name, str(commit.id), parent, commit.commit_time, author, messages.parse(text))

    def find(self, which: str) -> Experiment:
        """By number (`7`, `0007`), name, branch or the beginning of its commit.

        Raises:
            HarnessError: none, or several.
        """
        wanted = which.removeprefix("refs/heads/").removeprefix("exp/")
        found = [
            e for e in self
            if wanted in (str(e.name.number), f"{e.name.number:04d}", str(e.name))
            or (len(wanted) >= 5 and e.commit.startswith(wanted))
        ]  # fmt: skip
        if len(found) != 1:
            raise HarnessError(f"{len(found) or 'no'} experiments are {which!r}", "harness log --all")
        return found[0]

    @property
    def main(self) -> str:
        """The commit of `main`.

        Raises:
            HarnessError: there is no such branch.
        """
        reference = self._git.references.get(refs.MAIN)
        if reference is None:
            raise HarnessError("this repository has no branch 'main'", "git branch -m main")
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

    def proposal(self, experiment: Experiment) -> Proposal:
        """What it proposed, to be tried again elsewhere."""
        message = experiment.message
        return Proposal(
            message.title, message.hypothesis, self.source(experiment.commit),
            message.trailers.get(messages.AGENT, "?"), base=experiment.parent,
        )  # fmt: skip

    def trials(self, commit: str) -> list[dict[str, Any]]:
        """The records of a commit's trials; empty where it was never measured."""
        found = (notes.read(self._git, commit) or {}).get("trials", [])
        return [trial for trial in found if isinstance(trial, dict)] if isinstance(found, list) else []

    @property
    def tip(self) -> str:
        """`main`, or the kept experiment on top of it that `main` could not move to yet."""
        commit = self.main
        left = self._repository.been_at(refs.MAIN)  # where it was and is no more, a person moved it
        after: dict[str, list[Experiment]] = {}
        for experiment in self:
            if experiment.status == KEEP and experiment.commit not in left:
                after.setdefault(experiment.parent, []).append(experiment)
        while children := after.get(commit):
            commit = min(children, key=lambda child: child.val_bpb or math.inf).commit
        return commit

    def taken_off(self, commit: str) -> bool:
        """Whether `main` was there once and a person moved it elsewhere."""
        return commit in self._repository.been_at(refs.MAIN)

    def holds(self, commit: str) -> bool:
        """Whether a commit is on the tip's line."""
        tip = self.tip
        return tip == commit or self._git.descendant_of(tip, commit)

    def incumbent(self, setting: Setting) -> Incumbent | None:
        """The tip, if it was measured in this setting; None otherwise."""
        commit = self.tip
        scores = [
            trial["val_bpb"]
            for trial in self.trials(commit)
            if trial.get("status") == OK
            and isinstance(trial.get("val_bpb"), float)
            and {key: trial.get(key) for key in asdict(setting)} == asdict(setting)
        ]
        return Incumbent(commit, sum(scores) / len(scores)) if scores else None

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    @patiently
    def begin(self, proposal: Proposal, parent: str, program: str) -> Experiment:
        """Commit a proposal on a new branch that starts at `parent`. Nothing is measured yet."""
        base = self._git[parent]
        assert isinstance(base, pygit2.Commit)
        # Of all refs, those of hand-made branches too: a number is one branch.
        taken = (refs.parse(reference.name) for reference in self._git.references.iterator())
        name = refs.name_for(max((name.number for name in taken if name), default=0) + 1, proposal.title)
        builder = self._git.TreeBuilder(base.tree)
        builder.insert("train.py", self._git.create_blob(proposal.source), base.tree["train.py"].filemode)
        trailers = {"Program": program, messages.AGENT: proposal.agent}
        if proposal.cost_usd is not None:
            trailers[messages.COST] = f"{proposal.cost_usd:.4f}"
        text = Message(proposal.title, proposal.hypothesis, trailers).text()
        committer = self._repository.signature
        author = pygit2.Signature(proposal.agent, AGENT_EMAIL, committer.time, committer.offset)
        made = self._git.create_commit(None, author, committer, text, builder.write(), [base.id])
        self._git.references.create(name.ref, made)
        return self._made(name, made)

    def _made(self, name: Name, commit: pygit2.Oid) -> Experiment:
        made = self._git[commit]
        assert isinstance(made, pygit2.Commit)
        experiment = self._read(name, made)
        assert experiment is not None
        return experiment

    @patiently
    def complete(self, experiment: Experiment, trials: tuple[Trial, ...], decision: Decision) -> Experiment:
        """Put what was measured into the commit's message and its note, and move the branch to it."""
        old = self._git[experiment.commit]
        assert isinstance(old, pygit2.Commit)
        known = experiment.message
        figure = f"{known.title} ({_verdict(decision)})"
        kept = {name: known.trailers[name] for name in messages.PROPOSED if name in known.trailers}
        trailers = {**kept, **_trailers(trials, decision)}
        text = Message(figure, known.hypothesis, trailers).text()
        made = self._git.create_commit(
            None, old.author, self._repository.signature, text, old.tree_id, old.parent_ids
        )
        records = [*self.trials(experiment.commit), *(trial.to_json() for trial in trials)]
        record = {"trials": records, "decision": asdict(decision)}
        notes.write(self._git, str(made), record, self._repository.signature)
        self._repository.move(experiment.name.ref, experiment.commit, str(made))
        return self._made(experiment.name, made)

    @patiently
    def baseline(self, commit: str, trials: tuple[Trial, ...]) -> None:
        """Note the measurement of a commit whose message is not ours to complete."""
        earlier = self.trials(commit)
        records = [*earlier, *(trial.to_json() for trial in trials)]
        notes.write(self._git, commit, {"trials": records}, self._repository.signature)

    def reapplied(self, source: bytes, base: str, onto: str) -> bytes | None:
        """The change from `base`'s train.py to `source`, made to `onto`'s; None where they conflict."""
        ancestor, ours, theirs = (
            self._tree_of(content) for content in (self.source(base), self.source(onto), source)
        )
        merged = self._git.merge_trees(ancestor, ours, theirs)
        if merged.conflicts is not None:
            return None
        blob = self._git[merged["train.py"].id]
        assert isinstance(blob, pygit2.Blob)
        return blob.data

    def _tree_of(self, source: bytes) -> pygit2.Oid:
        builder = self._git.TreeBuilder()
        builder.insert("train.py", self._git.create_blob(source), FileMode.BLOB)
        return builder.write()

    @patiently
    def advance(self, old: str, new: str) -> bool:
        """Fast-forward `main` from `old` to a kept experiment on it; False if it isn't at `old` any more.

        Raises:
            HarnessError: the checkout's train.py has changes that the move would lose.
        """
        return self._repository.fast_forward(refs.MAIN, old, new)


def _verdict(decision: Decision) -> str:
    if decision.val_bpb is None or decision.delta is None:
        return decision.status
    return f"val_bpb {decision.val_bpb:.4f}, {decision.delta:+.4f}"


def _trailers(trials: tuple[Trial, ...], decision: Decision) -> dict[str, str]:
    last = trials[-1]
    training, said = last.training, last.training.reported
    scores = [trial.val_bpb for trial in trials if trial.val_bpb is not None]
    figures = {
        "Status": decision.status,
        "Reason": decision.reason if decision.val_bpb is None else None,
        "Val-Bpb": _text(decision.val_bpb, 6),
        "Val-Bpb-Runs": " ".join(f"{score:.6f}" for score in scores) if len(scores) > 1 else None,
        "Incumbent": f"{decision.incumbent.commit[:7]} {decision.incumbent.val_bpb:.6f}",
        "Delta": f"{decision.delta:+.6f}" if decision.delta is not None else None,
        "Confidence": _text(decision.confidence, 3),
        "Seeds": " ".join(str(trial.seed) for trial in trials),
        "Train-Seconds": _text(training.training_seconds, 1),
        "Tokens-M": _text(said.total_tokens / 1e6 if said.total_tokens is not None else None, 1),
        "Params-M": _text(said.num_params / 1e6 if said.num_params is not None else None, 1),
        "Peak-Vram-Mb": _text(said.peak_vram_mb, 0),
        "Budget-Seconds": f"{last.budget_seconds:g}",
        "Device": last.device,
        "Data": last.data,
        "Evaluator": last.evaluator,
        "Isolation": last.isolation,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _text(value: float | None, decimals: int) -> str | None:
    return f"{value:.{decimals}f}" if value is not None else None


def _figure(text: str | None) -> float | None:
    try:
        figure = float(text) if text else math.nan
    except ValueError:
        return None
    return figure if math.isfinite(figure) else None
