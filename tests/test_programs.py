"""Runs belong to a program, on whatever commit it stands: they count once, and are lost by nothing."""

import json
import time

import pytest
from sessions import loop_in
from stubs import BASELINE, SD, Changing, begin, known
from test_git import session

from harness.agents.again import Again
from harness.store.experiments import Experiments

WORSE = [2.0 + 8 * SD] * 3
SMALL = [2.0 - 2.5 * SD] * 3
GOOD = [2.0 - 15 * SD, 2.0 - 15.5 * SD, 2.0 - 15.2 * SD]


def words(research, name):
    (research.folder / name).write_text("about it")
    research("add", name)
    research("commit", "-qm", f"words of {name}")


def adopt(research, which):
    proposal = known(research).proposal(known(research).find(which))
    loop = loop_in(research.folder, Again([proposal]), experiments=1)
    loop.run()
    return loop


def stacked(research, told, count=3):
    """So many kept experiments on each other, `main` below them."""
    for n in range(count):
        session(research.folder, told, (f"S{n}", n + 1, [2.0 - (2.5 + 1.5 * n) * SD] * 3))
    assert [each.status for each in known(research)] == ["keep"] * count
    assert not known(research).on_main(known(research).find("1").commit)


def built_on(research):
    """Places that are changed in the last experiment's parent."""
    source = known(research).source([*known(research)][-1].parent).decode()
    return {n for n in range(21) if f"PLACE_{n} = 1" in source}


def each_run(research):
    found = known(research)
    return [score for each in found.measured(found.setting) for score in each.scores]


@pytest.mark.parametrize("count", [1, 3])
def test_a_stack_is_put_on_commits_of_a_person_that_leave_train_py_as_it_was(fresh, told, count):
    stacked(fresh, told, count)
    ran = len(told.ran)
    for name in ("README", "NOTES"):
        words(fresh, name)
    session(fresh.folder, told, ("Worse", 9, WORSE))
    assert built_on(fresh) == {*range(1, count + 1)} and len(told.ran) == ran + 1
    assert len(each_run(fresh)) == len(told.ran)


@pytest.mark.parametrize("how", ["reset -q --hard HEAD~", "commit -q --amend -m more"])
def test_a_stack_is_not_lost_with_the_commit_that_it_was_put_on(fresh, told, how):
    stacked(fresh, told, 1)
    words(fresh, "README")
    session(fresh.folder, told, ("Worse", 9, WORSE))
    fresh(*how.split())
    session(fresh.folder, told, ("Worse too", 10, WORSE))
    assert built_on(fresh) == {1}


def test_a_kill_while_a_stack_is_put_elsewhere_loses_nothing_of_it(fresh, told, monkeypatch):
    stacked(fresh, told)
    words(fresh, "README")
    real, calls = Experiments.carried, []

    def carried(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(Experiments, "carried", carried)
    with pytest.raises(KeyboardInterrupt):
        session(fresh.folder, told, ("Worse", 9, WORSE))
    session(fresh.folder, told, ("Worse", 9, WORSE))
    assert built_on(fresh) == {1, 2, 3}
    assert len(each_run(fresh)) == len(told.ran) and len([*known(fresh)]) == 3 + 3 + 1


def test_what_a_person_takes_from_a_stack_commit_by_commit_keeps_the_rest_of_it(fresh, told):
    stacked(fresh, told)
    for which in ("1", "2"):
        fresh("checkout", "-q", known(fresh).find(which).commit, "--", "train.py")
        fresh("commit", "-qm", f"taken: {which}")
    told.scores |= {"taken: 2": [2.0 - 4 * SD] * 2}
    session(fresh.folder, told, ("Worse", 9, WORSE))
    assert built_on(fresh) == {1, 2, 3}


def test_adopting_again_is_one_more_run_each_time(fresh, told):
    session(fresh.folder, told, ("Bad", 1, [2.031]))
    for score in (2.032, 2.033):
        told.scores["Bad"] = [score]
        adopt(fresh, "1")
    assert len(each_run(fresh)) == len(told.ran)


def test_what_was_taken_back_on_main_and_is_adopted_has_each_of_its_runs_once(fresh, told):
    session(fresh.folder, told, ("Good", 1, GOOD))
    assert known(fresh).main == known(fresh).find("1").commit
    fresh("revert", "--no-edit", "HEAD")
    told.scores["Good"] = [1.83, 1.84, 1.835]
    adopt(fresh, "1")
    assert len(each_run(fresh)) == len(told.ran)


def test_a_clone_without_notes_has_the_runs_that_messages_tell(fresh, told):
    session(fresh.folder, told, ("Bad", 1, [2.031]))
    fresh("update-ref", "-d", "refs/notes/autoresearch")
    told.scores |= {"baseline": list(BASELINE), "Bad": [1.98, 1.98]}
    adopt(fresh, "1")
    assert {2.031, 1.98} <= set(each_run(fresh))


def test_a_running_loop_believes_what_git_says_after_adopting(fresh, told):
    session(fresh.folder, told, ("Bad", 1, [1.981]), ("Other", 2, [2.03]))
    told.scores["Other"] = [2.035]
    loop = adopt(fresh, "2")
    assert loop._research.standing.incumbent == loop._runner.known(loop._runner.setup()).incumbent


def test_two_that_are_better_at_once_are_both_on_main_under_the_greedy_rule(greedy, told):
    def late():
        deadline = time.monotonic() + 20
        while not known(greedy).find("1").status:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return 1.4

    told.scores |= {"the greedy rule": [2.0] * 4, "A": [lambda: time.sleep(0.5) or 1.5], "B": [late, 1.3]}
    begin(greedy, Changing([("A", 1, 0), ("B", 2, 0)]), places=2, experiments=3).run()
    assert "PLACE_2 = 1" in greedy("show", "main:train.py")


def test_that_a_tip_is_shorter_is_known_to_who_comes_later(fresh, told):
    session(fresh.folder, told, ("Small", 1, SMALL))
    (small,) = known(fresh)
    assert small.commit != fresh("rev-parse", "main")
    record = known(fresh).note(small.commit).stored
    note = json.dumps({**record, "decision": {**record["decision"], "shorter": True}})
    fresh("notes", "--ref", "autoresearch", "add", "-f", "-m", note, small.commit)
    found = known(fresh).measured(small.setting)
    assert [each.commit for each in found if each.shorter] == [small.commit]


def test_a_candidate_whose_branch_a_person_renames_is_built_on_no_more(fresh, told):
    session(fresh.folder, told, ("Small", 1, SMALL))
    (small,) = known(fresh)
    assert small.status == "keep" and not known(fresh).on_main(small.commit)
    fresh("branch", "-m", "exp/0001-small", "dropped-0001")
    session(fresh.folder, told, ("Worse", 5, WORSE))
    assert [each.parent for each in known(fresh)] == [fresh("rev-parse", "main")]
