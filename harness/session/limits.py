"""When a session is over: a limit is met, or nothing gives a score any more."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.store.experiment import Experiment
from harness.store.records import KEEP

FAILURES_TO_STOP = 10  # in a row


@dataclass(frozen=True)
class Limits:
    """Whichever comes first ends the loop; None never does."""

    experiments: int | None = None
    hours: float | None = None
    usd: float | None = None
    patience: int | None = None
    """Experiments in a row that were not kept."""

    def reached(self, done: Sequence[Experiment], seconds: float, usd: float, ahead: int = 0) -> str:
        """Why to stop now, or after `ahead` more experiments; empty to go on."""
        since_kept = next((i for i, result in enumerate(reversed(done)) if result.status == KEEP), len(done))
        if self.experiments is not None and len(done) + ahead >= self.experiments:
            return f"the limit is {self.experiments} experiment{'s' * (self.experiments != 1)}"
        if self.hours is not None and seconds >= 3600 * self.hours:
            return f"{self.hours:g} hours are over"
        if self.usd is not None and usd >= self.usd:
            return f"{usd:.2f} USD are spent"
        if self.patience is not None and since_kept >= self.patience:
            return f"{since_kept} experiments in a row were not kept"
        if (failed := failed_in_a_row(done)) >= FAILURES_TO_STOP:
            last = done[-1].message.subject
            return f"{failed} experiments in a row gave no score (harness log --crash), the last: {last}"
        return ""


def failed_in_a_row(done: Sequence[Experiment]) -> int:
    """The last experiments in a row that gave no score."""
    return next((i for i, result in enumerate(reversed(done)) if result.value is not None), len(done))


@dataclass(frozen=True)
class Summary:
    why: str
    kept: int
    measured: int
    seconds: float
    own_seconds: float
    """In which this process was at work, and didn't only wait for a run or an agent."""
    usd: float
    disturbed: int
    """Trials that waited for a processor for much of their time."""
    stood_in: int = 0
    """Experiments that were begun in the agent's place, which had nothing or was late."""
