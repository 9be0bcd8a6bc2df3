"""Where the research stands, for whoever looks: the frontier and the estimates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import defaults, load
from harness.errors import HarnessError
from harness.store.decisions import Incumbent, Measured
from harness.store.experiment import Experiment
from harness.store.history import HistorySnapshot
from harness.store.records import KEEP, Setting

if TYPE_CHECKING:
    from harness.gate.standing import Standing


@dataclass(frozen=True)
class Frontier:
    """In one setting; None while nothing is measured. The gate is loaded when it is first needed."""

    known: HistorySnapshot
    setting: Setting | None
    config: Path

    @cached_property
    def _policy(self) -> tuple[str, str]:
        try:
            return load(self.config).gate.policy, ""
        except HarnessError as wrong:
            return defaults("cpu").gate.policy, str(wrong)

    @property
    def policy(self) -> str:
        """The gate's; the default one where the config can't be read."""
        return self._policy[0]

    @property
    def config_trouble(self) -> str:
        """What is wrong with the config; mostly empty."""
        return self._policy[1]

    @cached_property
    def measured(self) -> list[Measured]:
        """Commits with a score."""
        return self.known.measured(self.setting) if self.setting else []

    @cached_property
    def standing(self) -> "Standing | None":
        """None while nothing is known of `main`."""
        from harness.session.frontier import standing_on

        return standing_on(self.known, self.setting, self.policy) if self.setting else None

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """Commits from `main` to the head; empty while nothing is known of `main`."""
        return self.standing.chain if self.standing else ()

    @property
    def ahead(self) -> tuple[str, ...]:
        """Kept commits on top of `main`."""
        return self.chain[1:]

    @property
    def head(self) -> str:
        return self.chain[-1] if self.chain else self.known.main

    def scores(self, commit: str) -> tuple[float, ...]:
        """All that the gate knows of a commit."""
        return self.known.counted(commit, self.setting) if self.setting else ()

    @property
    def main_estimate(self) -> float | None:
        """The true value of `main`; None while that has no score."""
        main = self.known.main
        return self.standing.about(main).value if self.standing and self.scores(main) else None

    def estimates(self, commits: Sequence[str]) -> dict[str, Incumbent]:
        """The true values of those that the gate knows, as they are estimated now."""
        known = self.standing
        return {commit: known.about(commit) for commit in commits if known.knows(commit)} if known else {}

    @cached_property
    def aside(self) -> tuple[Experiment, str] | None:
        """The head that stood on what was `main` before a person put a commit there, and that commit."""
        from harness.session.frontier import passed_by

        return passed_by(self.known, self.setting, self.policy) if self.setting else None

    @cached_property
    def noise_sd(self) -> float | None:
        from harness.gate.standing import noise_of

        noise = noise_of(self.measured, self.setting.metric) if self.setting else None
        return noise.sd if noise else None


def built_on(
    scored: list[tuple[int, float, Experiment]], line: Sequence[str] | None = None
) -> list[tuple[int, float, str]]:
    """From which number on a commit was the frontier's head, its value as estimated when that began, and the
    beginning of its name.

    One that was begun before a keep and decided after it doesn't take the line back; where a commit was given
    up, or a person made one, the line follows. `line`: to the frontier's head now, which none may say yet.
    """
    judged = [(x, e, e.incumbent) for x, _, e in scored if e.incumbent is not None]
    uses = [(x, *incumbent) for x, _, incumbent in judged]
    first_said = {commit: figure for _, commit, figure in reversed(uses)}
    last_use = {commit: x for x, commit, _ in uses}
    every = {e.commit: e for _, _, e in scored}
    on, steps = "", list[tuple[int, float, str]]()
    for x, experiment, (commit, figure) in judged:
        if experiment.is_once_more(every.get(experiment.origin)):
            on = experiment.commit[:7] if experiment.origin.startswith(on) else on
            continue
        unused = x if line is None or any(each.startswith(on) for each in line) else 0
        if not on or (commit != on and last_use.get(on, unused) < x):
            steps.append((x - 1 if on else 0, figure, commit))
            on = commit
        if experiment.status == KEEP and experiment.estimate is not None:
            on = experiment.commit[:7]
            steps.append((x, first_said.get(on, experiment.estimate), on))
    if line and on and not line[-1].startswith(on):
        head = every.get(line[-1])
        estimate = first_said.get(line[-1][:7], head.estimate if head is not None else None)
        steps += [(scored[-1][0], estimate, line[-1][:7])] if estimate is not None else []
    return steps
