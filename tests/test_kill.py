"""SIGKILL at every arrow of the flow: the next start finishes it, nothing is lost or counted twice."""

import contextlib
import os
import shutil
from pathlib import Path

import forked
import pytest
from conftest import edit, processes_with
from sessions import FASTER, WORSE, Script, loop_in

import harness.session.runner as runner
from harness.errors import HarnessError
from harness.store import notes
from harness.store.experiments import Experiments
from harness.store.note import read_run
from harness.store.opening import open_repository
from harness.worker import unscored
from harness.worker.scoring import Scoring
from harness.worker.supervisor import Supervisor

pytestmark = pytest.mark.slow

# A loop that kills itself when a function is entered or left.
DRIVER = """
import os, signal, sys
sys.path.insert(0, TESTS)
from sessions import Script, loop_in
from pathlib import Path
from harness.session import checkpoints
from harness.session import runner
from harness.session import deciding, plan
from harness.store import experiments
from harness.store import notes
from harness.store import checkout, repo
from harness.worker import attempts, service, supervisor
from harness.worker.monitor import Monitor

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name):
    real = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (real(*a, **k), die()))

ARROW
answers = ANSWERS
loop_in(Path(FOLDER), Script(*answers), experiments=len(answers)).run()
"""
ARROWS = {
    "before the commit": "before(experiments.Experiments, 'begin')",
    "after its branch": "after(experiments.Experiments, 'begin')",
    "before the training": "before(attempts, 'measure')",
    "in the training": "before(supervisor.Supervisor, '_note')",
    "before the score": "before(__import__('harness.worker.scoring').worker.scoring.Scoring, 'result')",
    "before the decision": "before(deciding.gate, 'decide')",
    "before the note": "before(notes, 'write')",
    "between the note and the branch": "before(repo.Repository, 'move')",
    "before what is proven is noted": "before(experiments.Experiments, 'note')",
    "before the holdout": "before(service, 'measure_holdout')",
    "between the branch and main": "before(checkout.Checkout, 'fast_forward')",
    "between the checkout and main": "after(checkout, 'write_over')",
}

# A loop of two that kills itself when the second one waits for its first batch and the first is not over.
MAY_START = "plan.Place.is_free = property(lambda self: len(self.runs) < plan.AT_A_TIME)"
BESIDE = f"""
{MAY_START}
Monitor.strain = lambda self, waits: die() if waits else ""
"""

# One that kills itself when the last run of main is over and not noted, with an experiment held beside it.
EARLY = f"""
{MAY_START}
runner.CALIBRATION_RUNS = 2
before(runner.Runner, 'noted')
"""


def killed(folder, arrow, *answers):
    code = DRIVER.replace("ARROW", arrow).replace("TESTS", repr(str(Path(__file__).parent)))
    code = code.replace("FOLDER", repr(str(folder))).replace("ANSWERS", repr(answers))
    done = forked.execute(code)
    assert done.returncode == -9, (done.returncode, done.stderr[-1000:])


def nothing_is_left_of(research):
    assert research("status", "--porcelain") == ""
    assert research("worktree", "list").count("\n") == 0
    assert processes_with(str(research.folder)) == []


def test_both_are_finished_where_one_trained_and_the_next_was_held(research):
    slow = ("    run = trial.open()\n", "    time.sleep(2)\n    run = trial.open()\n")
    long = ("        spin(0.01)\n", "        spin(0.01)\n        time.sleep(0.1)\n")
    worse = edit(slow, long, ("inputs @ weights\n    return", "0.0 * (inputs @ weights)\n    return"))
    answers = ("Start slowly", worse), ("Sleep less", FASTER)
    killed(research.folder, BESIDE, *answers)
    known = Experiments(open_repository(research.folder))
    assert [(e.message.title, e.status) for e in known] == [("Start slowly", None), ("Sleep less", None)]

    with contextlib.suppress(HarnessError):
        loop_in(research.folder, Script(), experiments=2).run()
    known = Experiments(open_repository(research.folder))
    assert [len(known.runs(e.commit)) for e in known] == [1, 1]
    assert [e.status for e in known] == ["discard", "keep"]
    nothing_is_left_of(research)


def test_one_that_was_held_beside_mains_last_run_is_decided_after_it(believing, monkeypatch):
    monkeypatch.setattr(runner, "CALIBRATION_RUNS", 2)
    killed(believing.folder, EARLY, ("Worse", WORSE))
    known, main = Experiments(open_repository(believing.folder)), believing("rev-parse", "main")
    assert [e.status for e in known] == [None] and known.runs(main) == ()

    loop_in(believing.folder, Script(), experiments=1).run()
    known = Experiments(open_repository(believing.folder))
    (worse,) = known
    assert worse.status == "discard" and worse.parent == main
    assert [len(known.runs(commit)) for commit in (main, worse.commit)] == [1, 1]
    nothing_is_left_of(believing)


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_loop_that_was_killed_is_finished_by_the_next(research, arrow):
    base = research("rev-parse", "main")
    killed(research.folder, ARROWS[arrow], ("Sleep less", FASTER))

    with contextlib.suppress(HarnessError):  # where it was recorded already, there is nothing new to try
        loop_in(research.folder, Script(("Sleep less", FASTER)), experiments=1).run()
    known = Experiments(open_repository(research.folder))
    (kept,) = known
    assert kept.status == "keep" and kept.parent == base
    assert research("rev-parse", "main") == kept.commit
    assert len(known.runs(kept.commit)) == 1
    assert known.note(kept.commit).proven.old == base
    if arrow in ("before what is proven is noted", "before the holdout"):
        (held_out,) = known.note(kept.commit).holdouts
        assert held_out.value == pytest.approx(kept.value, abs=1e-6)
    assert (research.folder / "train.py").read_text() == FASTER
    nothing_is_left_of(research)


def test_a_note_that_somebody_writes_meanwhile_is_kept(research, monkeypatch):
    repository, real = open_repository(research.folder), notes._with
    theirs = ["notes", "--ref", "autoresearch", "add", "-m", "mine", "main^{tree}"]

    def slow(*args):
        made = real(*args)
        if theirs:
            research(*theirs)
            theirs.clear()
        return made

    monkeypatch.setattr(notes, "_with", slow)
    main = research("rev-parse", "main")
    Experiments(repository).amend(main, lambda note: note.with_parts(reached=True))
    assert research("notes", "--ref", "autoresearch", "show", "main^{tree}") == "mine"
    assert Experiments(repository).note(main).gist.has_reached


def test_what_was_trained_is_scored_by_the_next_and_not_trained_again(research, monkeypatch):
    killed(research.folder, ARROWS["before the score"], ("Sleep less", FASTER))
    (left,) = filter(unscored.is_in, (research.folder / ".autoresearch" / "runs").iterdir())
    said, trainings = [], []
    real = Supervisor.train
    monkeypatch.setattr(Supervisor, "train", lambda self: trainings.append(self.source) or real(self))
    with contextlib.suppress(HarnessError):
        loop_in(research.folder, Script(), lambda event: said.append(event.text), experiments=1).run()
    known = Experiments(open_repository(research.folder))
    (kept,) = known
    (measured,) = known.runs(kept.commit)
    assert kept.status == "keep"
    assert str(measured.seed) == left.name.rpartition("-s")[2]
    assert left / "train.py" not in trainings
    assert any("its checkpoint is scored now" in line for line in said)
    assert not unscored.is_in(left)


def test_a_folder_of_runs_that_came_with_a_clone_is_not_scored(research, tmp_path):
    """Nor is one in which somebody put links, or that a living process is about to score."""
    killed(research.folder, ARROWS["before the score"], ("Sleep less", FASTER))
    runs = research.folder / ".autoresearch" / "runs"
    (left,) = filter(unscored.is_in, runs.iterdir())
    commit = Experiments(open_repository(research.folder)).find("1").commit
    data = unscored._said(left).read_bytes()
    setting = read_run(data.partition(b"\n")[2]).setting
    assert [folder for folder, _ in unscored.find(runs, commit, setting)] == [left]
    copied = runs / f"20990101-000000-1-{commit[:7]}-s5"
    shutil.copytree(left, copied)
    (copied / "trained.json").write_bytes(data)
    assert [folder for folder, _ in unscored.find(runs, commit, setting)] == [left]
    who, _, record = data.partition(b"\n")
    for other in (who.rpartition(b" ")[0] + b" %d" % os.getpid(), b"elsewhere " + who.rpartition(b" ")[2]):
        unscored._said(left).write_bytes(other + b"\n" + record)
        assert unscored.find(runs, commit, setting) == [], "somebody may be about to score it"
    unscored._said(left).write_bytes(data)
    (left / "log.txt").unlink(missing_ok=True)
    (left / "log.txt").symlink_to(tmp_path / "victim")
    assert unscored.find(runs, commit, setting) == []


def test_a_scorer_that_died_is_started_again_and_nothing_is_trained_for_it(research, monkeypatch):
    real, killed = Scoring.result, []

    def result(self, observe):
        if not killed:
            killed.append(self)
            self._process.kill()
        return real(self, observe)

    monkeypatch.setattr(Scoring, "result", result)
    loop_in(research.folder, Script(("Sleep less", FASTER)), experiments=1).run()
    known = Experiments(open_repository(research.folder))
    assert [e.status for e in known] == ["keep"] and killed
    assert [run.instead_of for e in known for run in known.runs(e.commit)] == [()]
