"""How far apart scores of one program lie: pooled over every repeat of a setting."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """An estimate of the standard deviation of a score, in val_bpb."""

    sd: float
    freedom: int
    """Degrees of freedom behind it: repeats beyond the first of each program."""


def pooled(groups: Iterable[Sequence[float]]) -> Noise | None:
    """The noise that repeats show, one group of scores a program; None if nothing was repeated."""
    squares, freedom = 0.0, 0
    for scores in groups:
        if len(scores) > 1:
            mean = math.fsum(scores) / len(scores)
            squares += math.fsum((score - mean) ** 2 for score in scores)
            freedom += len(scores) - 1
    return Noise(math.sqrt(squares / freedom), freedom) if squares > 0 else None
