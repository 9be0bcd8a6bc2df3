"""What a reply is worth: log loss, squared error. In float64, by numpy."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.store.metric import Metric

MOST_LOGIT = 1e4  # beyond it float32 can't tell probabilities apart


class BadReply(Exception):
    """Of an experiment: no score can be taken of it. One line says why."""


@dataclass(frozen=True)
class Measure:
    """A score is the mean of what the replies are worth, so every item counts the same."""

    metric: Metric
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(replies (B, ...) float64, targets (B, ...)) -> what each is worth, (B,); may raise `BadReply`."""
    constant: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    """(training's targets (N, ...), a reply's shape) -> the constant reply that is worth most."""
    perfect: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    """(targets (B, ...), a reply's shape) -> replies as good as any, (B, ...)."""
    unit: float | None = None
    """Of what may differ where the same is asked twice; None where that depends on the data."""
    trouble: Callable[[np.ndarray, tuple[int, ...]], str] = lambda targets, shape: ""
    """(targets, a reply's shape) -> why they can't be scored; empty if they can."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(B, C) float64 -> the logarithm of probabilities.

    Raises:
        BadReply: float32 can't tell such logits' probabilities apart.
    """
    if np.abs(logits, where=np.isfinite(logits), out=np.zeros_like(logits)).max(initial=0.0) > MOST_LOGIT:
        raise BadReply(f"the model gave logits beyond {MOST_LOGIT:g}: float32 can't tell probabilities apart")
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _log_loss(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -log_softmax(logits)[np.arange(len(targets)), targets]


def _frequencies(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    counted = np.bincount(targets, minlength=shape[0]) + 1e-3
    return np.log(counted / counted.sum())


def _sure(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return 1000.0 * np.eye(shape[0])[targets]


def _no_classes(targets: np.ndarray, shape: tuple[int, ...]) -> str:
    if len(shape) != 1:
        return f"a reply of {shape} has no logit for each class: reply_shape is (number of classes,)"
    if targets.ndim != 1 or targets.dtype.kind not in "iub":
        return f"targets are {targets.dtype} of {targets.shape}, not a whole number each: a class from 0 on"
    if int(targets.min()) < 0 or int(targets.max()) >= shape[0]:
        return f"there is a class {int(targets.max())}, and a reply has {shape[0]} logits: from 0 on"
    return ""


LOG_LOSS = Measure(
    Metric("log_loss", unit="nats", low=-1e-9, high=1e4), _log_loss, _frequencies, _sure, 1.0, _no_classes
)
"""A reply is a logit for each class, (C,); a target is a class, from 0 on."""


def accuracy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 where the largest logit is the target's, else 0; (B,)."""
    return (logits.argmax(axis=1) == targets).astype(np.float64)


def squared_error(spread: float = 1.0) -> Measure:
    """Replies and targets are numbers, or several an item; an error is in units of `spread` squared."""

    def of(replies: np.ndarray, targets: np.ndarray) -> np.ndarray:
        apart = (replies - targets.reshape(replies.shape)) / spread
        return (apart**2).reshape(len(apart), -1).mean(axis=1)

    def constant(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return targets.astype(np.float64).mean(axis=0).reshape(shape)

    def perfect(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return targets.astype(np.float64).reshape(len(targets), *shape)

    return Measure(Metric("squared_error", low=-1e-9, high=1e6), of, constant, perfect)


def blame(error: BaseException, file: str) -> str:
    """One line on what a person's own task raised, with the place there.

    Args:
        file: the task's; empty for a built-in one.
    """
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{Path(file).name}:{error.lineno}: {error.msg}"
    name = Path(file).name
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f"{name}:{lines[-1]}" if lines else name or "the task"
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{where}: {type(error).__name__}: {said}"


Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""As `Measure.of`: shown beside a score, and decided on by nobody."""
Facts = dict[str, Any]
