"""What was proposed, what it is held against, and what became of it."""

from dataclasses import dataclass

from harness.store.records import Setting

CONFIRMED = "confirmed"  # what a view calls a kept experiment that `main` has
CANDIDATE = "candidate"  # that is on the frontier, worth building on, not proven
DROPPED = "dropped"  # that was on it and is no more


@dataclass(frozen=True)
class Proposal:
    """What an agent answers: a hypothesis and the program that tests it."""

    title: str
    """A commit's subject, in the imperative."""
    hypothesis: str
    source: bytes
    """The whole new train.py."""
    agent: str
    """`search/gp`, `llm/MODEL`, `command/NAME`."""
    cost_usd: float | None = None
    """None where it is not known, or nothing was paid for."""
    base: str = ""
    """The commit that `source` is a change of; empty: the incumbent that the agent was shown."""
    origin: str = ""
    """The experiment's commit that this is once more, on another parent; empty for what is new."""


@dataclass(frozen=True)
class Base:
    """What a proposal is a change of."""

    commit: str
    """40 hex digits."""
    value: float | None
    """Of the metric, as all that follow; None while the first run of it is made."""


@dataclass(frozen=True)
class Incumbent(Base):
    """The commit to beat, and what is known of it in the current setting."""

    value: float
    """The estimate of its true value; its score, where nothing but that is known."""
    sd: float | None = None
    """How sure that is; None under the greedy rule."""


@dataclass(frozen=True)
class Measured:
    """A commit and its scores, all of one setting: what the gate knows of git."""

    commit: str
    parent: str
    scores: tuple[float, ...]
    kept: bool = False
    """Whether it may be on the frontier: kept by the gate, or put on `main` by a person."""
    shorter: bool = False
    """Whether its train.py has fewer lines than its parent's: ties go to the simpler program."""
    hosts: tuple[str, ...] = ()
    """What each score was measured on, see `RunRecord.measured_on`; empty where nobody asks."""


@dataclass(frozen=True)
class Decision:
    """What became of an experiment, with its evidence."""

    status: str
    """An experiment's, or `again`: one more run is wanted first."""
    reason: str
    """One line for a person."""
    incumbent: Incumbent
    value: float | None = None
    """Mean over the runs; None where there is no score."""
    delta: float | None = None
    """`value` minus the incumbent's: better or worse, as the metric goes."""
    effect: float | None = None
    """The estimate of the change: smaller than `delta`, since the best of many is partly luck."""
    effect_sd: float | None = None
    confidence: float | None = None
    """Probability that the change truly helps; None where nobody computed it."""
    noise_sd: float | None = None
    """What two runs of one program differ by, as it was estimated then."""
    shorter: bool = False
    """Whether train.py has fewer lines than the incumbent's."""

    @property
    def claim(self) -> float | None:
        """The estimated gain, or what one run showed where nothing more is known."""
        return self.effect if self.effect is not None else self.delta


@dataclass(frozen=True)
class Opinion:
    """A second, plain look at a score before `main` moves; see `harness.worker.second_opinion`."""

    rows: int
    difference: float
    """Of those rows: what this one says, less what was scored."""
    spread: float
    """Mean of the rows' absolute differences."""
    seconds: float


@dataclass(frozen=True)
class Holdout:
    """One checkpoint on the tokens that no decision uses, beside its score on those that do."""

    value: float
    holdout_value: float
    setting: Setting


@dataclass(frozen=True)
class HoldoutFailure:
    """Why a checkpoint has no score there."""

    status: str
    detail: str
    setting: Setting


@dataclass(frozen=True)
class Move:
    """`main` may go from one commit to another."""

    old: str
    new: str
    confidence: float | None
    """Probability that `new` is truly better than `old`; None under the greedy rule."""
    gain: float
    """The value's change, as estimated."""
