"""The gate: between a score and `main`. Pure functions; no git, no torch."""

from harness.gate.standing import Standing
from harness.records import OK, Decision, Trial


def decide(trials: tuple[Trial, ...], standing: Standing, shorter: bool = False) -> Decision:
    """What becomes of an experiment on the tip, or that it is to be run again.

    Args:
        trials: all of one commit in one setting, at least one; a failed one decides for all.
        shorter: whether its train.py has fewer lines than the tip's.
    """
    failed = next((trial for trial in trials if trial.status != OK), None)
    if failed is not None:
        return Decision(failed.status, failed.detail, standing.incumbent)
    return standing.decide([trial.val_bpb for trial in trials if trial.val_bpb is not None], shorter)
