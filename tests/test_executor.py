"""Trials beside each other: on several stations, and one that starts while another is being scored."""

import dataclasses
import threading
from types import SimpleNamespace

import pytest
from conftest import assert_mistake, edit, harness
from sessions import Script, loop_in
from stubs import GPU, SD, Changing, begin, known

import harness.worker.attempts as attempts
import harness.worker.service as service
from harness.store.records import Conditions
from harness.worker import device
from harness.worker.monitor import contaminated
from harness.worker.orders import Hears
from harness.worker.worker import RunHandle


def test_two_stations_train_at_the_same_time_and_the_third_waits_for_neither(fresh, told, monkeypatch):
    together, real, slow = threading.Barrier(2, timeout=20), told.measure, threading.Event()
    begun = []

    def measure(source, commit, *rest):
        title = fresh("log", "-1", "--format=%s", commit)
        begun.append(title)
        if title in ("One", "Two"):
            together.wait()  # neither is begun after the other's end
        if title == "One":
            slow.wait(20)
        if title == "Three":
            slow.set()
        return real(source, commit, *rest)

    monkeypatch.setattr(attempts, "measure", measure)
    answers = [(title, number, [2.0 + 5 * SD] * 3) for number, title in enumerate(("One", "Two", "Three"))]
    for title, _, scores in answers:
        told.scores[title] = list(scores)
    summary = begin(fresh, Changing(answers), experiments=3).run()
    assert summary.measured == 3 and begun[-1] == "Three"
    assert {e.status for e in known(fresh)} == {"discard"}
    seeds = [seed for commit, seed in told.ran if commit == fresh("rev-parse", "main")]
    assert len(set(seeds)) == 4, "runs beside each other shared a seed"


def test_winners_that_meet_are_measured_together(fresh, told, monkeypatch):
    together, real, base = threading.Barrier(2, timeout=20), told.measure, fresh("rev-parse", "main")

    def measure(source, commit, *rest):
        if fresh("log", "-1", "--format=%s", commit) in ("One", "Two") and len(told.ran) < 6:
            together.wait()
        return real(source, commit, *rest)

    monkeypatch.setattr(attempts, "measure", measure)
    answers = [("One", 1, [2.0 - 4 * SD] * 3), ("Two", 9, [2.0 - 5 * SD] * 3)]
    told.scores |= {title: [scores[0], *[2.0 - 9 * SD] * 3] for title, _, scores in answers}
    summary = begin(fresh, Changing(answers), experiments=3).run()
    assert summary.measured == 3
    one, two, both = known(fresh)
    assert one.parent == two.parent == base
    assert both.message.trailers["Origin"] in (one.commit, two.commit)
    assert both.parent in (one.commit, two.commit)
    source = known(fresh).source(both.commit).decode()
    assert "PLACE_1 = 1" in source and "PLACE_9 = 1" in source
    assert both.status == "keep"


def test_the_next_trial_starts_while_one_is_scored_and_trains_when_that_is_decided(fresh, told, gpu):
    answers = [("One", 1, [2.0 + 5 * SD] * 3), ("Two", 2, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    gpu.wait_for_start_of = {"One": "Two"}
    summary = begin(fresh, Changing(answers), places=1, experiments=2).run()
    assert summary.measured == 2
    assert ("Two", False) in gpu.started
    assert [e.status for e in known(fresh)] == ["discard", "discard"]


def test_what_started_on_a_tip_that_is_none_any_more_starts_anew_on_the_new_one(fresh, told, gpu):
    answers = [("One", 1, [2.0 - 5 * SD] * 3), ("Two", 9, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    gpu.wait_for_start_of = {"One": "Two"}
    said = []
    begin(fresh, Changing(answers), places=1, experiments=2, said=said).run()
    one, two = known(fresh)
    assert gpu.cancelled == ["Two"] and [name for name, _ in gpu.started].count("Two") == 2
    assert two.parent == one.commit and two.name.number == 2
    assert "PLACE_1 = 1" in known(fresh).source(two.commit).decode()
    assert any("starts anew" in line for line in said)


def test_a_stop_leaves_what_only_started_for_the_next_night(fresh, told, gpu):
    answers = [("One", 1, [2.0 + 5 * SD] * 3), ("Two", 2, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    gpu.wait_for_start_of = {"One": "Two"}
    loop = begin(fresh, Changing(answers), places=1)
    real = gpu.told.measure

    def stopping(source, commit, *rest):
        if fresh("log", "-1", "--format=%s", commit) == "One":
            loop.stop("now")
        return real(source, commit, *rest)

    gpu.told.measure = stopping
    assert loop.run().measured == 1
    assert gpu.cancelled == ["Two"]
    one, two = known(fresh)
    assert (one.status, two.status) == ("discard", None)
    gpu.told.measure = real
    assert loop_in(fresh.folder, Script(), experiments=1).run().measured == 1
    assert known(fresh).find("2").status == "discard"


def test_conditions_that_spoil_a_trial_are_named():
    fine = Conditions(100, 1700, 70, 0.01, 40_000)
    assert contaminated(None, 5.0) == contaminated(fine, 5.0) == ""
    assert contaminated(dataclasses.replace(fine, foreign=("python (7)",)), 5.0) == "", (
        "one sample is no work"
    )
    assert "shared with python (7)" in contaminated(
        dataclasses.replace(fine, foreign=("python (7)",) * 2), 5.0
    )
    assert "slowed down" in contaminated(dataclasses.replace(fine, slowed_share=0.2), 5.0)


def test_gpus_are_refused_in_one_line_where_there_are_none(repository):
    assert_mistake(harness("loop", "--gpus", "all", cwd=repository.folder), "--gpus is for NVIDIA GPUs")


@pytest.mark.parametrize(("memory_gb", "cores", "runs"), [(16, 4, 4), (5, 4, 2), (1, 8, 1)])
def test_a_processor_takes_a_run_for_each_core_that_memory_is_left_for(monkeypatch, memory_gb, cores, runs):
    monkeypatch.setattr(device, "quota_bytes", lambda: memory_gb * 2.0**30)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(device, "quota_cores", lambda: float("inf"))
    assert device.Device("cpu", "a processor", None).most_at_a_time == runs
    assert device.Device("cuda", "a GPU", None).most_at_a_time == 1


@pytest.mark.slow
def test_real_trials_beside_each_other_are_all_recorded(research):
    said = []
    changes = [
        ("import os, sys, time\n", "import os, sys, time, math\n"),
        ("lr=1.0", "lr=1.01"),
        ("    return model\n", "    return lambda inputs: model(inputs)\n"),
    ]  # apart from each other: one that is kept is no reason that another doesn't apply
    answers = [(f"Number {n}", edit(change)) for n, change in enumerate(changes)]
    summary = begin(research, Script(*answers), experiments=3, said=said).run()
    assert summary.measured == 3, said
    every = known(research)
    measured = [e for e in every if e.value is not None]  # two that were kept are one more, only begun
    assert len(measured) == 3 and {e.message.title for e in every} <= {title for title, _ in answers}
    for experiment in measured:
        (trial,) = every.runs(experiment.commit)
        assert trial.training.open_seconds > 0


@pytest.mark.parametrize(
    ("prestart", "training", "scoring"),
    [("training", True, True), ("scoring", False, True), ("off", False, False)],
)
def test_a_person_says_when_the_next_run_may_start(setup, tmp_path, monkeypatch, prestart, training, scoring):
    trial = dataclasses.replace(setup.config.trial, prestart=prestart)
    config = dataclasses.replace(setup.config, trial=trial)
    monkeypatch.setattr(service, "CORES_BESIDE", 1)
    made, handle = service.Service(0, tmp_path), RunHandle.alone()
    made._here[handle] = dataclasses.replace(setup, config=config, device=GPU)
    made._worker.has_room = True
    handle.watch = SimpleNamespace(told_apart=True, peak_memory_mb=10_000)
    assert made.may_start is training
    handle.trained.set()
    assert made.may_start is scoring


@pytest.mark.parametrize("has_room", [False, True])
def test_nothing_starts_beside_a_holdout_where_there_is_no_room(setup, tmp_path, monkeypatch, has_room):
    scored = threading.Event()
    monkeypatch.setattr(service, "measure_holdout", lambda *_: scored.wait(10))
    made = service.Service(0, tmp_path)
    made._worker.has_room = has_room
    begun = made.score_holdout(tmp_path, 2.0, setup, RunHandle.alone(), Hears())
    assert made.may_start is has_room
    scored.set()
    begun.result(10)
    assert made.may_start
    made.close()
