"""The search agent: no network, no key, its state from history alone."""

import ast
import dataclasses
import math
import random

import pytest
from conftest import ROOT, STARTER
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.agents import Context, NoProposal, Tried, program
from harness.agents.axes import Axis, Kind, axes_of
from harness.agents.catalogue import CATALOGUE, Edit
from harness.agents.earnings import earned
from harness.agents.mix import Mix
from harness.agents.program import Constant
from harness.agents.search import Search, think, told
from harness.agents.thinking import Question
from harness.agents.tuning import FIRST
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Proposal

SOURCE = STARTER.encode()
TWO = b"RATE = 0.03\nOTHER = 4.0\nprint(RATE, OTHER)\n"


def context(history=(), source=SOURCE, seed=0, noise=0.001, value=2.2):
    return Context(
        "", source, VAL_BPB, value, "0" * 40, tuple(history), False, len(history), seed, noise=noise
    )


def tried(proposal, value=2.3, status="discard"):
    return Tried(
        proposal.title, proposal.hypothesis, proposal.source, status, value, 0.1, "", agent=proposal.agent
    )


def searching(edits=CATALOGUE):
    """In this process: to start one takes longer than to think."""
    return Search(edits, Question.answer)


def thinking(known, seed):
    return think(known, seed, ask=Question.answer)


def axis(value, name="RATE"):
    return Axis(Constant(name, value, 0, 0, 0))


def two(rate, other=4.0):
    return f"RATE = {rate}\nOTHER = {other}\nprint(RATE, OTHER)\n".encode()


def values(source):
    return {c.name: c.value for c in program.constants(source, False)}


# ── constants as axes ─────────────────────────────────────────────────────────────────────────


def test_what_says_something_of_the_machine_is_no_constant_to_search():
    known = program.constants((ROOT / "train.py").read_bytes(), True)
    left_out = {each.name for each in known} - {axis.name for axis in axes_of(known)}
    assert left_out == {"DEVICE_BATCH_SIZE", "TOKENS_A_SECOND"}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("MATRIX_LR", 0.03, Kind.RATE), ("EMBEDDING_LR", 0.7, Kind.RATE), ("MOMENTUM", 0.95, Kind.NEAR_ONE),
        ("ADAM_BETAS[0]", 0.8, Kind.NEAR_ONE), ("DECAY", 0.99, Kind.NEAR_ONE), ("DROPOUT", 0.5, Kind.SHARE),
        ("WARMDOWN_RATIO", 0.7, Kind.SHARE), ("WIDTH", 512, Kind.SIZE), ("DEPTH", 8, Kind.COUNT),
        ("TIED", True, Kind.FLAG),
    ],
)  # fmt: skip
def test_a_constant_is_searched_by_its_kind(name, value, kind):
    assert axis(value, name).kind is kind


NUMBERS = st.one_of(
    st.floats(-1e9, 1e9, allow_nan=False), st.integers(-(10**9), 10**9), st.booleans(),
    st.sampled_from([0.0, 1.0, 0.95, 0.5, 1e-12, 3, 64, 1, 2]),
)  # fmt: skip


@given(NUMBERS, st.sampled_from(["RATE", "MOMENTUM", "DROPOUT", "SIZE"]), st.floats(-3, 3))
@settings(max_examples=300, deadline=None)
def test_whatever_a_constant_is_its_own_place_is_0_and_other_values_are_of_its_type(now, name, place):
    one = axis(now, name)
    assert one.coordinate(now) == 0
    assert one.value(0.0) == now and type(one.value(0.0)) is type(now)
    other = one.value(place)
    assert type(other) is type(now) and math.isfinite(other)
    low, high = one.bounds
    assert low <= 0 <= high and one.said(other)


@pytest.mark.parametrize("place", [-2.0, 0.0, 1.0, 2.0])
def test_a_part_of_something_stays_between_nothing_and_all_of_it(place):
    assert 0 <= axis(0.5, "DROPOUT").value(place) <= 1
    assert 0 <= axis(0.95, "MOMENTUM").value(place) < 1


def test_sizes_go_by_doublings_and_half_way_between_and_counts_by_ones():
    assert {value for _, value in axis(512, "WIDTH").grid} == {128, 256, 384, 512, 768, 1024, 2048}
    assert {value for _, value in axis(3, "DEPTH").grid} == {1, 2, 3, 4, 5, 6}


def test_numbers_without_measure_are_no_constants_to_search():
    source = b"RATE = 0.1\nHUGE = 1" + b"0" * 400 + b"\nENDLESS = 1e999\nprint(RATE, HUGE, ENDLESS)\n"
    assert [constant.name for constant in program.constants(source, False)] == ["RATE"]
    history = [Tried("t", "h", source, "discard", 2.5, None, "")]
    assert b"RATE" in searching(()).propose(context(history, source)).source


# ── what it proposes ──────────────────────────────────────────────────────────────────────────


def test_it_never_proposes_what_was_tried():
    history = []
    for _ in range(12):
        history.append(tried(searching().propose(context(history))))
    digests = [program.digest(earlier.source) for earlier in history]
    assert len({*digests, program.digest(SOURCE)}) == len(history) + 1


def test_the_same_history_and_seed_give_the_same_proposal():
    history = [tried(searching().propose(context()))]
    assert searching().propose(context(history)) == searching().propose(context(history))
    others = {searching(()).propose(context(history, seed=seed)).source for seed in range(4)}
    assert len(others) > 1


def test_proposals_are_programs_that_say_what_changed_in_a_line_that_fits():
    history, agents = [], set()
    for _ in range(12):
        proposal = searching().propose(context(history))
        ast.parse(proposal.source)
        assert proposal.source != SOURCE
        assert proposal.hypothesis and "\n" not in proposal.title and 0 < len(proposal.title) <= 72
        history.append(tried(proposal))
        agents.add(proposal.agent)
    assert agents == {"search/gp", "search/catalogue"}


def test_it_says_what_it_expects_and_finds_where_scores_are_best():
    """Scores that are lowest at a rate of 0.06, whatever the other constant: with noise."""
    noise, history = random.Random(1), []
    incumbent, best = TWO, 2.2
    for _ in range(22):
        made = searching(()).propose(context(history, incumbent, value=best))
        rate = values(made.source)["RATE"]
        value = 2.1 + 0.1 * math.log2(rate / 0.06) ** 2 + noise.gauss(0, 0.001)
        status = "keep" if value < best - 0.002 else "discard"
        history.append(dataclasses.replace(tried(made, value, status), parent=incumbent))
        if status == "keep":
            incumbent, best = made.source, value
    assert 0.05 < values(incumbent)["RATE"] < 0.072
    assert "expected" in history[-1].hypothesis and "±" in history[-1].hypothesis
    thought, _ = thinking(context(history, incumbent, value=best), 0)
    assert thought.matters[0][0] == "RATE" and thought.matters[0][1] > 5 * thought.matters[1][1]
    assert "RATE" in told(context(history, incumbent), thought)


def test_it_keeps_away_from_where_programs_crash():
    """A rate above 0.05 gives no score, however good it would be."""
    chooser, history = random.Random(2), []
    for _ in range(14):
        rate = 0.03 * 2 ** chooser.uniform(-1, 1.2)
        value = None if rate > 0.05 else 2.2 - rate
        history.append(Tried("t", "h", two(rate), "crash" if value is None else "discard", value, None, ""))
    crashes = 0
    for seed in range(10):
        crashes += values(searching(()).propose(context(history, TWO, seed)).source)["RATE"] > 0.05
    assert crashes <= 1


def test_a_structure_that_crashed_and_an_error_of_the_machine_say_nothing_of_the_constants():
    chooser = random.Random(6)
    rates = [round(0.03 * 2 ** chooser.uniform(-1, 1), 5) for _ in range(10)]
    history = [Tried("t", "h", two(r), "discard", 2.2 + math.log2(r / 0.05) ** 2, 0.1, "") for r in rates]
    lost = [Tried("t", "h", TWO + f"print({n})\n".encode(), "crash", None, None, "") for n in range(9)]
    lost += [Tried("t", "h", two(0.04 + n / 1000), "error", None, None, "") for n in range(9)]
    known, _ = thinking(context(history, TWO), 0)
    same, _ = thinking(context([*history, *lost], TWO), 0)
    assert same.steps[0].changed == known.steps[0].changed


def test_a_process_of_its_own_says_the_same_and_a_late_or_dead_one_is_a_line(monkeypatch):
    history = [Tried("t", "h", two(0.02 + n / 500), "discard", 2.2 + n / 100, 0.1, "") for n in range(9)]
    assert (
        think(context(history, TWO), 1)[0].steps[0].changed
        == thinking(context(history, TWO), 1)[0].steps[0].changed
    )
    monkeypatch.setattr("harness.agents.thinking.LONGEST_SECONDS", 0.01)
    with pytest.raises(NoProposal, match="thought for more than"):
        Search(()).propose(context(history, TWO))
    monkeypatch.setattr("harness.agents.thinking.LONGEST_SECONDS", 60.0)
    monkeypatch.setattr("harness.agents.thinking.sys.executable", "/bin/false")
    with pytest.raises(NoProposal, match="ended with 1"):
        Search(()).propose(context(history, TWO))


def test_what_still_runs_is_not_proposed_again():
    chooser = random.Random(3)
    rates = [0.03 * 2 ** chooser.uniform(-1, 1) for _ in range(14)]
    history = [Tried("t", "h", two(r), "discard", 2.2 + math.log2(r / 0.05) ** 2, None, "") for r in rates]
    proposed = []
    for _ in range(4):
        made = searching(()).propose(context(history, TWO))
        proposed.append(tuple(values(made.source).values()))
        history.append(
            Tried(made.title, made.hypothesis, made.source, None, None, None, "", agent=made.agent)
        )
    assert len({*proposed}) == 4


def test_after_a_kept_structure_the_constants_that_it_brought_move_first():
    old = b"RATE = 0.03\nOTHER = 4.0\nprint(RATE, OTHER)\n"
    new = old + b"BOOST = 2.0\nprint(RATE * BOOST)\n"
    kept = Tried("t", "h", new, "keep", 2.1, -0.1, "", agent="llm/m", parent=old)
    for seed in range(5):
        made = values(searching(()).propose(context([kept], new, seed, value=2.1)).source)
        assert made["OTHER"] == 4.0 and (made["RATE"], made["BOOST"]) != (0.03, 2.0)


@pytest.mark.parametrize("edit", CATALOGUE, ids=lambda edit: edit.title)
def test_every_structural_edit_applies_to_the_starter(edit):
    made = edit.applied(SOURCE.decode())
    assert made is not None
    assert program.digest(made.encode()) != program.digest(SOURCE)


def test_edits_that_helped_are_tried_more_often_than_those_that_never_did():
    def share_of_edits(status, effect):
        rates = [0.02, 0.025, 0.028, 0.033, 0.036, 0.04, 0.045]
        steps = [Tried("t", "h", two(r), "discard", 2.2 + r, 0.1, "", 1, "search/gp") for r in rates]
        edits = [
            Tried(
                f"edit {n}", "h", TWO + f"X = {n}\n".encode(), status, 2.3, effect, "", 1, "search/catalogue"
            )
            for n in range(12)
        ]
        free = Edit("Print one more", "It may help.", (("print(RATE, OTHER)", "print(RATE, OTHER, 1)"),))
        made = [searching((free,)).propose(context([*steps, *edits], TWO, seed)).agent for seed in range(8)]
        return sum(agent == "search/catalogue" for agent in made)

    assert share_of_edits("keep", -0.5) > share_of_edits("discard", 0.01)


def test_scores_of_another_setting_are_no_crashes():
    chooser = random.Random(7)
    rates = [round(0.03 * 2 ** chooser.uniform(-0.5, 0.5), 5) for _ in range(20)]
    elsewhere = [Tried("t", "h", two(r), "discard", None, None, "") for r in rates]
    assert thinking(context(elsewhere, TWO), 0) == thinking(context([], TWO), 0)


@pytest.mark.parametrize("source", [b"DEPTH = 4\nprint(DEPTH)\n", b"A = True\nB = False\nprint(A, B)\n"])
def test_where_there_is_little_to_choose_all_of_it_is_tried_before_it_gives_up(source):
    history = []
    with pytest.raises(NoProposal):
        for _ in range(20):
            history.append(tried(searching(()).propose(context(history, source))))
    every = {tuple(values(one.source).values()) for one in history}
    assert len(every) == len(history) == (6 if b"DEPTH" in source else 3)


def test_programs_that_nobody_could_tell_apart_are_not_tried_one_after_the_other():
    history, noise = [], random.Random(8)
    for _ in range(16):
        made = searching(()).propose(context(history, TWO))
        history.append(tried(made, 2.2 + noise.gauss(0, 0.001)))
    places = [(math.log2(v["RATE"]), math.log2(v["OTHER"])) for v in map(values, (h.source for h in history))]
    assert all(
        max(abs(a - b) for a, b in zip(p, q, strict=True)) > 0.02
        for n, p in enumerate(places)
        for q in places[:n]
    )


def test_where_scores_tie_a_worse_one_is_no_crash():
    rates = [0.02, 0.022, 0.025, 0.028, 0.033, 0.036, 0.04, 0.045]
    ties = [Tried("t", "h", two(r), "discard", 0.05, None, "") for r in rates]
    worse = Tried("t", "h", two(0.05), "discard", 0.051, None, "")
    known, _ = thinking(context([*ties, worse], TWO, noise=0.002, value=0.05), 0)
    assert known.scored == len(ties) + 2


@pytest.mark.parametrize("now", [0.99995, 0.9999, 0.9, 0.5])
def test_what_is_close_to_1_stays_below_it_and_can_go_both_ways(now):
    one = axis(now, "EMA_DECAY")
    assert one.value(-0.5) < now < one.value(0.5) < 1
    assert one.coordinate(one.value(0.5)) == pytest.approx(0.5, abs=0.02)


def test_a_kept_change_that_is_a_little_worse_earned_nothing():
    kept = Tried("t", "h", TWO, "keep", 2.2, 0.003, "")
    better = dataclasses.replace(kept, delta=-0.003)
    assert earned([kept], 0.001, 1).gain == 0 and earned([better], 0.001, 1).gain == pytest.approx(3)
    assert earned([kept], 0.001, -1).gain == pytest.approx(3), "a metric to raise"


def test_what_main_scored_is_known_after_the_first_candidate():
    old, new = TWO, two(0.04)
    kept = Tried("t", "h", new, "keep", 2.1, -0.1, "", agent="search/gp", parent=old, parent_value=2.2)
    assert thinking(context([kept], new, value=2.1), 0)[0].scored == 2


# ── bad input ─────────────────────────────────────────────────────────────────────────────────


def test_without_constants_and_edits_it_says_so():
    with pytest.raises(NoProposal, match="no upper-case constants"):
        searching().propose(context(source=b"x = 1\n"))


FORTY = (
    "".join(f"RATE_{n} = 0.{n + 1:02d}\n" for n in range(40))
    + f"print({', '.join(f'RATE_{n}' for n in range(40))})\n"
)


@pytest.mark.parametrize("source", [b"RATE = 0.1\nprint(RATE)\n", FORTY.encode()], ids=["one", "forty"])
@pytest.mark.parametrize(
    "scores",
    [[], [2.2] * 14, [None] * 14, [1e300, -1e300, 2.2, 1e-300, 0.0] * 3, [2.2 + n / 100 for n in range(14)]],
    ids=["none", "all equal", "all crash", "lies", "a slope"],
)
def test_any_history_gives_a_proposal(source, scores):
    chooser, history = random.Random(4), []
    for value in scores:
        now = program.constants(source, False)
        changed = {c: round(c.value * 2 ** chooser.uniform(-1, 1), 6) for c in now}
        other = program.with_values(source, changed)
        history.append(Tried("t", "h", other, "crash" if value is None else "discard", value, None, ""))
    made = searching(()).propose(context(history, source))
    assert made.source != source


def test_programs_of_another_task_and_what_is_no_program_are_no_trouble():
    other = b"WIDTH = 7\nFLAG = True\nNAME = 'x'\n"
    history = [
        Tried("t", "h", s, "discard", 2.0, None, "") for s in (other, b"\xff(", b"", b"RATE = -3\n") * 4
    ]
    assert searching(()).propose(context(history, TWO)).source != TWO


def test_a_program_too_deep_to_read_and_endless_names_are_no_trouble():
    deep = b"RATE = 1.0\nX = " + b"-" * 200_000 + b"1\n"
    long = b"A" * 5000
    source = TWO + long + b" = 2.0\nprint(" + long + b")\n"
    history = [Tried("t", "h", deep, "discard", 2.0, None, "")] * 3
    made = searching(()).propose(context(history, source))
    assert made.source != source and len(made.title) <= 72 and len(made.hypothesis) < 1000


def test_a_constant_that_nothing_uses_gives_no_new_program():
    idle = b"IDLE = 0.1\nprint(1)\n"
    with pytest.raises(NoProposal, match="that it uses"):
        searching(()).propose(context(source=idle))


# ── a mix ─────────────────────────────────────────────────────────────────────────────────────


class Other:
    """A model whose answers are all the same program."""

    def __init__(self):
        self.told = []

    def propose(self, context):
        self.told.append(context.learned)
        return Proposal("Another structure", "It may help.", context.source + b"\nY = 1\n", "llm/other")


def shares(history):
    other = Other()
    made = [Mix(searching(()), other).propose(context(history, TWO, seed)).agent for seed in range(12)]
    return sum(agent == "llm/other" for agent in made), other


def test_in_a_mix_the_one_that_earns_more_proposes_more_often():
    def done(agent, status, effect, usd=None):
        return Tried("t", "h", two(0.03), status, 2.2, effect, "", 1, agent, usd)

    good = [done("llm/other", "keep", -0.02)] * 8 + [done("search/gp", "discard", 0.0)] * 8
    bad = [done("llm/other", "discard", 0.0)] * 8 + [done("search/gp", "keep", -0.02)] * 8
    dear = [done("llm/other", "keep", -0.02, 40.0)] * 8 + [done("search/gp", "keep", -0.01)] * 8
    assert shares(good)[0] >= 10
    assert shares(bad)[0] <= 2
    assert shares(dear)[0] <= 2


def test_in_a_mix_the_model_is_told_what_the_process_knows():
    chooser = random.Random(5)
    rates = [round(0.03 * 2 ** chooser.uniform(-1, 1), 5) for _ in range(FIRST + 4)]
    history = [Tried("t", "h", two(r), "discard", 2.2 + math.log2(r / 0.05) ** 2, 0.1, "") for r in rates]
    _, other = shares([dataclasses.replace(one, agent="search/gp") for one in history])
    assert other.told and all("RATE" in said for said in other.told)
