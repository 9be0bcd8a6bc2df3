"""Stubs in place of real trials, for what is about decisions and order: no time is spent.

`told` gives the scores that it was told to; `gpu` besides makes trials wait for each other as on a GPU.
"""

import dataclasses
import json
import time
from types import SimpleNamespace

import pytest
from conftest import HONEST, edit
from sessions import Script, in_process

import harness.executors.jobs as executor
import harness.executors.local as local
import harness.session.runner as runner
import harness.worker.attempts as attempts
import harness.worker.service as service
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.decisions import Holdout
from harness.store.experiments import Experiments
from harness.store.note import write_run
from harness.store.opening import open_repository
from harness.store.records import OK, Conditions, RunRecord, Training
from harness.worker.device import Device
from harness.worker.run import open_setup
from harness.worker.worker import Cancelled

SD = 0.01
BASELINE = [2.0 - SD, 2.0, 2.0 + SD, 2.0]
MUCH_BETTER = [2.0 - 15 * SD, 2.0 - 15.5 * SD, 2.0 - 15.2 * SD]


PLACES = "".join(f"\n# place {n}\n\nPLACE_{n} = 0\n" for n in range(21))
PLACES += f"\nPLACES = [{', '.join(f'PLACE_{n}' for n in range(21))}]\n"  # what nobody uses is no change


def program(*numbers):
    """A program of its own that does what HONEST does; its changes don't touch those of others."""
    return edit(*((f"PLACE_{n} = 0\n", f"PLACE_{n} = 1\n") for n in numbers), source=HONEST + PLACES)


class Setup:
    """In place of the bench of trials: a score for every run, by its commit's title; no time is spent."""

    def __init__(self, git):
        self._git = git
        self.scores = {"baseline": list(BASELINE)}
        self.ran, self.held_out = [], []

    def measure(
        self,
        source,
        commit,
        seed,
        setup,
        folder,
        observe,
        on_wait,
        keep_checkpoint,
        worker,
        handle,
        suspect_beyond=0.0,
        trained=None,
    ):
        self.ran.append((commit, seed))
        title = self._git("log", "-1", "--format=%s", commit).split(" (squared_error")[0]
        value = self.scores[title].pop(0)
        if isinstance(value, BaseException):
            raise value
        if callable(value):  # what happens while it runs
            value = value()
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "train.py").write_bytes(source)
        training = Training(OK, "", 1.0, setup.config.trial.budget_seconds, 0.0)
        setting = setup.setting
        trial = RunRecord(
            commit, seed, OK, "", value, training, None, 1.0, setting.device, None, setting.data,
            setting.evaluator, "bwrap", setting.budget_seconds, runtime=setting.runtime,
            metric=setting.metric,
        )  # fmt: skip
        (folder / "trial.json").write_bytes(write_run(trial))
        return trial

    def measure_holdout(self, folder, value, setup, observe, on_wait, worker, handle):
        assert (folder / "checkpoint").is_dir() and (folder / "train.py").exists()
        assert json.loads((folder / "trial.json").read_text())["value"] == value
        self.held_out.append(value)
        return Holdout(value, value + 0.5, setup.setting)


@pytest.fixture
def told(repository, monkeypatch):
    made = Setup(repository)
    monkeypatch.setattr(
        local, "worker", lambda place, runs, root, device=None: service.Service(place, runs, device)
    )
    monkeypatch.setattr(attempts, "measure", made.measure)
    monkeypatch.setattr(service, "measure_holdout", made.measure_holdout)
    return made


class Changing(Script):
    """An agent that makes each of its changes to the program that it is shown."""

    def __init__(self, answers):
        super().__init__(*((title, number) for title, number, _ in answers))

    def propose(self, context):
        if self.answers:
            title, number = self.answers[0]
            self.answers[0] = (title, edit((f"PLACE_{number} = 0", f"PLACE_{number} = 1"),
                                           source=context.source.decode()))  # fmt: skip
        return super().propose(context)


def known(repository):
    return Experiments(open_repository(repository.folder))


@pytest.fixture
def fresh(repository, told):
    """A repository in which nothing was measured."""
    (repository.folder / "train.py").write_text(program())
    (repository.folder / ".gitignore").write_text("/.autoresearch/runs/\n")
    repository("add", "-A")
    repository("commit", "-qm", "baseline")
    return repository


@pytest.fixture
def greedy(fresh):
    path = fresh.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('policy = "belief"', 'policy = "greedy"'))
    fresh("add", "-A", "-f", ".autoresearch/config.toml")
    fresh("commit", "-qm", "the greedy rule")
    return fresh


GPU = Device("cuda", "a GPU", None, "GPU-1", memory_mb=80_000)


def begin(repository, agent, places=2, devices=None, said=None, **limits):
    tell = (lambda event: said.append(event.text)) if said is not None else lambda _: None
    return Loop(
        open_repository(repository.folder), agent, Limits(**limits), 0, Watcher(tell, lambda *_: None),
        in_process(repository.folder, places, devices),
    )  # fmt: skip


class Held:
    """In place of `measure`, on a GPU: what is scored waits for `scored`, what starts for its turn."""

    def __init__(self, told, git):
        self.told, self.git = told, git
        self.started, self.cancelled = [], []
        self.wait_for_start_of = {}
        self.trains_until_start_of = {}
        self.seen, self.tells_apart = Conditions(1, 1, 1, 0.0, 10_000), lambda title: False

    def __call__(
        self,
        source,
        commit,
        seed,
        setup,
        folder,
        observe,
        on_wait,
        keep,
        worker,
        handle,
        suspect=0.0,
        trained=None,
    ):
        title = self.git("log", "-1", "--format=%s", commit)
        self.started.append((title, handle.may_train.is_set()))
        deadline = time.monotonic() + 20
        while not handle.may_train.is_set():
            assert time.monotonic() < deadline
            try:
                handle.check()
            except Cancelled:
                self.cancelled.append(title)
                raise
            time.sleep(0.01)
        worker.trains = handle
        handle.watch = SimpleNamespace(told_apart=self.tells_apart(title), peak_memory_mb=10_000)
        self.train(title)
        worker.trains = None
        handle.has_trained()
        self.until_start_of(self.wait_for_start_of.get(title))
        trial = self.told.measure(source, commit, seed, setup, folder, observe, on_wait, keep, worker, handle)
        return dataclasses.replace(trial, training=dataclasses.replace(trial.training, conditions=self.seen))

    def train(self, title):
        self.until_start_of(self.trains_until_start_of.get(title))

    def until_start_of(self, wanted, times=1):
        self.until(
            lambda: not wanted or [name for name, _ in self.started].count(wanted) >= times,
            f"a start of {wanted}",
        )

    def until(self, happened, what=""):
        deadline = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < deadline, f"{what} did not happen meanwhile"
            time.sleep(0.01)


@pytest.fixture
def gpu(fresh, told, monkeypatch):
    """A repository whose trials think that they run on a GPU with room."""
    made = Held(told, fresh)
    monkeypatch.setattr(attempts, "measure", made)
    monkeypatch.setattr(
        executor.Executor, "setup", lambda self, setup, worker=None: dataclasses.replace(setup, device=GPU)
    )
    monkeypatch.setattr(
        runner, "open_setup", lambda *args: dataclasses.replace(open_setup(*args), device=GPU)
    )
    return made


@pytest.fixture
def beside(gpu, monkeypatch):
    """A GPU whose driver tells processes apart, and cores enough."""
    monkeypatch.setattr(service, "CORES_BESIDE", 1)
    gpu.tells_apart = lambda title: True
    return gpu
