"""Tokens stand for the bytes of the text, and their lengths add up to UTF-8."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tasks.lm import tokenizer

TEXTS = ["naïve café 你好 🙂 a1234 don't\n\n  def f(x):\n\treturn x", "plain words again and again " * 20]


@pytest.fixture(scope="module")
def words():
    return tokenizer.train(TEXTS * 10, 400)


@given(st.text(max_size=200))
def test_byte_lengths_of_any_text_add_up_to_its_utf8(words_cache, text):
    (ids,) = words_cache.encode([text])
    assert ids[0] == words_cache.bos
    assert words_cache.byte_lengths()[ids].sum() == len(text.encode("utf-8"))


@pytest.fixture(scope="module")
def words_cache(words):
    return words


def test_a_token_that_is_half_a_character_counts_its_raw_bytes(words):
    lengths = words.byte_lengths()
    assert all(lengths[rank] == len(token) for token, rank in words.ranks.items())
    assert lengths[words.bos :].tolist() == [0, 0, 0, 0]


def test_reserved_names_in_a_text_are_text(words):
    (ids,) = words.encode(["<|reserved_0|>"])
    assert (ids[1:] < words.bos).all()
    assert words.byte_lengths()[ids].sum() == len("<|reserved_0|>")


def test_digits_come_in_groups_of_one_or_two(words):
    (ids,) = words.encode(["1234567"])
    tokens = {rank: token for token, rank in words.ranks.items()}
    assert all(len(tokens[i]) <= 2 for i in ids[1:].tolist())


def test_json_round_trip_gives_the_same_tokens(words):
    again = tokenizer.Tokenizer.from_json(words.to_json())
    assert again.vocab_size == words.vocab_size
    for text in TEXTS:
        assert np.array_equal(again.encode([text])[0], words.encode([text])[0])
