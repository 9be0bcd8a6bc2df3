"""A byte-pair tokenizer: trained by rustbpe, used through tiktoken, stored as JSON.

JSON and not pickle, because a prepared corpus may come from somebody else. Byte lengths are taken
from the raw bytes of each token: decoding a token that is half a character would count three.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tiktoken

# GPT-4's split pattern with digits in groups of 1 to 2, as the reference project has it.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(4))  # the first one is BOS


@dataclass(frozen=True)
class Tokenizer:
    """Merge ranks by token bytes; the reserved tokens come after them."""

    ranks: dict[bytes, int]

    @property
    def vocab_size(self) -> int:
        return len(self.ranks) + len(RESERVED)

    @property
    def bos(self) -> int:
        return len(self.ranks)

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        special = {name: self.bos + i for i, name in enumerate(RESERVED)}
        return tiktoken.Encoding(
            "harness", pat_str=SPLIT_PATTERN, mergeable_ranks=self.ranks, special_tokens=special
        )

    def encode(self, documents: list[str]) -> list[np.ndarray]:
        """BOS and the token ids of each document, uint16; reserved names in a text are plain text."""
        encode = self.encoding.encode_ordinary
        return [np.array([self.bos, *encode(text)], np.uint16) for text in documents]

    def byte_lengths(self) -> np.ndarray:
        """Raw bytes that each token stands for; (vocab_size,) int32, 0 for reserved tokens."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, rank in self.ranks.items():
            lengths[rank] = len(token)
        return lengths

    def to_json(self) -> str:
        tokens = sorted(self.ranks, key=self.ranks.__getitem__)
        body = {"pattern": SPLIT_PATTERN, "reserved": RESERVED}
        return json.dumps({**body, "tokens": [base64.b64encode(t).decode() for t in tokens]})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        tokens = json.loads(text)["tokens"]
        return cls({base64.b64decode(token): rank for rank, token in enumerate(tokens)})


def train(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from `documents`; the vocabulary is smaller if the text runs out of pairs."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(documents, vocab_size - len(RESERVED), pattern=SPLIT_PATTERN)
    return Tokenizer({bytes(token): rank for token, rank in trainer.get_mergeable_ranks()})
