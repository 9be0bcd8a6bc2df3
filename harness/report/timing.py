"""Where the wall time of runs went, from their records. In those, odd figures count as none."""

from collections.abc import Sequence

from harness.store.records import RunRecord, Training

LONGEST_SECONDS = 1e9
LAST = 50  # runs that a share is taken over


def phases(run: RunRecord) -> dict[str, float]:
    """Seconds by phase; on a GPU a start and a compilation may lie beside the run before.

    `wait` is for somebody else's work on the device, `held` until it got its first batch, `own` what is left
    of the whole.
    """
    training, score = run.training, run.score
    start, opened = _seconds(training.startup_seconds), _seconds(training.open_seconds)
    audit = _seconds(score.audit_seconds) if score else 0.0
    load = _seconds(score.load_seconds) + _seconds(score.warm_seconds) if score else 0.0
    found = {
        "wait": _seconds(run.waited_seconds),
        "propose": _seconds(run.propose_seconds),
        "start": opened,
        "compile": max(0.0, start - opened),
        "held": _seconds(training.held_seconds),
        "train": _passed(training),
        "save": _seconds(training.save_seconds),
        "load": load,
        "score": max(0.0, (_seconds(score.total_seconds) if score else 0.0) - load - audit),
        "audit": audit,
    }
    inside = sum(seconds for name, seconds in found.items() if name not in ("wait", "propose"))
    return {**found, "own": max(0.0, _seconds(run.total_seconds) - inside)}


def line(run: RunRecord) -> str:
    found = {name: f"{name} {seconds:.1f}" for name, seconds in phases(run).items() if seconds >= 0.05}
    if run.training.passed_seconds is not None and "train" in found:
        found["train"] += f" ({_seconds(run.training.training_seconds):.1f} of a processor)"
    return ", ".join(found.values()) + " s"


def training_share(runs: Sequence[RunRecord]) -> tuple[float, float, int] | None:
    """The part of the device's time that was training, the mean seconds between two trainings, and the
    number of runs: of the last ones that followed another in the same loop."""
    known = [
        (_passed(run.training), idle) for run in runs[-LAST:] if (idle := _seconds(run.idle_seconds)) > 0
    ]
    trained, idle = sum(train for train, _ in known), sum(between for _, between in known)
    if not known or trained <= 0:
        return None
    return trained / (trained + idle), idle / len(known), len(known)


def _passed(training: Training) -> float:
    own = training.passed_seconds
    return _seconds(training.training_seconds if own is None else own)


def _seconds(value: float | None) -> float:
    return value if value is not None and 0 <= value < LONGEST_SECONDS else 0.0
