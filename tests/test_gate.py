"""The gate: what scores say of a change, of the tip, and whether `main` may move."""

import statistics
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate import belief as beliefs
from harness.gate.noise import Noise, pooled
from harness.gate.policy import AGAIN, MOST_RUNS, main_may_move, verdict
from harness.records import DISCARD, KEEP

SD = 0.001
NOISE = Noise(SD, 8)
scores = st.floats(0.96, 1.04)
ORDER = [DISCARD, AGAIN, KEEP]


def begun(*first):
    return beliefs.begin(first or [1.0], NOISE)


def after(events):
    """A belief that has seen a few experiments, kept by the gate's own rule."""
    belief = begun()
    for score in events:
        keep = beliefs.judge(belief, [score]).effect.mean < 0
        belief = (beliefs.kept if keep else beliefs.left)(belief, [score])
    return belief


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.99, 1.01), max_size=4), scores, scores)
def test_a_lower_score_never_turns_keep_into_discard(events, one, other):
    belief = after(events)
    low, high = sorted((one, other))
    effects = [beliefs.judge(belief, [score]).effect.mean for score in (low, high)]
    assert effects[0] <= effects[1] + 1e-4 * SD
    decisions = [verdict(beliefs.judge(belief, [score]), belief.noise, MOST_RUNS) for score in (low, high)]
    assert ORDER.index(decisions[0]) >= ORDER.index(decisions[1])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.995, 1.01), min_size=2, max_size=4), st.randoms())
def test_the_order_of_runs_and_of_what_was_left_aside_does_not_matter(found, chooser):
    other = list(found)
    chooser.shuffle(other)
    one, two = begun(), begun()
    assert beliefs.judge(one, found).effect.mean == pytest.approx(beliefs.judge(two, other).effect.mean)
    for score, of_other in zip(found, other, strict=True):
        one, two = beliefs.left(one, [score]), beliefs.left(two, [of_other])
    assert one.tip.mean == pytest.approx(two.tip.mean, abs=1e-3 * SD)
    assert one.tip.sd == pytest.approx(two.tip.sd, rel=1e-2)


@settings(max_examples=15, deadline=None)
@given(st.floats(-8, 8), st.floats(1e-4, 10))
def test_only_differences_in_units_of_noise_count(off, scale):
    small = beliefs.judge(beliefs.begin([1.0], Noise(SD, 8)), [1.0 + off * SD])
    large = beliefs.judge(beliefs.begin([50.0], Noise(scale, 8)), [50.0 + off * scale])
    assert small.effect.mean / SD == pytest.approx(large.effect.mean / scale, rel=1e-2, abs=1e-2)
    assert small.helps == pytest.approx(large.helps, abs=1e-2)


def test_a_lucky_run_is_believed_by_half_and_a_repeated_one_more():
    once = beliefs.judge(begun(), [1.0 - 3 * SD]).effect.mean
    thrice = beliefs.judge(begun(), [1.0 - 3 * SD] * 3).effect.mean
    assert -3 * SD < thrice < once < -0.5 * SD


def test_what_was_tried_on_a_lucky_tip_shows_that_it_was_luck():
    lucky = begun(1.0 - 2 * SD)
    before = lucky.tip.mean
    for _ in range(12):
        lucky = beliefs.left(lucky, [1.0 + 0.3 * SD])
    assert lucky.tip.mean > before + 0.5 * SD


def test_a_kept_one_that_later_scores_speak_against_is_taken_off_again():
    belief = beliefs.kept(begun(1.0, 1.0, 1.0), [1.0 - 1.5 * SD])
    assert beliefs.tip_is_worse(belief) is None
    for _ in range(4):
        belief = beliefs.again(belief, 1.0 + 2 * SD)
    lower = beliefs.tip_is_worse(belief)
    assert lower is not None and lower.below is None
    assert lower.tip.mean == pytest.approx(1.0, abs=SD)


def test_main_moves_for_what_is_large_or_repeated_and_not_for_one_small_gain():
    small = beliefs.kept(begun(), [1.0 - 1.5 * SD])
    assert not main_may_move(small)
    assert main_may_move(beliefs.kept(begun(1.0, 1.0), [1.0 - 8 * SD] * 2))
    assert main_may_move(beliefs.kept(begun(), [1.0 - 100 * SD]))
    assert not main_may_move(beliefs.kept(begun(), [1.0]))
    moved = beliefs.moved(beliefs.kept(begun(), [1.0 - 100 * SD]))
    assert moved.main.mean == pytest.approx(1.0 - 100 * SD, abs=SD)
    assert moved.tip_is_better == 0


def test_ties_go_to_the_shorter_program():
    nothing = beliefs.judge(begun(1.0, 1.0), [1.0 + 0.3 * SD] * MOST_RUNS)
    assert nothing.effect.mean > 0
    assert verdict(nothing, SD, MOST_RUNS, lines=0) == DISCARD
    assert verdict(nothing, SD, MOST_RUNS, lines=-3) == KEEP
    worse = beliefs.judge(begun(1.0, 1.0), [1.0 + 4 * SD] * MOST_RUNS)
    assert verdict(worse, SD, MOST_RUNS, lines=-3) == DISCARD


def test_noise_is_pooled_over_every_repeat_and_unknown_without_any():
    assert pooled([[1.0], [2.0]]) is None
    found = pooled([[1.0, 3.0], [5.0, 5.0, 8.0], [9.0]])
    assert found == Noise(pytest.approx(((2 + 6) / 3) ** 0.5), 3)


@pytest.mark.alone
def test_a_decision_takes_under_50_milliseconds_whatever_is_behind_it():
    belief = after([1.0 + 0.1 * SD * i for i in range(-5, 40)])
    took = []
    for _ in range(9):
        began = time.perf_counter()
        beliefs.judge(belief, [1.0])
        beliefs.tip_is_worse(beliefs.left(belief, [1.0]))
        main_may_move(beliefs.kept(belief, [0.99]))
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.05
