"""Where the research stands, for whoever looks: the frontier and the estimates."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store.decisions import Measured
from harness.store.experiment import Experiment
from harness.store.history import HistorySnapshot
from harness.store.records import Setting

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
        from harness.session.frontier import policy_of

        return policy_of(self.config)

    @property
    def policy(self) -> str:
        """The gate's; empty where the config can't be read."""
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

        return standing_on(self.known, self.setting, self.policy) if self.policy and self.setting else None

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
        return self.standing.estimate(main) if self.standing and self.scores(main) else None

    @cached_property
    def aside(self) -> tuple[Experiment, str] | None:
        """The head that stood on what was `main` before a person put a commit there, and that commit."""
        from harness.session.frontier import passed_by

        return passed_by(self.known, self.setting, self.policy) if self.setting and self.policy else None

    @property
    def noise_sd(self) -> float | None:
        from harness.gate.standing import noise_of

        noise = noise_of(self.measured, self.setting.metric) if self.setting else None
        return noise.sd if noise else None
