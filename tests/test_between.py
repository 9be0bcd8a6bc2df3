"""What happens beside a trial: agents that give up, people who mend, money. Trials are stubs."""

import dataclasses
import re
import threading
import time

import pytest
from conftest import harness
from sessions import Script, loop_in
from stubs import BASELINE, MUCH_BETTER, SD, Changing, begin, known, program

import harness.session.runner as runner
import harness.worker.attempts as attempts
from harness.agents.again import Again
from harness.errors import HarnessError
from harness.store.decisions import Proposal
from harness.store.note import Note
from harness.store.records import CRASH, INVALID, Failure, Kind
from harness.worker import run as measuring
from harness.worker.worker import Worker

WORSE = [2.0 + 5 * SD] * 6
TICKS_SECONDS = 0.6  # in which the loop looks at what there is, more than once


def costing(agent, usd):
    real = agent.propose
    agent.propose = lambda context: dataclasses.replace(real(context), cost_usd=usd)
    return agent


def test_a_main_that_has_another_name_while_one_trains_costs_no_result(fresh, told, beside):
    told.scores["One"], beside.tells_apart = list(WORSE), lambda title: False

    def train(title):
        if title == "One":
            fresh("branch", "-m", "main", "trunk")
            time.sleep(TICKS_SECONDS)

    beside.train = train
    with pytest.raises(HarnessError, match="no branch 'main'"):
        begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=2).run()
    (one,) = known(fresh)
    assert len(known(fresh).runs(one.commit)) == 1


@pytest.mark.parametrize("early", [False, True])
def test_what_is_undecided_when_the_agent_gives_up_is_run_again(fresh, told, beside, early):
    told.scores["Much"] = list(MUCH_BETTER)
    beside.tells_apart = lambda title: early
    beside.train = lambda title: time.sleep(TICKS_SECONDS if title == "Much" else 0)
    with pytest.raises(HarnessError, match="nothing usable 3 times"):
        begin(fresh, Changing([("Much", 1, 0)]), places=1, experiments=5).run()
    (much,) = known(fresh)
    assert much.status == "keep" and len(much.runs) > 1 and fresh("rev-parse", "main") == much.commit


def test_no_more_is_paid_than_the_limit_on_several_stations_and_all_of_it_is_told(fresh, told):
    told.scores |= {f"N{n}": [lambda: time.sleep(0.3) or 2.05] * 3 for n in range(20)}
    told.scores["baseline"] = BASELINE * 2
    agent, paid = Changing([(f"N{n}", n, 0) for n in range(20)]), []
    costing(agent, 1.0)
    real = agent.propose
    agent.propose = lambda context: paid.append(1.0) or real(context)
    summary = begin(fresh, agent, places=4, usd=5.0).run()
    assert summary.usd == sum(paid) == 5.0
    assert summary.measured == 5, "what was paid is measured"


def test_what_ran_out_of_memory_beside_another_one_is_run_again_with_nothing_beside_it(
    fresh, told, beside, monkeypatch
):
    told.scores |= {"One": [2.0 - 8 * SD] * 4, "Two": list(WORSE)}
    beside.trains_until_start_of = {"One": "Two"}
    tries = []

    def measure(*args):
        trial, handle = beside(*args), args[9]
        if fresh("log", "-1", "--format=%s", args[1]) != "One":
            return trial
        waiting = [job for job in loop._executor.running if job.is_held and not job.handle.cancelled.is_set()]
        handle.was_joined = bool(waiting)
        tries.append(len(waiting))
        no_memory = {"status": CRASH, "detail": "OutOfMemoryError", "kind": Kind.MEMORY, "value": None}
        return dataclasses.replace(trial, **no_memory) if waiting else trial

    monkeypatch.setattr(attempts, "measure", measure)
    loop = begin(fresh, Changing([("One", 1, 0), ("Two", 5, 0)]), places=1, experiments=2)
    loop.run()
    assert tries[:2] == [1, 0] and beside.cancelled == ["Two"]
    assert [each.status for each in known(fresh)] == ["keep", "discard"]


def test_what_would_be_a_program_that_was_tried_is_not_put_on_another_tip(fresh, told, beside):
    told.scores |= {"Both": list(WORSE), "One": [2.0 - 8 * SD] * 3, "Two": list(WORSE)}
    agent = Changing([("Both", 1, 0), ("One", 1, 0), ("Two", 9, 0)])
    real = agent.propose

    def propose(context):
        found = real(context)
        if found.title != "Both":
            return found
        return dataclasses.replace(found, source=found.source.replace(b"PLACE_9 = 0", b"PLACE_9 = 1"))

    agent.propose, beside.trains_until_start_of = propose, {"One": "Two"}
    begin(fresh, agent, places=1, experiments=3).run()
    assert len({each.program for each in known(fresh)}) == 3


def test_main_that_a_person_put_on_an_experiment_that_waits_keeps_its_runs(fresh, told, beside):
    better = [2.0 - 3 * SD, 2.0 - 3.1 * SD, 2.0 - 2.9 * SD, 2.0 - 3 * SD]
    told.scores |= {"One": list(WORSE), "Two": better * 2, "Three": list(WORSE), "Four": list(WORSE)}

    def train(title):
        if title == "One":
            beside.until_start_of("Two")
            fresh("merge", "-q", "--ff-only", known(fresh).find("2").name.branch)

    beside.train = train
    answers = [("One", 1, 0), ("Two", 9, 0), ("Three", 15, 0)]
    begin(fresh, Changing(answers), places=1, experiments=3).run()
    found = known(fresh)
    every = [score for each in found.measured(found.setting) for score in each.scores]
    assert len(every) == len(told.ran), "a run counts once"
    said = []
    begin(fresh, Changing([("Four", 17, 0)]), places=1, experiments=1, said=said).run()
    assert not any("was not measured" in line for line in said)


def test_a_main_that_a_person_mended_while_it_crashed_is_measured(fresh, told, monkeypatch):
    def mend():
        path = fresh.folder / "train.py"
        path.write_text(path.read_text() + "# mended\n")
        fresh("commit", "-qam", "mended")
        return 1.0

    def measure(*args):
        trial = told.measure(*args)
        if fresh("log", "-1", "--format=%s", args[1]) != "baseline":
            return trial
        return dataclasses.replace(trial, status=CRASH, detail="exit 1", value=None)

    told.scores |= {"baseline": [mend], "mended": list(BASELINE), "One": list(WORSE)}
    monkeypatch.setattr(attempts, "measure", measure)
    assert begin(fresh, Changing([("One", 1, 0)]), places=1, experiments=1).run().measured == 1


def test_drafts_that_a_new_tip_made_old_are_no_failures_of_the_agent(fresh, told):
    class Same(Script):
        """Each of its proposals changes the same line."""

        def propose(self, context):
            self.contexts.append(context)
            title = f"N{len(self.contexts)}"
            source = re.sub(rb"PLACE_1 = \d+", f"PLACE_1 = {title[1:]}".encode(), context.source)
            return Proposal(title, "h", source, "s/t")

    def when(happened, score):
        deadline = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return score

    agent, said = Same([]), []
    told.scores |= {f"N{n}": list(WORSE) for n in range(5, 30)}
    told.scores["baseline"] = BASELINE * 2
    told.scores["N1"] = [lambda: when(lambda: len(agent.contexts) >= 7, 2.0 - 6 * SD)] * 4
    for n in (2, 3, 4):  # taken before there was a new tip
        told.scores[f"N{n}"] = [lambda: when(lambda: known(fresh).find("1").status, WORSE[0])]
    assert begin(fresh, agent, places=4, experiments=8, said=said).run().measured == 8
    assert sum("doesn't apply" in line for line in said) >= 3


def test_one_starts_beside_a_run_of_main_though_another_station_is_idle(fresh, told, beside, monkeypatch):
    monkeypatch.setattr(runner, "CALIBRATION_RUNS", 2)
    told.scores |= {"baseline": list(BASELINE[:2]), "One": list(WORSE), "Two": list(WORSE)}
    agent, main_is_over, runs = Changing([("One", 1, 0), ("Two", 2, 0)]), threading.Event(), []
    real = agent.propose
    agent.propose = lambda context: main_is_over.wait(20) and real(context)

    def train(title):
        runs.append(title)
        if runs.count("baseline") == 2 and title == "baseline":
            beside.until(lambda: told.ran, "the end of the other run")
            main_is_over.set()
            beside.until_start_of("One")

    beside.train = train
    assert begin(fresh, agent, places=2, experiments=2).run().measured == 2


def test_a_failed_audit_is_no_second_draw_where_another_one_started(tmp_path, setup, monkeypatch):
    class Scoring:
        def __init__(self, result):
            self.result, self.close = (lambda told: result), (lambda: None)

    worker, failed = Worker(), Failure(INVALID, "it looks ahead")
    monkeypatch.setattr(measuring, "_begin_scoring", lambda *given: Scoring("another score"))
    given = tmp_path, "val", setup, worker, lambda progress: None
    with worker.hold(setup.device, print), worker.hold(setup.device, print):
        assert measuring._scored(Scoring(failed), *given) == failed
        assert measuring._scored(Scoring(Failure(CRASH, "no memory")), *given) == "another score"


def test_a_reader_that_went_away_is_no_failure_of_the_machine(fresh, told):
    def tell(event):
        if event.text.startswith("0001"):
            raise BrokenPipeError

    told.scores["One"] = list(WORSE)
    with pytest.raises(HarnessError, match="nobody reads its output any more"):
        loop_in(fresh.folder, Changing([("One", 1, 0)]), tell, experiments=1).run()
    assert known(fresh).find("1").state == "begun"


def test_status_counts_each_trial_that_waited_once_main_s_too(fresh, told):
    told.scores["One"] = [2.0 + 9 * SD]
    begin(fresh, Changing([("One", 1, 0)]), places=1, experiments=1).run()
    found = known(fresh)
    for commit in (found.main, found.find("1").commit):
        for each in (runs := found.note(commit).stored["trials"]):
            each["training"]["delayed_seconds"] = each["training"]["training_seconds"] * 0.9
        found.amend(commit, lambda note, runs=runs: Note({**note.stored, "trials": runs}))
    assert "WARNING  5 of the last 5 runs" in harness("status", cwd=fresh.folder).stdout
    fresh("merge", "-q", "--ff-only", found.find("1").name.branch)
    assert "WARNING  1 of the last 1 runs" in harness("status", cwd=fresh.folder).stdout


def test_what_a_person_made_says_where_it_was_measured(fresh, told):
    fresh("switch", "-qc", "exp/0007-mine")
    (fresh.folder / "train.py").write_text(program(3))
    fresh("commit", "-qam", "Mine\n\nHypothesis: it may help")
    fresh("switch", "-q", "main")
    assert "not measured: harness adopt 7 does" in harness("show", "7", cwd=fresh.folder).stdout
    told.scores["Mine"] = list(WORSE)
    loop_in(fresh.folder, Again([known(fresh).proposal(known(fresh).find("7"))]), experiments=1).run()
    assert "Made by hand; measured as 0008." in harness("show", "7", cwd=fresh.folder).stdout
