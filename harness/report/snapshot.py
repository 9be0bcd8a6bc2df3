"""One look at a repository, from which `log`, `status`, `show`, `plot` and `export` are rendered.

Asked once, it is the same to its end, whatever a session does meanwhile. What takes time to find out (notes,
the gate) is found out when it is first needed, so that a list costs no more than its refs and messages.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from harness.report import timing
from harness.report.frontier import Frontier
from harness.store.aliases import VAL_BPB
from harness.store.decisions import CANDIDATE, CONFIRMED, DROPPED, Holdout
from harness.store.experiment import Experiment, comparable
from harness.store.history import HistorySnapshot
from harness.store.metric import Metric
from harness.store.note import Note
from harness.store.records import CRASH, DISCARD, ERROR, INVALID, KEEP, RunRecord, Setting
from harness.store.repo import Repository

LAST = 5  # experiments that a status tells of
STATES = (KEEP, DISCARD, CRASH, INVALID, ERROR, "begun", "by hand")


@dataclass(frozen=True)
class Snapshot:
    """What git says now. `asked`: for this setting; None: for the one that was measured last."""

    repository: Repository
    known: HistorySnapshot
    asked: Setting | None = None
    since: float = 0.0
    """Experiments from then on, in seconds since 1970; the gate goes by all."""

    @cached_property
    def setting(self) -> Setting | None:
        """Scores of others don't count; None while nothing is measured."""
        return self.asked or self.known.setting

    @property
    def metric(self) -> Metric:
        return self.setting.metric if self.setting else VAL_BPB

    @cached_property
    def experiments(self) -> tuple[Experiment, ...]:
        """In the order of their numbers."""
        return tuple(each for each in self.known if each.seconds >= self.since)

    @cached_property
    def comparable(self) -> tuple[Experiment, ...]:
        """Those of the setting that was measured last."""
        return tuple(comparable(list(self.experiments)))

    @cached_property
    def main(self) -> str:
        return self.known.main

    def note(self, experiment: Experiment) -> Note:
        return self.known.note(experiment.commit)

    # ── what became of them ───────────────────────────────────────────────────────────────────

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many of each state."""
        found = Counter(each.state for each in self.experiments)
        return {state: found[state] for state in STATES}

    def states(self, experiments: Iterable[Experiment]) -> dict[str, str]:
        """By commit: a status, but kept ones are confirmed, candidates or dropped."""
        every = [*experiments]
        found = {each.commit: each.state for each in every}
        kept = [each.commit for each in every if each.status == KEEP]
        confirmed = self.known.all_on_main(kept)
        found |= {commit: CONFIRMED if commit in confirmed else DROPPED for commit in kept}
        unproven = [commit for commit in kept if commit not in confirmed]
        if not unproven:
            return found
        on_main = {self.known.program(commit) for commit, _ in self.known.history}
        for commit in unproven:
            if self.known.program(commit) in on_main:
                found[commit] = CONFIRMED
            elif commit in self.frontier.chain:
                found[commit] = CANDIDATE
        return found

    @cached_property
    def frontier(self) -> Frontier:
        return Frontier(self.known, self.setting, self.repository.paths.config)

    @cached_property
    def head_experiment(self) -> Experiment | None:
        """The frontier's head, or `main`; None where a person made it, though a branch may have its name."""
        heads = (each for each in self.known if each.commit == self.frontier.head)
        return next((each for each in heads if each.state != "by hand"), None)

    # ── how it goes ───────────────────────────────────────────────────────────────────────────

    @cached_property
    def last(self) -> tuple[Experiment, ...]:
        return self.experiments[-LAST:]

    @cached_property
    def last_runs(self) -> tuple[RunRecord, ...]:
        """Of the last experiments, more than a status shows."""
        return tuple(run for each in self.experiments[-timing.LAST :] for run in self.note(each).runs)

    @cached_property
    def disturbed(self) -> tuple[int, int]:
        """Of the last runs, `main`'s too: how many waited long for a processor, and how many there are."""
        of_main = self.main not in {each.commit for each in self.experiments[-timing.LAST :]}
        runs = self.last_runs + (self.known.runs(self.main) if of_main else ())
        return sum(1 for run in runs if run.delay), len(runs)

    @cached_property
    def holdouts(self) -> list[Holdout]:
        return self.known.holdouts(self.setting) if self.setting else []

    @cached_property
    def holdout_failed(self) -> str | None:
        """Why `main` has no score on the holdout; None where it has one, or none was tried."""
        found = self.known.holdout(self.main, self.setting) if self.setting else None
        return found if isinstance(found, str) else None


def snapshot(repository: Repository, before: Snapshot | None = None) -> Snapshot:
    """`before`: an earlier one of the same repository; what is as it was then isn't read once more."""
    return Snapshot(repository, HistorySnapshot(repository, before.known if before else None))
