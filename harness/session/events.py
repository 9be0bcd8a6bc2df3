"""What a session says while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.store.experiment import Experiment
from harness.worker.supervisor import Progress


@dataclass(frozen=True)
class Event:
    """Something that stays said: a line of text, and what it is about."""

    kind: str
    """`begun`, `measured`, `put back` (it begins once more later), `main`, `trouble` or `note`."""
    text: str
    experiment: Experiment | None = None
    of: str = ""
    """Which run it is about: an experiment's number, or a commit and a seed."""


@dataclass(frozen=True)
class Watcher:
    """Where events go, and progress, which doesn't stay, with the number of its worker."""

    tell: Callable[[Event], None]
    show: Callable[[Progress, int], None]


def run_of(commit: str, seed: int) -> str:
    """What names a run that is no experiment's first: `Event.of`."""
    return f"{commit[:12]} s{seed}"
