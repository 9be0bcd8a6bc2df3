"""Devices of one kind differ: each has an offset, which no decision takes for an idea's."""

import random
import statistics

import pytest

from harness.gate.hosts import level, levelled, offsets_of
from harness.gate.standing import rebuilt
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Measured
from harness.store.records import KEEP

SD, OFF = 0.001, {"a": -0.003, "b": 0.0, "c": 0.003}


def main_on(chooser, each=3, off=OFF):
    hosts = [name for name in off for _ in range(each)]
    scores = tuple(1.0 + off[name] + chooser.gauss(0, SD) for name in hosts)
    return Measured("main", "", scores, True, hosts=tuple(hosts))


def tries(chooser, count, off=OFF, effect=lambda chooser: chooser.expovariate(1 / 0.002)):
    for number in range(count):
        host = chooser.choice(list(off))
        score = 1.0 + effect(chooser) + off[host] + chooser.gauss(0, SD)
        yield Measured(str(number), "main", (score,), hosts=(host,))


@pytest.mark.parametrize("seed", range(5))
def test_offsets_come_out_of_the_runs_of_main(seed):
    found = offsets_of([main_on(random.Random(seed), each=8)])
    assert all(abs(found[name] - off) < 1.2 * SD for name, off in OFF.items()), found


def test_experiments_on_one_commit_say_more_of_them():
    errors = {"main": [], "all": []}
    for seed in range(30):
        chooser = random.Random(seed)
        main, experiments = main_on(chooser, each=2), list(tries(chooser, 120))
        for which, known in (("main", [main]), ("all", [main, *experiments])):
            errors[which] += [offsets_of(known)[name] - off for name, off in OFF.items()]
    assert statistics.pstdev(errors["all"]) < 0.7 * statistics.pstdev(errors["main"])


def test_devices_that_are_alike_have_next_to_none():
    alike = dict.fromkeys(OFF, 0.0)
    found = offsets_of([main_on(random.Random(1), 4, alike), *tries(random.Random(2), 60, alike)])
    assert max(map(abs, found.values())) < SD / 2


def test_one_device_or_none_that_is_known_has_no_offset():
    chooser = random.Random(0)
    assert offsets_of([main_on(chooser, off={"a": 0.0})]) == {}
    unknown = [Measured("main", "", (1.0, 1.1, 1.05), True), Measured("x", "main", (1.2,))]
    assert offsets_of(unknown) == {} and levelled(unknown[0], {}) is unknown[0]
    assert level(1.0, "never seen", {"a": 0.5}) == 1.0


def test_a_score_that_is_far_off_moves_no_offset():
    chooser = random.Random(3)
    main = main_on(chooser, each=4)
    spoilt = Measured("main", "", (*main.scores, 3.0), True, hosts=(*main.hosts, "b"))
    before, after = offsets_of([main]), offsets_of([spoilt])
    assert all(abs(before[name] - after[name]) < 2 * SD for name in OFF)


def test_a_lucky_device_makes_no_idea_better():
    """An idea of no effect that ran where scores come out low by three times the noise."""
    chooser = random.Random(4)
    known = [main_on(chooser, each=6), *tries(chooser, 60)]
    unnamed = [Measured(e.commit, e.parent, e.scores, e.kept) for e in known]
    told, blind = (rebuilt("main", each, "belief", VAL_BPB) for each in (known, unnamed))
    at, on = told.incumbent.value + OFF["a"], ("a", "a")
    scores = [at + SD / 2, at + SD]
    assert told.decide("main", scores, False, on).status != KEEP
    assert (
        blind.decide("main", scores[:1], False).effect < told.decide("main", scores[:1], False, on[:1]).effect
    )
    assert "without its hosts' offset" in told.decide("main", scores, False, on).reason
