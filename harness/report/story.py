"""What is to be said of one experiment, by all that git knows by now."""

from dataclasses import replace

from harness.report import explain
from harness.report.snapshot import Snapshot
from harness.store.experiment import Experiment
from harness.store.records import KEEP, Setting


def why(now: Snapshot, found: Experiment) -> list[str]:
    """Why it was decided so, and what became of it since; a sentence each."""
    known, note = now.known, now.note(found)
    taken = next((c for c, _ in known.history if known.are_one_program(c, found.commit)), "")
    lines = explain.explain(note.decision, note.proven, bool(taken), found.metric)
    if taken and taken != found.commit:
        lines.append(f"Its program is on main as {taken[:7]}, which has its runs too.")
    if found.status == KEEP and not taken and found.setting:
        same = now if found.setting == now.setting else replace(now, asked=found.setting)
        lines += _given_up(same, found, found.setting)
    scores = known.scores(found.commit, found.setting) if found.setting else ()
    if len(scores) > max(1, len(found.runs)):
        lines.append(f"Run again since: by now {explain.mean(scores, found.metric)}, by which the gate goes.")
    if found.state == "begun":
        lines.append("Begun, and not measured yet: a loop does that before anything new.")
    if found.state == "by hand":
        made = next((e for e in known if e.origin == found.commit), None)
        after = f"measured as {made.name.digits}" if made else f"harness adopt {found.name.number} does"
        lines.append(f"Made by hand; {after}." if made else f"Made by hand, and not measured: {after}.")
    if said := explain.opinion(note.opinion, found.metric):
        lines.append(said)
    return lines


def _given_up(now: Snapshot, found: Experiment, setting: Setting) -> list[str]:
    """Why a kept one was dropped; empty where it wasn't."""
    from harness.session.frontier import standing_on

    if not now.frontier.chain or found.commit in now.frontier.chain:
        return []
    if now.frontier.aside is not None:
        below = standing_on(now.known, setting, now.frontier.policy, now.frontier.aside[1])
        if below is not None and found.commit in below.chain:
            return [f"It stands on {now.frontier.aside[1][:7]}, main before: a loop puts it on this one."]
    return [explain.GIVEN_UP]
