"""The gate: what scores say of a change, of the tip, and whether `main` may move."""

import dataclasses
import statistics
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate.noise import Noise, pooled
from harness.gate.policy import AGAIN, MOST_RUNS, verdict
from harness.gate.posterior import posterior_of
from harness.gate.standing import Bayes, Greedy, greedy, rebuilt
from harness.report import explain
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Decision, Incumbent, Measured
from harness.store.metric import Metric
from harness.store.records import DISCARD, KEEP

SD = 0.001
ORDER = [DISCARD, AGAIN, KEEP]
few = st.lists(st.floats(0.99, 1.01), max_size=5)


def begun(*first, unit=SD):
    """Of a main that was calibrated, with these scores or four usual ones."""
    scores = first or (1.0 - SD, 1.0, 1.0, 1.0 + SD)
    return Bayes(
        posterior_of("main", [Measured("main", "", tuple(scores), True)], unit, Noise(unit, 8)), VAL_BPB
    )


def tried(standing, *scores, kept=None, shorter=False, name=None):
    """After one more experiment on the tip, kept by the gate's own rule if not said otherwise."""
    parent = standing.incumbent.commit
    if kept is None:
        kept = standing.decide(parent, scores, shorter).status == KEEP
    name = name or f"{parent}.{len(standing.posterior.nodes)}"
    return standing.after(Measured(name, parent, tuple(scores), kept, shorter))


def judged(standing, *scores):
    return standing.posterior.judge(standing.incumbent.commit, scores)


def after(events):
    standing = begun()
    for score in events:
        standing = tried(standing, score)
    return standing


one = st.lists(st.floats(0.95, 1.04), min_size=1, max_size=1)
several = st.lists(st.floats(0.996, 1.004), min_size=1, max_size=3)  # as runs of one program are


@settings(max_examples=60, deadline=None)
@given(few, one | several, st.floats(0, 0.05))
def test_lower_scores_never_turn_keep_into_discard(events, higher, less):
    """All of them by the same: one of several that is far off is taken for spoilt, and counts again when it
    comes nearer to the others."""
    standing = after(events)
    lower = [score - less for score in higher]
    for runs in (len(higher), MOST_RUNS):
        found = [verdict(judged(standing, *each), standing.posterior.noise, runs) for each in (lower, higher)]
        assert not (found[1] == KEEP and found[0] == DISCARD), found


def test_a_lower_score_never_turns_keep_into_discard_under_heavy_tails_either():
    chooser = np.random.default_rng(0)
    standing = begun(*(1 + SD * chooser.standard_t(3, size=8)))
    for _ in range(60):
        standing = tried(standing, 1 + 1.5 * SD + SD * chooser.standard_t(2), kept=False)
    head = standing.incumbent.value
    for others in ([], [head + 0.5 * SD] * 2):
        effects = [judged(standing, head - depth * SD, *others).effect.mean for depth in range(40)]
        first = next((i for i, effect in enumerate(effects) if effect < 0), len(effects))
        assert all(effect < 0 for effect in effects[first:]), effects


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.99, 1.008), min_size=2, max_size=6), st.randoms())
def test_what_is_believed_does_not_depend_on_the_order_of_experiments_nor_of_runs(found, chooser):
    one = begun()
    for number, score in enumerate(found):
        one = tried(one, score, score + SD, name=str(number))
    nodes = list(one.posterior.nodes.values())
    shuffled = [
        dataclasses.replace(node.of, scores=tuple(chooser.sample(node.of.scores, len(node.of.scores))))
        for node in chooser.sample(nodes, len(nodes))
    ]
    two = Bayes(posterior_of("main", shuffled, SD, Noise(SD, 8)), VAL_BPB)
    assert two.chain == one.chain
    assert two.incumbent.value == pytest.approx(one.incumbent.value, abs=1e-5 * SD)
    assert two.posterior.head_is_better == pytest.approx(one.posterior.head_is_better, abs=1e-4)


def test_a_night_that_is_read_from_git_again_believes_what_it_believed():
    chooser = np.random.default_rng(1)
    standing, value = begun(), {"main": 1.0}
    for number in range(80):
        parent, name = standing.incumbent.commit, f"e{number}"
        value[name] = value[parent] + SD * chooser.choice([-1.5, 0.0, 2.0])
        standing = tried(standing, value[name] + SD * chooser.normal(), name=name)
        if standing.move() is not None:
            standing = standing.moved()
    every = [node.of for node in standing.posterior.nodes.values()]
    again = Bayes(posterior_of(standing.chain[0], every, SD, Noise(SD, 8)), VAL_BPB)
    assert len(every) > 60 and again.chain == standing.chain
    assert again.incumbent.value == pytest.approx(standing.incumbent.value, abs=1e-6 * SD)


@settings(max_examples=15, deadline=None)
@given(st.floats(-8, 8), st.floats(1e-4, 10))
def test_only_differences_in_units_of_noise_count(off, scale):
    def of(unit, at):
        standing = begun(*(at + unit * x for x in (-1, 0, 0, 1)), unit=unit)
        return judged(standing, at + off * unit)

    small, large = of(SD, 1.0), of(scale, 50.0)
    assert small.effect.mean / SD == pytest.approx(large.effect.mean / scale, rel=1e-2, abs=1e-2)
    assert small.p_better == pytest.approx(large.p_better, abs=1e-2)


def test_a_lucky_run_is_believed_by_half_and_a_repeated_one_more():
    once = judged(begun(), 1.0 - 3 * SD).effect.mean
    thrice = judged(begun(), *[1.0 - 3 * SD] * 3).effect.mean
    assert -3 * SD < thrice < once < -0.5 * SD


def test_what_was_tried_on_a_lucky_tip_shows_that_it_was_luck():
    lucky = begun(1.0 - 2 * SD)
    before = lucky.incumbent.value
    for _ in range(12):
        lucky = tried(lucky, 1.0 + 0.3 * SD, kept=False)
    assert lucky.incumbent.value > before + 0.5 * SD


def test_a_kept_one_that_later_scores_speak_against_is_the_tip_no_more_and_may_be_again():
    standing = tried(begun(), 1.0 - 1.5 * SD, kept=True, name="lucky")
    assert standing.chain == ("main", "lucky")
    while standing.incumbent.commit == "lucky" and len(standing.posterior.nodes) < 12:
        standing = tried(standing, 1.0 + 2 * SD, kept=False)
    assert standing.chain == ("main",)
    for _ in range(12):  # now it is main that looks bad
        standing = tried(standing, 1.0 + 4 * SD, kept=False)
        if standing.incumbent.commit == "lucky":
            break
    assert standing.chain == ("main", "lucky")


def test_main_moves_for_what_is_large_or_stacked_and_not_for_one_small_gain():
    small = tried(begun(), 1.0 - 1.5 * SD, kept=True)
    assert small.move() is None
    stacked = small
    for step in range(2, 6):
        stacked = tried(stacked, 1.0 - 1.5 * step * SD, kept=True)
    assert stacked.move() is not None and stacked.move().old == "main"
    large = tried(begun(), *[1.0 - 8 * SD] * 2, kept=True)
    assert large.move().confidence >= 0.99 and large.move().gain < -4 * SD
    assert tried(begun(), 1.0, kept=True).move() is None
    moved = large.moved()
    assert moved.chain == (large.chain[-1],) and moved.move() is None


def test_a_jump_is_run_again_before_it_is_believed_and_then_it_is():
    standing = begun()
    assert standing.decide("main", [1.0 - 100 * SD], False).status == AGAIN
    twice = standing.decide("main", [1.0 - 100 * SD, 1.0 - 101 * SD], False)
    assert twice.status == KEEP and twice.effect < -12 * SD
    kept = tried(standing, 1.0 - 100 * SD, 1.0 - 101 * SD, kept=True)
    assert kept.incumbent.value == pytest.approx(1.0 - 100.5 * SD, abs=SD)
    assert kept.move() is not None


@pytest.mark.parametrize("units", [12, 600, 2_800, 50_000, 1e9, 1e12])
def test_scores_however_far_away_are_decided_by_which_side_they_are_on(units):
    standing = begun()
    low, high = 1.0 - units * SD, 1.0 + units * SD
    better = standing.decide("main", [low, low + SD], False)
    assert better.status == KEEP and -2 * units * SD < better.effect < -8 * SD and better.confidence > 0.99
    worse = standing.decide("main", [high], False)
    assert worse.status == DISCARD and worse.effect > 7 * SD and worse.confidence < 0.05
    kept = tried(standing, low, low + SD, kept=True, name="low")
    assert kept.move() is not None and kept.incumbent.value == pytest.approx(low, abs=SD, rel=1e-6)
    assert tried(kept, low + 3 * SD, kept=False).chain == ("main", "low")


def test_of_two_runs_far_apart_neither_is_believed_and_a_third_decides():
    standing = begun()
    apart = [1.0 - 13 * SD, 1.0 + 1000 * SD]
    assert standing.decide("main", apart, False).status == AGAIN
    assert standing.decide("main", [*apart, 1.0 - 13 * SD], False).status == KEEP
    doubtful = [*apart, 1.0 + 2 * SD]  # a lucky run, or one good and two that the machine spoilt
    assert standing.decide("main", doubtful, False).confidence < 0.9
    assert tried(standing, *doubtful, kept=True).move() is None


@pytest.mark.parametrize("freedom", [3, 8, 50, 1000])
@pytest.mark.parametrize("units", [3, 6, 9, 11.9, 13, 60, 4000])
def test_main_never_moves_for_a_single_score_and_does_for_two(freedom, units):
    main = Measured("main", "", tuple(1.0 + SD * x for x in (-1, -0.5, 0.5, 1)), kept=True)
    standing = Bayes(posterior_of("main", [main], SD, Noise(SD, freedom)), VAL_BPB)
    low = 1.0 - units * SD
    once = standing.decide("main", [low], False)
    assert once.status == AGAIN or tried(standing, low, kept=True).move() is None, "one accident moves main"
    assert units < 9 or tried(standing, low, low + SD, kept=True).move() is not None


def test_harmless_changes_do_not_move_main():
    chooser = np.random.default_rng(2)
    for _ in range(20):
        standing = begun(*(1.0 + SD * chooser.normal(size=4)))
        for _ in range(20):
            standing = tried(standing, 1.0 + SD * chooser.normal())
            assert standing.move() is None


def test_ties_go_to_the_shorter_program_and_it_stays_the_tip():
    standing = begun()
    parent = standing.incumbent.commit
    same = [1.0 + 0.3 * SD] * MOST_RUNS
    assert standing.decide(parent, same, shorter=False).status == DISCARD
    decision = standing.decide(parent, same, shorter=True)
    assert decision.status == KEEP and "shorter" in decision.reason and decision.effect > 0
    kept = tried(standing, *same, kept=True, shorter=True, name="shorter")
    assert kept.chain == ("main", "shorter") and kept.move() is None
    assert tried(standing, *same, kept=True, name="longer").chain == ("main",)
    assert standing.decide(parent, [1.0 + 4 * SD] * MOST_RUNS, shorter=True).status == DISCARD


def test_experiments_that_do_not_hang_together_with_main_decide_nothing():
    main = Measured("main", "", (1.0, 1.0 + SD), True)
    strange = [Measured("x", "elsewhere", (0.5,), True), Measured("y", "x", (0.4,), True)]
    alone, beside = posterior_of("main", [main], SD), posterior_of("main", [main, *strange], SD)
    assert beside.head == "main" and set(beside.nodes) == {"main"}
    assert alone.judge("main", [0.99]) == beside.judge("main", [0.99])


def test_greedy_is_the_references_rule():
    standing = greedy(
        "main", [Measured("main", "", (1.0,), True), Measured("a", "main", (0.9,), True)], VAL_BPB
    )
    assert standing == Greedy(("main", "a"), (1.0, 0.9), VAL_BPB)
    assert standing.decide("a", [0.8999], False).status == KEEP
    assert standing.decide("a", [0.9], True).status == DISCARD
    assert standing.move().new == "a" and standing.move().confidence is None
    worse = Measured("b", "main", (1.1,), True)  # kept by another rule
    assert greedy("main", [Measured("main", "", (1.0,), True), worse], VAL_BPB).chain == ("main",)


def test_noise_is_pooled_over_every_repeat_and_unknown_without_any():
    assert pooled([[1.0], [2.0]]) is None
    found = pooled([[1.0, 3.0], [5.0, 5.0, 8.0], [9.0]])
    assert found == Noise(pytest.approx(((2 + 6) / 3) ** 0.5), 3)


def test_an_accident_among_repeats_does_not_pass_for_the_noise():
    usual = [1.0 - SD, 1.0 + SD, 1.0, 1.0 + 0.3 * SD]
    contaminated = pooled([[*usual[:3], 1.0 + 100 * SD]])
    assert contaminated.sd < 3 * SD
    assert pooled([usual, [1.0, 9.0]]).sd < 3 * SD
    chooser = np.random.default_rng(0)
    honest = [pooled([SD * chooser.normal(size=4)]).sd for _ in range(300)]
    assert 0.8 * SD < statistics.fmean(honest) < 1.0 * SD, "it is what it was where there is no accident"
    standing = begun(*usual[:3], 1.0 + 100 * SD, unit=contaminated.sd)
    good = [1.0 - 15 * SD, 1.0 - 15.2 * SD]
    assert standing.decide("main", good, False).status == KEEP
    assert tried(standing, *(x - 25 * SD for x in good), kept=True).move() is not None


def test_the_interval_of_the_noise_is_the_chi_squared_one_and_more_runs_tell_smaller_gains_apart():
    low, high = Noise(1.0, 10).interval()  # sqrt(10 / 18.307), sqrt(10 / 3.940): any table of chi squared
    assert (low, high) == (pytest.approx(0.739, abs=0.002), pytest.approx(1.593, abs=0.002))
    noise = Noise(SD, 10)
    assert noise.least_gain(1, 4) > noise.least_gain(3, 4) > noise.least_gain(3, 8) > SD


@pytest.mark.alone
def test_a_decision_takes_under_50_milliseconds_with_10_000_experiments_behind_it():
    chooser = np.random.default_rng(0)
    every, main, value = [Measured("main", "", (1.0, 1.0 + SD, 1.0 - SD, 1.0), True)], "main", 1.0
    for number in range(10_000):
        kept = number % 200 == 199  # main moves 50 times
        score = value + SD * (-3 if kept else abs(chooser.normal()))
        every.append(Measured(str(number), main, (score,), kept))
        main, value = (str(number), score) if kept else (main, value)
    began = time.perf_counter()
    standing = Bayes(posterior_of(main, every, SD), VAL_BPB)
    assert time.perf_counter() - began < 5
    assert len(standing.posterior.nodes) > 9000
    took = []
    for number in range(9):
        began = time.perf_counter()
        decision = standing.decide(standing.incumbent.commit, [1.0], False)
        standing = tried(standing, 1.0, kept=decision.status == KEEP, name=f"new {number}")
        standing.move()
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.05


def test_words_call_a_score_far_off_an_accident_or_not_as_it_is_believed():
    made = Decision("keep", "", Incumbent("a", 2.297), 2.21, -0.087, confidence=0.31, noise_sd=0.027)
    doubtful = "\n".join(
        explain.explain(dataclasses.replace(made, effect=-0.021, effect_sd=0.035), None, False, VAL_BPB)
    )
    assert "or an accident of the run" in doubtful and "far more than luck" not in doubtful
    clear = "\n".join(
        explain.explain(dataclasses.replace(made, effect=-0.08, effect_sd=0.02), None, False, VAL_BPB)
    )
    assert "far more than luck" in clear


@pytest.mark.parametrize("scores", [(2.69, 2.06, 2.07, 2.12), (2.06, 2.07, 2.12, 2.69), (2.69, 2.07, 2.08)])
def test_a_run_of_the_baseline_that_the_machine_spoilt_is_seen_through_at_once(scores):
    standing = rebuilt("main", [Measured("main", "", scores, kept=True)], "belief", VAL_BPB)
    assert 2.06 < standing.about("main").value < 2.1 and standing.posterior.noise < 0.05
    assert standing.decide("main", [2.6], False).status == DISCARD
    assert standing.decide("main", [2.0], False).status == KEEP


def test_a_baseline_of_one_spoilt_run_is_got_over_in_two_more():
    known = Noise(0.03, 7)
    standing = Bayes(
        posterior_of("main", [Measured("main", "", (2.4, 2.07), kept=True)], known.sd, known), VAL_BPB
    )
    assert standing.about("main").value < 2.12
    assert standing.decide("main", [2.4], False).status != KEEP
    assert standing.decide("main", [2.4, 2.41, 2.4], False).status == DISCARD


@pytest.mark.parametrize("bad", [4, 9, 20])
def test_two_bad_runs_outweigh_a_lucky_one(bad):
    standing = Bayes(posterior_of("main", [Measured("main", "", (1.0, 1.0 + SD), kept=True)], SD), VAL_BPB)
    scores = [1.0 - 15 * SD, 1.0 + bad * SD, 1.0 + bad * SD]
    assert standing.decide("main", scores, False).status == DISCARD


def test_the_noise_is_not_what_a_spoilt_run_differs_by():
    assert pooled([[2.06, 2.07, 2.12, 2.69]]).sd < 0.05
    assert pooled([[2.06, 2.07, 2.12, 2.15]]).sd == pytest.approx(statistics.stdev([2.06, 2.07, 2.12, 2.15]))


RAISED = Metric("accuracy", "max")
scores = st.lists(st.floats(0.95, 1.05), min_size=1, max_size=MOST_RUNS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(scores, st.booleans()), max_size=4), st.sampled_from(["belief", "greedy"]))
def test_what_is_to_be_raised_is_decided_as_its_opposite_is_that_is_to_be_lowered(tried, policy):
    baseline = [1.0, 1.0 + SD, 1.0 - SD]

    def all_of(metric, sign):
        nodes = [Measured("main", "", tuple(sign * score for score in baseline), kept=True)]
        found = []
        for number, (each, shorter) in enumerate(tried):
            values = [sign * score for score in each]
            standing = rebuilt("main", nodes, policy, metric)
            parent = standing.incumbent.commit
            made = standing.decide(parent, values, shorter)
            signed = (made.value, made.delta, made.effect, standing.incumbent.value, standing.suspect_beyond)
            move = standing.move()
            found.append(
                (made.status, made.confidence, [x if x is None else sign * x for x in signed],
                 move and (move.new, sign * move.gain), standing.chain)
            )  # fmt: skip
            nodes.append(Measured(str(number), parent, tuple(values), made.status == KEEP, shorter))
        return found

    lowered, raised = all_of(VAL_BPB, 1), all_of(RAISED, -1)
    assert [each[0] for each in lowered] == [each[0] for each in raised]
    for one, other in zip(lowered, raised, strict=True):
        assert one[1] == pytest.approx(other[1])
        assert one[2] == pytest.approx(other[2])
        assert one[3:] == other[3:] or one[3][1] == pytest.approx(other[3][1])


def test_a_gain_of_what_is_to_be_raised_is_said_the_right_way_round():
    nodes = [Measured("main", "", (0.90, 0.901, 0.899, 0.90), kept=True)]
    better = rebuilt("main", nodes, "belief", RAISED).decide("main", [0.95, 0.951, 0.95], False)
    assert better.status == KEEP and better.effect > 0 and better.delta > 0
    assert "0.9503 over 3 runs vs 0.9000; estimated effect +0.0" in better.reason
    said = "\n".join(explain.explain(better, None, False, RAISED))
    assert "above the incumbent's" in said and "estimated to gain 0.0" in said
    worse = rebuilt("main", nodes, "belief", RAISED).decide("main", [0.85], False)
    assert worse.status == DISCARD and worse.effect < 0
    assert "estimated to cost 0.0" in "\n".join(explain.explain(worse, None, False, RAISED))
