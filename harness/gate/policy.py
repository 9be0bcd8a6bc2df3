"""What to do about an estimate: keep, discard, run again; and whether `main` may move now.

The figures here were chosen by `benchmarks/gate.py`, in the world of the design; see its results.
"""

from harness.gate.posterior import TIE, Judgement, Posterior
from harness.store.records import AGAIN, DISCARD, KEEP

SURE = 0.99  # that the frontier's head is better, for `main` to move
PRICE = 0.4  # of a run, in units of noise: what the same time would gain by trying something else
MOST_RUNS = 3
CALIBRATION_RUNS = 4  # of the first `main` of a setting, before anything is judged


def verdict(judgement: Judgement, noise: float, runs: int, shorter: bool = False) -> str:
    """`keep`, `discard` or `again`.

    Args:
        noise: sd of a score, in the metric's units.
        runs: how many the experiment has had.
        shorter: whether its train.py has fewer lines: ties go to the simpler program.
    """
    if judgement.jump and runs < MOST_RUNS:
        return AGAIN
    if runs < MOST_RUNS and judgement.worth_of_a_run > PRICE * noise:
        return AGAIN
    allowed = TIE * noise if shorter else 0.0
    return KEEP if judgement.effect.mean < allowed else DISCARD


def main_may_move(posterior: Posterior) -> bool:
    """Whether the frontier's head is better than `main` almost surely."""
    return posterior.head_is_better >= SURE
