"""What is shown of a run while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a view may show while a training runs; step, loss and tokens are only reported."""

    phase: str
    """`starting`, perhaps `waiting`, `training`, `saving`, later `scoring` and `auditing`."""
    elapsed_seconds: float
    of_seconds: float
    step: int | None = None
    loss: float | None = None
    tokens: int | None = None
    """Seen so far, or items; of a score how many there are."""
    unit: str = "tokens"


Observer = Callable[[Progress], None]
