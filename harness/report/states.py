"""What became of experiments, in one word each."""

from collections.abc import Callable, Container, Iterable
from pathlib import Path

from harness.store.decisions import CANDIDATE, CONFIRMED, DROPPED
from harness.store.experiment import Experiment
from harness.store.history import History
from harness.store.records import KEEP


def states(
    known: History, experiments: Iterable[Experiment], frontier: Callable[[], Container[str]]
) -> dict[str, str]:
    """By commit: a status, but kept ones are confirmed, candidates or dropped.

    Args:
        frontier: gives the commits from `main` to the frontier's head; called only where it is needed, since
            the gate takes longer to load than all the rest takes.
    """
    found, unproven = {}, []
    for experiment in experiments:
        found[experiment.commit] = experiment.state
        if experiment.status == KEEP:
            is_confirmed = known.on_main(experiment.commit)
            found[experiment.commit] = CONFIRMED if is_confirmed else DROPPED
            unproven += [] if is_confirmed else [experiment.commit]
    if not unproven:
        return found
    on_main, chain = {known.program(commit) for commit, _ in known.history}, frontier()
    for commit in unproven:
        if known.program(commit) in on_main:
            found[commit] = CONFIRMED
        elif commit in chain:
            found[commit] = CANDIDATE
    return found


def frontier_of(known: History, config: Path) -> tuple[str, ...]:
    """Commits from `main` to the frontier's head, in the setting that was measured last."""
    from harness.session.frontier import policy_of, standing_on

    setting = known.setting
    standing = standing_on(known, setting, policy_of(config)[0]) if setting is not None else None
    return standing.chain if standing is not None else ()
