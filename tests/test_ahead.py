"""What starts before the research stands anywhere: runs of `main`, and the first experiment on it."""

import dataclasses
import errno
import os
import threading
import time

import pytest
from stubs import BASELINE, SD, Changing, begin, known

import harness.executors.jobs as executor
import harness.session.runner as runner
import harness.worker.attempts as attempts
from harness.errors import HarnessError
from harness.store.records import CRASH, ERROR, Kind

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
    assert len(known(fresh).runs(one.parent)) == len(BASELINE)


def test_a_main_that_gives_no_score_ends_the_night_at_its_first_run(fresh, told, beside, monkeypatch):
    beside.train = lambda title: beside.until_start_of("baseline", 2)
    no_score = {"status": CRASH, "detail": "exit 1", "value": None}
    monkeypatch.setattr(attempts, "measure", lambda *args: dataclasses.replace(beside(*args), **no_score))
    with pytest.raises(HarnessError, match="gives no score: crash: exit 1"):
        begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    assert beside.cancelled == ["baseline"] and len(told.ran) == 1


def test_a_lost_gpu_ends_the_session_and_what_ran_on_it_is_measured_in_the_next(fresh, told, monkeypatch):
    told.scores["One"] = [WORSE[0], *WORSE]

    def lost(source, commit, *rest):
        run = told.measure(source, commit, *rest)
        gone = {"status": ERROR, "kind": Kind.LOST, "detail": "the GPU doesn't answer", "value": None}
        is_one = fresh("log", "-1", "--format=%s", commit) == "One"
        return dataclasses.replace(run, **gone) if is_one else run

    monkeypatch.setattr(attempts, "measure", lost)
    with pytest.raises(HarnessError, match="the GPU doesn't answer"):
        begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    (one,) = known(fresh)
    assert one.status is None and len(told.scores["One"]) == len(WORSE)
    monkeypatch.setattr(attempts, "measure", told.measure)
    begin(fresh, Changing([]), places=1, experiments=1).run()
    assert known(fresh).find("1").status == "discard"


@pytest.mark.parametrize("how", ["lost", "disk"])
def test_one_device_that_is_lost_is_left_alone_and_the_others_go_on(fresh, told, monkeypatch, how):
    told.scores |= {"baseline": [*BASELINE, *BASELINE], "One": list(WORSE), "Two": list(WORSE)}
    said, tried = [], []

    def measure(source, commit, seed, setup, *rest):
        if setup.device.place == 1:
            tried.append(commit)
            if how == "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            run = told.measure(source, commit, seed, setup, *rest)
            gone = {"status": ERROR, "kind": Kind.LOST, "detail": "the GPU doesn't answer", "value": None}
            return dataclasses.replace(run, **gone)
        return told.measure(source, commit, seed, setup, *rest)

    monkeypatch.setattr(attempts, "measure", measure)
    answers = Changing([("One", 1, WORSE), ("Two", 9, WORSE)])
    begin(fresh, answers, places=3, experiments=2, said=said).run()
    assert [each.status for each in known(fresh)] == ["discard", "discard"] and len(tried) == 1
    (line,) = [line for line in said if "is left alone from now on" in line]
    assert ("the GPU doesn't answer" in line) == (how == "lost")


def test_every_station_runs_main_while_its_noise_is_measured(fresh, told):
    told.scores |= {"baseline": [*BASELINE, *BASELINE], "One": list(WORSE)}
    begin(fresh, Changing([("One", 1, WORSE)]), places=3, experiments=1).run()
    assert len(known(fresh).runs(fresh("rev-parse", "main"))) == 6
    begin(fresh, Changing([]), places=3, experiments=0).run()
    assert len(known(fresh).runs(fresh("rev-parse", "main"))) == 6


def test_what_is_run_once_more_starts_while_another_one_trains_and_no_limit_leaves_it(fresh, told, beside):
    answers = [("Much", 1, [2.0 - 15 * SD, 2.0 + 9 * SD, 2.0 + 9 * SD]), ("Two", 9, WORSE)]
    told.scores |= {title: list(scores) for title, _, scores in answers}

    def train(title):
        beside.until_start_of({"Much": "Two", "Two": "Much"}.get(title), 2 if title == "Two" else 1)

    beside.train = train
    begin(fresh, Changing(answers), places=1, patience=1).run()
    assert [may_train for name, may_train in beside.started if name == "Much"][1] is False
    assert [e.status for e in known(fresh)] == ["discard", "discard"] and beside.cancelled == []


def test_a_run_of_main_that_waits_is_not_made_when_a_person_moves_main(fresh, told, beside):
    told.scores |= {"By hand": list(BASELINE), "One": list(WORSE)}

    def train(title):
        if len(beside.started) == 1:
            beside.until_start_of("baseline", 2)
            source = fresh.folder / "train.py"
            source.write_text(source.read_text() + "# by hand\n")
            fresh("commit", "-qam", "By hand")

    beside.train = train
    begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    assert beside.cancelled == ["baseline"]
    assert len(known(fresh).runs(fresh("rev-parse", "main~"))) == 1
    assert len(known(fresh).runs(fresh("rev-parse", "main"))) == len(BASELINE)


def test_a_run_of_main_that_was_not_made_in_a_setting_is_made_when_a_person_comes_back_to_it(
    fresh, told, beside
):
    told.scores |= {"baseline": [*BASELINE, *BASELINE], "One": list(WORSE)}
    path = fresh.folder / ".autoresearch" / "config.toml"
    ours, budgets = path.read_text(), []

    def train(title):
        budgets.append(path.read_text())
        if len(budgets) == 1:
            beside.until_start_of("baseline", 2)
            path.write_text(ours.replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
        elif len(budgets) == 2:
            path.write_text(ours)

    beside.train = train
    begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    assert budgets[1] != ours
    trials = known(fresh).runs(fresh("rev-parse", "main"))
    assert [trial.budget_seconds for trial in trials].count(0.3) == len(BASELINE)


def test_no_experiment_trains_while_another_station_makes_the_last_run_of_main(fresh, told, beside):
    told.scores["One"], seen, trained = list(WORSE), [], []

    def train(title):
        trained.append(title)
        if title == "One":
            seen.append(len(told.ran))
        elif len(trained) == len(BASELINE):
            time.sleep(1)

    beside.train = train
    begin(fresh, Changing([("One", 1, WORSE)]), places=2, experiments=1).run()
    assert seen == [len(BASELINE)]


def test_nothing_is_read_while_one_trains_and_there_is_nothing_to_begin(fresh, told, beside, monkeypatch):
    told.scores["One"], looks, real = list(WORSE), [], runner.open_setup
    monkeypatch.setattr(runner, "open_setup", lambda *args: looks.append(time.monotonic()) or real(*args))
    trained = []

    def train(title):
        if title == "One":
            trained.append(time.monotonic())
            time.sleep(2)
            trained.append(time.monotonic())

    beside.train = train
    begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    assert sum(trained[0] < look < trained[1] for look in looks) < 3


def test_the_greedy_rule_takes_one_run_of_main_on_any_number_of_stations(greedy, told):
    told.scores |= {"the greedy rule": list(BASELINE), "One": list(WORSE)}
    begin(greedy, Changing([("One", 1, WORSE)]), places=3, experiments=1).run()
    assert len(known(greedy).runs(greedy("rev-parse", "main"))) == 1


@pytest.fixture
def two_runs(told, monkeypatch):
    """Of `main`, one on each of two stations, at once."""
    monkeypatch.setattr(runner, "CALIBRATION_RUNS", 2)
    told.scores["baseline"] = list(BASELINE[:2])
    return [("One", 1, WORSE), ("Two", 2, WORSE)]


def test_on_every_station_an_experiment_starts_beside_mains_runs_and_trains_when_all_are_known(
    fresh, told, beside, two_runs
):
    told.scores |= {title: list(scores) for title, _, scores in two_runs}
    agent = Changing(two_runs)
    first, knew, seen, real = [], [], [], agent.propose
    agent.propose = lambda context: knew.append(context.value) or real(context)

    def train(title):
        if title != "baseline":
            return seen.append(len(known(fresh).runs(fresh("rev-parse", "main"))))
        beside.until_start_of("One")
        beside.until_start_of("Two")
        if not first:  # the other run of main is over a second before this one
            first.append(title)
            time.sleep(1)

    beside.train = train
    assert begin(fresh, agent, places=2, experiments=2).run().measured == 2
    assert beside.started[:2] == [("baseline", True)] * 2 and beside.cancelled == []
    assert sorted(beside.started[2:4]) == [("One", False), ("Two", False)]
    assert knew == [None, None] and seen == [2, 2]
    assert {e.status for e in known(fresh)} == {"discard"}


def test_what_waits_for_mains_last_run_elsewhere_is_put_back_when_a_person_moves_main(
    fresh, told, beside, two_runs
):
    told.scores |= {title: list(scores) for title, _, scores in two_runs}
    told.scores["By hand"] = list(BASELINE[:2])
    trained = []

    def train(title):
        trained.append(title)
        last = len(trained) == 1
        if title == "baseline":
            beside.until_start_of("One")
            beside.until_start_of("Two")
        if last:
            beside.until(lambda: told.ran)
            time.sleep(0.5)  # who waits beside the other one waits for this one
            source = fresh.folder / "train.py"
            source.write_text(source.read_text() + "# by hand\n")
            fresh("commit", "-qam", "By hand")

    beside.train = train
    begin(fresh, Changing(two_runs), places=2, experiments=2).run()
    assert sorted(beside.cancelled) == ["One", "Two"]
    assert trained[:4] == ["baseline", "baseline", "By hand", "By hand"]
    assert {e.status for e in known(fresh)} == {"discard"}


def test_a_night_that_is_stopped_while_one_waits_for_mains_last_run_ends_after_it(
    fresh, told, beside, two_runs
):
    loop, trained = begin(fresh, Changing(two_runs), places=2), []

    def train(title):
        trained.append(title)
        last = len(trained) == 1
        beside.until_start_of("Two")
        if last:
            beside.until(lambda: told.ran)
            loop.stop("stopped")

    beside.train = train
    assert loop.run().measured == 0
    assert trained == ["baseline"] * 2 and sorted(beside.cancelled) == ["One", "Two"]
    assert [e.status for e in known(fresh)] == [None, None]


def test_what_was_begun_on_a_main_that_gives_no_score_is_measured_on_the_mended_one(
    fresh, told, beside, two_runs, monkeypatch
):
    told.scores |= {"One": list(WORSE), "Two": list(WORSE), "Mended": list(BASELINE)}

    def train(title):
        if title == "baseline":
            beside.until_start_of("One")
            beside.until_start_of("Two")

    beside.train, no_score = train, {"status": CRASH, "detail": "exit 1", "value": None}
    monkeypatch.setattr(attempts, "measure", lambda *args: dataclasses.replace(beside(*args), **no_score))
    with pytest.raises(HarnessError, match="gives no score"):
        begin(fresh, Changing(two_runs), places=2, experiments=2).run()
    source = fresh.folder / "train.py"
    source.write_text(source.read_text() + "# by hand\n")
    fresh("commit", "-qam", "Mended")
    beside.train = lambda title: None
    monkeypatch.setattr(attempts, "measure", beside)
    assert begin(fresh, Changing([]), places=2, experiments=2).run().measured == 2
    assert {e.parent for e in known(fresh)} == {fresh("rev-parse", "main")}


def test_a_person_may_put_main_on_an_experiment_that_is_held(fresh, told, beside):
    answers = [("Much", 1, [2.0 - 15 * SD] * 6), ("Two", 9, WORSE)]
    told.scores |= {title: list(scores) for title, _, scores in answers}

    def train(title):
        beside.until_start_of({"Much": "Two"}.get(title))
        if title == "Two":
            beside.until_start_of("Much", 2)
            fresh("merge", "-q", "--ff-only", known(fresh).find("1").name.branch)

    beside.train = train
    begin(fresh, Changing(answers), places=1, experiments=2).run()
    assert beside.cancelled == ["Much"] and known(fresh).find("2").status == "discard"


# ── results that come back at once ────────────────────────────────────────────────────────────


@pytest.fixture
def slow(monkeypatch):
    """The loop is away for a moment: what is over meanwhile comes back together."""
    real = executor.Executor.wait
    monkeypatch.setattr(
        executor.Executor, "wait", lambda self, also=None: (real(self, also), time.sleep(0.3))
    )
    return threading.Barrier(2, timeout=20)


def test_all_runs_of_main_that_come_back_at_once_count(fresh, told, beside, two_runs, slow):
    told.scores |= {"baseline": [1.9, 2.1], "One": [2.0] * 3, "Two": [2.0] * 3}
    beside.train = lambda title: slow.wait() if title == "baseline" else None
    beside.tells_apart = lambda title: False
    begin(fresh, Changing(two_runs), places=2, experiments=2).run()
    incumbent = float(known(fresh).find("1").message.trailers["Incumbent"].split()[1])
    assert incumbent == pytest.approx(2.0, abs=0.01), "both, and not one of them"


def test_a_run_of_main_that_crashes_leaves_the_score_of_one_that_comes_back_with_it(
    fresh, told, beside, two_runs, slow, monkeypatch
):
    told.scores["One"], over = list(WORSE), []
    beside.train = lambda title: slow.wait() if title == "baseline" else None

    def measure(*args):
        trial = beside(*args)
        over.append(trial)
        no_score = {"status": CRASH, "detail": "exit 1", "value": None}
        return dataclasses.replace(trial, **no_score) if len(over) == 1 else trial

    monkeypatch.setattr(attempts, "measure", measure)
    assert begin(fresh, Changing(two_runs), places=2, experiments=1).run().measured == 1


def test_what_is_held_where_one_that_is_kept_comes_back_with_another_begins_anew_on_it(
    fresh, told, beside, slow
):
    answers = [("One", 1, WORSE), ("Two", 2, [2.0 - 8 * SD] * 3), ("Three", 3, WORSE), ("Four", 4, WORSE)]
    told.scores |= {title: list(scores) for title, _, scores in answers}

    def train(title):
        if title in ("One", "Two"):
            beside.until_start_of("Three")
            beside.until_start_of("Four")
            slow.wait()

    beside.train = train
    begin(fresh, Changing(answers), places=2, experiments=4).run()
    two, *held = (known(fresh).find(str(n)) for n in (2, 3, 4))
    assert two.status == "keep" and two.commit in [experiment.parent for experiment in held]


def test_what_waits_for_main_is_put_back_when_a_person_changes_the_config(
    fresh, told, beside, two_runs, monkeypatch
):
    told.scores |= {"baseline": list(BASELINE) * 2, "One": list(WORSE), "Two": list(WORSE)}
    path, here, trained = fresh.folder / ".autoresearch" / "config.toml", threading.local(), []
    loop = begin(fresh, agent := Changing(two_runs), places=2, experiments=2)

    def train(title):
        trained.append(title)
        if title == "baseline" and len(trained) < 3:
            beside.until_start_of("One")
            held = next(job.worker._worker for job in loop._executor.running if job.experiment)
            if here.worker is held:  # over first: One waits for the other run of main
                text = path.read_text()
                path.write_text(text.replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
            else:
                beside.until_start_of("baseline", 3)

    def propose(context):
        if len(agent.answers) == 1:  # Two is not ready before another run of main is
            beside.until_start_of("baseline", 3)
        return real(context)

    real, agent.propose, beside.train = agent.propose, propose, train
    monkeypatch.setattr(attempts, "measure", lambda *a: setattr(here, "worker", a[8]) or beside(*a))
    loop.run()
    assert known(fresh).find("1").setting.budget_seconds == 0.5
