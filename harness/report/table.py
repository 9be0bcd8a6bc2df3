"""Experiments as rows of text: for `log`, `status` and the live panel; and as the reference's tsv."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import click

from harness.store.decisions import CANDIDATE, CONFIRMED, DROPPED
from harness.store.experiment import Experiment
from harness.store.metric import Metric
from harness.store.records import CRASH, DISCARD, ERROR, INVALID, KEEP, RunRecord

COLORS = {
    CONFIRMED: "bright_green", CANDIDATE: "green", DROPPED: "bright_black", DISCARD: "bright_black",
    CRASH: "red", INVALID: "magenta", ERROR: "yellow",
}  # fmt: skip
STEPS = "▁▂▃▄▅▆▇█"


def width() -> int:
    """Of a line on this terminal."""
    return min(160, shutil.get_terminal_size((100, 24)).columns)


def row(experiment: Experiment, state: str, width: int = 100, other: bool = False, when: str = "") -> str:
    """One line: number, `state`, score, difference, title, how long ago or `when`. `other`: of another
    setting, which it says."""
    metric = experiment.metric
    score = metric.text(experiment.value) if experiment.value is not None else "-"
    delta = metric.change(experiment.delta) if experiment.delta is not None else "-"
    head = f"{experiment.name.digits}  {state:<9}{score:>8}  {delta:>8}  "
    past = when or f"{age(time.time() - experiment.seconds)} ago"
    room = max(12, width - len(head) - len(past) - 2)
    title = f"{'(another setting) ' * other}{experiment.message.title}"
    title = title if len(title) <= room else title[: room - 1] + "…"
    return f"{head}{title:<{room}}  {past}"


def near_misses(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Those that were discarded, the least estimated loss first."""
    discarded = [e for e in experiments if e.status == DISCARD and e.delta is not None]
    return sorted(discarded, key=lambda e: e.metric.sign * (e.delta or 0.0))


def styled(experiment: Experiment, state: str, width: int = 100, other: bool = False) -> str:
    """The row in its state's colour; click drops it where it isn't a terminal."""
    return click.style(row(experiment, state, width, other), fg=COLORS.get(state))


def age(seconds: float) -> str:
    """`5 s`, `12 min`, `3 h`, `8 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def sparkline(values: list[float], width: int = 60) -> str:
    """Values as a line of blocks, each the mean of its share; empty for fewer than two."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    cuts = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, span = min(means), max(means) - min(means) or 1.0
    return "".join(STEPS[round((mean - low) / span * (len(STEPS) - 1))] for mean in means)


def record(experiment: Experiment) -> dict[str, Any]:
    """An experiment as plain JSON values; what is not known is null."""
    trailers, setting = experiment.message.trailers, experiment.setting
    return {
        "number": experiment.name.number,
        "branch": experiment.name.branch,
        "commit": experiment.commit,
        "parent": experiment.parent,
        "status": experiment.status,
        experiment.metric.name: experiment.value,
        "runs": experiment.runs,
        "effect": experiment.delta,
        "effect_sd": experiment.effect_sd,
        "believed": experiment.estimate,
        "setting": asdict(setting) if setting else None,
        "title": experiment.message.title,
        "hypothesis": experiment.message.hypothesis,
        "committed_at": experiment.seconds,
        "trailers": dict(trailers),
    }


def parquet(experiments: Iterable[Experiment]) -> bytes:
    """All that `record` says, a row an experiment; settings and trailers as JSON."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for each in experiments:
        row = record(each)
        row["metric"], row["value"] = each.metric.name, row.pop(each.metric.name)
        row["estimate"] = row.pop("believed")
        rows.append(row | {name: json.dumps(row[name]) for name in ("setting", "trailers")})
    text = ("branch", "commit", "parent", "status", "metric", "setting", "title", "hypothesis", "trailers")
    kinds = dict.fromkeys(text, pa.string()) | {"number": pa.int64(), "committed_at": pa.int64()}
    kinds |= dict.fromkeys(("value", "effect", "effect_sd", "estimate"), pa.float64())
    schema = pa.schema([*kinds.items(), ("runs", pa.list_(pa.float64()))])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    return sink.getvalue().to_pybytes()


def baseline(commit: str, runs: Iterable[RunRecord], metric: Metric) -> dict[str, str]:
    """The row that the reference's results.tsv begins with: what all was built on, the mean of its runs."""
    every = list(runs)
    scores = [run.value for run in every if run.value is not None]
    memory = [mb for run in every if (mb := run.training.reported.peak_vram_mb)]
    return {
        "commit": commit[:7],
        metric.name: metric.exact(sum(scores) / len(scores)),
        "memory_gb": f"{max(memory) / 1024:.1f}" if memory else "",
        "status": KEEP,
        "description": "baseline",
    }


def exported(experiments: Iterable[Experiment], metric: Metric) -> list[dict[str, str]]:
    """The five columns of the reference project's results.tsv, the second one of this metric; a figure nobody
    measured is empty."""
    rows = []
    for experiment in experiments:
        vram = experiment.message.trailers.get("Peak-Vram-Mb")
        score = experiment.value if experiment.metric == metric else None
        rows.append(
            {
                "commit": experiment.commit[:7],
                metric.name: metric.exact(score) if score is not None else "",
                "memory_gb": f"{float(vram) / 1024:.1f}" if vram and vram.isdecimal() else "",
                "status": experiment.status or "",
                "description": experiment.message.title.replace("\t", " "),
            }
        )
    return rows
