"""What proposals of a kind have earned for the time they took, and whose turn it is by that.

Thompson sampling: a draw from what is known of each, and the highest has its turn. So what earned more is
tried more often, and what is hardly known still gets its chance. Source: W. R. Thompson, Biometrika 25, 1933;
D. Russo et al., https://arxiv.org/abs/1707.02038.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from harness.agents import Tried
from harness.store.records import KEEP

KEPT, NOT_KEPT = 1.0, 4.0  # of a kind that was never tried: one of five helps
PRIOR_GAIN = 2.0  # units of noise that one which helps is expected to bring
USD_A_RUN = (
    0.2  # what a run costs in a rented GPU's time, about: an answer's price counts like that many runs
)


@dataclass(frozen=True)
class Earned:
    """By all proposals of one kind."""

    tries: int = 0
    kept: int = 0
    gain: float = 0.0
    """Estimated effects of those that were kept, in units of noise, above 0."""
    cost: float = 0.0
    """Runs, and what the answers cost, as runs."""

    def draw(self, chooser: random.Random, others: "Earned | None" = None) -> float:
        """Units of noise a run, as they might be. `others`: what is known of the like of it."""
        kept, failed = KEPT, NOT_KEPT
        if others is not None:  # they say what is usual, with no more weight than the prior
            weight = (KEPT + NOT_KEPT) / (KEPT + NOT_KEPT + others.tries)
            kept = (KEPT + others.kept) * weight
            failed = (NOT_KEPT + others.tries - others.kept) * weight
        share = chooser.betavariate(kept + self.kept, failed + self.tries - self.kept)
        size = (PRIOR_GAIN + self.gain) / (1 + self.kept)
        runs = (1 + self.cost) / (1 + self.tries)
        return share * size / max(runs, 0.1)


def earned(tried: Iterable[Tried], unit: float, sign: int) -> Earned:
    """By those that came to a result. `unit`: the noise, in the metric's units; `sign`: the metric's."""
    done = [one for one in tried if one.status is not None]
    kept = [one for one in done if one.status == KEEP]
    gains = [max(0.0, -sign * one.delta) / unit for one in kept if one.delta is not None]
    cost = sum(one.runs + (one.cost_usd or 0.0) / USD_A_RUN for one in done)
    return Earned(len(done), len(kept), sum(gains), cost)
