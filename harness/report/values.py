"""What a page shows, as plain JSON values: of a snapshot, of one experiment, of what runs now.

Titles, hypotheses, logs and programs are anybody's: here they are bounded, and stay text. What is not known
is null. The page itself decides nothing; each figure that it draws is one of these.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from harness import __version__
from harness.report import explain, timing
from harness.report.frontier import built_on
from harness.report.snapshot import Snapshot
from harness.sandbox.text import one_line
from harness.session.events import Session
from harness.store.decisions import CANDIDATE, CONFIRMED
from harness.store.experiment import Experiment
from harness.store.metric import Metric
from harness.store.records import KEEP, Point

STATE_CHARS, AGENT_CHARS, TITLE_CHARS, HYPOTHESIS_CHARS, DIFF_CHARS, LOG_LINES = 20, 60, 300, 600, 100_000, 40
MESSAGE_CHARS = 20_000
POINTS = 200  # of a loss curve
CURVES = 5  # of the last runs, beside what runs now
SHORTEST = 5  # of the beginning of a commit's name
LAST_RUNS = 100  # whose time is shown

KEPT = (CONFIRMED, CANDIDATE)

Values = dict[str, Any]


def overview(now: Snapshot, with_holdout: bool = True) -> Values:
    """The whole repository, a column for each thing that is known of experiments."""
    setting, metric = now.setting, now.metric
    here = {each.commit for each in now.comparable}
    states = now.states(now.experiments)
    kept = [each for each in now.experiments if each.status == KEEP]
    scored = [(e.name.number, e.value, e) for e in now.comparable if e.value is not None]
    line = built_on(scored, now.frontier.chain or None)
    if not line and now.frontier.main_estimate is not None:
        line = [(0, now.frontier.main_estimate, now.main)]
    estimates = now.frontier.estimates([now.main, *(each.commit for each in kept)])
    by_prefix = {commit[:7]: found for commit, found in estimates.items()}
    return {
        "version": __version__,
        "at": time.time(),
        "since": now.since or None,
        "repository": now.repository.paths.root.name,
        "metric": metric_of(metric),
        "setting": None if setting is None else _setting_words(now),
        "budget_seconds": setting.budget_seconds if setting else None,
        "main": now.main,
        "main_scores": list(now.frontier.scores(now.main)),
        "main_estimate": now.frontier.main_estimate,
        "frontier": list(now.frontier.chain),
        "noise_sd": finite(now.frontier.noise_sd),
        "trouble": now.frontier.config_trouble or None,
        "counts": {state: count for state, count in now.counts.items() if count},
        "experiments": _columns(now, states, here),
        "line": [
            {
                "number": number, "value": value, "commit": commit,
                "sd": by_prefix[commit[:7]].sd if commit[:7] in by_prefix else None,
            }
            for number, value, commit in line
        ],
        "kept": [_later(now, each, states[each.commit], estimates) for each in kept],
        "holdout": _holdout(now) if with_holdout else None,
        "runs": _last_runs(now),
        "time": _time(now),
    }  # fmt: skip


def metric_of(metric: Metric) -> Values:
    return {
        "name": metric.name, "goal": metric.goal, "unit": metric.unit, "decimals": metric.decimals,
        "words": metric.words,
    }  # fmt: skip


def _setting_words(now: Snapshot) -> str:
    assert now.setting is not None
    setting = now.setting
    return f"{setting.device}, {setting.data}, {setting.budget_seconds:g} s"


def _columns(now: Snapshot, states: dict[str, str], here: set[str]) -> dict[str, list[Any]]:
    every = now.experiments
    by_commit = {each.commit: each for each in now.known}  # of which a report may show some
    copies = [each.is_once_more(by_commit.get(each.origin)) for each in every]
    return {
        "number": [each.name.number for each in every],
        "commit": [each.commit for each in every],
        "parent": [
            by_commit[each.parent].name.number if each.parent in by_commit else None for each in every
        ],
        "state": [titled(states[each.commit], STATE_CHARS) for each in every],
        "value": [finite(each.value) for each in every],
        "runs": [each.runs if len(each.runs) > 1 else None for each in every],
        "effect": [finite(each.delta) for each in every],
        "effect_sd": [finite(each.effect_sd) for each in every],
        "title": [titled(each.message.title) for each in every],
        "hypothesis": [bounded(each.message.hypothesis, HYPOTHESIS_CHARS) for each in every],
        "agent": [titled(each.agent, AGENT_CHARS) for each in every],
        "at": [each.seconds for each in every],
        "cost_usd": [finite(each.cost_usd) for each in every],
        "device_seconds": [
            0.0 if is_copy else _device_seconds(each) for each, is_copy in zip(every, copies, strict=True)
        ],
        "elsewhere": [each.commit not in here for each in every],
        "is_copy": copies,
    }


def _device_seconds(each: Experiment) -> float | None:
    """Of training, by its budget and how many scores its message counts; of a failed run it isn't known."""
    if each.setting is None or each.value is None:
        return None
    return each.setting.budget_seconds * max(1, len(each.runs))


def _later(now: Snapshot, each: Experiment, state: str, estimates: dict[str, Any]) -> Values:
    """What a kept one claimed when it was decided, and what is thought of it by now."""
    found, parent = estimates.get(each.commit), estimates.get(each.parent)
    effect = found.value - parent.value if found and parent else None
    return {
        "number": each.name.number,
        "state": state,
        "claimed": finite(each.delta),
        "claimed_sd": finite(each.effect_sd),
        "scores_then": max(1, len(each.runs)),
        "scores_now": len(now.frontier.scores(each.commit)) if each.setting == now.setting else None,
        "later": finite(effect),
        "estimate": finite(found.value) if found else None,
        "sd": finite(found.sd) if found else None,
    }


def _holdout(now: Snapshot) -> Values:
    return {
        "scores": [{"val": found.value, "holdout": found.holdout_value} for found in now.holdouts],
        "words": explain.holdout(now.holdouts, now.frontier.noise_sd, now.metric),
        "failed": now.holdout_failed,
    }


def _last_runs(now: Snapshot) -> list[Values]:
    """Curves of the frontier's head, and of the last runs."""
    found: list[Values] = []
    head = now.frontier.head
    for name, commit in [("frontier", head), *((e.name.digits, e.commit) for e in now.last[-CURVES:])]:
        runs = [run for run in now.known.runs(commit) if run.training.curve]
        if runs:
            found.append({"name": name, "commit": commit, "curve": curve(runs[-1].training.curve)})
    return found


def _time(now: Snapshot) -> Values:
    """Where the time of the last runs went."""
    runs = now.last_runs[-LAST_RUNS:]
    total: Counter[str] = Counter()
    for run in runs:
        total.update(timing.phases(run))
    share = timing.training_share(runs)
    return {
        "runs": len(runs),
        "phases": {name: seconds for name, seconds in total.items() if seconds > 0},
        "training_share": share[0] if share else None,
        "between_seconds": share[1] if share else None,
        "followed": share[2] if share else 0,
        "disturbed": now.disturbed[0],
    }


# ── what runs now ─────────────────────────────────────────────────────────────────────────────


def running(session: Session | None, process: int | None) -> Values:
    """`session`: None where no loop runs."""
    if session is None:
        return {"process": None, "runs": []}
    return {
        "process": process,
        "began": session.began,
        "measured": session.measured,
        "spent_usd": session.spent_usd,
        "limits": {name: value for name, value in session.limits.items() if value is not None},
        "runs": [
            {
                "name": each.run.name, "title": titled(each.title), "commit": each.run.commit,
                "seed": each.run.seed, "place": each.run.place, "since": each.since, "phase": each.phase,
                "seconds": each.seconds, "step": each.step, "loss": finite(each.loss),
                "curve": [(seconds, loss) for seconds, loss in each.curve if math.isfinite(loss)],
            }
            for each in session.running
        ],
    }  # fmt: skip


# ── pieces ────────────────────────────────────────────────────────────────────────────────────


def curve(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Seconds and loss, of many points some: the mean of those that one stands for."""
    finite = [point for point in points if math.isfinite(point.loss) and math.isfinite(point.seconds)]
    size = max(1, math.ceil(len(finite) / POINTS))
    parts: Iterable[Sequence[Point]] = (finite[at : at + size] for at in range(0, len(finite), size))
    return [(round(part[-1].seconds, 2), _mean([point.loss for point in part])) for part in parts]


def _mean(losses: Sequence[float]) -> float:
    return round(sum(losses) / len(losses), 5)


def as_json(found: Any) -> bytes:
    """What a browser can read: no NaN, no infinity, no half characters, whatever a note had."""
    try:
        return msgspec.json.encode(found)  # its NaN is null
    except (UnicodeError, OverflowError):
        return msgspec.json.encode(_plain(found))


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {_plain(name): _plain(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(value) for value in found]
    if isinstance(found, str):
        return found.encode("utf-8", "replace").decode()
    return None if isinstance(found, int) and abs(found) >= 2**63 else found


def finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


@lru_cache(maxsize=2**15)
def titled(text: str, most: int = TITLE_CHARS) -> str:
    """Somebody's title: a bounded line of text. A page that is read anew has the same ones again."""
    return one_line(text, most)


def bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n… {len(text) - most:,} characters more"
