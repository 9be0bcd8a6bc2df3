"""The frontier, by what git knows and the config's rule: the same for a session and for whoever looks."""

from harness.gate.standing import Standing, rebuilt
from harness.store.experiment import Experiment
from harness.store.history import History
from harness.store.programs import reaches
from harness.store.records import Setting


def standing_on(known: History, setting: Setting, policy: str, main: str = "") -> Standing | None:
    """Where the research stands on `main`, or the commit that is to stand for it."""
    main = main or known.main
    measured = known.measured(setting, main)
    if main != known.main:  # what a person put on top of it isn't a kept experiment
        numbered = {experiment.commit for experiment in known}
        measured = [each for each in measured if each.commit in numbered or each.commit == main]
    return rebuilt(main, measured, policy, setting.metric)


def passed_by(known: History, setting: Setting, policy: str) -> tuple[Experiment, str] | None:
    """The head that stood on what was `main` before a person put a commit there, and that commit;
    None if there is none, or it was begun anew already."""
    every, line = {experiment.commit: experiment for experiment in known}, dict(known.history)
    if known.main in every:
        return None
    by_hand: list[str] = []
    for commit, parent in line.items():
        if commit in every or not parent:
            return None
        by_hand.append(commit)
        if (below := standing_on(known, setting, policy, parent)) is not None:
            head = every.get(below.incumbent.commit) if len(below.chain) > 1 else None
            if head and any(known.are_one_program(head.commit, each) for each in by_hand):
                return None  # a person took it as it is
            again = (e for e in every.values() if head and e.origin == head.commit)
            done = any(reaches(e.commit, every, line) for e in again)
            # What only takes a program that is known hides what stood on the main before it.
            if head or not any(known.are_one_program(commit, other) for other in (parent, *every)):
                return (head, parent) if head and not done else None
    return None
