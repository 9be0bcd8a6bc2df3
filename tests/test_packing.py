"""Rows are packed as the reference project packs them, and fast."""

import os
import threading
import time
from itertools import islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.tasks.lm import packing, store
from harness.tasks.lm.loader import Loader


def documents(lengths):
    """Documents whose tokens tell where they come from; the first token of each is 0."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.uint16) % 60000 + 1
    tokens[offsets[:-1]] = 0
    return tokens, offsets


def pack_slowly(tokens, offsets, order, row_length):
    """The rule, word for word, without a sorted buffer."""
    documents = iter(order)
    waiting = []
    while True:
        row = []
        while len(row) < row_length:
            while len(waiting) < packing.BUFFER_DOCUMENTS:
                fresh = list(islice(documents, packing.REFILL_DOCUMENTS))
                if not fresh:
                    break
                waiting += [tokens[offsets[i] : offsets[i + 1]].tolist() for i in fresh]
            if not waiting:
                return
            left = row_length - len(row)
            fitting = [d for d in waiting if len(d) <= left]
            longest = max(map(len, fitting), default=0)
            chosen = next((d for d in fitting if len(d) == longest), None)
            if chosen is None:
                shortest = min(map(len, waiting))
                chosen = next(d for d in waiting if len(d) == shortest)
            waiting.pop(next(i for i, d in enumerate(waiting) if d is chosen))
            row += chosen[:left]
        yield row


@given(st.lists(st.integers(1, 40), min_size=1, max_size=300), st.integers(2, 33))
def test_rows_are_those_of_the_plain_rule(lengths, row_length):
    tokens, offsets = documents(lengths)
    order = list(range(len(lengths)))
    fast = [row.tolist() for row in packing.pack(tokens, offsets, order, row_length, drop_rests=True)]
    assert fast == list(pack_slowly(tokens, offsets, order, row_length))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=50), st.integers(2, 33))
def test_a_pass_shows_all_of_the_text_however_long_its_documents_are(lengths, row_length):
    tokens, offsets = documents(lengths)
    order = list(range(len(lengths)))
    shown = set(np.concatenate([[], *packing.pack(tokens, offsets, order, row_length)]).tolist())
    missing = set(tokens.tolist()) - shown
    assert len(missing) < row_length, "no more than a last row that isn't full"


@given(st.lists(st.integers(1, 90), min_size=1, max_size=50), st.integers(0, 2**31))
def test_every_row_is_full_and_starts_with_a_document(lengths, seed):
    tokens, offsets = documents(lengths)
    order = packing.shuffled_forever(len(lengths), seed)
    for row in islice(packing.pack(tokens, offsets, order, 17), 20):
        assert row.shape == (17,)
        assert row[0] == 0


def test_the_seed_alone_decides_the_order():
    first, same, other = (list(islice(packing.shuffled_forever(100, s), 300)) for s in (1, 1, 2))
    assert first == same != other
    assert sorted(first[:100]) == sorted(first[100:200]) == list(range(100))
    assert first[:100] != first[100:200]


def test_the_loader_outruns_any_gpu(tmp_path):
    """At least 5 M tokens/s at sequence 2048, from the file to the training thread; best of three."""
    generator = np.random.default_rng(0)
    tokens, offsets = documents(generator.integers(20, 1500, 20000))
    path = tmp_path / "train.tokens"
    header = store.token_file_header(20000, len(tokens))
    path.write_bytes(header + offsets.tobytes() + tokens.tobytes())
    best = 0.0
    for seed in range(3):
        descriptor = os.open(path, os.O_RDONLY)
        loader = Loader(descriptor, 32, 2048, seed, torch.device("cpu"))
        os.close(descriptor)
        loader.next()
        started = time.perf_counter()
        count = sum(loader.next()[0].numel() for _ in range(40))
        best = max(best, count / (time.perf_counter() - started))
    assert best > 5e6


def test_batches_come_from_a_thread_of_their_own_and_are_shifted_views(tmp_path):
    tokens, offsets = documents([40] * 50)
    path = tmp_path / "train.tokens"
    path.write_bytes(store.token_file_header(50, len(tokens)) + offsets.tobytes() + tokens.tobytes())
    descriptor = os.open(path, os.O_RDONLY)
    loader = Loader(descriptor, 4, 16, 0, torch.device("cpu"))
    os.close(descriptor)
    inputs, targets = loader.next()
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert "loader" in [thread.name for thread in threading.enumerate()]
