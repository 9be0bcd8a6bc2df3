"""SIGKILL at every arrow of the flow: the next start finishes it, nothing is lost or counted twice."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Script, edit, loop_in, processes_with

from harness.errors import HarnessError
from harness.ledger.experiments import Experiments
from harness.ledger.repo import open_repository

pytestmark = pytest.mark.slow

FASTER = edit(("        time.sleep(0.01)\n", ""))

# A loop of one experiment that kills itself when a function is entered or left.
DRIVER = """
import os, signal, sys
sys.path.insert(0, TESTS)
from conftest import Script, loop_in
from pathlib import Path
from harness import lab, loop
from harness.ledger import experiments, notes, repo
from harness.trial import supervisor

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name):
    real = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (real(*a, **k), die()))

ARROW
loop_in(Path(FOLDER), Script(("Sleep less", Path(SOURCE).read_text())), experiments=1).run()
"""
ARROWS = {
    "before the commit": "before(experiments.Experiments, 'begin')",
    "after its branch": "after(experiments.Experiments, 'begin')",
    "before the training": "before(lab, 'measure')",
    "in the training": "before(supervisor.Supervisor, '_note')",
    "before the score": "before(__import__('harness.trial.score').trial.score.Scoring, 'result')",
    "before the decision": "before(loop.gate, 'decide')",
    "before the note": "before(notes, 'write')",
    "between the note and the branch": "before(repo.Repository, 'move')",
    "before what is proven is noted": "before(experiments.Experiments, 'note')",
    "before the holdout": "before(lab, 'measure_holdout')",
    "between the branch and main": "before(repo.Repository, 'fast_forward')",
    "between the checkout and main": "after(repo, 'write_atomically')",
}


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_loop_that_was_killed_is_finished_by_the_next(research, tmp_path, arrow):
    source = tmp_path / "faster.py"
    source.write_text(FASTER)
    code = DRIVER.replace("ARROW", ARROWS[arrow]).replace("TESTS", repr(str(Path(__file__).parent)))
    code = code.replace("FOLDER", repr(str(research.folder))).replace("SOURCE", repr(str(source)))
    base = research("rev-parse", "main")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, (done.returncode, done.stderr[-1000:])

    with contextlib.suppress(HarnessError):  # where it was recorded already, there is nothing new to try
        loop_in(research.folder, Script(("Sleep less", FASTER)), experiments=1).run()
    known = Experiments(open_repository(research.folder))
    (kept,) = known
    assert kept.status == "keep" and kept.parent == base
    assert research("rev-parse", "main") == kept.commit
    assert len(known.trials(kept.commit)) == 1
    assert known.record(kept.commit)["proven"]["old"] == base
    if arrow in ("before what is proven is noted", "before the holdout"):
        (held_out,) = known.record(kept.commit)["holdout"]
        assert held_out["val_bpb"] == pytest.approx(kept.val_bpb, abs=1e-6)
    assert research("status", "--porcelain") == ""
    assert (research.folder / "train.py").read_text() == FASTER
    assert research("worktree", "list").count("\n") == 0
    assert processes_with(str(research.folder)) == []
