"""The values that flow forward: what a run was, what training gave, what the score is.

All frozen. A figure nobody measured is None, never 0. `Reported` is what train.py said of itself:
shown, never decided on.
"""

import hashlib
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.store.aliases import FINGERPRINTS, TORCH, VAL_BPB
from harness.store.metric import DIGITS, Metric

VERSION = 3
GROWTH_BYTES = 8 * 1024  # of train.py, compressed: some 300 lines of a program, or no weights to speak of
DECIMALS = {
    "training_seconds": 1, "total_seconds": 1, "peak_vram_mb": 1,
    "mfu_percent": 2, "total_tokens_M": 1, "total_items_M": 1, "num_params_M": 1,
}  # fmt: skip

# A run's status is `ok` or one of the last three; an experiment's is any but `ok`.
OK = "ok"
KEEP = "keep"
DISCARD = "discard"
CRASH = "crash"  # the experiment's fault
INVALID = "invalid"  # it broke a rule
AGAIN = "again"  # no status: one more run is wanted before there is one
ERROR = "error"  # ours or the machine's fault: repeat it, never hold it against the idea


class Kind(StrEnum):
    """Of a failure, set where it is detected: what is done about it goes by this, never by its sentence."""

    OTHER = "other"
    LATE = "late"  # it overran its budget, as an honest one may on a busy machine, once
    MEMORY = "memory"  # it found no memory left, the GPU's or the machine's
    AUDIT = "audit"  # its answers depend on what they must not
    DIVERGED = "diverged"  # no figure comes of its logits
    CONTAMINATED = "contaminated"  # by other processes on its GPU, or by heat
    LOST = "lost"  # the GPU answers nobody any more
    TASK = "task"  # a person's own task failed, not the experiment

    @classmethod
    def _missing_(cls, value: object) -> "Kind":
        return cls.OTHER  # of a later version, whose records are read all the same


@dataclass(frozen=True)
class Point:
    """One point of the loss curve; `seconds` by the supervisor's clock, the loss as reported."""

    seconds: float
    step: int
    loss: float


@dataclass(frozen=True)
class Reported:
    """What train.py said of itself when it submitted."""

    num_steps: int | None = None
    total_tokens: int | None = None
    """Or items, see `unit`."""
    num_params: int | None = None
    flops_per_token: float | None = None
    peak_vram_mb: float | None = None
    device_batch_size: int | None = None
    """Rows of a forward and backward pass that fitted."""
    trained_nats: float | None = None
    """What a target cost in the first items that were trained on, by the function that was trained."""
    loss_seconds: float | None = None
    """What it took to say so."""
    unit: str = "tokens"
    """What was counted: `tokens`, or `items` where the task is not text."""


@dataclass(frozen=True)
class Conditions:
    """What a GPU was like while a run trained, by its driver."""

    samples: int
    clock_mhz: int
    """Median of the multiprocessors'."""
    temperature_c: int
    """Highest."""
    slowed_share: float
    """Of the samples: held back by heat, or by a supply that gives way."""
    peak_memory_mb: int
    """Of its own processes; of the whole device, where the driver doesn't tell them apart."""
    foreign: tuple[str, ...] = ()
    """Who else was at work on it, a sample each."""
    uuid: str = ""
    """Of the GPU."""
    told_apart: bool = False
    """Whether the driver told its processes' memory and work from those of others."""
    desktop_share: float = 0.0
    """Of its time: what went to processes that only draw, a desktop or a browser."""


@dataclass(frozen=True)
class Training:
    """The outcome of one training under the supervisor."""

    status: str
    detail: str
    """One line: why it is not `ok`; empty if it is."""
    startup_seconds: float | None = None
    """Being told to run to first batch."""
    training_seconds: float | None = None
    """First batch to the call of `submit`; on a processor what its own processes had of one."""
    save_seconds: float | None = None
    """The call of `submit` to the checkpoint in our hands."""
    curve: tuple[Point, ...] = ()
    reported: Reported = Reported()
    log: str = ""
    """Head and tail of what it printed, without control characters."""
    open_seconds: float | None = None
    """The part of the start until `trial.open()`: the interpreter, and what is imported."""
    held_seconds: float = 0.0
    """Between asking for the first batch and getting it: what it compiled is taken over, and it has to wait
    for another run to end."""
    delayed_seconds: float | None = None
    """While it trained: for how long its first thread could have run and waited for a processor."""
    conditions: Conditions | None = None
    """None where there is no NVIDIA GPU to ask."""
    kind: Kind = Kind.OTHER
    """Of its failure."""
    passed_seconds: float | None = None
    """Between the same, by the wall's clock, where `training_seconds` are a processor's."""

    def is_short(self, budget_seconds: float) -> bool:
        """Whether it left a part of its budget unused, as on a machine that was busy otherwise."""
        return (self.training_seconds or 0.0) < min(0.9 * budget_seconds, budget_seconds - 1.0)


DELAYED_SHARE = 0.2  # of the training, above which a run is said to be disturbed
APART_NATS = 0.02  # a token: between training and scoring, more is no rounding


@dataclass(frozen=True)
class Audit:
    """How a fresh model server's answers differ from the scored ones, in nats of a target's loss."""

    rows: int
    advantage_nats: float
    """Mean of (audited - scored) over all positions, as those at the cuts tell it; above 0: scoring saw what
    it must not."""
    spread_nats: float
    """Mean absolute difference at the cut positions."""
    worst_nats: float
    """Largest absolute difference anywhere before a cut."""


@dataclass(frozen=True)
class Score:
    value: float
    """Of the metric."""
    total_seconds: float
    load_seconds: float
    forward_seconds: float
    """Waiting for the model server's answers to the scored rows."""
    first_seconds: float
    """The part of it for the first batch, for which kernels are found or made."""
    own_seconds: float
    """What scoring those rows took beyond the waiting: copies, cross-entropy, sums."""
    audit_seconds: float
    audit: Audit
    warm_seconds: float | None = None
    """Answering one batch that doesn't count; after it the server can only compute."""
    overtime_seconds: float | None = None
    """What the server worked in loading and in batches far slower than the usual one; on a processor, of all
    its cores."""
    better_nats: float | None = None
    """By how much the first rows' losses were lower when they were asked once more in the end, a token."""
    is_sealed: bool | None = None
    """Whether both servers could only compute from the first row on; see `harness.sandbox.seal`."""
    refused_calls: int | None = None
    """What they asked the kernel for then, in vain."""
    trained_nats: float | None = None
    """What a target cost in the first items that were trained on; see `Reported.trained_nats`."""
    tokens: int | None = None
    """Of text that was scored; None where the task is another one."""
    text_bytes: int | None = None
    items: int | None = None
    """That were scored; None where that is text."""
    standard_error: float | None = None
    """Of the value: how much of it is which items were held out."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else the task shows, by name: an accuracy beside a log loss."""


@dataclass(frozen=True)
class Failure:
    """Why there is no score."""

    status: str
    detail: str
    kind: Kind = Kind.OTHER


@dataclass(frozen=True)
class Setting:
    """What must be equal for two scores to compare."""

    device: str
    data: str
    evaluator: str
    """Version of what scores, see `harness.worker.versions`."""
    budget_seconds: float
    runtime: str = ""
    """Version of what a train.py trains on and of torch; release 0.1.0 had it in the evaluator."""
    metric: Metric = VAL_BPB

    def __post_init__(self) -> None:
        if not self.runtime and self.evaluator in FINGERPRINTS:
            object.__setattr__(self, "evaluator", "1")
            object.__setattr__(self, "runtime", f"1 torch {TORCH}")


def measured_on(name: str) -> str:
    """Digits that stand for a GPU's uuid or a machine's name."""
    return hashlib.sha256(name.encode()).hexdigest()[:8] if name else ""


@dataclass(frozen=True)
class RunRecord:
    """One training of one commit with one seed, and its score."""

    commit: str
    seed: int
    status: str
    detail: str
    value: float | None
    """Of the metric; None where there is no score."""
    training: Training
    score: Score | None
    total_seconds: float
    """From the device being ours to the record."""
    device: str
    peak_flops: float | None
    data: str
    evaluator: str
    isolation: str
    budget_seconds: float
    waited_seconds: float = 0.0
    """For somebody else who used the device."""
    idle_seconds: float | None = None
    """The device's, from the end of the training before it in the same loop to its own first batch."""
    propose_seconds: float = 0.0
    """The part of it in which nobody had a proposal."""
    instead_of: tuple[str, ...] = ()
    """Attempts with the same seed that don't count, a line each: the machine failed it, or it was late."""
    runtime: str = ""
    """See `Setting`."""
    version: int = VERSION
    kind: Kind = Kind.OTHER
    """Of its failure."""
    metric: Metric = VAL_BPB
    host: str = ""
    """The machine's name; records of earlier releases have none."""
    gpu: str = ""
    """Its uuid; empty where it was none."""

    @property
    def measured_on(self) -> str:
        """Which one of its kind: digits that stand for the GPU, else for the machine; empty if not known."""
        seen = self.training.conditions
        return measured_on(self.gpu or (seen.uuid if seen else "") or self.host)

    @property
    def setting(self) -> "Setting":
        return Setting(self.device, self.data, self.evaluator, self.budget_seconds, self.runtime, self.metric)

    @property
    def warning(self) -> str:
        """What to know of a score that was measured under odd conditions; empty mostly."""
        of = self.budget_seconds
        odd = self.status == OK and self.training.is_short(of)
        return (
            f"only {self.training.training_seconds or 0:.1f} of {of:g} s were used for training"
            if odd
            else ""
        )

    @property
    def delay(self) -> str:
        """That other work on the machine took much of its time; mostly empty. A train.py could make it so
        itself when it is unlucky, so nothing is repeated for it."""
        waited, trained = self.training.delayed_seconds, self.training.training_seconds
        has_own_time = self.training.passed_seconds is not None
        if not waited or not trained or has_own_time or waited < DELAYED_SHARE * trained:
            return ""
        share = waited / trained
        return f"other processes took {share:.0%} of the CPU during this run: its score is not comparable"

    @property
    def mismatch(self) -> str:
        """That what was scored isn't the function that was trained; empty mostly, and if that isn't known."""
        trained = self.training.reported.trained_nats
        loaded = self.score.trained_nats if self.score else None
        if trained is None or loaded is None or abs(loaded - trained) <= APART_NATS:
            return ""
        return (
            f"load gives another function than was trained: on rows of training text it loses {loaded:.3f} "
            f"nats a token, in training it was {trained:.3f}"
        )

    @property
    def mfu_percent(self) -> float | None:
        """Model FLOPs (as reported) over the chip's dense bf16 peak; None where either is unknown."""
        said, seconds = self.training.reported, self.training.training_seconds
        if not (said.flops_per_token and said.total_tokens and seconds and self.peak_flops):
            return None
        return 100 * said.flops_per_token * said.total_tokens / seconds / self.peak_flops

    def summary(self) -> dict[str, Any]:
        """The summary block of the field, in its order."""
        said = self.training.reported
        about = {
            "training_seconds": self.training.training_seconds,
            "total_seconds": self.total_seconds,
            "peak_vram_mb": said.peak_vram_mb,
            "mfu_percent": self.mfu_percent,
            f"total_{said.unit}_M": said.total_tokens / 1e6 if said.total_tokens is not None else None,
            "num_steps": said.num_steps,
            "num_params_M": said.num_params / 1e6 if said.num_params is not None else None,
            "seed": self.seed,
            "device": self.device,
            "data": self.data,
            "evaluator": self.evaluator,
            "runtime": self.runtime,
            "isolation": self.isolation,
        }
        figures = self.score.figures if self.score else {}
        known = {self.metric.name, "status", *about}  # which no figure of a task takes the place of
        shown = {name: each for name, each in figures.items() if name not in known and math.isfinite(each)}
        return {self.metric.name: self.value, **shown, **about}

    def block(self) -> str:
        """The summary as text: `---` and a `name: value` a line, `-` for what nobody measured."""
        lines = ["---"]
        for name, value in self.summary().items():
            digits = DECIMALS.get(name, DIGITS if isinstance(value, float) else None)
            digits = 4 if name.endswith("_M") and value is not None and value < 0.1 else digits
            text = "-" if value is None else str(value) if digits is None else f"{value:.{digits}f}"
            lines.append(f"{name + ':':<18}{text}")
        return "\n".join(lines)
