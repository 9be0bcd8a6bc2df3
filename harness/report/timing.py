"""Where the wall time of trials went, from their records. In those, odd figures count as none."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.store.records import disturbed, figure

LONGEST_SECONDS = 1e9
LAST = 50  # trials that a share is taken over


def phases(trial: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by phase; on a GPU a start and a compilation may lie beside the trial before.

    `wait` is for somebody else's work on the device, `held` until it got its first batch, `own` what is left
    of the whole.
    """
    training, score = _part(trial, "training"), _part(trial, "score")
    start, opened = _seconds(training, "startup_seconds"), _seconds(training, "open_seconds")
    audit = _seconds(score, "audit_seconds")
    load = _seconds(score, "load_seconds") + _seconds(score, "warm_seconds")
    found = {
        "wait": _seconds(trial, "waited_seconds"),
        "propose": _seconds(trial, "propose_seconds"),
        "start": opened,
        "compile": max(0.0, start - opened),
        "held": _seconds(training, "held_seconds"),
        "train": _seconds(training, "training_seconds"),
        "save": _seconds(training, "save_seconds"),
        "load": load,
        "score": max(0.0, _seconds(score, "total_seconds") - load - audit),
        "audit": audit,
    }
    inside = sum(seconds for name, seconds in found.items() if name not in ("wait", "propose"))
    return {**found, "own": max(0.0, _seconds(trial, "total_seconds") - inside)}


def line(trial: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases(trial).items() if seconds >= 0.05)
        + " s"
    )


def was_disturbed(trial: Mapping[str, Any]) -> bool:
    """Whether it waited for a processor for much of its time."""
    training = _part(trial, "training")
    return bool(disturbed(training.get("delayed_seconds"), training.get("training_seconds")))


def training_share(trials: Sequence[Mapping[str, Any]]) -> tuple[float, float, int] | None:
    """The part of the device's time that was training, the mean seconds between two trainings, and the
    number of trials: of the last ones that followed another in the same loop."""
    known = [
        (_seconds(_part(trial, "training"), "training_seconds"), _seconds(trial, "idle_seconds"))
        for trial in trials[-LAST:]
        if _seconds(trial, "idle_seconds") > 0
    ]
    trained, idle = sum(train for train, _ in known), sum(between for _, between in known)
    if not known or trained <= 0:
        return None
    return trained / (trained + idle), idle / len(known), len(known)


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, Mapping) else {}


def _seconds(of: Mapping[str, Any], name: str) -> float:
    value = figure(of.get(name))
    return value if value is not None and 0 <= value < LONGEST_SECONDS else 0.0
