"""The gate: between a score and `main`. Pure functions; no git, no torch."""

from collections.abc import Sequence

from harness.gate.standing import Standing
from harness.store.decisions import Decision
from harness.store.records import OK, RunRecord


def decide(
    run: RunRecord,
    earlier: Sequence[tuple[float, str]],
    parent: str,
    standing: Standing,
    shorter: bool = False,
) -> Decision:
    """What becomes of an experiment, or that it is to be run again.

    Args:
        run: its last one; if that failed, so did the experiment.
        earlier: scores of its earlier runs in the same setting, each with what it was measured on.
        parent: the commit that it is a change of.
        shorter: whether its train.py has fewer lines than that.
    """
    if run.status != OK or run.value is None:
        return Decision(run.status, run.detail, standing.incumbent)
    scored = [*earlier, (run.value, run.measured_on)]
    return standing.decide(parent, [score for score, _ in scored], shorter, [on for _, on in scored])
