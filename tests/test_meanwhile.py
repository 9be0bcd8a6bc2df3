"""What people and other programs do to the repository meanwhile: nothing is lost, and the loop goes on."""

import contextlib
import os
import subprocess
import time

import pytest
from conftest import HONEST, harness
from sessions import BROKEN, CRASHING, FASTER, WORSE, Script, all_of, loop_in, session
from stubs import SD, Changing

import harness.session.runner as runner
import harness.worker.attempts as attempts
from harness.errors import HarnessError
from harness.lock import held
from harness.session.loop import Loop
from harness.session.moving import Moving
from harness.session.runner import Runner
from harness.store.checkout import Checkout
from harness.store.decisions import Decision, Incumbent, Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.records import KEEP, RunRecord, Training
from harness.worker.device import exclusive, resolve

pytestmark = pytest.mark.slow


def test_a_hand_made_commit_on_main_is_measured_first_and_becomes_the_incumbent(research):
    session(research, ("Import nothing", BROKEN))
    (research.folder / "train.py").write_text(HONEST + "# by hand\n")
    research("commit", "-qam", "by hand")
    said = []
    session(research, ("Break it", CRASHING), said=said)
    assert any("not measured in this setting yet" in line for line in said)
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

    monkeypatch.setattr(attempts, "measure", measure)
    agent = Changing([("Sleep less", 1, [])])
    if killed:  # after the winner was recorded, before it was begun again
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Moving, "begin_again", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            loop_in(fresh.folder, agent, experiments=2).run()
    loop_in(fresh.folder, agent, experiments=1 if killed else 2).run()
    first, again = all_of(fresh)
    assert first.status == again.status == "keep"
    assert fresh("rev-parse", "main") == again.commit
    assert fresh("log", "-1", "--format=%s", "main~1") == "by hand"
    assert source.read_text() == by_hand.replace("PLACE_1 = 0", "PLACE_1 = 1")


def test_a_dirty_train_py_and_a_second_loop_are_refused_in_one_line(research):
    with (
        held(open_repository(research.folder).loop_lock, print),
        pytest.raises(HarnessError, match=f"another loop runs in this repository .process {os.getpid()}"),
    ):
        session(research, ("Make it worse", WORSE))
    lock = open_repository(research.folder).loop_lock
    lock.write_text("4194304")  # of a dead process
    (research.folder / "train.py").write_text("mine")
    with pytest.raises(HarnessError, match="uncommitted changes"):
        session(research, ("Make it worse", WORSE))
    assert (research.folder / "train.py").read_text() == "mine"


@pytest.mark.parametrize("how", ["hours", "failure"])
def test_a_session_ends_though_somebody_else_has_the_device(research, how, monkeypatch):
    began = time.monotonic()
    with exclusive(resolve("cpu"), print):  # all night
        if how == "failure":
            monkeypatch.setattr(Loop, "_ask_ahead", lambda self, _: self._fail(OSError("no space")))
        ended = loop_in(research.folder, Script(("Break it", CRASHING)), hours=3 / 3600)
        with pytest.raises(HarnessError, match="no space") if how == "failure" else contextlib.nullcontext():
            ended.run()
    assert time.monotonic() - began < 30
    assert all(each.status is None for each in all_of(research)), "it is measured in the next"


def test_locks_that_a_killed_git_left_are_removed_but_never_the_indexs(research):
    folder = research.folder / ".git"
    for name in ("refs/heads/main.lock", "packed-refs.lock", "index.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    later = time.time() + 3600  # the clock was put back since
    os.utime(folder / "refs/heads/main.lock", (later, later))
    with pytest.raises(HarnessError, match=r"index.lock is there.*Try: rm .*index\.lock"):
        session(research, ("Break it", CRASHING))
    (folder / "index.lock").unlink()
    session(research, ("Break it", CRASHING))
    assert list(folder.rglob("*.lock")) == []
    assert [e.status for e in all_of(research)] == ["crash"]


def test_locks_stay_while_another_loop_runs_or_a_git_is_at_work(research):
    lock = research.folder / ".git" / "refs" / "heads" / "main.lock"
    lock.touch()
    os.utime(lock, (1, 1))
    with (
        held(open_repository(research.folder).loop_lock, print),
        pytest.raises(HarnessError, match="another loop runs"),
    ):
        session(research, ("Break it", CRASHING))
    reading = subprocess.Popen(["git", "cat-file", "--batch"], cwd=research.folder, stdin=subprocess.PIPE)
    try:
        with pytest.raises(HarnessError, match=rf"main.lock is there: git is at work .process {reading.pid}"):
            session(research, ("Break it", CRASHING))
    finally:
        reading.kill()
        reading.communicate()
    assert lock.exists()
    session(research, ("Break it", CRASHING))
    assert not lock.exists()


def test_a_lost_race_for_main_leaves_the_checkout_as_it_was(research, monkeypatch):
    repository = open_repository(research.folder)
    old, before = research("rev-parse", "main"), (research.folder / "train.py").read_bytes()
    (research.folder / "train.py").write_text(CRASHING)
    research("commit", "-qam", "kept")
    new = research("rev-parse", "HEAD")
    research("reset", "-q", "--hard", old)
    stage, raced = Checkout._stage_train, []

    def race(self):
        stage(self)
        if not raced:  # a person's commit, between our look and our move
            raced.append(research("commit-tree", f"{old}^{{tree}}", "-p", old, "-m", "by hand"))
            research("update-ref", "refs/heads/main", raced[0], old)

    monkeypatch.setattr(Checkout, "_stage_train", race)
    assert not Checkout(repository).fast_forward("refs/heads/main", old, new)
    assert research("rev-parse", "main") == raced[0]
    assert (research.folder / "train.py").read_bytes() == before and research("status", "--porcelain") == ""


def test_the_config_is_read_anew_only_when_somebody_wrote_it(research, monkeypatch):
    made = Runner(open_repository(research.folder), lambda *_: None, lambda *_: None)
    read, load = [], runner.configs.load
    monkeypatch.setattr(runner.configs, "load", lambda path: read.append(path) or load(path))
    assert made.setup() is made.setup() and len(read) == 1
    config = research.folder / ".autoresearch" / "config.toml"
    config.write_text(config.read_text().replace("audit_rows = ", "audit_rows = 1"))
    assert made.setup().config.trial.audit_rows > 1 and len(read) == 2


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
    session(research, experiments=1)
    assert [e.status for e in all_of(research)] == ["crash"]


def test_an_editor_of_git_commit_that_is_open_keeps_main_where_it_is_and_train_py_as_it_was(research):
    lock, base, said = research.folder / ".git" / "index.lock", research("rev-parse", "main"), []

    def tell(event):
        said.append(event.text)
        if event.kind == "begun":
            lock.touch()

    loop_in(research.folder, Script(("Sleep less", FASTER)), tell, experiments=1).run()
    assert any("git can't write here" in line for line in said), said
    lock.unlink()
    assert research("rev-parse", "main") == base
    assert research("status", "--porcelain", "train.py") == ""
    session(research, ("Break it", CRASHING))
    assert research("rev-parse", "main") == all_of(research)[0].commit


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_kept_experiment_that_a_person_took_off_main_stays_off(research, forgotten):
    base = research("rev-parse", "main")
    session(research, ("Sleep less", FASTER))
    research("reset", "-q", "--hard", base)
    if forgotten:
        research("reflog", "expire", "--expire=now", "--all")
    session(research, ("Break it", CRASHING))
    assert research("rev-parse", "main") == base
    assert all_of(research)[1].parent == base


def test_what_main_jumped_over_is_taken_off_with_what_it_jumped_to(repository):
    experiments = Experiments(open_repository(repository.folder))
    base = head = experiments.main
    for n in (1, 2):
        begun = experiments.begin(Proposal(f"Try {n}", "h", f"{HONEST}# {n}".encode(), "a/b"), head, f"p{n}")
        trial = RunRecord(
            begun.commit, 1, "ok", "", 2.0 - n / 10, Training("ok", ""), None,
            1.0, "cpu", None, "d", "e", "none", 1.0,
        )  # fmt: skip
        decision = Decision(KEEP, "lower", Incumbent(head, 2.0), trial.value, -0.1)
        head = experiments.complete(begun, trial, decision).commit
    assert experiments.advance(base, head)
    assert [each.kept for each in experiments.measured(trial.setting)] == [True, True]
    repository("reset", "-q", "--hard", base)
    assert [each.kept for each in experiments.measured(trial.setting)] == [False, False]


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
    session(research, ("Make it worse", WORSE))
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
    assert [known.runs(known.find(n).commit) for n in ("20", "21", "22")] == [()] * 3
    session(research, ("Break it", CRASHING))
    assert known.find("23").status == "crash"
    for command in ("log", "status", "plot", "export"):
        assert harness(command, cwd=folder).returncode == 0


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
    research("branch", "exp/0005-mine")
    before = research("rev-parse", "exp/0005-mine")
    research("update-ref", "refs/remotes/office/exp/0007-theirs", before)  # of another machine
    summary, _ = session(research, ("Break it", CRASHING))
    assert summary.measured == 1
    assert research("rev-parse", "exp/0005-mine") == before
    assert "exp/0008-break-it" in research("branch", "--list", "exp/*")


def test_a_loop_without_a_sandbox_says_so_once(research):
    path, said = research.folder / ".autoresearch" / "config.toml", []
    path.write_text(path.read_text().replace('sandbox = "auto"', 'sandbox = "none"'))
    found = runner.Runner(
        open_repository(research.folder), lambda kind, text: said.append((kind, text)), print
    )
    assert found.setup().isolation.kind == found.setup().isolation.kind == "none"
    assert [kind for kind, text in said if "WARNING: no sandbox" in text] == ["trouble"]


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
        session(research, experiments=1)
    assert research("rev-parse", "main") == kept.commit


def test_a_full_disk_and_a_missing_program_are_said_in_one_line(research, monkeypatch):
    said = []
    session(research, ("Break it", CRASHING), said=said)
    assert said.count("no .autoresearch/program.md to tell the agent. Try: harness init") == 1
    monkeypatch.setattr("harness.session.runner.FREE_MB", 2**40)
    assert refused(research.folder, r"only \d+ MB are free at .*, a run may need .*Try: harness clean")
