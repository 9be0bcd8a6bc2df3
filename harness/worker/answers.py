"""What a server answered, and what that took."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answers:
    losses: np.ndarray
    """Of all items, (N, ...) float64."""
    figures: np.ndarray
    """Of all items, (N, F) float64: what is shown beside their losses."""
    waited_seconds: float
    """For the model, in all."""
    first_seconds: float
    """The part of it for the first batch."""
    spent_seconds: tuple[float, ...]
    """Of each batch, see `WorkClock`."""
