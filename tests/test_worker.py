"""A worker in a process of its own: it does what it is asked, and whoever ends, nothing is left."""

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from conftest import HONEST, edit, processes_with, without_bwrap
from sessions import Script, all_of
from stubs import known

from harness import config as configs
from harness.errors import DeviceLost, HarnessError, MachineFailed
from harness.executors import local, remote
from harness.paths import Paths
from harness.sandbox import isolation
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.opening import open_repository
from harness.store.records import OK
from harness.worker import messages as m
from harness.worker.orders import Hears, Order
from harness.worker.worker import Cancelled, RunHandle

ORDER = Order("c0ffee" * 6 + "c0ff", HONEST.encode(), 1, "0001")
LONG = edit(("    run = trial.open()\n", "    run = trial.open()\n    time.sleep(60)\n"))


@pytest.fixture
def worker(setup, tmp_path):
    (tmp_path / "root").mkdir()
    made = local.worker(0, tmp_path / "runs", tmp_path / "root")
    with contextlib.closing(made):
        yield made


def test_a_run_in_a_process_of_its_own_gives_its_record_and_tells_how_it_goes(worker, setup):
    phases, handle = [], RunHandle.alone()
    hears = Hears(show=lambda progress: phases.append(progress.phase))
    run, folder = worker.start(ORDER, setup, handle, hears).result(60)
    assert run.status == OK and run.commit == ORDER.commit and run.setting == setup.setting
    assert (folder / "trial.json").exists() and (folder / "checkpoint").is_dir()
    assert handle.trained.is_set() and worker.hello.process != os.getpid()
    assert [phase for phase in dict.fromkeys(phases) if phase in ("starting", "training", "scoring")]

    held = worker.score_holdout(folder, run.value, setup, RunHandle(), Hears()).result(60)
    assert held.value == run.value and held.setting == setup.setting
    worker.second_opinion(folder, setup, Hears()).result(60)


@pytest.mark.parametrize(
    ("kind", "error"), [("person", HarnessError), ("device", DeviceLost), ("machine", MachineFailed)]
)
def test_what_failed_in_a_worker_is_of_the_same_kind_here(kind, error):
    future = Future()
    remote._answer(future, m.Failed(1, kind, "why", "how"))
    assert type(future.exception()) is error and "why" in str(future.exception())


def test_a_worker_that_lost_its_sandbox_runs_nothing_of_a_session_that_has_one(setup, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", without_bwrap(tmp_path))
    (tmp_path / "root").mkdir()
    made = contextlib.closing(local.worker(0, tmp_path / "runs", tmp_path / "root"))
    words = "has no sandbox any more: bubblewrap is not installed"
    with made as worker, pytest.raises(HarnessError, match=words):
        worker.start(ORDER, setup, RunHandle.alone(), Hears()).result(60)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_machine_that_can_start_nothing_for_a_moment_is_not_one_without_bubblewrap(monkeypatch):
    real, fail = subprocess.run, [OSError(errno.EAGAIN, "again"), OSError(errno.ENOMEM, "no memory")]

    def run(*args, **options):
        if fail:
            raise fail.pop()
        return real(*args, **options)

    monkeypatch.setattr(isolation, "AGAIN_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(isolation.subprocess, "run", run)
    assert isolation._bwrap_problem.__wrapped__(shutil.which("bwrap")) is None


def test_what_is_held_trains_when_it_is_let_and_what_is_cancelled_leaves_no_folder(worker, setup, tmp_path):
    phases, handle = [], RunHandle()
    waits = threading.Event()

    def show(progress):
        phases.append(progress.phase)

    held = worker.start(ORDER, setup, handle, Hears(show=show))
    time.sleep(1.0)
    assert not held.done() and "training" not in phases
    handle.release()
    assert held.result(60)[0].status == OK
    again = RunHandle.alone()
    order, hears = Order(ORDER.commit, LONG.encode(), 2, "0002"), Hears(show=lambda _: waits.set())
    gone = worker.start(order, setup, again, hears)
    assert waits.wait(30)
    again.cancel()
    with pytest.raises(Cancelled):
        gone.result(30)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_what_a_person_can_mend_comes_as_one_line_with_what_mends_it(worker, setup):
    images = dataclasses.replace(setup.config, task=configs.TaskConfig("images", ""))
    other = dataclasses.replace(setup, config=images)
    with pytest.raises(HarnessError, match="harness prepare"):
        worker.start(ORDER, other, RunHandle.alone(), Hears()).result(30)


def test_a_worker_whose_scores_would_be_of_another_setting_is_refused(worker, setup):
    other = dataclasses.replace(setup, task=dataclasses.replace(setup.task, source="another"))
    with pytest.raises(HarnessError, match="a worker on"):
        worker.start(ORDER, other, RunHandle.alone(), Hears()).result(30)


@pytest.mark.alone
@pytest.mark.parametrize("who", ["worker", "coordinator"])
def test_whoever_is_killed_nothing_that_it_started_is_left_after_five_seconds(setup, tmp_path, who):
    """The coordinator is a small process of its own here."""
    (tmp_path / "root").mkdir()
    source = tmp_path / "long.py"
    source.write_text(LONG)
    code = f"""
import pickle, sys, threading
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from harness.executors import local
from harness.worker.orders import Hears, Order
from harness.worker.progress import Progress
from harness.worker.worker import RunHandle
setup = pickle.load(open({str(tmp_path / "setup")!r}, "rb"))
worker = local.worker(0, Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "root")!r}))
started = threading.Event()
order = Order("c" * 40, Path({str(source)!r}).read_bytes(), 1, "0001")
future = worker.start(order, setup, RunHandle.alone(), Hears(show=lambda p: started.set()))
started.wait()
print(worker.hello.process, flush=True)
try:
    future.result()
except Exception as error:
    print(type(error).__name__, flush=True)
"""
    (tmp_path / "setup").write_bytes(pickle.dumps(setup))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    deadline = time.monotonic() + 20
    while not processes_with("harness.worker.boot") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with("harness.worker.boot")
    os.kill(worker if who == "worker" else process.pid, signal.SIGKILL)
    if who == "worker":
        assert process.stdout.readline().strip() == "Lost"
    deadline = time.monotonic() + 5
    while (left := processes_with("harness.worker")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert left == []


def test_a_run_whose_worker_was_killed_is_run_again_and_counts_once(research):
    said, killed = [], []

    def show(progress, run):
        if progress.phase == "training" and not killed:
            killed.append(min(workers_of(research.folder)))  # what it forks looks like it for a moment
            os.kill(killed[0], signal.SIGKILL)

    watcher = Watcher(lambda event: said.append(event.text), show)
    loop = Loop(
        open_repository(research.folder),
        Script(("Sleep more", slower())),
        Limits(experiments=1),
        0,
        watcher,
        local.pool(Paths(research.folder)),
    )
    loop.run()
    (done,) = all_of(research)
    assert killed and done.status in ("discard", "keep")
    assert len(known(research).runs(done.commit)) == 1
    assert [text for text in said if "is run again: its worker is gone" in text]


def slower():
    return edit(("        spin(0.01)\n", "        spin(0.011)\n"))


def workers_of(folder):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parts = (entry / "cmdline").read_bytes().split(b"\0")
            if b"harness.worker" in parts and str(folder).encode() in parts:
                found.append(int(entry.name))
    return found


def test_every_message_is_the_same_after_a_line_of_json(setup):
    loss = m.Shown(
        3,
        __import__("harness.worker.progress", fromlist=["Progress"]).Progress(
            "training", 1.0, 2.0, 3, float("inf")
        ),
    )
    for message in (m.Go(1), m.Told(2, "note", "a\nline"), loss, m.Failed(4, "person", "why", "how")):
        line = m.written(message)
        assert line.count(b"\n") == 1 and m.read(line) == message
    with pytest.raises(ValueError):
        m.read(json.dumps({"do": "Nothing"}).encode())
