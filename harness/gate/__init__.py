"""The gate: between a score and `main`. Pure functions; no git, no torch."""

from harness.records import DISCARD, KEEP, OK, Decision, Incumbent, Trial


def decide(trials: tuple[Trial, ...], incumbent: Incumbent) -> Decision:
    """The reference project's rule: keep what is lower.

    Args:
        trials: all of one commit, at least one; a failed one decides for all.
    """
    failed = next((trial for trial in trials if trial.status != OK), None)
    if failed is not None:
        return Decision(failed.status, failed.detail, incumbent)
    scores = [trial.val_bpb for trial in trials if trial.val_bpb is not None]
    mean = sum(scores) / len(scores)
    delta = mean - incumbent.val_bpb
    word = "lower" if delta < 0 else "not lower"
    reason = f"{mean:.4f} is {word} than {incumbent.val_bpb:.4f}"
    return Decision(KEEP if delta < 0 else DISCARD, reason, incumbent, mean, delta)
