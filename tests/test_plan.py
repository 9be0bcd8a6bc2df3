"""The schedule is a pure function: what it never does, whatever it is told, and how a long session ends."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.session.plan import (
    Bounds,
    BringUp,
    Due,
    Facts,
    Place,
    Propose,
    PutBack,
    Release,
    Running,
    Start,
    missing_runs,
    plan,
)  # fmt: skip
from harness.worker.service import AT_A_TIME

RUNNING = st.builds(
    Running, st.integers(1, 10**6), st.sampled_from(["main", "x"]), st.sampled_from(["now", "before"]),
    st.none() | st.builds(Due, st.integers(1, 9), st.sampled_from(["main", "head", "gone"])),
    *[st.booleans()] * 6,
)  # fmt: skip
PLACES = st.lists(
    st.builds(Place, st.just(0), st.sampled_from("ab"), st.booleans(), st.booleans(),
              st.lists(RUNNING, max_size=AT_A_TIME).map(tuple)),
    min_size=1, max_size=5,
)  # fmt: skip
DUE = st.builds(
    Due, st.integers(1, 9), st.sampled_from(["main", "head", "gone"]),
    st.lists(st.sampled_from("ab"), max_size=2).map(tuple), st.booleans(),
)  # fmt: skip


@st.composite
def facts(draw):
    places = tuple(dataclasses.replace(each, number=n) for n, each in enumerate(draw(PLACES)))
    due = {each.number: each for each in draw(st.lists(DUE, max_size=6))}
    return Facts(
        "main", "now", draw(st.sampled_from([(), ("main",), ("main", "head")])),
        tuple(due[number] for number in sorted(due)), places, draw(st.integers(0, 4)),
        draw(st.dictionaries(st.sampled_from("ab"), st.integers(-1, 2))),
        *draw(st.tuples(*[st.booleans()] * 3)),
    )  # fmt: skip


BOUNDS = st.builds(Bounds, st.none() | st.integers(0, 4), *[st.booleans()] * 3)


@settings(max_examples=400, deadline=None)
@given(facts(), BOUNDS)
def test_whatever_is_known_no_device_is_given_more_than_it_holds_and_no_experiment_runs_twice(known, bounds):
    actions = plan(known, bounds)
    places = {place.number: place for place in known.places}
    starts = [action for action in actions if isinstance(action, Start)]
    assert len({start.place for start in starts}) == len(starts)
    for start in starts:
        place = places[start.place]
        assert len(place.runs) < AT_A_TIME and (not place.runs or place.may_start)
    begun = [start.due.number for start in starts if start.due is not None]
    running = {run.due.number for run in known.running if run.due is not None}
    assert len(set(begun)) == len(begun) and not running & set(begun)
    every = [run for place in known.places for run in (*place.runs, *known.gone) if not run.is_cancelled]
    held = {run.id for run in every if run.is_held or run.waits}
    touched = [action.run for action in actions if isinstance(action, Release | BringUp | PutBack)]
    assert set(touched) <= held


@settings(max_examples=400, deadline=None)
@given(facts(), BOUNDS)
def test_limits_hold(known, bounds):
    actions = plan(known, bounds)
    new = [each for each in actions if isinstance(each, Start) and not (each.due and each.due.is_again)]
    if bounds.is_over_unpaid and bounds.is_over:
        assert not new and not any(isinstance(each, Propose) for each in actions)
    if bounds.is_stopping:
        assert not [each for each in actions if isinstance(each, Start) and each.due and each.due.is_again]
    first = [each for each in new if each.due is not None]
    if bounds.left is not None and first:
        assert known.undecided + len(first) <= bounds.left


@settings(max_examples=400, deadline=None)
@given(facts(), BOUNDS)
def test_before_main_is_known_nothing_trains_that_would_be_held_against_it(known, bounds):
    if known.chain:
        return
    places = {place.number: place for place in known.places}
    for action in plan(known, bounds):
        if isinstance(action, Start) and action.due is not None:
            assert places[action.place].runs, "it would train at once"
        assert not isinstance(action, BringUp)


def place(number=0, *runs, on="a", **about):
    return Place(number, on, runs=tuple(runs), **about)


def run(number=1, due=None, commit="main", **about):
    return Running(number, commit, "now", due, **about)


def test_main_runs_everywhere_first_then_experiments():
    unknown = Facts("main", "now", (), (), (place(0), place(1)), missing=2)
    assert plan(unknown, Bounds()) == [Start(0, None), Start(1, None)]
    known = Facts("main", "now", ("main",), (Due(1, "main"),), (place(0), place(1)))
    assert plan(known, Bounds()) == [Start(0, Due(1, "main")), Propose(True)]


def test_a_repeat_goes_to_another_device_than_the_first_run():
    again = Due(1, "main", ("a",), is_again=True)
    both = place(0, on="a"), place(1, on="b")
    assert plan(Facts("main", "now", ("main",), (again,), both, may_ask=False), Bounds()) == [Start(1, again)]
    alone = Facts("main", "now", ("main",), (again,), both[:1], may_ask=False)
    assert plan(alone, Bounds()) == [Start(0, again)], "if there is another one"


def test_a_device_that_is_new_runs_main_first():
    known = Facts(
        "main", "now", ("main",), (Due(1, "main"),), (place(0, on="b"), place(1)), missing_on={"b": 2}
    )
    assert plan(known, Bounds(left=5)) == [Start(0, None), Start(1, Due(1, "main"))]


def test_what_is_held_is_put_on_the_head_put_back_or_let_train():
    one = Due(1, "main")
    held = run(due=one, commit="x", is_held=True)
    base = Facts("main", "now", ("main",), (one,), (place(0, held),))
    assert plan(base, Bounds()) == [Release(1)]
    assert plan(dataclasses.replace(base, chain=("main", "head")), Bounds()) == [BringUp(1)]
    assert plan(dataclasses.replace(base, purpose="another config"), Bounds()) == [PutBack(1)]
    assert plan(base, Bounds(is_over_unpaid=True, is_over=True)) == [PutBack(1)]


def test_who_ran_out_of_memory_beside_another_one_gets_all_the_room():
    full, held = run(1, commit="x", wants_room=True), run(2, Due(1, "main"), is_held=True)
    assert plan(Facts("main", "now", ("main",), (), (place(0, full, held),)), Bounds()) == [PutBack(2)]


def test_a_session_that_is_over_waits_for_no_device_that_somebody_else_has():
    one = Due(1, "main")
    known = Facts("main", "now", ("main",), (one,), (place(0, run(due=one, commit="x", waits=True)),))
    assert plan(known, Bounds(left=1)) == []
    assert plan(known, Bounds(is_over=True, is_over_unpaid=True)) == [PutBack(1)]
    again = Due(1, "main", is_again=True)
    paid = dataclasses.replace(known, due=(again,), places=(place(0, run(due=again, waits=True)),))
    assert plan(paid, Bounds(is_over=True, is_over_unpaid=True)) == []
    assert plan(paid, Bounds(is_over=True, is_over_unpaid=True, is_stopping=True)) == [PutBack(1)]


@pytest.mark.parametrize(
    ("made", "workers", "wanted", "missing"),
    [(0, 1, 4, 4), (0, 3, 4, 6), (2, 1, 4, 2), (4, 12, 2, 0), (0, 5, 1, 1), (1, 2, 4, 4)],
)
def test_main_is_run_as_often_as_says_something_on_every_worker(made, workers, wanted, missing):
    assert missing_runs(made, workers, wanted) == missing


class World:
    """A session in which workers are lost at random; each step something that runs may end, or be lost."""

    def __init__(self, seed, workers=6, experiments=400):
        self.chooser, self.left = random.Random(seed), experiments
        self.places = {n: [] for n in range(workers)}
        self.due, self.decided, self.runs = {}, [], {}
        self.made, self.count, self.ids = 0, 0, 0
        self.chain, self.devices = (), {n: "ab"[n % 2] for n in range(workers)}

    def facts(self, may_ask):
        of_main = sum(run.due is None for runs in self.places.values() for run in runs)
        missing = max(0, missing_runs(0, len(self.places), 4) - self.made - of_main)
        if not missing and not of_main and not self.chain:
            self.chain = ("main",)
        places = tuple(Place(n, self.devices[n], True, True, tuple(runs)) for n, runs in self.places.items())
        due = tuple(self.due[n] for n in sorted(self.due))
        missing = 0 if self.chain else missing
        return Facts("main", "now", self.chain, due, places, missing, {}, self.made > 0, False, may_ask)

    def bounds(self):
        left = self.left - len(self.decided)
        return Bounds(left, left <= 0, left <= 0)

    def act(self):
        may_ask = True
        for _ in range(1000):
            actions = plan(self.facts(may_ask), self.bounds())
            if not actions:
                return
            for action in actions:
                may_ask = self.carry_out(action) and may_ask
        raise AssertionError("there was always something left to do")

    def carry_out(self, action):
        if isinstance(action, Start):
            self.ids += 1
            is_held = bool(self.places[action.place])
            self.places[action.place].append(Running(self.ids, "main", "now", action.due, is_held))
        elif isinstance(action, Propose):
            if self.chooser.random() < 0.3:
                return False
            self.count += 1
            self.due[self.count] = Due(self.count, "main")
        else:
            for runs in self.places.values():
                for at, each in enumerate(runs):
                    if each.id == action.run and isinstance(action, Release | BringUp):
                        runs[at] = dataclasses.replace(each, is_held=False)
                    elif each.id == action.run:
                        runs.remove(each)
        return True

    def step(self):
        n, chance = self.chooser.choice(list(self.places)), self.chooser.random()
        runs = self.places[n]
        if not runs:
            return
        if chance < 0.1:  # the worker is gone, with all that it had
            self.places[n] = []
            return
        first = runs[0]
        if not first.has_trained:
            runs[0] = dataclasses.replace(first, has_trained=not first.is_held)
            return
        runs.pop(0)
        if first.due is None:
            self.made += 1
            return
        number = first.due.number
        self.runs.setdefault(number, []).append(self.devices[n])
        if len(self.runs[number]) < 3 and self.chooser.random() < 0.3:
            self.due[number] = Due(number, "main", tuple(self.runs[number]), is_again=True)
        else:
            del self.due[number]
            self.decided.append(number)


@pytest.mark.parametrize("seed", range(3))
def test_a_session_of_ten_thousand_steps_with_lost_workers_decides_everything_once(seed):
    world = World(seed)
    for _ in range(10_000):
        world.act()
        for runs in world.places.values():
            assert len(runs) <= AT_A_TIME and sum(not run.is_held for run in runs[1:]) == 0
        world.step()
    assert len(world.decided) == len(set(world.decided)) == world.left, "each once, none more than asked for"
    assert not any(due.is_again for due in world.due.values()), "nothing starves"
