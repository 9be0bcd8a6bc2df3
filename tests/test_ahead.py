"""What starts before the research stands anywhere: runs of `main`, and the first experiment on it."""

import pytest
from stubs import BASELINE, SD, Changing, begin, known

from harness.errors import HarnessError

WORSE = [2.0 + 5 * SD] * 3


def test_a_run_of_main_and_the_first_experiment_start_while_a_run_of_main_trains(fresh, told, beside):
    told.scores["One"] = list(WORSE)
    agent = Changing([("One", 1, WORSE)])
    runs, real = [], agent.propose
    agent.propose = lambda context: runs.append(len(told.scores["baseline"])) or real(context)

    def train(title):
        started = [name for name, _ in beside.started].count("baseline")
        if title == "baseline" and started < len(BASELINE):
            beside.until_start_of("baseline", started + 1)
        elif title == "baseline":
            beside.until_start_of("One")

    beside.train = train
    assert begin(fresh, agent, places=1, experiments=1).run().measured == 1
    assert [alone for _, alone in beside.started] == [True, False, False, False, False]
    assert runs[0] == len(BASELINE) - 1, "asked for when main had one score"
    (one,) = known(fresh)
    assert one.status == "discard" and one.parent == fresh("rev-parse", "main")
    assert len(known(fresh).trials(one.parent)) == len(BASELINE)


def test_a_main_that_gives_no_score_ends_the_night_at_its_first_run(fresh, told, beside):
    def no_score():
        raise OSError("the disk is gone")

    told.scores["baseline"] = [no_score]
    beside.train = lambda title: beside.until_start_of("baseline") if len(beside.started) == 1 else None
    with pytest.raises(HarnessError, match="disk is gone"):
        begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    assert len(beside.started) - len(beside.cancelled) == 1


def test_every_station_runs_main_while_its_noise_is_measured(fresh, told):
    told.scores |= {"baseline": [*BASELINE, *BASELINE], "One": list(WORSE)}
    begin(fresh, Changing([("One", 1, WORSE)]), places=3, experiments=1).run()
    assert len(known(fresh).trials(fresh("rev-parse", "main"))) == 6
    begin(fresh, Changing([]), places=3, experiments=0).run()
    assert len(known(fresh).trials(fresh("rev-parse", "main"))) == 6


def test_what_is_run_once_more_starts_while_another_one_trains_and_no_limit_leaves_it(fresh, told, beside):
    answers = [("Much", 1, [2.0 - 15 * SD, 2.0 + 9 * SD, 2.0 + 9 * SD]), ("Two", 9, WORSE)]
    told.scores |= {title: list(scores) for title, _, scores in answers}

    def train(title):
        beside.until_start_of({"Much": "Two", "Two": "Much"}.get(title), 2 if title == "Two" else 1)

    beside.train = train
    begin(fresh, Changing(answers), places=1, patience=1).run()
    assert [may_train for name, may_train in beside.started if name == "Much"][:2] == [False, False]
    assert [e.status for e in known(fresh)] == ["discard", "discard"] and beside.cancelled == []
