"""A repository that release 0.1.0 made goes on where it was.

`stored/0.1.0.bundle` has a session of it: one experiment on `main`, two kept on top, three discarded, a
crash, and one whose run was cut short by SIGKILL.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import harness
from sessions import Script
from stubs import Setup as Stub
from stubs import begin, known

import harness.worker.attempts as attempts
import harness.worker.service as service
from harness.cli import status
from harness.report.snapshot import Snapshot
from harness.store.history import HistorySnapshot
from harness.store.note import Note
from harness.store.opening import open_repository
from harness.store.records import Setting
from harness.worker.run import Setup

SETTING = Setting("Intel(R) Xeon(R) Processor x2", "python@09df624", "1", 1.0, "1 torch 2.13.0")
BUNDLE = Path(__file__).parent / "stored" / "0.1.0.bundle"


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "stored"
    folder.mkdir()

    def git(*args):
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git.folder = folder
    git("init", "-q", "-b", "main")
    git("fetch", "-q", "--update-head-ok", str(BUNDLE), "refs/*:refs/*")
    git("reset", "-q", "--hard", "main")
    return git


def test_every_view_of_it_has_what_was_measured(stored):
    said = {
        command: harness(*command.split(), cwd=stored.folder)
        for command in ("log --all", "status", "show 6", "show 1", "plot", "export", "log --kept --json")
    }
    assert [done.returncode for done in said.values()] == [0] * len(said), said
    states = [line.split()[1] for line in said["log --all"].stdout.splitlines()]
    assert states == ["confirmed", "crash", *["discard"] * 2, "candidate", "dropped", "discard", "begun"]
    repository = open_repository(stored.folder)
    then = Snapshot(repository, HistorySnapshot(repository), SETTING)
    lines = "\n".join([*status._main(then, None, ""), *status._trouble(then, 0.0)])
    assert "main     1a31793  val_bpb 3.9054, the mean of 2 runs, estimated 3.9117" in lines
    assert "ahead    1 kept, up to 0005" in lines
    assert "holdout  3.8476" in lines
    shown = said["show 6"].stdout
    assert "is 40.0%: on average it gains: a candidate." in shown and "loss 6.406 to 5.184" in shown
    assert "main is there" in said["show 1"].stdout
    assert len(said["export"].stdout.splitlines()) == 10  # the baseline too


def test_its_records_are_read_whole(stored):
    every = known(stored)
    runs = [run for each in every for run in every.runs(each.commit)]
    assert len(runs) == 9 and all(run.version == 1 and run.runtime == "" for run in runs)
    assert sum(run.score is not None for run in runs) == 8
    of_main = every.note(every.main)
    assert of_main.gist.has_reached and of_main.proven.new == every.main and of_main.decision.status == "keep"


def test_a_kind_of_failure_that_a_later_version_knows_hides_no_record(stored):
    every = known(stored)
    run = every.note(every.find("2").commit).stored["trials"][0]
    (read,) = Note({"trials": [{**run, "kind": "of tomorrow", "more": 1}]}).runs
    assert read.kind == "other" and read.status == "crash"


def test_a_loop_measures_what_was_cut_short_and_nothing_again(stored, repository, monkeypatch):
    monkeypatch.setattr(Setup, "setting", property(lambda _: SETTING))
    config = Path(".autoresearch", "config.toml")
    (stored.folder / config).write_text((repository.folder / config).read_text())
    stub = Stub(stored)
    monkeypatch.setattr(attempts, "measure", stub.measure)
    monkeypatch.setattr(service, "measure_holdout", stub.measure_holdout)
    stub.scores = {"Widen the table more": [4.0] * 3}
    begin(stored, Script(), places=1, experiments=1).run()
    last = known(stored).find("8")
    assert last.status == "discard" and last.parent == known(stored).find("5").commit
    assert len(stub.ran) == 1
    assert stored("status", "--short") == "M .autoresearch/config.toml"
