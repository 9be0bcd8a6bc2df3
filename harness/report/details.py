"""What a page shows of one experiment, or of two beside each other, as plain JSON values; see `values`."""

from collections.abc import Mapping

from harness.report import explain, story, timing
from harness.report.snapshot import Snapshot
from harness.report.values import (
    DIFF_CHARS,
    LOG_LINES,
    MESSAGE_CHARS,
    SHORTEST,
    STATE_CHARS,
    Values,
    bounded,
    curve,
    finite,
    metric_of,
    titled,
)
from harness.sandbox.text import one_line
from harness.store.decisions import Decision
from harness.store.experiment import Experiment
from harness.store.records import RunRecord


def experiment(now: Snapshot, found: Experiment) -> Values:
    """All that is known of one."""
    note, metric = now.note(found), found.metric
    every = {each.commit: each for each in now.known}
    parent = every.get(found.parent)
    of_parent = [run for run in now.known.runs(found.parent) if run.training.curve]
    return {
        "number": found.name.number, "branch": found.name.branch, "commit": found.commit,
        "parent": found.parent, "parent_number": parent.name.number if parent else None,
        "state": one_line(now.states([found])[found.commit], STATE_CHARS), "metric": metric_of(metric),
        "title": titled(found.message.title),
        "message": bounded(found.message.text(), MESSAGE_CHARS),
        "hypothesis": bounded(found.message.hypothesis, MESSAGE_CHARS),
        "agent": one_line(found.agent, 60), "author": one_line(found.author, 60), "at": found.seconds,
        "cost_usd": finite(found.cost_usd), "value": finite(found.value),
        "why": story.why(now, found),
        "decision": _decision(note.decision) if note.decision else None,
        "diff": difference(now, found.parent, found.commit),
        "runs": [_run(run) for run in note.runs],
        "parent_curve": curve(of_parent[-1].training.curve) if of_parent else None,
        **_taking(now, found, every),
    }  # fmt: skip


def _taking(now: Snapshot, found: Experiment, every: Mapping[str, Experiment]) -> Values:
    """The commands that take it, and which others it needs that `main` hasn't."""
    base, brings = found.parent, list[int]()
    while base in every and not now.known.on_main(base):
        brings.insert(0, every[base].name.number)
        base = every[base].parent
    picked = f"{base[:10]}..{found.commit[:10]}" if brings else found.commit[:10]
    return {
        "brings": brings,
        "commands": [
            f"git cherry-pick {picked}",
            f"git diff {found.parent[:10]} {found.commit[:10]} -- train.py",
            f"harness show {found.name.number}",
        ],
    }


def _decision(decision: Decision) -> Values:
    return {
        "incumbent": decision.incumbent.commit, "incumbent_value": finite(decision.incumbent.value),
        "incumbent_sd": finite(decision.incumbent.sd), "value": finite(decision.value),
        "effect": finite(decision.effect), "effect_sd": finite(decision.effect_sd),
        "p_better": finite(decision.confidence), "noise_sd": finite(decision.noise_sd),
    }  # fmt: skip


def _run(run: RunRecord) -> Values:
    return {
        "seed": run.seed, "status": run.status, "value": finite(run.value),
        "detail": bounded(run.detail, 2000), "curve": curve(run.training.curve),
        "phases": {name: seconds for name, seconds in timing.phases(run).items() if seconds > 0},
        "device": one_line(run.device, 80), "host": one_line(run.host, 80), "gpu": one_line(run.gpu, 80),
        "checked": explain.checked(run), "instead_of": [bounded(each, 500) for each in run.instead_of],
        "warnings": [*filter(None, (run.warning, run.mismatch, run.delay))],
        "log": bounded("\n".join(run.training.log.strip().splitlines()[-LOG_LINES:]), 20_000),
        "summary": {
            name: value if isinstance(value, str) else finite(value)
            for name, value in run.summary().items()
        },
    }  # fmt: skip


def difference(now: Snapshot, old: str, new: str) -> str:
    """What `git diff` shows of train.py, bounded."""
    return bounded(now.known.difference(old, new).rstrip("\n"), DIFF_CHARS)


def comparison(now: Snapshot, one: str, other: str) -> Values:
    """Two commits: each an experiment's number, or the beginning of a commit's name.

    Raises:
        HarnessError: there is none.
    """
    sides = [side(now, which) for which in (one, other)]
    return {"sides": sides, "diff": difference(now, sides[0]["commit"], sides[1]["commit"])}


def side(now: Snapshot, which: str) -> Values:
    """One of two that are compared: an experiment, `main`, or a commit on its line.

    Raises:
        HarnessError: there is none.
    """
    commit, title, number = now.main, "main", None
    by_hand = [found for found, _ in now.known.history if len(which) >= SHORTEST and found.startswith(which)]
    made = [each for each in now.known if each.commit in by_hand]
    if by_hand and not made:
        commit, title = by_hand[0], now.repository.commit(by_hand[0]).subject
    elif which != "main":
        found = now.known.find(which)
        commit, title, number = found.commit, found.message.title, found.name.number
    runs = [run for run in now.known.runs(commit) if run.training.curve]
    scores = now.frontier.scores(commit)
    return {
        "commit": commit, "title": titled(title), "number": number, "scores": list(scores),
        "value": sum(scores) / len(scores) if scores else None,
        "curve": curve(runs[-1].training.curve) if runs else None,
    }  # fmt: skip
