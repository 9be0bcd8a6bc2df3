"""Agents: from a context to a proposal. They see values, never git, and change nothing themselves."""

from dataclasses import dataclass
from typing import Protocol

from harness.store.decisions import Proposal
from harness.store.metric import Metric


@dataclass(frozen=True)
class Tried:
    """One earlier experiment, as agents see it."""

    title: str
    hypothesis: str
    source: bytes
    status: str | None
    """None while it is being measured."""
    value: float | None
    """Its score."""
    delta: float | None
    """The estimated effect of its change: better or worse, as the metric goes."""
    reason: str
    runs: int = 1
    agent: str = ""
    """Who proposed it: `search/gp`, `llm/MODEL`, `command/NAME`."""
    cost_usd: float | None = None
    program: str = ""
    """Digest of its syntax tree; empty where it isn't known."""
    parent: bytes = b""
    """The source that it is a change of; empty where it isn't known."""
    parent_value: float | None = None
    """Of that, as it was estimated when this was decided."""


@dataclass(frozen=True)
class Context:
    """What a proposal is made from."""

    program: str
    """program.md: what the person wants."""
    source: bytes
    """The incumbent's train.py."""
    metric: Metric
    value: float | None
    """The incumbent's score; None while it is measured for the first time."""
    commit: str
    """The incumbent, 40 hex digits."""
    history: tuple[Tried, ...]
    """Earlier experiments, oldest first; the last few hundred."""
    on_gpu: bool
    number: int
    """How many proposals were made before, in this repository."""
    seed: int
    trouble: str = ""
    """Why the last answer could not be used."""
    failed: Tried | None = None
    """The last experiment, if it gave no score and may be mended."""
    failed_log: str = ""
    """The end of its output, without control characters."""
    noise: float | None = None
    """Sd of a score, in the metric's units; None while it isn't known."""
    run: str = ""
    """What a run of it is, as `300 s, 1,900 steps`; empty where that isn't known."""
    learned: str = ""
    """What `search` knows of the constants, for a model to read; mostly empty."""


class Agent(Protocol):
    """Proposes. Raises `NoProposal` when it has none."""

    def propose(self, context: Context) -> Proposal: ...


class NoProposal(Exception):
    """The agent has no usable answer; its text says why, in one line."""

    def __init__(self, why: str, cost_usd: float | None = None) -> None:
        super().__init__(why)
        self.cost_usd = cost_usd
