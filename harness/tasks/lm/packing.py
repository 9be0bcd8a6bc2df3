"""Best-fit packing of documents into rows: every row starts with a document, no padding.

The rule is the reference project's, so that scores compare: from a buffer of at least 1,000
documents take the longest that fits into what is left of the row; where none fits, cut the shortest
to fill it exactly. Among equals the one that came first. There the rest of it is dropped, which is half of
what has long documents; here it is one more document, but for a validation split that is scored as the
reference scores it. Pure numpy, no torch: it runs in the loader's thread and in `harness prepare`.

Source of the rule: karpathy/autoresearch `prepare.py`, after Ding et al., "Fewer Truncations
Improve Language Modeling", https://arxiv.org/abs/2404.10830.
"""

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

BUFFER_DOCUMENTS = 1000
REFILL_DOCUMENTS = 128  # the buffer grows by this many at a time, as in the reference


def pack(
    tokens: np.ndarray, offsets: np.ndarray, order: Iterable[int], row_length: int, drop_rests: bool = False
) -> Iterator[np.ndarray]:
    """Yield rows of token ids, for as long as `order` lasts.

    Args:
        tokens: all documents one after the other, each starting with BOS; (N,).
        offsets: where documents start, and the end; (D + 1,).
        order: document numbers, usually endless.
        row_length: sequence length + 1, inputs and targets being shifted views of one row.
        drop_rests: of documents that are cut, as the reference does.

    Yields:
        (row_length,) arrays of the dtype of `tokens`, each a fresh one.
    """
    starts, lengths = offsets[:-1].tolist(), np.diff(offsets).tolist()
    documents = iter(order)
    bos = tokens[0] if len(tokens) else 0
    waiting: list[tuple[int, int, int]] = []  # (length, arrival, start), kept sorted
    arrival = 0
    while True:
        row = np.empty(row_length, dtype=tokens.dtype)
        filled = 0
        while filled < row_length:
            while len(waiting) < BUFFER_DOCUMENTS:
                fresh = list(islice(documents, REFILL_DOCUMENTS))
                if not fresh:
                    break
                for number in fresh:
                    insort(waiting, (lengths[number], arrival, starts[number]))
                    arrival += 1
            if not waiting:
                return
            left = row_length - filled
            fitting = bisect_right(waiting, (left, arrival, 0))
            if fitting:
                longest = waiting[fitting - 1][0]
                length, _, start = waiting.pop(bisect_left(waiting, (longest,)))
            else:
                whole, _, start = waiting.pop(0)
                length = left
                if not drop_rests:  # it begins where its last token was, in place of which it gets its BOS
                    insort(waiting, (whole - length + 1, arrival, start + length - 1))
                    arrival += 1
            row[filled : filled + length] = tokens[start : start + length]
            row[filled] = bos
            filled += length
        yield row


def distinct(rows: Iterable[np.ndarray], patience: int) -> Iterator[np.ndarray]:
    """Without exact repeats, of which an endless order has many where there is little text; ends after
    `patience` of them in a row."""
    seen: set[bytes] = set()
    repeats = 0
    for row in rows:
        digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if digest in seen:
            if (repeats := repeats + 1) >= patience:
                return
            continue
        repeats = 0
        seen.add(digest)
        yield row


def shuffled_forever(documents: int, seed: int) -> Iterator[int]:
    """Endless passes over the documents, each in another order that only `seed` decides."""
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.permutation(documents).tolist()


def in_order_forever(documents: int) -> Iterator[int]:
    while True:
        yield from range(documents)
