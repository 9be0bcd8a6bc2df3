"""What a session says while it runs."""

from dataclasses import dataclass

from harness.store.experiment import Experiment


@dataclass(frozen=True)
class Event:
    """Something that stays said: a line of text, and what it is about."""

    kind: str
    """`begun`, `measured`, `main`, `trouble` or `note`."""
    text: str
    experiment: Experiment | None = None
