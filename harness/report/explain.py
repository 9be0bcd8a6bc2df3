"""A decision in words that a tired person understands, from what git has recorded of it.

Notes can be anybody's: what isn't there, or isn't a number, is left out.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.store.decisions import Holdout
from harness.store.records import DISCARD, KEEP, figure

SURE = 0.99
GIVEN_UP = "Dropped from the frontier: later results make it look worse, or another one is there."
SEEN = 0.5  # of a gain on val that the holdout must show, or it is said aloud


def explain(decision: Mapping[str, Any], proven: Mapping[str, Any], on_main: bool) -> list[str]:
    """Why an experiment was kept or not, and whether `main` may follow.

    Args:
        decision, proven: of its record; see `decisions.Decision` and `decisions.Move`.
        on_main: whether `main` holds it by now.
    """
    lines = [*_decided(decision)]
    if decision.get("status") == KEEP:
        lines += _moved(proven, on_main, decision.get("effect") is None)
    return lines


def _decided(decision: Mapping[str, Any]) -> Iterator[str]:
    status, incumbent = decision.get("status"), decision.get("incumbent")
    mean, delta = figure(decision.get("val_bpb")), figure(decision.get("delta"))
    against = figure(incumbent.get("val_bpb")) if isinstance(incumbent, Mapping) else None
    if status not in (KEEP, DISCARD) or mean is None or delta is None or against is None:
        return
    effect, sd = figure(decision.get("effect")), figure(decision.get("effect_sd"))
    p_better, noise = figure(decision.get("confidence")), figure(decision.get("noise_sd"))
    if effect is None or sd is None or p_better is None or noise is None:
        rule = "lower once is better, by the greedy rule: this may be luck" if delta < 0 else "not lower"
        yield f"It scored {mean:.4f}, the incumbent {against:.4f}: {rule}."
        return
    side = "below" if delta < 0 else "above"
    yield f"It scored {mean:.4f}, {abs(delta):.4f} {side} the incumbent's estimated {against:.4f}."
    size = _size(delta, noise, clear=abs(effect) > 2 * sd)
    yield (
        f"The noise of one run has an sd of {noise:.4f} here, so {size}; all in all "
        f"the change is estimated to {_does(effect)} {abs(effect):.4f} ± {sd:.4f}."
    )
    odds = f"P(better), the probability that it truly helps, is {_percent(p_better)}"
    if status == DISCARD:
        yield f"{odds}: not enough to build on."
    elif effect >= 0:
        yield f"{odds}. It was kept for being shorter, at no cost that shows."
    else:
        sure = "it is on the frontier" if p_better >= SURE else "on average it gains: a candidate"
        yield f"{odds}: {sure}."


def _moved(proven: Mapping[str, Any], on_main: bool, greedy: bool) -> Iterator[str]:
    sure, gain = figure(proven.get("confidence")), figure(proven.get("gain"))
    old = str(proven.get("old", ""))[:7]
    where = "main is there" if on_main else "main has yet to move, or was taken elsewhere"
    if old and sure is not None and gain is not None:
        yield (
            f"With what stands below it, it is better than {old} with {_percent(sure)}, by {abs(gain):.4f} "
            f"as estimated: {where}."
        )
    elif not (greedy or old):
        beyond = "It is on main's line" if on_main else "main has not followed"
        yield f"{beyond}: by itself it was not proven better, a later stack may be."


def mean(scores: Sequence[float]) -> str:
    """Of one run or several."""
    runs = "one run" if len(scores) == 1 else f"the mean of {len(scores)} runs"
    return f"{statistics.fmean(scores):.4f}, {runs}"


def holdout(found: Sequence[Holdout], noise_sd: float | None) -> list[str]:
    """What `main` gained on the holdout since the first commit that was scored there; a warning where the
    gain on val isn't seen."""
    if not found:
        return []
    first, last = found[0], found[-1]
    lines = [f"{last.holdout_bpb:.4f} ({last.val_bpb:.4f} on val)"]
    if len(found) > 1:
        val, seen = last.val_bpb - first.val_bpb, last.holdout_bpb - first.holdout_bpb
        lines[0] += f", {seen:+.4f} since the first ({val:+.4f} on val), one run each"
        if val < -2 * (noise_sd or 0.0) and seen > SEEN * val:
            lines.append("WARNING: most of the gain on val is not seen on the holdout: it may fit val alone")
    return lines


def _size(delta: float, noise: float, clear: bool) -> str:
    """`clear`: whether the estimate is far from none too."""
    times = abs(delta) / noise if noise > 0 else math.inf
    if times < 1:
        return "this difference is within the noise"
    if times < 3:
        return "much of such a difference can be luck"
    return "this is far more than luck" if clear else "it is the change's doing, or an accident of the run"


def _does(effect: float) -> str:
    return "gain" if effect < 0 else "cost"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.999 else "over 99.9%"


def checked(trial: Mapping[str, Any]) -> str:
    """What was done so that a score can be trusted; empty for one of an earlier version."""
    score = trial.get("score")
    if not isinstance(score, Mapping) or not isinstance(score.get("is_sealed"), bool):
        return ""
    audit = score.get("audit")
    rows = figure(audit.get("rows")) if isinstance(audit, Mapping) else None
    line = (
        "model servers sealed" if score["is_sealed"] else "WARNING: model servers not sealed, by this kernel"
    )
    line += f", {rows:,.0f} rows audited" if rows is not None else ""
    refused = figure(score.get("refused_calls")) or 0
    return line + (f", {refused:,.0f} calls to the kernel refused" if refused > 0 else "")


def opinion(found: Mapping[str, Any]) -> str:
    """Of the second look before `main` moved; empty without one."""
    difference, spread, rows = (figure(found.get(key)) for key in ("difference_bpb", "spread_bpb", "rows"))
    if difference is None or spread is None or rows is None:
        return f"Second opinion: {found['detail']}." if isinstance(found.get("detail"), str) else ""
    apart = f"{difference:+.5f} bits per byte from its score, {spread:.5f} row by row"
    return f"Second opinion, {rows:,.0f} rows: {apart}."
