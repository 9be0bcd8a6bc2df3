"""The audit's arithmetic: what is replaced, what is compared, what passes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.records import INVALID, Audit
from harness.trial import audit


@given(st.integers(2, 40), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_everything_up_to_the_cut_stays_and_the_next_token_always_changes(rows, seq_len, seed):
    inputs = np.random.default_rng(seed).integers(0, 50, (rows, seq_len)).astype(np.uint16)
    inputs[0, :2] = 48, 49
    doubts = np.random.default_rng(seed + 1).random((rows, seq_len)) * (seed % 2)
    asked = audit.questions(inputs, lambda rows: doubts[rows], 10, seed)
    assert len(set(asked.rows.tolist())) == len(asked.rows) == min(10, rows)
    for row, cut, tokens in zip(asked.rows, asked.cuts, asked.tokens, strict=True):
        assert 0 <= cut < seq_len - 1
        assert np.array_equal(tokens[: cut + 1], inputs[row, : cut + 1])
        assert tokens[cut + 1] != inputs[row, cut + 1]
        assert (tokens < 50).all()


def asked_once(rows=20, seq_len=16):
    inputs = np.arange(rows * seq_len, dtype=np.uint16).reshape(rows, seq_len)
    return audit.questions(inputs, lambda rows: np.zeros((len(rows), seq_len)), rows, 7)


def test_equal_answers_pass():
    asked = asked_once()
    scored = np.random.default_rng(0).random((20, 16), np.float32)
    assert audit.judge(audit.compare(asked, scored, scored.copy()), "cpu") is None


def test_answers_behind_the_cut_may_differ():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    behind = np.arange(16) > asked.cuts[:, None]
    assert audit.judge(audit.compare(asked, scored, np.where(behind, 9.0, scored)), "cpu") is None


def test_one_position_that_moved_is_enough():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    audited = scored.copy()
    audited[3, asked.cuts[3]] = 0.2
    failure = audit.judge(audit.compare(asked, scored, audited), "cpu")
    assert failure is not None
    assert failure.status == INVALID


def test_a_small_steady_advantage_fails_on_a_gpu_too():
    asked = asked_once()
    scored = np.zeros((20, 16), np.float32)
    assert audit.judge(audit.compare(asked, scored, scored + 0.002), "cuda") is not None


def test_nan_fails():
    assert audit.judge(Audit(1, float("nan"), 0.0, 0.0), "cpu") is not None


def test_half_of_the_cuts_go_where_a_rare_token_was_cheap():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 20, (400, 64))
    targets[:, 30] = 40 + np.arange(400) % 60  # rare ones
    scored = np.full((400, 64), 3.0, np.float32)
    scored[:, 30] = 0.0
    rarity = audit.rarity(targets, 100)

    def doubts(rows):
        return np.maximum(rarity[targets[rows]] - scored[rows], 0.0)

    asked = audit.questions(targets.astype(np.uint16), doubts, 400, 1)
    assert (asked.cuts == 30).mean() > 0.35
    assert len(set(asked.cuts.tolist())) > 40
