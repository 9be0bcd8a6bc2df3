"""The loop in git: a branch per hypothesis, `main` only forward and only on improvement, nothing lost."""

import dataclasses
import os
import subprocess

import pytest
from conftest import HONEST, Script, edit, harness, loop_in
from stubs import SD, Changing

import harness.lab as lab
from harness.agents.again import Again
from harness.drafts import Drafts
from harness.errors import HarnessError
from harness.ledger import message as messages
from harness.ledger.experiments import Experiments, comparable
from harness.ledger.repo import open_repository
from harness.lock import held
from harness.records import Proposal

pytestmark = pytest.mark.slow


def night(research, *answers, said=None, **limits):
    agent = Script(*answers)
    limits.setdefault("experiments", len(answers))
    said = [] if said is None else said
    tell = lambda event: said.append(event.text)  # noqa: E731
    return loop_in(research.folder, agent, tell, **limits).run(), agent


def all_of(research):
    return list(Experiments(open_repository(research.folder)))


FASTER = edit(("        time.sleep(0.01)\n", ""))
WORSE = "import sys\n" + edit(("self.head(self.table(tokens))", "0.0 * self.head(self.table(tokens))"))
CRASHING = "raise ValueError('no luck')\ndef load(a, b): ...\nif __name__ == '__main__': pass\n"
BROKEN = "import nothing_of_this_name\n" + HONEST  # a crash that costs next to no time


def test_every_hypothesis_is_a_branch_with_its_trailers_and_main_stays_for_what_is_not_better(research):
    before = research("rev-parse", "main")
    summary, _ = night(research, ("Make it worse", WORSE), ("Break it", CRASHING))
    assert (summary.measured, summary.kept) == (2, 0)
    assert research("rev-parse", "main") == before
    assert research("branch", "--list", "exp/*", "--format=%(refname:short)").split() == [
        "exp/0001-make-it-worse",
        "exp/0002-break-it",
    ]
    worse, broken = all_of(research)
    assert (worse.status, broken.status) == ("discard", "crash")
    assert worse.val_bpb > 0 and worse.delta > 0
    assert broken.val_bpb is None
    trailers = "%(trailers:key=Status,valueonly,separator=%x2C)|%(trailers:key=Val-Bpb,valueonly)|%an|%cn"
    assert research("log", "-1", f"--format={trailers}", broken.name.branch) == "crash||script/test|A Person"
    assert "no luck" in research("notes", "--ref", "autoresearch", "show", broken.commit)
    assert research("status", "--porcelain") == ""


def test_main_fast_forwards_to_what_is_better_and_the_checkout_follows(research):
    base = research("rev-parse", "main")
    summary, _ = night(research, ("Sleep less", FASTER))
    assert summary.kept == 1
    (kept,) = all_of(research)
    assert kept.status == "keep" and kept.delta < 0
    assert research("rev-parse", "main") == kept.commit
    assert research("rev-parse", "main~1") == base
    assert (research.folder / "train.py").read_text() == FASTER
    assert research("status", "--porcelain") == ""
    assert research("log", "-1", "--format=%s", "main").startswith("Sleep less (val_bpb ")


def test_a_second_night_goes_on_where_the_first_ended(research):
    night(research, ("Import nothing", BROKEN))
    said = []
    night(research, ("Break it", CRASHING), said=said)
    assert not any("was not measured" in line for line in said), "the baseline was measured again"
    assert [e.name.number for e in all_of(research)] == [1, 2]


def test_what_was_tried_before_costs_no_trial(research):
    night(research, ("Import nothing", BROKEN))
    said = []
    again = "# another comment\n" + BROKEN
    summary, agent = night(
        research, ("The same again", again), ("Break it", CRASHING), said=said, experiments=1
    )
    assert summary.measured == 1
    assert [e.message.title for e in all_of(research)] == ["Import nothing", "Break it"]
    assert "tried before" in agent.contexts[1].trouble


def test_the_next_proposal_is_made_while_the_trial_trains(research):
    seen = []

    class Watching(Script):
        def propose(self, context):
            seen.append([earlier.status for earlier in context.history])
            return super().propose(context)

    agent = Watching(("Make it worse", WORSE), ("Break it", CRASHING))
    loop_in(research.folder, agent, experiments=2).run()
    assert seen[1] == [None], "the running experiment was not known as running"


def test_an_agent_with_nothing_to_say_ends_the_night_with_a_reason_and_no_branch(measured):
    assert list(Experiments(open_repository(measured))) == []  # its own loop ended in that error


def test_a_begun_experiment_is_measured_at_the_next_start(research):
    experiments = Experiments(open_repository(research.folder))
    base = experiments.main
    experiments.begin(Proposal("Make it worse", "h", WORSE.encode(), "script/test"), base, "abc")
    assert all_of(research)[0].status is None
    summary, _ = night(research, experiments=1)
    assert summary.measured == 1
    assert [e.status for e in all_of(research)] == ["discard"]


def test_a_hand_made_commit_on_main_is_measured_first_and_becomes_the_incumbent(research):
    night(research, ("Import nothing", BROKEN))
    (research.folder / "train.py").write_text(HONEST + "# by hand\n")
    research("commit", "-qam", "by hand")
    said = []
    night(research, ("Break it", CRASHING), said=said)
    assert any("main was not measured" in line for line in said)
    assert all_of(research)[1].parent == research("rev-parse", "main")


@pytest.mark.parametrize("killed", [False, True])
def test_a_winner_is_applied_again_where_main_moved_meanwhile(fresh, told, monkeypatch, killed):
    told.scores |= {title: [2.0, 2.0 + SD] * 9 for title in ("baseline", "by hand")}
    told.scores["Sleep less"] = [2.0 - 20 * SD] * 9
    source = fresh.folder / "train.py"
    by_hand = source.read_text() + "# by hand\n"

    def measure(*given):
        if b"PLACE_1 = 1" in given[0] and source.read_text() != by_hand:  # while the first one trains
            source.write_text(by_hand)
            fresh("commit", "-qam", "by hand")
        return told.measure(*given)

    monkeypatch.setattr(lab, "measure", measure)
    agent = Changing([("Sleep less", 1, [])])
    if killed:  # after the winner was recorded, before it was begun again
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Drafts, "begin_again", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            loop_in(fresh.folder, agent, experiments=2).run()
    loop_in(fresh.folder, agent, experiments=1 if killed else 2).run()
    first, again = all_of(fresh)
    assert first.status == again.status == "keep"
    assert fresh("rev-parse", "main") == again.commit
    assert fresh("log", "-1", "--format=%s", "main~1") == "by hand"
    assert source.read_text() == by_hand.replace("PLACE_1 = 0", "PLACE_1 = 1")


def test_a_dirty_train_py_and_a_second_loop_are_refused_in_one_line(research):
    with (
        held(open_repository(research.folder).paths.loop_lock, print),
        pytest.raises(HarnessError, match=f"another loop runs in this repository .process {os.getpid()}"),
    ):
        night(research, ("Make it worse", WORSE))
    lock = open_repository(research.folder).paths.loop_lock
    lock.write_text("4194304")  # of a dead process
    (research.folder / "train.py").write_text("mine")
    with pytest.raises(HarnessError, match="uncommitted changes"):
        night(research, ("Make it worse", WORSE))
    assert (research.folder / "train.py").read_text() == "mine"


def test_locks_that_a_killed_git_left_are_removed_but_never_the_indexs(research):
    folder = research.folder / ".git"
    for name in ("refs/heads/main.lock", "packed-refs.lock", "index.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(HarnessError, match=r"index.lock is there.*Try: rm .*index\.lock"):
        night(research, ("Break it", CRASHING))
    (folder / "index.lock").unlink()
    night(research, ("Break it", CRASHING))
    assert list(folder.rglob("*.lock")) == []
    assert [e.status for e in all_of(research)] == ["crash"]


def test_a_lock_in_mid_loop_is_waited_for_and_then_named(research, monkeypatch):
    lock = research.folder / ".git" / "refs" / "notes" / "autoresearch.lock"

    class Meddling(Script):
        def propose(self, context):
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            return super().propose(context)

    agent = Meddling(("Break it", CRASHING))
    with pytest.raises(HarnessError, match="git can't write here"):
        loop_in(research.folder, agent, experiments=1).run()
    night(research, experiments=1)
    assert [e.status for e in all_of(research)] == ["crash"]


def test_a_kept_experiment_that_a_person_took_off_main_stays_off(research):
    base = research("rev-parse", "main")
    night(research, ("Sleep less", FASTER))
    research("reset", "-q", "--hard", base)
    night(research, ("Break it", CRASHING))
    assert research("rev-parse", "main") == base
    assert all_of(research)[1].parent == base


def test_a_branch_that_was_deleted_while_it_trained_does_not_end_the_night(research):
    class Meddling(Script):
        def propose(self, context):
            if len(self.answers) == 2:  # while the first one trains
                research("branch", "-D", "exp/0001-make-it-worse")
            return super().propose(context)

    said = []
    again = ("Break it again", CRASHING.replace("no luck", "bad luck"))
    agent = Meddling(("Make it worse", WORSE), ("Break it", CRASHING), again)
    loop_in(research.folder, agent, lambda event: said.append(event.text), experiments=2).run()
    assert [e.message.title for e in all_of(research)] == ["Break it", "Break it again"]
    assert any("not recorded" in line for line in said)


def test_odd_refs_and_notes_of_others_stop_nothing(research):
    night(research, ("Make it worse", WORSE))
    folder, (worse,) = research.folder, all_of(research)
    research("symbolic-ref", "refs/heads/exp/0009-x", "refs/heads/nowhere")
    research("branch", "exp/00012-odd", worse.commit)
    tree = research("hash-object", "-t", "tree", "-w", "/dev/null")
    empty = research("commit-tree", tree, "-p", "main", "-m", "no file")
    research("branch", "exp/0010-empty", empty)
    (folder / ".git" / "refs" / "heads" / "exp" / "0011-gone").write_text("1" * 40 + "\n")
    begun = research("commit-tree", tree, "-p", "main", "-m", "no file either\n\nProgram: abc")
    research("branch", "exp/0012-begun", begun)
    for number, text in enumerate(('{"trials": 5}', '{"trials": [{}, 3]}', "[" * 99999), 20):
        commit = research("commit-tree", f"{worse.commit}^{{tree}}", "-p", "main", "-m", f"mine {number}")
        research("branch", f"exp/00{number}-mine", commit)
        subprocess.run(
            ["git", "notes", "--ref", "autoresearch", "add", "-F", "-", commit],
            cwd=folder, input=text, text=True, check=True,
        )  # fmt: skip
    known = Experiments(open_repository(folder))
    assert {e.name.number for e in known} == {1, 10, 12, 20, 21, 22}
    assert [known.trials(known.find(n).commit) for n in ("20", "21", "22")] == [[], [{}], []]
    night(research, ("Break it", CRASHING))
    assert known.find("23").status == "crash"
    for command in ("log", "status", "plot", "export"):
        assert harness(command, cwd=folder).returncode == 0


def test_messages_survive_the_round_trip():
    made = messages.Message("Halve it (val_bpb 0.9860, -0.0119)", "more steps", {"Status": "keep"})
    assert messages.parse(made.text()) == made
    assert made.title == "Halve it"
    assert messages.parse("Halve\x1b[2J \u202eit\U000e0041\n\nHypothesis: \x07why").subject == "Halve [2J  it"
    with pytest.raises(HarnessError, match="Val-Bpb"):
        messages.check_agents("Title\n\nHypothesis: because\n\nVal-Bpb: 0.1\n")


def test_failures_in_a_row_are_told_to_the_agent_and_in_the_end_stop_the_night(research, monkeypatch):
    monkeypatch.setattr("harness.drafts.FAILURES_TO_TELL", 2)
    monkeypatch.setattr("harness.limits.FAILURES_TO_STOP", 3)
    answers = [(f"Break it {n}", CRASHING.replace("no luck", f"no luck {n}")) for n in range(4)]
    summary, agent = night(research, *answers, experiments=9)
    assert summary.measured == 3
    assert "3 experiments in a row gave no score" in summary.why
    assert any("the last 2 experiments gave no score" in context.trouble for context in agent.contexts)


# ── a person's mistakes ───────────────────────────────────────────────────────────────────────


def refused(folder, words):
    with pytest.raises(HarnessError, match=words):
        loop_in(folder, Script(("Break it", CRASHING)), experiments=1).run()
    return True


def test_a_checkout_where_main_can_not_be_followed_is_refused(research, tmp_path, monkeypatch):
    research("switch", "-q", "--detach")
    assert refused(research.folder, "detached.*git switch main")
    research("switch", "-qc", "mine")
    research("worktree", "add", "-q", str(tmp_path / "other"), "main")
    assert refused(research.folder, f"main is checked out in {tmp_path}/other")
    shallow = tmp_path / "shallow"
    research("commit", "-q", "--allow-empty", "-m", "second")
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", f"file://{research.folder}", str(shallow)], check=True
    )
    assert refused(shallow, "shallow.*git fetch --unshallow")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"):
        monkeypatch.delenv(name)
    research("config", "user.useConfigOnly", "true")
    assert refused(research.folder, "does not know who you are.*git config user.name")


def test_a_branch_someone_made_by_hand_is_left_alone_and_its_number_is_not_used_again(research):
    research("branch", "exp/0007-mine")
    before = research("rev-parse", "exp/0007-mine")
    summary, _ = night(research, ("Break it", CRASHING))
    assert summary.measured == 1
    assert research("rev-parse", "exp/0007-mine") == before
    assert "exp/0008-break-it" in research("branch", "--list", "exp/*")


def test_a_full_disk_and_a_missing_program_are_said_in_one_line(research, monkeypatch):
    said = []
    night(research, ("Break it", CRASHING), said=said)
    assert said.count("no .autoresearch/program.md to tell the agent. Try: harness init") == 1
    monkeypatch.setattr("harness.lab.FREE_MB", 2**40)
    assert refused(research.folder, r"only \d+ MB are free at .*, a trial may need .*Try: harness clean")


def test_a_config_altered_into_nonsense_in_mid_loop_does_not_end_the_night(research):
    path = research.folder / ".autoresearch" / "config.toml"

    class Meddling(Script):
        def propose(self, context):
            path.write_text("this = [is no config")
            return super().propose(context)

    said = []
    agent = Meddling(("Import nothing", BROKEN), ("Break it", CRASHING))
    summary = loop_in(research.folder, agent, lambda event: said.append(event.text), experiments=2).run()
    assert summary.measured == 2
    assert sum("the last good config" in line for line in said) == 1
    assert path.read_text() == "this = [is no config"


def test_changes_of_train_py_in_mid_loop_are_not_lost_and_main_follows_later(research):
    class Meddling(Script):
        def propose(self, context):
            if len(self.answers) == 2:  # while the first one trains
                (research.folder / "train.py").write_text("mine")
            return super().propose(context)

    base, said = research("rev-parse", "main"), []
    crash = ("Break it", CRASHING)  # doesn't apply to the kept one at first, so it is asked for anew
    agent = Meddling(("Sleep less", FASTER), crash, crash)
    loop_in(research.folder, agent, lambda event: said.append(event.text), experiments=2).run()
    kept, crashed = all_of(research)
    assert kept.status == "keep"
    assert research("rev-parse", "main") == base
    assert (research.folder / "train.py").read_text() == "mine"
    assert crashed.parent == kept.commit, "the next one did not start from the kept one"
    assert any("uncommitted changes" in line for line in said)
    research("checkout", "-q", "train.py")
    with pytest.raises(HarnessError, match="nothing usable"):
        night(research, experiments=1)
    assert research("rev-parse", "main") == kept.commit


def test_what_an_error_of_the_machine_spoilt_is_measured_at_the_next_start(research, monkeypatch):
    import harness.lab as module

    real, spoilt = module.measure, []

    def failing(*args):
        trial = spoilt[0] if spoilt else real(*args)
        spoilt.append(trial)
        return dataclasses.replace(trial, status="error", detail="the GPU fell off", val_bpb=None, score=None)

    monkeypatch.setattr(module, "measure", failing)
    night(research, ("Make it worse", WORSE))
    assert all_of(research)[0].status == "error"
    assert len(spoilt) == 3, "it was not repeated"
    monkeypatch.setattr(module, "measure", real)
    summary, _ = night(research, experiments=1)
    (again,) = all_of(research)
    assert (summary.measured, again.status) == (1, "discard")
    assert "Reason" not in again.message.trailers


def test_one_that_was_late_is_measured_once_more_and_then_it_counts(research, monkeypatch):
    import harness.lab as module

    real, late = module.measure, []

    def slow(*args):
        trial = late[0] if late else real(*args)
        late.append(trial)
        return dataclasses.replace(
            trial, status="invalid", detail="trained 1.3 s past its budget", score=None
        )

    monkeypatch.setattr(module, "measure", slow)
    night(research, ("Make it worse", WORSE))
    assert [e.status for e in all_of(research)] == ["invalid"]
    assert len(late) == 2


def test_scores_of_another_setting_are_no_scores_to_an_agent_and_not_in_the_plot(fresh, told):
    told.scores["baseline"] = [2.0, 2.0 + SD] * 9

    def one(title, number, score):
        agent = Changing([(title, number, [])])
        told.scores[title] = [score] * 3
        loop_in(fresh.folder, agent, experiments=1).run()
        return agent.contexts[0].history

    one("Make it worse", 1, 2.0 + 20 * SD)
    config = fresh.folder / ".autoresearch" / "config.toml"
    config.write_text(config.read_text().replace("budget_seconds = 1.0", "budget_seconds = 1.5"))
    (earlier,) = one("Break it", 2, 2.0 + 20 * SD)
    assert earlier.status == "discard" and earlier.val_bpb is None and earlier.delta is None
    one("Sleep less", 3, 2.0 - 20 * SD)
    assert [e.message.title for e in comparable(all_of(fresh))] == ["Break it", "Sleep less"]


def test_adopting_what_does_not_apply_says_so_once(research):
    forward = "self.head(self.table(tokens))"
    night(research, ("Make it worse", BROKEN.replace(forward, f"0.0 * {forward}")))
    (research.folder / "train.py").write_text(HONEST.replace(forward, f"1.0 * {forward}"))
    research("commit", "-qam", "by hand")
    known, said = Experiments(open_repository(research.folder)), []
    proposal = known.proposal(known.find("1"))
    with pytest.raises(
        HarnessError, match=r"'Make it worse' doesn't apply to the new incumbent.*cherry-pick"
    ):
        loop_in(
            research.folder, Again([proposal]), lambda event: said.append(event.text), experiments=1
        ).run()
    assert sum("doesn't apply" in line for line in said) == 1


def test_adopting_applies_an_old_change_to_main_and_measures_it(research):
    night(research, ("Import nothing", BROKEN))
    (research.folder / "train.py").write_text(HONEST.replace("sleep(0.01)", "sleep(0.02)"))
    research("commit", "-qam", "by hand")
    known = Experiments(open_repository(research.folder))
    loop_in(research.folder, Again([known.proposal(known.find("1"))]), experiments=1).run()
    first, again = all_of(research)
    assert again.parent == research("rev-parse", "main")
    assert again.message.title == first.message.title
    assert known.source(again.commit).decode() == BROKEN.replace("sleep(0.01)", "sleep(0.02)")
