"""What a task is to the scorer: what is asked of a trained model, and what its answers are worth.

A task belongs to a person; no agent and no model's process can change it. The scorer, a process of ours,
builds an `Exam` from what was prepared. A model's process sees inputs, and nothing else of it.
"""

from typing import Any, Protocol

import numpy as np

from harness.store.metric import Metric
from harness.store.records import Audit, Failure


class Ungraded(Exception):
    """Replies, or a score, that can't be taken; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class Again(Protocol):
    """What a fresh model server is asked, to see whether answers depend on what they must not."""

    @property
    def inputs(self) -> np.ndarray:
        """What it is asked in their place, (K, ...)."""

    @property
    def targets(self) -> np.ndarray:
        """What is right, (K, ...), for `Exam.grade`."""


class Feed(Protocol):
    """What a training gets of the task, inside its sandbox. Nothing here is trusted by anyone."""

    def about(self) -> dict[str, Any]:
        """Attributes of `trial.open()`, such as `vocab_size`."""

    def dummy(self, count: int) -> tuple[Any, Any]:
        """Inputs and targets of `count` items that mean nothing, to compile and warm up with."""

    def open(self, descriptor: int, count: int, seed: int) -> None:
        """Begin to deal batches of `count` items from what was handed over, in an order of the seed's."""

    def next(self) -> tuple[Any, Any]:
        """Inputs and targets of the next batch, on the device."""

    def units(self, count: int) -> int:
        """Of `count` items: what is counted and shown, tokens or items."""

    def first(self) -> tuple[Any, Any]:
        """Inputs and targets of a few items that are trained on: those of `Exam.trained`."""


class Exam(Protocol):
    """Of one split. Items are asked in batches; a loss is lower the better the reply."""

    metric: Metric
    inputs: np.ndarray
    """What is asked, (N, ...)."""
    asked_type: str
    """Of inputs, as a model gets them: a numpy type's name."""
    targets: np.ndarray
    """What is right, (N, ...)."""
    reply_shape: tuple[int, ...]
    """Of an item's reply, which is float32."""
    must_not_see: str
    """What an answer may not depend on, in words."""
    trained: tuple[np.ndarray, np.ndarray]
    """Inputs and targets of a few items that were trained on, (M, ...) each; M may be 0."""

    def most_at_once(self, on_gpu: bool) -> int:
        """Items of a batch: few on a processor, so that no single one has time to learn in."""

    def grade(self, replies: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses of a batch, (B, ...) float64, and its figures, (B, F), of one look at the replies.

        Args:
            replies: (B, *reply_shape), in memory that a hostile process may still write to: an array, or on a
                GPU a tensor.

        Raises:
            Ungraded: no loss can be taken of these.
        """

    figures: tuple[str, ...]
    """What is shown beside a score: means over all items."""

    def value(self, losses: np.ndarray) -> float:
        """The metric's, of the losses of all items.

        Raises:
            Ungraded: it is none.
        """

    def sums(self, losses: np.ndarray) -> np.ndarray:
        """What each item counts for in the value, (N,) float64."""

    def plain_sum(self, reply: Any, item: int) -> float:
        """What `sums` has of one item, by other code than `grade`'s; `reply`: (*reply_shape)."""

    def in_value(self, sums: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Differences of some items' sums, (K,), as differences of the value."""

    def unit(self, losses: np.ndarray) -> float:
        """Of what may differ: a difference that is large, where these, (N, ...), were scored."""

    def as_value(self, loss: float) -> float:
        """A difference of every single loss as one of the value."""

    def sizes(self) -> dict[str, int]:
        """Of what was scored, by the names of a `Score`."""

    def noise(self, count: int) -> np.ndarray:
        """Inputs of `count` items, drawn anew, that say nothing of those that are asked."""

    def plan(self, count: int, seed: int) -> Any:
        """What can be known of an audit of so many items before there is a score."""

    def again(self, planned: Any, losses: np.ndarray, batch: int) -> Again:
        """What to ask again, by what all items, (N, ...), cost, in batches of so many."""

    def compare(self, asked: Any, losses: np.ndarray, again: np.ndarray) -> Audit:
        """Losses of all items, (N, ...), as they were scored; of those asked again, (K, ...). In units."""
