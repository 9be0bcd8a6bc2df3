"""The language model's exam: every token of held-out text, in bits per byte."""

import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harness.store.records import CRASH, INVALID, Audit, Failure, Kind
from harness.tasks.contract import Ungraded
from harness.tasks.lm import METRIC, audit
from harness.tasks.lm.losses import FARTHEST, losses
from harness.tasks.lm.store import first_rows

BATCH_TOKENS = 8192
GPU_BATCH_TOKENS = 262144  # more costs memory and saves nothing


class TextExam:
    """See `harness.tasks.contract.Exam`; an item is a row of T tokens, its targets the T that follow each."""

    metric = METRIC
    figures: tuple[str, ...] = ()
    must_not_see = "later tokens, other rows"
    asked_type = "int64"

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: `rows` of a split, `token_bytes`, and `train`, as `harness.tasks.lm.store` has them."""
        rows = np.load(files["rows"], mmap_mode="r")  # (R, T + 1) uint16
        lengths = np.load(files["token_bytes"])
        self.inputs, self.targets = rows[:, :-1], rows[:, 1:]
        self.reply_shape: tuple[int, ...] = (self.inputs.shape[1], len(lengths))
        trained = first_rows(Path(files["train"]), self.inputs.shape[1])
        self.trained = trained[:, :-1], trained[:, 1:]
        counted = lengths[self.targets]  # (R, T)
        self._row_bytes = counted.sum(axis=1, dtype=np.int64)
        self._text_bytes, self._counted = int(self._row_bytes.sum()), counted > 0

    def most_at_once(self, on_gpu: bool) -> int:
        return (GPU_BATCH_TOKENS if on_gpu else BATCH_TOKENS) // self.reply_shape[0]

    def grade(self, replies: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = _tensor(replies)
        goal = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
        found, near = losses(logits.view(-1, logits.shape[-1]), goal.view(-1))
        nats = found.numpy().reshape(targets.shape)
        if not np.isfinite(nats).all():
            why = "the model gave logits with NaN or infinite loss"
            raise Ungraded(Failure(INVALID, why, Kind.DIVERGED))
        if not near:
            raise Ungraded(
                Failure(
                    INVALID,
                    f"the model gave logits beyond {FARTHEST:g}: float32 can't tell probabilities apart "
                    "there (-inf excludes a token)",
                )
            )
        return nats, np.empty((len(nats), 0))

    def value(self, losses: np.ndarray) -> float:
        nats = float(np.sum(losses, where=self._counted, dtype=np.float64))
        value = nats / (math.log(2) * self._text_bytes)
        if not self.metric.is_score(value):
            raise Ungraded(
                Failure(CRASH, f"the model has diverged: {value:.3g} bits for a byte", Kind.DIVERGED)
            )
        return value

    def sums(self, losses: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sum(losses, axis=1, where=self._counted)
        return found

    def plain_sum(self, reply: Any, item: int) -> float:
        logits = _tensor(reply)
        goal = torch.from_numpy(self.targets[item].astype(np.int64)).to(logits.device)
        nats = F.cross_entropy(logits.double(), goal, reduction="none").cpu().numpy()
        return float(nats[self._counted[item]].sum())

    def in_value(self, sums: np.ndarray, items: np.ndarray) -> np.ndarray:
        return sums / (math.log(2) * float(self._row_bytes[items].mean()))

    def unit(self, losses: np.ndarray) -> float:
        return 1.0

    def as_value(self, loss: float) -> float:
        return loss / (math.log(2) * self._text_bytes / self.targets.size)

    def sizes(self) -> dict[str, int]:
        return {"tokens": int(self.targets.size), "text_bytes": self._text_bytes}

    def noise(self, count: int) -> np.ndarray:
        seq_len, vocab_size = self.reply_shape
        # Of a seed that no server could find by trying all: it must not learn the audit's.
        return np.random.default_rng(secrets.randbits(256)).integers(0, vocab_size, (count, seq_len))

    def plan(self, count: int, seed: int) -> audit.Plan:
        return audit.plan(self.inputs, self.targets, self.reply_shape[1], count, seed)

    def again(self, planned: audit.Plan, losses: np.ndarray, batch: int) -> audit.Questions:
        return audit.questions(planned, losses[planned.items])

    def compare(self, asked: Any, losses: np.ndarray, again: np.ndarray) -> Audit:
        return audit.compare(asked, losses[asked.items], again)


def _tensor(replies: Any) -> torch.Tensor:
    """The same memory."""
    return torch.from_numpy(replies) if isinstance(replies, np.ndarray) else replies
