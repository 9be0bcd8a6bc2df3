"""The search agent: no network, no key, its state from history alone."""

import ast
import dataclasses

import pytest
from conftest import STARTER

from harness.agents import Context, NoProposal, Tried, program
from harness.agents.catalogue import CATALOGUE
from harness.agents.search import Search, _coordinate, _value
from harness.store.aliases import VAL_BPB

SOURCE = STARTER.encode()


def context(history=(), source=SOURCE, seed=0):
    return Context("", source, VAL_BPB, 2.2, "0" * 40, tuple(history), False, len(history), seed)


def tried(proposal, value=2.3):
    return Tried(proposal.title, proposal.hypothesis, proposal.source, "discard", value, 0.1, "")


@pytest.mark.parametrize("octaves", [-2.0, 0.0, 1.0, 2.0])
def test_a_part_of_something_stays_between_nothing_and_all_of_it(octaves):
    assert 0 <= _value(octaves, 0.5) < 1


def test_numbers_without_measure_are_no_constants_to_search():
    source = b"RATE = 0.1\nHUGE = 1" + b"0" * 400 + b"\nENDLESS = 1e999\nprint(RATE, HUGE, ENDLESS)\n"
    assert [constant.name for constant in program.constants(source, False)] == ["RATE"]
    history = [Tried("t", "h", source, "discard", 2.5, None, "")]
    assert b"RATE" in Search().propose(context(history, source)).source


def test_it_never_proposes_what_was_tried():
    history = []
    for _ in range(12):
        history.append(tried(Search().propose(context(history))))
    digests = [program.digest(earlier.source) for earlier in history]
    assert len({*digests, program.digest(SOURCE)}) == len(history) + 1


def test_an_edit_is_not_tried_again_on_every_new_incumbent_while_others_were_not_tried():
    history, titles = [], []
    for number in range(len(CATALOGUE)):
        source = SOURCE + f"X = {number}\n".encode()  # an incumbent that moves every time
        proposal = Search().propose(dataclasses.replace(context(history, source), number=3 * number + 2))
        titles.append(proposal.title)
        history.append(tried(proposal))
    assert sorted(titles) == sorted(edit.title for edit in CATALOGUE)


def test_the_same_history_and_seed_give_the_same_proposal():
    history = [tried(Search().propose(context()))]
    assert Search().propose(context(history)) == Search().propose(context(history))
    assert Search().propose(context(history, seed=5)) != Search().propose(context(history))


def test_proposals_are_programs_that_say_what_changed():
    history, agents = [], set()
    for _ in range(8):
        proposal = Search().propose(context(history))
        ast.parse(proposal.source)
        assert proposal.source != SOURCE
        assert proposal.title and proposal.hypothesis and "\n" not in proposal.title
        history.append(tried(proposal))
        agents.add(proposal.agent)
    assert agents == {"search/tpe", "search/catalogue"}


@pytest.mark.parametrize("edit", CATALOGUE, ids=lambda edit: edit.title)
def test_every_structural_edit_applies_to_the_starter(edit):
    made = edit.applied(SOURCE.decode())
    assert made is not None
    assert program.digest(made.encode()) != program.digest(SOURCE)


@pytest.mark.parametrize("anchor", [3, 64, 0.03, 0.95, 0.5, 10000.0, 15.0])
def test_a_coordinate_of_0_is_the_anchor_itself(anchor):
    assert _value(0.0, anchor) == anchor
    assert _coordinate(anchor, anchor) == 0.0


@pytest.mark.parametrize("anchor", [1, 2, 4, 128])
def test_what_must_divide_goes_on_dividing(anchor):
    made = {_value(octaves / 10, anchor) for octaves in range(-20, 21)}
    assert len(made) > 2 and all(value.bit_count() == 1 for value in made), made


def test_a_count_goes_by_ones():
    assert {_value(octaves / 10, 3) for octaves in range(-20, 21)} >= {2, 3, 4, 5, 6, 7}


def test_it_learns_which_way_is_better():
    """Scores that fall with the rate: what it proposes next is more often a higher one."""

    def program_at(rate):
        return f"RATE = {rate}\nOTHER = 4.0\nprint(RATE, OTHER)\n".encode()

    rates = (0.01, 0.015, 0.02, 0.025, 0.04, 0.05, 0.06, 0.08, 0.1, 0.11)
    history = [Tried("t", "h", program_at(r), "discard", 2.5 - 3 * r, None, "") for r in rates]
    ups = downs = 0
    for seed in range(60):
        made = Search().propose(context(history, program_at(0.03), seed)).source
        value = next(c.value for c in program.constants(made, False) if c.name == "RATE")
        ups, downs = ups + (value > 0.03), downs + (value < 0.03)
    assert ups > 2 * downs, (ups, downs)


def test_without_constants_and_edits_it_says_so():
    with pytest.raises(NoProposal, match="no upper-case constants"):
        Search().propose(context(source=b"x = 1\n"))
