"""Real git, a real sandbox, a real corpus, in temporary folders; no home, no network, no global config."""

import dataclasses
import os
import random
import re
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import forked
import pytest

from harness import config as configs
from harness.cli import ELSEWHERE
from harness.sandbox.isolation import choose
from harness.store.records import Failure, RunRecord, Training
from harness.tasks import registry
from harness.tasks.lm import fit
from harness.worker import device
from harness.worker.prestart import Prestarted
from harness.worker.run import Setup, measure
from harness.worker.supervisor import Supervisor

pytest_plugins = ("browser", "sessions", "stubs", "text")
ROOT = Path(__file__).parent.parent
STARTER = fit.fitted((ROOT / "train.py").read_text(), fit.SMALL)

# A small honest experiment on the toy task; a test replaces parts of it by what it is about.
HONEST = """
import os, sys, time
import numpy as np
from safetensors.numpy import load_file
from harness import trial

def spin(seconds):
    until = time.process_time() + seconds  # a budget on a processor is its time
    while time.process_time() < until: pass

def load(checkpoint_dir, device):
    weights = load_file(checkpoint_dir / "model.safetensors")["weights"]
    model = lambda inputs: inputs @ weights
    return model

def main():
    run = trial.open()
    weights = np.random.default_rng(run.seed).normal(0, 0.1, run.input_shape).astype(np.float32)
    model, rate = {"weights": weights}, dict(lr=1.0)["lr"] / 20
    for step, (inputs, targets) in enumerate(run.batches(8)):
        errors = inputs @ weights - targets
        weights -= rate * errors @ inputs / len(inputs)
        run.log(step, np.square(errors).mean())
        spin(0.01)
    (run.checkpoint_dir / "about").write_text("a line")
    run.submit(model)

if __name__ == "__main__":
    main()
"""


def pytest_configure(config):
    """Without `-m gpu` no test sees a GPU: they are the same ones everywhere."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory):
    """No test sees the home folder, a global git config, or somebody's keys."""
    home = tmp_path_factory.mktemp("home")
    fixed = {
        "HOME": str(home),
        "HARNESS_CACHE": str(tmp_path_factory.mktemp("cache")),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "A Person",
        "GIT_AUTHOR_EMAIL": "person@example.org",
        "GIT_COMMITTER_NAME": "A Person",
        "GIT_COMMITTER_EMAIL": "person@example.org",
        "HF_HUB_OFFLINE": "0",
        "COLUMNS": "120",
    }
    if "PYTEST_XDIST_WORKER" in os.environ:
        fixed["OMP_NUM_THREADS"] = "1"  # two models of many threads on two cores wait for each other
    patch = pytest.MonkeyPatch()
    for name in ELSEWHERE:  # in a hook, or a rebase, tests would work on the repository that they came from
        patch.delenv(name, raising=False)
    for name, value in fixed.items():
        patch.setenv(name, value)
    yield
    patch.undo()


def make_text(documents: int, seed: int = 0) -> list[str]:
    """Documents of words that follow each other with some regularity."""
    words = ["the", "cat", "sat", "on", "a", "mat", "und", "lief", "fort", "über", "def", "return", "x = 1"]
    chooser = random.Random(seed)
    return [
        f"{number}: " + " ".join(chooser.choice(words) for _ in range(chooser.randint(5, 60)))
        for number in range(documents)
    ]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("<|endoftext|>".join(make_text(3000)), encoding="utf-8")
    return path


CAPS = {
    "device": "cpu", "startup_seconds": 30.0, "save_seconds": 6.0, "load_seconds": 10.0,
    "scoring_seconds": 10.0, "disk_mb": 64, "memory_gb": 6.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def small_config() -> configs.Config:
    """The toy task: a third of a second of training, a score of eight batches."""
    base = configs.defaults("cpu", "toy")
    return dataclasses.replace(base, trial=dataclasses.replace(base.trial, **CAPS, budget_seconds=0.3))


def setup_of(config) -> Setup:
    """The real sandbox; a machine without it can't show what these tests are about."""
    isolation = choose("auto")
    if isolation.kind != "bwrap":
        pytest.skip(f"no sandbox: {isolation.why}")
    task = registry.prepare(config, Path("/"), lambda *_: None)
    return Setup(config, task, device.resolve("cpu"), isolation)


@pytest.fixture(scope="session")
def setup(small_config) -> Setup:
    return setup_of(small_config)


@pytest.fixture(scope="session")
def cpu_corpus():
    """The embedded corpus of the cpu profile, and the processor's seconds that it took to prepare."""
    started = time.process_time()
    made = registry.prepare(configs.CPU, Path("/"), lambda *_: None)
    return made, time.process_time() - started


def with_caps(setup: Setup, caps: dict) -> Setup:
    config = dataclasses.replace(setup.config, trial=dataclasses.replace(setup.config.trial, **caps))
    return dataclasses.replace(setup, config=config)


@pytest.fixture
def train_only(setup, tmp_path):
    """Run a train.py under the supervisor, without scoring: `train_only(source, **caps)` -> Training."""

    def run(source: str, isolation=setup.isolation, **caps) -> Training:
        changed = with_caps(setup, caps)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        script = folder / "train.py"
        script.write_text(textwrap.dedent(source))
        (folder / "checkpoint").mkdir()
        supervisor = Supervisor(
            script, folder / "checkpoint", changed.spec(1), setup.task.data.train_file, changed.config.trial,
            Prestarted(changed.config.trial, isolation, changed.device), lambda _: None,
        )  # fmt: skip
        return supervisor.train()

    return run


@pytest.fixture
def try_out(setup, tmp_path):
    """Run a train.py through a whole trial: `try_out(source, **caps)` -> Trial."""

    def run(source: str, **caps) -> RunRecord:
        changed = with_caps(setup, caps)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        text = textwrap.dedent(source).encode()
        return measure(text, "0" * 40, 1, changed, folder, lambda _: None, lambda _: None)

    return run


def edit(*changes: tuple[str, str], source: str = HONEST) -> str:
    """HONEST with each (old, new) applied; every old text must be there."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


@pytest.fixture
def git(tmp_path):
    """A repository in a temporary folder: `git("commit", ...)` runs there, `git.folder` is it."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def run(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run.folder = folder  # type: ignore[attr-defined]
    run("init", "-q", "-b", "main")
    return run


def processes_with(mark: str) -> list[str]:
    """Command lines of live processes that carry a mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mark in line and int(entry.name) != os.getpid():
            found.append(line)
    return found


def assert_failed(training, status, *words):
    assert training.status == status, (training.status, training.detail, training.log[-2000:])
    assert all(word in training.detail for word in words), training.detail
    assert "\n" not in training.detail


def assert_refused(result, status, *words):
    assert isinstance(result, Failure), result
    assert result.status == status, result
    assert all(word in result.detail for word in words), result
    assert "\n" not in result.detail


@pytest.fixture(scope="module")
def starter():
    """This repository's train.py, fitted to a processor, as a module."""
    module = types.ModuleType("starter")
    sys.modules["starter"] = module
    exec(STARTER, module.__dict__)
    return module


HARNESS = [sys.executable, "-m", "harness"]
MISTAKE = re.compile(r"\Aharness: [^\n]+\n\Z")


def harness(*args, cwd=None, **env):
    place, variables = cwd or os.getcwd(), {**os.environ, **env}
    if any(name.startswith("PYTHON") for name in env):  # which it reads as it starts
        command = [*HARNESS, *args]
        return subprocess.run(
            command, cwd=place, capture_output=True, text=True, env=variables, timeout=forked.TIMEOUT_SECONDS
        )
    return forked.call(args, place, variables)


@pytest.fixture
def repository(git, setup):
    """A research repository with the small config and an honest baseline."""
    folder = git.folder
    (folder / "train.py").write_text(HONEST)
    (folder / ".autoresearch").mkdir()
    (folder / ".autoresearch" / "config.toml").write_text(configs.dump(setup.config))
    git("add", "-A")
    git("commit", "-qm", "baseline")
    return git


def assert_mistake(done, *words):
    assert done.returncode == 1, done
    assert MISTAKE.match(done.stderr), done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stdout == ""


def without_bwrap(tmp_path, script=None) -> str:
    """A PATH with no bubblewrap, or with one that behaves like `script`."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    if script:
        (folder / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bwrap").chmod(0o755)
    return str(folder)
