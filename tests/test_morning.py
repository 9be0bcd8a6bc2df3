"""What a person does with the results, and what is said of it. Trials are stubs."""

import json
import re

import pytest
from conftest import assert_mistake, harness
from sessions import loop_in
from stubs import Changing, begin, known
from test_git import session
from test_programs import SMALL, WORSE, words

from harness.agents import program
from harness.agents.again import Again
from harness.cli.loop import adopt
from harness.errors import HarnessError
from harness.gate.standing import revised
from harness.store.decisions import Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository

SHOWN = ("show", "1"), ("status",)


def said(research, *command):
    return harness(*command, cwd=research.folder).stdout


def cherry_picked(research, told):
    session(research.folder, told, ("Small", 1, SMALL), ("Worse", 5, WORSE))
    small, _ = known(research)
    assert small.status == "keep" and research("rev-parse", "main") != small.commit
    words(research, "NOTES")
    research("cherry-pick", small.name.branch)
    return small


def test_a_kept_one_that_a_person_took_as_it_is_is_not_said_to_be_left_behind(fresh, told):
    cherry_picked(fresh, told)
    assert "aside" not in said(fresh, "status")
    shown, main = said(fresh, "show", "1"), fresh("rev-parse", "--short=7", "main")
    assert f"Its program is on main as {main}" in shown
    assert "Dropped from the frontier" not in shown and "main has not followed" not in shown


def test_a_branch_without_a_commit_of_its_own_is_not_what_is_best(fresh, told):
    session(fresh.folder, told, ("Worse", 5, WORSE))
    fresh("branch", "exp/0007-oops", "main")
    assert "best " not in said(fresh, "status")


def test_runs_since_the_decision_are_said_and_one_of_another_setting_is_named(fresh, told):
    session(fresh.folder, told, ("Small", 1, SMALL))
    (small,) = known(fresh)
    assert small.status == "keep" and not any("un again since" in said(fresh, *c) for c in SHOWN)
    record = known(fresh).note(small.commit).stored
    (run,) = record["trials"]
    since, other = {**run, "seed": 5, "value": run["value"] + 0.01}, {**run, "budget_seconds": 9.0}
    note = json.dumps({**record, "trials": [run, since, other]})
    fresh("notes", "--ref", "autoresearch", "add", "-f", "-m", note, small.commit)
    by_now = f"un again since: by now {run['value'] + 0.005:.4f}, the mean of 2 runs"
    assert all(by_now in said(fresh, *command) for command in SHOWN)
    runs = [line for line in said(fresh, "show", "1").splitlines() if line.startswith("seed ")]
    assert ["(another setting)" in line for line in runs] == [False, False, True]


def test_a_rebase_takes_no_score_along_to_another_program(fresh, told):
    session(fresh.folder, told, ("Small", 1, SMALL))
    train = fresh.folder / "train.py"
    train.write_text(f"TOLD = 1\n{train.read_text()}")
    fresh("commit", "-qam", "mine")
    fresh("rebase", "-q", "main", "exp/0001-small")
    fresh("switch", "-q", "main")
    assert [e.state for e in known(fresh)] == ["by hand"]
    assert "not measured: harness adopt 1 does" in said(fresh, "show", "1")
    told.scores |= {"mine": [2.0] * 4}
    session(fresh.folder, told, ("Worse", 5, WORSE))
    main = fresh("rev-parse", "main")
    assert known(fresh).find("2").parent == main == fresh("rev-parse", "exp/0001-small~")


def test_adopting_the_program_that_is_built_on_says_so(fresh, told):
    cherry_picked(fresh, told)
    main = fresh("rev-parse", "--short=7", "main")
    assert_mistake(harness("adopt", "1", cwd=fresh.folder), f"is the program of {main}", "harness status")


def test_adopting_a_change_that_main_has_among_others_names_what_helps(fresh, told):
    cherry_picked(fresh, told)
    (fresh.folder / "train.py").write_text((fresh.folder / "train.py").read_text() + "X = 1\n")
    fresh("commit", "-qam", "mine")
    told.scores["mine"] = [2.0] * 4
    proposal = known(fresh).proposal(known(fresh).find("1"))
    with pytest.raises(HarnessError, match=r"is the incumbent's program, .*harness status"):
        loop_in(fresh.folder, Again([proposal]), experiments=1).run()


def test_show_and_status_say_the_same_of_a_stack_below_a_commit_of_a_persons(fresh, told):
    session(fresh.folder, told, ("Small", 1, SMALL))
    base = fresh("rev-parse", "--short=7", "main")
    words(fresh, "NOTES")
    assert f"0001 stands on {base}, main before" in said(fresh, "status")
    shown = said(fresh, "show", "1")
    assert f"It stands on {base}, main before: a loop puts it on this one." in shown
    assert "Dropped from the frontier" not in shown


def test_adopt_measures_what_was_asked_for_after_what_was_begun(fresh, told, monkeypatch):
    session(fresh.folder, told, ("Worse", 5, WORSE))
    writer = Experiments(open_repository(fresh.folder))
    source = writer.source(writer.main).replace(b"PLACE_7 = 0", b"PLACE_7 = 1")
    writer.begin(Proposal("Begun", "h", source, "a/b"), writer.main, program.digest(source))
    told.scores |= {"Begun": WORSE[:], "Worse": WORSE[:]}
    monkeypatch.chdir(fresh.folder)
    assert adopt.callback(("1",), True) == 0
    worse, begun, again = known(fresh)
    assert begun.status == "discard" and again.origin == worse.commit and again.status == "discard"


def test_doctor_names_changes_of_train_py_that_no_loop_begins_with(fresh):
    assert "uncommitted" not in said(fresh, "doctor")
    (fresh.folder / "train.py").write_text((fresh.folder / "train.py").read_text() + "# mine\n")
    assert re.search("warn  git .*train.py has uncommitted changes", said(fresh, "doctor"))


@pytest.mark.parametrize("policy", ["belief", "greedy"])
def test_what_is_on_main_by_the_greedy_rule_is_not_said_to_lack_a_proof(fresh, told, policy):
    session(fresh.folder, told, ("Small", 1, SMALL))
    path = fresh.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('policy = "belief"', f'policy = "{policy}"'))
    shown = said(fresh, "status")
    assert ("the next loop moves main there" in shown) == (policy == "greedy")
    if policy == "greedy":
        begin(fresh, Changing([]), experiments=0).run()
        assert fresh("rev-parse", "main") == known(fresh).find("1").commit
    assert ("was not proven better" in said(fresh, "show", "1")) == (policy == "belief")


def test_what_is_built_on_again_is_said():
    class Stood:
        def __init__(self, *line):
            self.chain = line

        def knows(self, commit):
            return commit in "mab"

    assert revised(None, Stood("m")) == []
    assert revised(Stood("m"), Stood("m", "new")) == []
    assert revised(Stood("m", "a"), Stood("m")) == [
        "a dropped from the frontier: later results make it look worse"
    ]
    assert revised(Stood("m", "b"), Stood("m", "a")) == [
        "a back on the frontier: later results make it look better"
    ]
