"""A decision in words that a tired person understands, from what git has recorded of it."""

import math
import statistics
from collections.abc import Iterator, Sequence

from harness.store.decisions import Decision, Holdout, Move, Opinion
from harness.store.metric import Metric
from harness.store.records import DISCARD, KEEP, Failure, RunRecord

SURE = 0.99
GIVEN_UP = "Dropped from the frontier: later results make it look worse, or another one is there."
SEEN = 0.5  # of a gain on val that the holdout must show, or it is said aloud


def explain(decision: Decision | None, proven: Move | None, on_main: bool, metric: Metric) -> list[str]:
    """Why an experiment was kept or not, and whether `main` may follow.

    Args:
        on_main: whether `main` holds it by now.
    """
    if decision is None:
        return []
    lines = [*_decided(decision, metric)]
    if decision.status == KEEP:
        lines += _moved(proven, on_main, decision.effect is None, metric)
    return lines


def _decided(decision: Decision, metric: Metric) -> Iterator[str]:
    status, mean, delta = decision.status, decision.value, decision.delta
    if status not in (KEEP, DISCARD) or mean is None or delta is None:
        return
    text, against = metric.text, decision.incumbent.value
    is_better = metric.is_better(mean, against)
    effect, sd = decision.effect, decision.effect_sd
    p_better, noise = decision.confidence, decision.noise_sd
    if effect is None or sd is None or p_better is None or noise is None:
        rule = "better once is better, by the greedy rule: this may be luck" if is_better else "not better"
        yield f"It scored {text(mean)}, the incumbent {text(against)}: {rule}."
        return
    side = "below" if delta < 0 else "above"
    yield f"It scored {text(mean)}, {text(abs(delta))} {side} the incumbent's estimated {text(against)}."
    size = _size(delta, noise, clear=abs(effect) > 2 * sd)
    yield (
        f"The noise of one run has an sd of {text(noise)} here, so {size}; all in all "
        f"the change is estimated to {_does(metric.sign * effect)} {text(abs(effect))} ± {text(sd)}."
    )
    odds = f"P(better), the probability that it truly helps, is {_percent(p_better)}"
    if status == DISCARD:
        yield f"{odds}: not enough to build on."
    elif metric.sign * effect >= 0:
        yield f"{odds}. It was kept for being shorter, at no cost that shows."
    else:
        sure = "it is on the frontier" if p_better >= SURE else "on average it gains: a candidate"
        yield f"{odds}: {sure}."


def _moved(proven: Move | None, on_main: bool, greedy: bool, metric: Metric) -> Iterator[str]:
    where = "main is there" if on_main else "main has yet to move, or was taken elsewhere"
    if proven is not None and proven.confidence is not None:
        yield (
            f"With what stands below it, it is better than {proven.old[:7]} with "
            f"{_percent(proven.confidence)}, by {metric.text(abs(proven.gain))} as estimated: {where}."
        )
    elif not (greedy or proven):
        beyond = "It is on main's line" if on_main else "main has not followed"
        yield f"{beyond}: by itself it was not proven better, a later stack may be."


def mean(scores: Sequence[float], metric: Metric) -> str:
    """Of one run or several."""
    runs = "one run" if len(scores) == 1 else f"the mean of {len(scores)} runs"
    return f"{metric.text(statistics.fmean(scores))}, {runs}"


def holdout(found: Sequence[Holdout], noise_sd: float | None, metric: Metric) -> list[str]:
    """What `main` gained on the holdout since the first commit that was scored there; a warning where the
    gain on val isn't seen."""
    if not found:
        return []
    first, last = found[0], found[-1]
    lines = [f"{metric.text(last.holdout_value)} ({metric.text(last.value)} on val)"]
    if len(found) > 1:
        val, seen = last.value - first.value, last.holdout_value - first.holdout_value
        since = f"{metric.change(seen)} since the first ({metric.change(val)} on val)"
        lines[0] += f", {since}, one run each"
        val, seen = metric.sign * val, metric.sign * seen
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


def checked(run: RunRecord) -> str:
    """What was done so that a score can be trusted; empty for one of an earlier version."""
    score = run.score
    if score is None or score.is_sealed is None:
        return ""
    line = "model servers sealed" if score.is_sealed else "WARNING: model servers not sealed, by this kernel"
    line += f", {score.audit.rows:,} rows audited"
    return line + (f", {score.refused_calls:,} calls to the kernel refused" if score.refused_calls else "")


def opinion(found: Opinion | Failure | None, metric: Metric) -> str:
    """Of the second look before `main` moved; empty without one."""
    if found is None:
        return ""
    if isinstance(found, Failure):
        return f"Second opinion: {found.detail}."
    unit = f" {metric.unit}" if metric.unit else ""
    apart = f"{found.difference:+.5f}{unit} from its score, {found.spread:.5f} row by row"
    return f"Second opinion, {found.rows:,} rows: {apart}."
