"""What a training of the language model gets: rows of packed text, from the tokens that are handed over."""

from typing import Any

import numpy as np
import torch

from harness.tasks.lm.loader import Batch, Loader
from harness.tasks.lm.store import first_rows


class TextFeed:
    """See `harness.tasks.contract.Feed`; an item is a row of T tokens and the T that follow each."""

    def __init__(self, spec: dict[str, Any], device: torch.device) -> None:
        self._device = device
        self.vocab_size: int = spec["vocab_size"]
        self.seq_len: int = spec["seq_len"]
        self._bos: int = spec["bos"]
        self._train_tokens: int = spec["train_tokens"]
        self._loader: Loader | None = None

    def about(self) -> dict[str, Any]:
        return {
            "vocab_size": self.vocab_size, "seq_len": self.seq_len, "bos": self._bos,
            "train_tokens": self._train_tokens,
        }  # fmt: skip

    def dummy(self, count: int) -> Batch:
        tokens = torch.randint(self.vocab_size, (count, self.seq_len), device=self._device)
        return tokens, tokens.roll(-1, dims=1)

    def open(self, descriptor: int, count: int, seed: int) -> None:
        self._loader = Loader(descriptor, count, self.seq_len, seed, self._device)

    def next(self) -> Batch:
        assert self._loader is not None
        return self._loader.next()

    def units(self, count: int) -> int:
        return count * self.seq_len

    def first(self) -> Batch:
        assert self._loader is not None
        rows = torch.from_numpy(first_rows(self._loader.tokens, self.seq_len).astype(np.int64))
        rows = rows.to(self._device)
        return rows[:, :-1], rows[:, 1:]
