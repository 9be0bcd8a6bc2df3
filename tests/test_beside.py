"""A trial that starts while another one trains: what it may take, and what it must not spoil."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import HONEST, with_caps
from stubs import SD, Changing, begin, known

import harness.worker.attempts as attempts
from harness.errors import HarnessError
from harness.sandbox.text import kind_of
from harness.store.records import CRASH, ERROR, OK, RunRecord, Training
from harness.worker import monitor, supervisor
from harness.worker.device import Device
from harness.worker.monitor import Monitor, contaminated
from harness.worker.orders import Hears, Order
from harness.worker.prestart import Prestarted
from harness.worker.run import measure
from harness.worker.worker import Cancelled, RunHandle, Worker


def test_the_next_trial_starts_while_one_trains_where_the_driver_tells_them_apart(fresh, told, beside):
    answers = [(f"Number {n}", n, [2.0 + 5 * SD] * 3) for n in range(1, 4)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    beside.trains_until_start_of = {"Number 1": "Number 2", "Number 2": "Number 3"}
    agent = Changing(answers)
    knew, real = [], agent.propose
    agent.propose = lambda context: knew.append([e.value for e in context.history]) or real(context)
    assert begin(fresh, agent, places=1, experiments=3).run().measured == 3
    assert knew == [[], [None], [2.0 + 5 * SD, None]], "asked for before the last result was known"
    assert [alone for title, alone in beside.started if title in ("Number 2", "Number 3")] == [False, False]
    assert [e.status for e in known(fresh)] == ["discard"] * 3


def test_what_started_early_is_left_for_another_night_when_a_limit_is_met_meanwhile(fresh, told, beside):
    answers = [("One", 1, [2.0 + 5 * SD] * 3), ("Two", 2, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    beside.trains_until_start_of = {"One": "Two"}
    assert begin(fresh, Changing(answers), places=1, patience=1).run().measured == 1
    assert beside.cancelled == ["Two"]
    one, two = known(fresh)
    assert (one.status, two.status) == ("discard", None)


@pytest.mark.parametrize("other_trains", [True, False])
def test_a_start_that_takes_the_gpu_from_what_trains_is_ended(setup, tmp_path, monkeypatch, other_trains):
    monkeypatch.setattr(Monitor, "strain", lambda self, waits: "all of it")
    script, folder = tmp_path / "train.py", tmp_path / "checkpoint"
    script.write_text(HONEST)
    folder.mkdir()
    asked_until = time.monotonic() + 5
    prestarted = Prestarted(setup.config.trial, setup.isolation, setup.device)
    found = supervisor.Supervisor(
        script, folder, setup.spec(1), setup.task.data.train_file, setup.config.trial, prestarted,
        lambda _: None, may_train=lambda: time.monotonic() > asked_until, other_trains=lambda: other_trains,
    ).train()  # fmt: skip
    assert found.status == ("crash" if other_trains else "ok"), found
    assert ("took all of it beside another run" in found.detail) == other_trains
    assert found.held_seconds > 0 or other_trains


def test_while_one_waits_for_its_turn_a_seat_is_made_for_who_may_take_it(setup, tmp_path, monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(Worker, "prepare", lambda self, *given: asked.set())
    worker, handle = Worker(), RunHandle()
    with ThreadPoolExecutor() as pool, contextlib.closing(worker):
        running = pool.submit(
            measure, HONEST.encode(), "0" * 40, 1, setup, tmp_path / "run", lambda _: None, lambda _: None,
            worker=worker, handle=handle,
        )  # fmt: skip
        try:
            assert asked.wait(20)
            assert worker.trains is None
        finally:
            handle.release()
        assert running.result().status == OK


def test_one_that_is_cancelled_while_it_waits_leaves_no_seat(setup, tmp_path, monkeypatch):
    made, handle = [], RunHandle()
    monkeypatch.setattr(Worker, "prepare", lambda self, *given: made.append(given))

    def observe(progress):
        if progress.phase == "waiting":
            raise Cancelled

    with contextlib.closing(Worker()) as worker, pytest.raises(Cancelled):
        measure(
            HONEST.encode(), "0" * 40, 1, setup, tmp_path / "run", observe, lambda _: None,
            worker=worker, handle=handle,
        )  # fmt: skip
    assert made == []


def test_what_is_held_when_a_limit_is_met_comes_next_if_another_result_unmeets_it(fresh, told, beside):
    answers = [(title, n, [2.0 + 5 * SD] * 3) for n, title in enumerate(("One", "Two", "Three", "Four"))]
    answers[1] = ("Two", 1, [2.0 - 8 * SD] * 3)
    told.scores |= {title: list(scores) for title, _, scores in answers}
    said, both = [], threading.Barrier(2, timeout=20)

    def train(title):
        if title in ("One", "Two"):
            both.wait()
            beside.until_start_of("Three")
        deadline = time.monotonic() + 20
        while title == "Two" and not any("discard" in line for line in said):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    beside.train, beside.tells_apart = train, lambda title: title == "One"
    begin(fresh, Changing(answers), places=2, patience=1, said=said).run()
    assert beside.cancelled == ["Three"]
    assert {e.message.title: e.status for e in known(fresh)}["Three"] == "discard"


def test_what_is_held_when_a_person_moves_main_trains_after_main_was_measured(fresh, told, beside):
    answers = [("One", 1, [2.0 + 5 * SD] * 3), ("Two", 2, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    told.scores["By hand"] = [2.0] * 4

    def train(title):
        beside.until_start_of({"One": "Two"}.get(title))
        if title == "One":
            source = fresh.folder / "train.py"
            source.write_text(source.read_text() + "# by hand\n")
            fresh("commit", "-qam", "By hand")

    beside.train = train
    begin(fresh, Changing(answers), places=1, experiments=2).run()
    order = [title for title, may_train in beside.started]
    assert beside.cancelled == ["Two"]
    assert order.index("One") < order.index("Two") < order.index("By hand") < len(order) - 1
    assert order[-1] == "Two" and known(fresh).find("2").status == "discard"


def test_what_was_paid_for_before_the_limit_on_money_was_met_is_measured(fresh, told, beside):
    answers = [(title, n, [2.0 + 5 * SD] * 3) for n, title in enumerate(("One", "Two", "Three"))]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    beside.trains_until_start_of = {"One": "Two"}
    agent = Changing(answers)
    real = agent.propose
    agent.propose = lambda context: dataclasses.replace(real(context), cost_usd=1.0)
    assert begin(fresh, agent, places=1, usd=2.0).run().measured == 2
    assert beside.cancelled == [] and [e.status for e in known(fresh)] == ["discard"] * 2


def test_a_machine_that_fails_while_one_trains_costs_no_result(fresh, told, beside):
    answers = [("One", 1, [2.0 + 5 * SD] * 3), ("Two", 2, [2.0 + 6 * SD] * 3)]
    told.scores |= {title: list(scores) for title, _, scores in answers}
    loop = begin(fresh, Changing(answers), places=1, experiments=2)
    real, full = loop._runner.setup, threading.Event()

    def setup():
        if full.is_set():
            raise HarnessError("only 3 MB are free")
        return real()

    def train(title):
        if title == "One":
            full.set()
            time.sleep(1)  # a few looks for what is next

    loop._runner.setup, beside.train = setup, train
    with pytest.raises(HarnessError, match="3 MB"):
        loop.run()
    assert next((e.message.title, e.status) for e in known(fresh)) == ("One", "discard")
    assert beside.cancelled in ([], ["Two"])


def outcome(status, detail="", startup_seconds=1.0, warning="", value=None):
    training = Training(status, detail, startup_seconds, 1.0 if warning else 9.9)
    return RunRecord(
        "0" * 40, 1, status, detail, value, training, None, 1.0, "cpu", None, "d", "e", "none", 10.0,
        kind=kind_of(detail),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("alone", "joined", "outcomes"),
    [
        (True, True, [outcome(CRASH, "OutOfMemoryError"), outcome(OK)]),
        (True, True, [outcome(CRASH, "OutOfMemoryError"), outcome(CRASH, "OutOfMemoryError")]),
        (True, False, [outcome(CRASH, "OutOfMemoryError")]),
        (True, True, [outcome(CRASH, "ValueError")]),
        (True, False, [outcome(ERROR) for _ in range(3)]),
        (False, False, [outcome(ERROR, "", None), outcome(CRASH)]),
        (False, False, [outcome(CRASH, "", None), outcome(ERROR), outcome(OK)]),
    ],
)
def test_what_may_be_another_ones_doing_is_run_once_more(tmp_path, monkeypatch, alone, joined, outcomes):
    left = list(outcomes)

    def stub(*args):
        assert not handle.trained.is_set(), "another one may start beside it, as if it were scored"
        handle.has_trained()
        handle.was_joined = joined
        if not handle.may_train.is_set():
            handle.release()  # the other one is over
        return left.pop(0)

    monkeypatch.setattr(attempts, "measure", stub)
    handle = RunHandle.alone() if alone else RunHandle()
    order = Order("0" * 40, b"", 1, "baseline")
    found, _ = attempts.attempt(order, None, tmp_path, Worker(), handle, Hears())
    said = tuple(f"{each.status}: {each.detail}" for each in outcomes[:-1])
    assert found == dataclasses.replace(outcomes[-1], instead_of=said) and not left


@pytest.mark.parametrize(("first", "second", "counts"), [(2.1, 2.0, 2.1), (2.0, 2.1, 2.1), (2.0, None, None)])
def test_who_ends_early_gets_no_second_draw_the_worse_of_two_counts(
    tmp_path, monkeypatch, first, second, counts
):
    left = [outcome(OK, warning="short", value=first), outcome(OK if second else CRASH, value=second)]
    folders = []

    def stub(*args):
        folders.append(args[4])
        (args[4] / "checkpoint").mkdir(parents=True)
        return left.pop(0)

    monkeypatch.setattr(attempts, "measure", stub)
    order = Order("0" * 40, b"", 1, "baseline")
    found, folder = attempts.attempt(order, None, tmp_path, Worker(), RunHandle.alone(), Hears())
    assert found.value == counts and not left
    short = "only 1.0 of 10 s were used for training"
    assert found.instead_of == (f"ok {second:.6f}: " if counts == first else f"ok {first:.6f}: {short}",)
    assert [each for each in folders if (each / "checkpoint").exists()] == [folder]
    assert folder == folders[0 if counts == first else 1]


def test_who_has_time_of_its_own_and_ends_early_runs_once(tmp_path, monkeypatch):
    """No other program took it from it, so it would only do the same again."""
    short = outcome(OK, warning="short", value=2.0)
    left = [dataclasses.replace(short, training=dataclasses.replace(short.training, passed_seconds=1.2))]
    monkeypatch.setattr(attempts, "measure", lambda *_: left.pop(0))
    order = Order("0" * 40, b"", 1, "baseline")
    found, _ = attempts.attempt(order, None, tmp_path, Worker(), RunHandle.alone(), Hears())
    assert found.value == 2.0 and not found.instead_of and not left


@pytest.mark.slow
def test_one_that_dies_in_its_start_leaves_the_others_idle_time_alone(setup, tmp_path):
    longer = with_caps(setup, {"budget_seconds": 5.0})
    worker, first, second = Worker(), RunHandle.alone(), RunHandle()
    early = []

    def run(name, text, handle, observe):
        folder = tmp_path / name
        return measure(
            text.encode(), "0" * 40, 1, longer, folder, observe, lambda _: None, False, worker, handle
        )

    def observe(progress):
        if worker.trains is first and not early:
            early.append(pool.submit(run, "second", "1 / 0\n", second, lambda _: None))

    with ThreadPoolExecutor() as pool, contextlib.closing(worker):
        one = run("first", HONEST, first, observe)
        assert early[0].result().status == CRASH
    assert one.status == OK and one.idle_seconds is None and first.was_joined and worker.trains is None


# ── what the driver says ──────────────────────────────────────────────────────────────────────


class Driver:
    """In place of NVML: one process at work on a GPU of 100 GB."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = NVML_TEMPERATURE_GPU = 0

    def __init__(self, pid, share=0, memory=0, lists=True, graphics=()):
        self.pid, self.share, self.memory, self.lists, self.graphics = pid, share, memory, lists, graphics

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        return [SimpleNamespace(pid=self.pid, smUtil=self.share, timeStamp=1)]

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if not self.lists:
            raise self.NVMLError
        return [SimpleNamespace(pid=self.pid, usedGpuMemory=self.memory)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in self.graphics]

    def nvmlSystemGetProcessName(self, pid):
        return "/usr/bin/program"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=100 * 2**30, used=7 * 2**30)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 0

    def nvmlDeviceGetClockInfo(self, handle, which):
        return 1700

    nvmlDeviceGetTemperature = nvmlDeviceGetClockInfo


def watching(driver, process):
    made = Monitor(Device("cpu", "a GPU", None), process)
    made._nvml, made._handle = driver, 1
    return made


def test_a_drivers_list_of_processes_tells_a_trials_own_memory():
    watch = watching(Driver(os.getpid(), share=50, memory=3 * 2**30), os.getpid())
    watch.look()
    seen = watch.conditions()
    assert (seen.told_apart, seen.peak_memory_mb) == (True, 3 * 1024)


@pytest.mark.parametrize("driver", [Driver(1, 50, 2**30), Driver(os.getpid(), 50, lists=False)])
def test_without_such_a_list_conditions_are_those_of_the_whole_device(driver):
    watch = watching(driver, os.getpid())
    watch.look()
    seen = watch.conditions()
    assert (seen.told_apart, seen.peak_memory_mb, seen.clock_mhz) == (False, 7 * 1024, 1700)


def test_a_gpu_that_was_lost_is_known_from_one_that_a_program_failed_on():
    driver = Driver(os.getpid())
    watch = watching(driver, os.getpid())
    assert watch.lost() == ""

    def lost(handle):
        raise driver.NVMLError("GPU is lost")

    driver.nvmlDeviceGetMemoryInfo = lost
    assert watch.lost() == "the GPU doesn't answer any more (GPU is lost)"


def test_a_gpu_that_was_lost_between_two_runs_is_no_crash_of_the_next_one(monkeypatch):
    import pynvml

    def lost(uuid):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lost)
    assert (
        Monitor(Device("cuda", "a GPU", None, "GPU-0")).lost().startswith("the GPU doesn't answer any more")
    )


@pytest.mark.parametrize("share", [3, 30])
@pytest.mark.parametrize("kind", ["desktop", "compute", "both"])
def test_a_desktop_is_no_stranger_until_it_takes_more_than_is_tolerated(kind, share):
    other = Driver(1, share=share, graphics=() if kind == "compute" else (1,))
    if kind == "desktop":
        other.nvmlDeviceGetComputeRunningProcesses = lambda handle: []
    watch = watching(other, os.getpid())
    for _ in range(2):
        watch._next = 0.0
        watch.look()
    assert bool(watch.foreign()) == (kind != "desktop"), "only who computes is waited for"
    seen = watch.conditions()
    why = contaminated(seen, 5.0)
    if kind == "desktop":
        assert seen.desktop_share == share / 100 and not seen.foreign
        assert ("a desktop took 30%" in why) == (share > 5) and bool(why) == (share > 5)
    else:
        assert "shared with program (1)" in why


@pytest.mark.parametrize(
    ("driver", "took"),
    [
        (Driver(os.getpid(), share=100), "over 5 s of the GPU's time"),
        (Driver(os.getpid(), memory=50 * 2**30), "over 40% of the GPU's memory"),
        (Driver(os.getpid(), share=3, memory=30 * 2**30), ""),
        (Driver(1, share=100, memory=50 * 2**30), ""),
    ],
)
def test_a_start_may_take_little_of_a_gpu_that_another_one_trains_on(monkeypatch, driver, took):
    clock = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(monitor, "cpu_seconds", lambda process: 0.0)  # these tests' own
    watch, said = watching(driver, os.getpid()), []
    for clock[0] in range(20):
        said.append(watch.strain(waits=False))
    assert said[-1] == took and said[3] in ("", "over 40% of the GPU's memory")


@pytest.mark.parametrize("waits", [True, False])
def test_one_that_starts_or_waits_may_not_keep_the_processor_busy(monkeypatch, waits):
    monkeypatch.setattr(monitor, "AHEAD_CPU_SECONDS", 0.3)
    monkeypatch.setattr(monitor, "START_CPU_SECONDS", 0.3 / Device("cpu", "a GPU", None).core_count)
    monkeypatch.setattr(monitor, "EVERY_AHEAD_SECONDS", 0.05)
    spin = "import os\nos.fork()\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], start_new_session=True) as busy:
        try:
            watch = watching(Driver(1), busy.pid)
            deadline = time.monotonic() + 20
            while not (took := watch.strain(waits)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(busy.pid, 9)
    assert took.endswith("of the processor's time while it waited" if waits else "of the processor's time")
