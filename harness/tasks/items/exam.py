"""The exam of a task of items: each is asked, and a score is the mean of what the replies are worth."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.store.records import CRASH, ERROR, INVALID, Audit, Failure, Kind
from harness.tasks.contract import Ungraded
from harness.tasks.items import store
from harness.tasks.items.measures import BadReply, blame
from harness.tasks.items.task import Task, drawn

AT_ONCE, GPU_AT_ONCE = 256, 2048
LEAST_UNIT = 1e-3  # of what there is to gain
ALONE = 4  # items that an audit asks of a server that was asked nothing else yet but them
DECOYS = 2  # an audit asks one for so many items


@dataclass(frozen=True)
class Mixed:
    """Items in another order, with others between them that were never asked."""

    items: np.ndarray
    """(K,)"""
    inputs: np.ndarray
    """(K, ...)"""
    targets: np.ndarray
    """(K, ...)"""
    is_real: np.ndarray
    """(K,) bool"""


class ItemsExam:
    """See `harness.tasks.contract.Exam`."""

    must_not_see = "other items, or what was asked before"

    def __init__(self, task: Task, files: Mapping[str, Any]) -> None:
        """`files`: `items` of a split and `train`, as `store` here has them, `reply_shape` and `measure`."""
        self._measure, self._figures = task.measure_of(files["measure"]), task.figures_of(files["measure"])
        self.metric, self.figures = self._measure.metric, tuple(self._figures)
        self.inputs, self.targets = store.read(files["items"])
        self.asked_type, self._file = str(self.inputs.dtype), files["source_file"]
        self.reply_shape: tuple[int, ...] = tuple(files["reply_shape"])
        inputs, targets = store.read(files["train"])
        self._gap = self._apart(np.asarray(targets))
        self.trained = inputs[: store.FIRST_ITEMS], targets[: store.FIRST_ITEMS]

    def _apart(self, known: np.ndarray) -> float:
        """By how much a perfect answer is worth more than a constant one, on average: data alone, which no
        model can alter."""
        reply = self._measure.constant(known, self.reply_shape)
        constant = np.broadcast_to(reply, (len(self.targets), *self.reply_shape))
        self._constant = self.metric.sign * self._worth(constant, self.targets)
        perfect = self._measure.perfect(np.asarray(self.targets), self.reply_shape)
        self._best = self.metric.sign * self._worth(perfect, self.targets)
        gap = np.abs(self._constant - self._best).mean()
        return float(gap) or 1.0

    def most_at_once(self, on_gpu: bool) -> int:
        return GPU_AT_ONCE if on_gpu else AT_ONCE

    def grade(self, replies: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = _numbers(replies)
        if not np.isfinite(given).all():
            raise Ungraded(Failure(INVALID, "the model gave NaN or infinity", Kind.DIVERGED))
        losses = self.metric.sign * self._worth(given, targets)
        figures = np.empty((len(targets), len(self.figures)))
        try:
            for place, figure in enumerate(self._figures.values()):
                figures[:, place] = figure(given, targets)
        except Exception as error:  # noqa: BLE001 - it is a person's own program
            raise Ungraded(Failure(ERROR, blame(error, self._file), Kind.TASK)) from None
        return losses, figures

    def _worth(self, replies: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(B,) float64."""
        try:
            found = np.asarray(self._measure.of(replies, targets), np.float64)
        except BadReply as bad:
            raise Ungraded(Failure(INVALID, str(bad), Kind.DIVERGED)) from None
        except Exception as error:  # noqa: BLE001 - it is a person's own program
            raise Ungraded(Failure(ERROR, blame(error, self._file), Kind.TASK)) from None
        if found.shape != (len(targets),) or not np.isfinite(found).all():
            why = f"the task's measure gave {found.shape}, not one finite number an item"
            raise Ungraded(Failure(ERROR, why, Kind.TASK))
        return found

    def value(self, losses: np.ndarray) -> float:
        value = float(self.metric.sign * losses.mean())
        if not self.metric.is_score(value):
            why = f"the model has diverged: {self.metric.name} {value:.3g}"
            raise Ungraded(Failure(CRASH, why, Kind.DIVERGED))
        return value

    def sums(self, losses: np.ndarray) -> np.ndarray:
        return losses

    def plain_sum(self, reply: Any, item: int) -> float:
        one = self._worth(_numbers(reply)[None], self.targets[item : item + 1])
        return float(self.metric.sign * one[0])

    def in_value(self, sums: np.ndarray, items: np.ndarray) -> np.ndarray:
        return sums

    def unit(self, losses: np.ndarray) -> float:
        """Of a measure that has none: what the model itself lacks, of which a cheat must not gain a part; but
        no more than what there is to gain, nor so little that it is only rounding."""
        if self._measure.unit is not None:
            return self._measure.unit
        lacks = float(np.abs(losses - self._best).mean())
        return min(self._gap, max(lacks, LEAST_UNIT * self._gap))

    def as_value(self, loss: float) -> float:
        return loss

    def sizes(self) -> dict[str, int]:
        return {"items": len(self.inputs)}

    def noise(self, count: int) -> np.ndarray:
        return drawn(self.inputs, count, np.random.default_rng(secrets.randbits(256)))

    def plan(self, count: int, seed: int) -> Mixed:
        generator = np.random.default_rng(seed)
        items = generator.permutation(len(self.inputs))[:count]
        inputs = self.inputs[items]
        before = np.sort(generator.integers(0, len(items) + 1, -(-len(items) // DECOYS)))
        decoys = drawn(self.inputs, len(before), generator)
        mixed = np.insert(items, before, items[0])
        real = np.insert(np.ones(len(items), bool), before, False)
        return Mixed(mixed, np.insert(inputs, before, decoys, axis=0), self.targets[mixed], real)

    def again(self, planned: Mixed, losses: np.ndarray, batch: int) -> Mixed:
        """First of all those that gain most, each alone among made-up ones: where items tell of each other,
        as windows of a series that overlap, a server that was asked many knows as much as the first one."""
        most = np.argsort(losses - self._constant)[:ALONE]
        generator = np.random.default_rng(secrets.randbits(256))
        inputs = drawn(self.inputs, len(most) * batch, generator)
        real = np.zeros(len(inputs), bool)
        real[places := batch * np.arange(len(most)) + generator.integers(0, batch, len(most))] = True
        inputs[places] = self.inputs[most]
        items = np.repeat(most, batch)
        return Mixed(
            np.concatenate([items, planned.items]), np.concatenate([inputs, planned.inputs]),
            np.concatenate([self.targets[items], planned.targets]), np.concatenate([real, planned.is_real]),
        )  # fmt: skip

    def compare(self, asked: Mixed, losses: np.ndarray, again: np.ndarray) -> Audit:
        apart = (again - losses[asked.items])[asked.is_real] / self.unit(losses)
        return Audit(len(apart), float(apart.mean()), float(np.abs(apart).mean()), float(np.abs(apart).max()))


def _numbers(replies: Any) -> np.ndarray:
    """As float64, one copy: a hostile process may still write to what it came from."""
    if isinstance(replies, np.ndarray | np.generic):  # the latter of one item's, where that is a number
        return np.asarray(replies, np.float64).copy()
    return replies.double().cpu().numpy()
