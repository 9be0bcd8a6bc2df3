"""Whole sessions: agents that say as they are told, repositories that were measured already, edits to try."""

import dataclasses
import shutil
import subprocess

import pytest
from conftest import HONEST, edit

from harness import config as configs
from harness.agents import NoProposal
from harness.errors import HarnessError
from harness.executors.local import LocalPool
from harness.paths import Paths
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.decisions import Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.worker.service import Service

FASTER = edit(("        spin(0.01)\n", ""))
WORSE = "import sys\n" + edit(("inputs @ weights\n    return", "0.0 * (inputs @ weights)\n    return"))
CRASHING = "raise ValueError('no luck')\ndef load(a, b): ...\nif __name__ == '__main__': pass\n"
BROKEN = "import nothing_of_this_name\n" + HONEST  # a crash that costs next to no time


class Script:
    """An agent that answers what it is told to, in order."""

    def __init__(self, *answers):
        self.answers, self.contexts = list(answers), []

    def propose(self, context):
        self.contexts.append(context)
        if not self.answers:
            raise NoProposal("nothing left to say")
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise NoProposal(answer)
        title, source = answer
        return Proposal(title, f"because of {title}", source.encode(), "script/test")


def loop_in(folder, agent, tell=lambda _: None, places=1, stand_in=None, **limits):
    watcher = Watcher(tell, lambda *_: None)
    return Loop(
        open_repository(folder), agent, Limits(**limits), 0, watcher, in_process(folder, places), stand_in,
    )  # fmt: skip


def in_process(folder, places=1, devices=None):
    """Workers in this process, so that a test may put something in place of a part of them."""
    return LocalPool(lambda place, device: Service(place, Paths(folder).runs, device), devices, places)


def session(research, *answers, said=None, **limits):
    agent = Script(*answers)
    limits.setdefault("experiments", len(answers))
    said = [] if said is None else said
    tell = lambda event: said.append(event.text)  # noqa: E731
    return loop_in(research.folder, agent, tell, **limits).run(), agent


def all_of(research):
    return list(Experiments(open_repository(research.folder)))


@pytest.fixture(scope="session")
def measured(tmp_path_factory, setup):
    """A research repository with the small config and an honest baseline that was measured.

    With the greedy rule: what these tests are about takes one trial then. `believing` has the gate's.
    """
    folder = tmp_path_factory.mktemp("measured")
    (folder / "train.py").write_text(HONEST)
    (folder / ".autoresearch").mkdir()
    config = dataclasses.replace(setup.config, gate=configs.GateConfig("greedy"))
    (folder / ".autoresearch" / "config.toml").write_text(configs.dump(config))
    (folder / ".gitignore").write_text("/.autoresearch/*\n!/.autoresearch/config.toml\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "baseline"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    with pytest.raises(HarnessError, match="nothing usable 3 times: I am tired"):
        loop_in(folder, Script(*["I am tired"] * 3), experiments=1).run()
    return folder


def copy_of(measured, folder):
    shutil.copytree(measured, folder)

    def run(*args):
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run.folder = folder
    return run


@pytest.fixture
def research(measured, tmp_path):
    """A copy of it: `research("log")` runs git there, `research.folder` is it."""
    return copy_of(measured, tmp_path / "research")


@pytest.fixture
def believing(measured, tmp_path):
    """The same under the gate's rule; the noise isn't known yet."""
    found = copy_of(measured, tmp_path / "believing")
    path = found.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('policy = "greedy"', 'policy = "belief"'))
    found("commit", "-qam", "under the gate's rule")
    return found
