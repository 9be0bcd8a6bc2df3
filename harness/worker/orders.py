"""What a worker is asked for, and whom it tells how it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.store.records import Training
from harness.worker.progress import Progress


@dataclass(frozen=True)
class Order:
    """A run that is wanted."""

    commit: str
    source: bytes
    seed: int
    name: str
    """For a person: an experiment's number, or what `main` is run for."""
    suspect_beyond: float | None = None
    """What is better than that is not taken without a larger audit."""
    trained: tuple[Path, Training] | None = None
    """A folder in which an earlier session trained it and did not come to its score."""


@dataclass(frozen=True)
class Hears:
    """Who waits for it; called from any thread."""

    tell: Callable[[str, str], None] = lambda kind, text: None
    """A kind of event and a line."""
    show: Callable[[Progress], None] = lambda progress: None

    def note(self, text: str) -> None:
        self.tell("note", text)
