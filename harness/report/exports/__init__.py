"""Runs as other people's tools take them. Each tool is imported where it is asked for, and nowhere else.

A run has one name for ever: what was exported before is left as it is, so that the same command can be given
again and again while a session runs.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import HarnessError
from harness.report import details, values
from harness.report.snapshot import Snapshot
from harness.store.records import RunRecord

TOOLS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": ""}
"""Each with what it needs installed: the extra of that name."""
POINTS = 1000  # of a curve; a tool draws no more
TEXT_CHARS = 20_000


@dataclass(frozen=True)
class Exported:
    """One training with one seed."""

    id: str
    """`0007-s123`, or `main-98b8922-s123`; letters, digits and dashes."""
    group: str
    """The experiment."""
    title: str
    config: Mapping[str, Any]
    """What it ran under, plain values."""
    curve: tuple[tuple[int, float, float], ...]
    """Step, seconds, loss."""
    figures: Mapping[str, float]
    """Of the whole run: its score first."""
    texts: Mapping[str, str]
    """`hypothesis` and `diff`."""


class Sink(Protocol):
    """Where runs go."""

    def has(self, run: Exported) -> bool:
        """Whether it was exported before."""

    def take(self, run: Exported) -> None:
        """Export it whole, or raise."""


def sink(tool: str, into: str, project: str) -> Sink:
    """One of `TOOLS`.

    Args:
        into: a folder, or a server's address; empty for the usual one.

    Raises:
        HarnessError: the tool isn't installed, or can't be reached.
    """
    try:
        module = importlib.import_module(f"harness.report.exports.to_{tool}")
        made: Sink = module.make(into, project)
        return made
    except ImportError as error:
        wants = f"pip install 'autoresearch-harness[{TOOLS[tool]}]'"
        raise HarnessError(f"{tool} is not installed ({error.name})", wants) from None


def runs(now: Snapshot) -> Iterator[Exported]:
    """Of `main`'s commits that no experiment made, then of each experiment."""
    made = {each.commit for each in now.known}
    for commit, parent in reversed(list(now.known.history)):
        if commit not in made:
            texts = {"diff": details.difference(now, parent, commit)} if parent else {}
            for run in now.known.runs(commit):
                yield _exported(run, f"main-{commit[:7]}", "main, by hand", "", texts)
    for each in now.experiments:
        diff = details.difference(now, each.parent, each.commit)
        texts = {"hypothesis": each.message.hypothesis[:TEXT_CHARS], "diff": diff}
        for run in now.note(each).runs:
            yield _exported(run, each.name.digits, each.message.title, each.agent, texts)


def _exported(run: RunRecord, group: str, title: str, agent: str, texts: Mapping[str, str]) -> Exported:
    summary = run.summary()
    figures = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
    words = {name: value for name, value in summary.items() if isinstance(value, str)}
    words |= {"status": run.status, "commit": run.commit, "agent": agent, "host": run.host}
    curve = run.training.curve
    step = max(1, len(curve) // POINTS)
    return Exported(
        f"{group}-s{run.seed}", group, values.titled(title),
        {**words, "seed": run.seed},
        tuple((point.step, point.seconds, point.loss) for point in curve[::step]), figures, texts,
    )  # fmt: skip
