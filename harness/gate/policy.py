"""What to do about what is believed: keep, discard, run again; and whether `main` may move now.

The figures here are those that did best in `benchmarks/gate.py`, which shows what others would give.
"""

from harness.gate.belief import Belief, Judgement
from harness.records import DISCARD, KEEP

AGAIN = "again"
SURE = 0.99  # that the tip is better, for `main` to move
PRICE = 0.2  # of a run, in units of noise: what the same time would gain by trying something else
MOST_RUNS = 3
TIE = 0.25  # units of noise: what a program with fewer lines may seem to cost


def verdict(judgement: Judgement, noise: float, runs: int, lines: int = 0) -> str:
    """`keep`, `discard` or `again`.

    Args:
        noise: sd of a score, in val_bpb.
        runs: how many the experiment has had.
        lines: by how many the change makes train.py longer.
    """
    if runs < MOST_RUNS and judgement.worth_of_a_run > PRICE * noise:
        return AGAIN
    allowed = TIE * noise if lines < 0 else 0.0
    return KEEP if judgement.effect.mean < allowed else DISCARD


def main_may_move(belief: Belief) -> bool:
    """Whether the tip is better than `main` almost surely."""
    return belief.tip_is_better >= SURE
