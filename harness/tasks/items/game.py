"""A task whose score comes of many questions in turn: control, or the speed of what was written.

Its owner's `play` runs in the scorer and asks the model as often as it likes: an environment steps there, a
clock runs there. What training gets are seeds, of which those that score are no part. A model answers each
question by itself: an audit asks a part of them again, of a fresh server, in another order.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from harness.store.metric import Metric
from harness.store.records import CRASH, ERROR, INVALID, Audit, Failure, Kind
from harness.tasks.contract import Ungraded
from harness.tasks.items import store
from harness.tasks.items.exam import DECOYS, Mixed
from harness.tasks.items.measures import BadReply, blame
from harness.tasks.items.task import check_library

REMEMBERED, BYTES = 4096, 2**28  # questions and answers, for the audit, at most


class Ask(Protocol):
    def __call__(self, inputs: np.ndarray) -> tuple[np.ndarray, float]:
        """(M, ...) questions -> (M, ...) float64 answers, and the seconds that they took: of a GPU those that
        passed, of a processor what the model's process had of it."""


@dataclass(frozen=True)
class Game:
    """See `harness.tasks.items.task.Task`, in whose place `TASK` may be one."""

    metric: Metric
    play: Callable[[np.ndarray, Ask], np.ndarray]
    """(seeds (N,) int64, ask) -> what each episode is worth, (N,)."""
    asked_shape: tuple[int, ...]
    """Of one question."""
    reply_shape: tuple[int, ...]
    used: Callable[[np.ndarray], np.ndarray] = lambda replies: replies
    """What `play` gets of replies, (M, ...) -> (M, ...): clipped to what can be done, or the index of the
    largest. An audit compares that, so two replies of which the same is used are the same."""
    is_timed: bool = False
    """Whether seconds count: then a model's process stands still but for when it is asked."""
    asked_type: str = "float32"
    at_once: int = 256
    """Questions that are asked at once, at most."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `trial.open()` tells a train.py beside shapes, by attribute."""
    library: str = "torch"

    def __post_init__(self) -> None:
        check_library(self.library)


class GameExam:
    """See `harness.tasks.contract.Exam`; an item is an episode, its input a question's shape."""

    def __init__(self, game: Game, files: Mapping[str, Any]) -> None:
        """`files`: `items` of a split, as `harness.tasks.items.store` has them: its inputs are seeds."""
        self._game, self.metric = game, game.metric
        self._seeds = np.array(store.read(files["items"])[0])
        count = len(self._seeds)
        self.asked_type, self.reply_shape = game.asked_type, game.reply_shape
        self.inputs: np.ndarray = np.broadcast_to(np.zeros((), game.asked_type), (count, *game.asked_shape))
        self.targets: np.ndarray = np.broadcast_to(np.float32(0), (count, *game.reply_shape))
        self.trained = self.inputs[:0], self.targets[:0]
        self.figures: tuple[str, ...] = ()
        self.is_timed = game.is_timed
        self.must_not_see = "what was asked before"
        self._file: str = files["source_file"]
        self._asked: list[np.ndarray] = []
        self._replies: list[np.ndarray] = []
        each = self.inputs[:1].nbytes + 2 * self.targets[:1].nbytes  # a reply is kept in float64
        self._most = max(1, min(REMEMBERED, BYTES // max(1, each)))
        self._questions = 0
        self._usual = 1.0  # spread of what is used
        self._generator = np.random.default_rng(secrets.randbits(256))

    def most_at_once(self, on_gpu: bool) -> int:
        return self._game.at_once

    def play(self, ask: Ask) -> np.ndarray:
        """Losses of all episodes, (N,)."""

        def asked(inputs: np.ndarray) -> tuple[np.ndarray, float]:
            questions = np.asarray(inputs, self.asked_type)
            replies, seconds = ask(questions)
            if not np.isfinite(replies).all():
                raise Ungraded(Failure(INVALID, "the model gave NaN or infinity", Kind.DIVERGED))
            used = np.asarray(self._game.used(replies), np.float64)
            self._remember(questions, used)
            return used, seconds

        try:
            worth = np.asarray(self._game.play(self._seeds, asked), np.float64)
        except Ungraded:  # a server's, no fault of the task's
            raise
        except BadReply as bad:
            raise Ungraded(Failure(INVALID, str(bad), Kind.DIVERGED)) from None
        except Exception as error:  # noqa: BLE001 - it is a person's own program
            raise Ungraded(Failure(ERROR, blame(error, self._file), Kind.TASK)) from None
        if worth.shape != self._seeds.shape or not np.isfinite(worth).all():
            why = f"the task's play gave {worth.shape}, not one finite number an episode"
            raise Ungraded(Failure(ERROR, why, Kind.TASK))
        return self.metric.sign * worth

    def _remember(self, questions: np.ndarray, replies: np.ndarray) -> None:
        """Each with the same chance, whenever it was asked."""
        for question, reply in zip(questions, replies, strict=True):
            self._questions += 1
            if len(self._asked) < self._most:
                self._asked.append(question.copy())
                self._replies.append(reply.copy())
            elif (at := int(self._generator.integers(self._questions))) < self._most:
                self._asked[at], self._replies[at] = question.copy(), reply.copy()

    def grade(self, replies: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far what is used of answers is from what was used first, in the usual spread of that."""
        given = replies if isinstance(replies, np.ndarray) else replies.double().cpu().numpy()
        with np.errstate(all="ignore"):
            used = np.asarray(self._game.used(given.astype(np.float64)), np.float64)
            # Before anything was asked, targets have a reply's shape, not that of what is used.
            first = targets if targets.shape == used.shape else np.zeros_like(used)
            apart = np.abs(used - first).reshape(len(used), -1).max(axis=1) / self._usual
        return np.nan_to_num(apart, nan=1e9, posinf=1e9), np.empty((len(apart), 0))

    def value(self, losses: np.ndarray) -> float:
        value = float(self.metric.sign * losses.mean())
        if not self.metric.is_score(value):
            why = f"{self.metric.name} {value:.3g} is none that can be reached"
            raise Ungraded(Failure(CRASH, why, Kind.DIVERGED))
        return value

    def sums(self, losses: np.ndarray) -> np.ndarray:
        return losses

    def plain_sum(self, reply: Any, item: int) -> float:
        raise NotImplementedError  # a game has no second opinion

    def in_value(self, sums: np.ndarray, items: np.ndarray) -> np.ndarray:
        return sums

    def unit(self, losses: np.ndarray) -> float:
        return 1.0

    def as_value(self, loss: float) -> float:
        return loss

    def sizes(self) -> dict[str, int]:
        return {"items": len(self._seeds)}

    def noise(self, count: int) -> np.ndarray:
        drawn = np.random.default_rng(secrets.randbits(256)).standard_normal((count, *self._game.asked_shape))
        return drawn.astype(self.asked_type)

    def plan(self, count: int, seed: int) -> tuple[int, int]:
        return count, seed

    def again(self, planned: tuple[int, int], losses: np.ndarray, batch: int) -> Mixed:
        count, seed = planned
        # Of the middle half: a few huge answers, that a game makes nothing of, must not hide what differs.
        low, high = np.quantile(np.stack(self._replies), [0.25, 0.75])
        self._usual = float(high - low) or 1.0
        generator = np.random.default_rng(seed)
        which = generator.permutation(len(self._asked))[:count]
        questions, replies = np.stack(self._asked)[which], np.stack(self._replies)[which]
        before = np.sort(generator.integers(0, len(which) + 1, -(-len(which) // DECOYS)))
        decoys = questions[generator.permutation(len(which))[: len(before)]].astype(np.float64)
        decoys += 0.1 * questions.std() * generator.standard_normal(decoys.shape)
        mixed, real = np.insert(which, before, 0), np.insert(np.ones(len(which), bool), before, False)
        inputs = np.insert(questions, before, decoys.astype(self.asked_type), axis=0)
        return Mixed(mixed, inputs, np.insert(replies, before, replies[0], axis=0), real)

    def compare(self, asked: Mixed, losses: np.ndarray, again: np.ndarray) -> Audit:
        apart = again[asked.is_real]
        return Audit(len(apart), 0.0, float(apart.mean()), float(apart.max()))
