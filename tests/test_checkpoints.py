"""The holdout's score on a GPU: nobody waits for its processes, and it disturbs no training."""

import contextlib
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import HONEST
from stubs import BASELINE, GPU, MUCH_BETTER, SD, Changing, begin, known
from text import TEXT

import harness.session.checkpoints as kept
import harness.worker.run as trials
import harness.worker.service as service
from harness.errors import HarnessError
from harness.store.decisions import Holdout
from harness.store.records import ERROR, Failure, Score
from harness.worker.progress import Progress
from harness.worker.run import measure, measure_holdout
from harness.worker.scoring import Scoring
from harness.worker.worker import Cancelled, RunHandle, Worker

WORSE = [2.0 + 5 * SD] * 3


def of_main(fresh):
    return known(fresh).note(fresh("rev-parse", "main")).holdouts


def test_a_trial_trains_while_the_holdout_of_main_waits_for_its_end(fresh, told, gpu, monkeypatch):
    told.scores["One"] = list(WORSE)
    order, over = [], threading.Event()

    def holdout(folder, value, setup, observe, on_wait, worker, handle):
        order.append("begun")
        (folder / "checkpoint" / "mark").touch()
        assert over.wait(20)
        assert (folder / "checkpoint" / "mark").exists(), "another run's took its place"
        return Holdout(value, 3.0, setup.setting)

    def train(title):
        order.append(title)
        if title == "One":
            over.set()

    monkeypatch.setattr(service, "measure_holdout", holdout)
    gpu.train = train
    assert begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run().measured == 1
    assert order.index("begun") < order.index("One")
    ((found),) = of_main(fresh)
    assert (found.value, found.holdout_value) == (BASELINE[0], 3.0)


def test_a_holdout_that_a_stopped_loop_left_is_scored_by_the_next_beside_its_own_score(
    fresh, told, gpu, monkeypatch
):
    told.scores["One"], begun = list(WORSE), []

    def never(folder, value, setup, observe, on_wait, worker, handle):
        begun.append((value, handle))
        while True:
            time.sleep(0.01)
            handle.check()

    real = kept.Checkpoints.settle

    def interrupted(self, wait=False):
        if wait:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(service, "measure_holdout", never)
        patch.setattr(kept.Checkpoints, "settle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    ((scored, handle),) = begun
    assert handle.cancelled.is_set() and of_main(fresh) == ()
    for _ in range(2):
        begin(fresh, Changing([]), places=1, experiments=0).run()
        assert [found.value for found in of_main(fresh)] == told.held_out, "once, whichever run's"
    assert scored == BASELINE[0]


def test_a_checkpoint_of_another_setting_says_nothing_of_this_one(fresh, told, gpu, monkeypatch):
    told.scores |= {"baseline": [*BASELINE, *BASELINE], "One": list(WORSE), "Two": list(WORSE)}
    path, pairs = fresh.folder / ".autoresearch" / "config.toml", []
    ours = path.read_text()

    def fails(folder, value, setup, *args):
        pairs.append((value, setup.setting.budget_seconds))
        return Failure(ERROR, "no score")

    monkeypatch.setattr(service, "measure_holdout", fails)
    begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1).run()
    path.write_text(ours.replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
    begin(fresh, Changing([]), places=1, experiments=0).run()
    assert pairs == [(BASELINE[0], 0.3)], "the last run's checkpoint, of another budget"


def test_a_night_that_ends_with_an_error_waits_for_the_holdout(fresh, told, gpu, monkeypatch):
    told.scores["Much"] = list(MUCH_BETTER)

    def slow(folder, value, setup, observe, on_wait, worker, handle):
        time.sleep(0.5)
        handle.check()
        assert (folder / "checkpoint").is_dir(), "gone when main had moved"
        return Holdout(value, 3.0, setup.setting)

    monkeypatch.setattr(service, "measure_holdout", slow)
    with pytest.raises(HarnessError, match="nothing usable"):
        begin(fresh, Changing([("Much", 1, MUCH_BETTER)]), places=1).run()
    assert known(fresh).find("1").commit == fresh("rev-parse", "main")
    assert len(of_main(fresh)) == 1


def test_where_trials_fill_the_gpu_none_starts_beside_a_holdout(fresh, told, gpu, monkeypatch):
    told.scores |= {"Much": list(MUCH_BETTER), "One": list(WORSE)}
    gpu.seen = dataclasses.replace(gpu.seen, peak_memory_mb=70_000)
    count = []

    def holdout(folder, value, setup, observe, on_wait, worker, handle):
        count.append(len(gpu.started))
        time.sleep(0.5)
        assert len(gpu.started) == count[-1]
        return Holdout(value, 3.0, setup.setting)

    monkeypatch.setattr(service, "measure_holdout", holdout)
    answers = [("Much", 1, MUCH_BETTER), ("One", 5, WORSE)]
    begin(fresh, Changing(answers), places=1, experiments=2).run()
    assert len(count) == 2 and [e.status for e in known(fresh)] == ["keep", "discard"]


def test_a_holdouts_progress_is_not_shown_in_between_that_of_a_trial(fresh, told, gpu, monkeypatch):
    def holdout(folder, value, setup, observe, on_wait, worker, handle):
        with worker.hold(setup.device, print):
            with worker.hold(setup.device, print):
                observe(Progress("scoring", 1.0, 120.0))
            observe(Progress("auditing", 2.0, 120.0))
        return Holdout(value, 3.0, setup.setting)

    monkeypatch.setattr(service, "measure_holdout", holdout)
    loop, shown = begin(fresh, Changing([("One", 1, WORSE)]), places=1, experiments=1), []
    monkeypatch.setattr(loop._runner.kept, "_show", lambda progress, place: shown.append(progress.phase))
    told.scores["One"] = list(WORSE)
    loop.run()
    assert shown == ["auditing"]


@pytest.mark.parametrize("how", [OSError("no process"), Failure(ERROR, "no process")])
def test_a_holdout_that_can_not_be_scored_is_said_aloud_and_stops_nothing(fresh, told, monkeypatch, how):
    def broken(*args):
        if isinstance(how, Failure):
            return how
        raise how

    monkeypatch.setattr(service, "measure_holdout", broken)
    told.scores["One"], said = list(WORSE), []
    loop = begin(fresh, Changing([("One", 1, WORSE)]), places=1, said=said, experiments=1)
    assert loop.run().measured == 1
    assert any("was not scored: no process" in line for line in said)


def test_no_trial_waits_for_a_scorer_that_still_starts(setup, tmp_path, monkeypatch):
    asked, started, worker = threading.Event(), threading.Event(), Worker()

    class Slow:
        def is_ready(self, seconds):
            asked.set()
            return started.wait(seconds)

        def result(self, observe):
            assert not worker.take(), "whoever has it could train meanwhile"
            return Failure(ERROR, "no score")

        def close(self):
            self.closed = True

    scoring = Slow()
    monkeypatch.setattr(trials, "_begin_scoring", lambda *_: scoring)
    on_gpu = dataclasses.replace(setup, device=GPU)
    quiet = [lambda _: None] * 2
    with ThreadPoolExecutor() as pool:
        work = pool.submit(measure_holdout, tmp_path, 1.0, on_gpu, *quiet, worker, RunHandle())
        assert asked.wait(20) and worker.take()
        worker.leave()
        started.set()
        assert work.result(20).detail == "no score" and scoring.closed
    started.clear()
    monkeypatch.setattr(trials.scoring, "START_SECONDS", 0.0)
    monkeypatch.setattr(trials, "LOOK_SECONDS", 0.01)
    late = measure_holdout(tmp_path, 1.0, on_gpu, *quiet, worker, RunHandle())
    assert late.detail == "no score", "one that hangs in its start is waited for without end"
    assert worker.take()


@pytest.mark.slow
def test_a_scorer_says_that_it_is_ready_before_there_is_anything_to_score(text_setup, checkpoint, tmp_path):
    setup = text_setup
    source = tmp_path / "train.py"
    source.write_text(TEXT)
    begun = Scoring(
        source, checkpoint, setup.task, "val", setup.config, setup.device, setup.isolation, tmp_path / "log"
    )
    with contextlib.closing(begun):
        assert not begun.is_ready()
        assert begun.is_ready(60)
        assert isinstance(begun.result(lambda *_: None), Score)


@pytest.mark.slow
def test_the_holdout_waits_for_whoever_has_the_device_and_who_trains_for_it(setup, tmp_path):
    worker, handle = Worker(), RunHandle.alone()
    quiet = [lambda _: None] * 2
    trial = measure(HONEST.encode(), "c0ffee", 1, setup, tmp_path / "one", *quiet, True, worker, handle)
    assert not handle.was_joined
    with worker.hold(setup.device, quiet[1]):
        beside = tmp_path / "beside"
        measure(b"raise MemoryError", "c0ffee", 1, setup, beside, *quiet, True, worker, handle)
    assert handle.was_joined, "it may have lacked what a holdout took"
    holdout = tmp_path / "one", trial.value, setup, *quiet, worker
    with ThreadPoolExecutor() as pool:
        assert worker.take()
        waits = pool.submit(measure_holdout, *holdout, RunHandle())
        also = pool.submit(measure_holdout, *holdout, gone := RunHandle())
        gone.cancel()
        with pytest.raises(Cancelled):
            also.result(20)
        assert not waits.done()
        started = []
        second = pool.submit(
            measure, HONEST.encode(), "c0ffee", 2, setup, tmp_path / "two",
            lambda progress: started.append(progress.phase), quiet[1], False, worker, RunHandle.alone(),
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while "waiting" not in started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        worker.leave()
        assert waits.result(60).holdout_value == pytest.approx(trial.value, abs=0.5)
        assert second.result(60).value is not None
    assert worker.take(), "who had it didn't leave it"
    worker.close()
