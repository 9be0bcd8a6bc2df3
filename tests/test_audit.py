"""The audit's arithmetic: what is replaced, what is compared, what passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store.records import INVALID, Audit
from harness.tasks.lm import audit
from harness.worker.tolerance import judge


@given(st.integers(2, 40), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_everything_up_to_the_cut_stays_and_the_next_token_always_changes(rows, seq_len, seed):
    inputs = np.random.default_rng(seed).integers(0, 50, (rows, seq_len)).astype(np.uint16)
    inputs[0, :2] = 48, 49
    targets = np.roll(inputs, -1, 1)
    planned = audit.plan(inputs, targets, 50, 10, seed)
    scored = np.random.default_rng(seed + 1).random((len(planned.items), seq_len)) * 20 * (seed % 2)
    asked = audit.questions(planned, scored)
    assert len(set(asked.items.tolist())) == len(asked.items) == min(10, rows)
    for row, cut, tokens in zip(asked.items, asked.cuts, asked.inputs, strict=True):
        assert 0 <= cut < seq_len - 1
        assert np.array_equal(tokens[: cut + 1], inputs[row, : cut + 1])
        assert tokens[cut + 1] != inputs[row, cut + 1]
        assert (tokens < 50).all()


def asked_once(rows=20, seq_len=16):
    inputs = np.arange(rows * seq_len, dtype=np.uint16).reshape(rows, seq_len)
    planned = audit.plan(inputs, np.roll(inputs, -1, 1), rows * seq_len, rows, 7)
    return audit.questions(planned, np.zeros((rows, seq_len)))


def test_equal_answers_pass():
    asked = asked_once()
    scored = np.random.default_rng(0).random((20, 16), np.float32)
    assert judge(audit.compare(asked, scored, scored.copy()), "cpu") is None


def test_answers_behind_the_cut_may_differ():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    behind = np.arange(16) > asked.cuts[:, None]
    assert judge(audit.compare(asked, scored, np.where(behind, 9.0, scored)), "cpu") is None


def test_one_position_that_moved_is_enough():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    audited = scored.copy()
    audited[3, asked.cuts[3]] = 0.2
    failure = judge(audit.compare(asked, scored, audited), "cpu")
    assert failure is not None
    assert failure.status == INVALID


def test_a_small_steady_advantage_fails_on_a_gpu_too():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    assert judge(audit.compare(asked, scored, scored + 0.002), "cuda") is not None


def test_nan_fails():
    assert judge(Audit(1, float("nan"), 0.0, 0.0), "cpu") is not None


def test_an_advantage_is_that_of_all_positions_wherever_the_cuts_went():
    """Cuts go to doubtful positions, and count for less there: the estimate is right on average."""
    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 20, (400, 64)).astype(np.uint16)
    targets = np.roll(inputs, -1, 1)
    honest = generator.exponential(3.0, (400, 64))
    cheap = honest > 8
    scored = np.where(cheap, 1.0, honest)
    found = []
    for seed in range(60):
        planned = audit.plan(inputs, targets, 20, 400, seed)
        asked = audit.questions(planned, scored[planned.items])
        found.append(audit.compare(asked, scored[asked.items], honest[asked.items]).advantage_nats)
    gain = (honest - scored)[:, :-1].mean()
    assert abs(np.mean(found) - gain) < 3 * np.std(found) / 60**0.5
    assert np.std(found) < gain


def test_pairs_of_tokens_are_counted_without_the_one_that_is_asked_for():
    inputs = np.array([[0, 1, 0, 1, 0, 2]], np.uint16)
    targets = np.array([[1, 0, 1, 0, 2, 0]], np.uint16)
    planned = audit.plan(inputs, targets, 3, 1, 0)
    frequency = np.array([4, 3, 2]) / 9
    assert np.exp(-planned.surprise[0, 0]) == pytest.approx((1 + 5 * frequency[1]) / (3 - 1 + 5))
    assert np.exp(-planned.surprise[0, 4]) == pytest.approx((0 + 5 * frequency[2]) / (3 - 1 + 5))
