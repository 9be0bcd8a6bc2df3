"""Whatever a person does with git beside a loop, or did before it: nothing is lost, nothing is undone."""

import errno
import os
import re
import subprocess

import pytest
from conftest import harness
from sessions import Script, loop_in
from stubs import SD, Changing, known, program

from harness.agents.again import Again
from harness.errors import HarnessError
from harness.lock import held
from harness.store.checkout import Checkout
from harness.store.opening import open_repository

FAR_BETTER = 2.0 - 60 * SD


def session(folder, told, *answers, said=None, **limits):
    for title, _, scores in answers:
        told.scores[title] = list(scores)
    limits.setdefault("experiments", len(answers))
    tell = (lambda event: said.append(event.text)) if said is not None else lambda _: None
    return loop_in(folder, Changing(answers), tell, **limits).run()


def on_disk(*args, cwd):
    return subprocess.run(["git", *args], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def test_there_is_one_loop_in_a_repository_whatever_the_work_tree(greedy, told, tmp_path):
    greedy("switch", "-qc", "dev")
    greedy("worktree", "add", "-q", "-b", "dev2", str(tmp_path / "two"))
    with held(open_repository(greedy.folder).loop_lock, print):
        said = harness("loop", "--experiments", "1", cwd=tmp_path / "two").stderr
    assert "another loop runs in this repository" in said


def test_main_stays_where_another_work_tree_checked_it_out_meanwhile(greedy, told, tmp_path):
    base, said = greedy("rev-parse", "main"), []
    greedy("switch", "-qc", "dev")

    def look():
        greedy("worktree", "add", "-q", str(tmp_path / "mine"), "main")
        return FAR_BETTER

    told.scores["the greedy rule"] = [2.0]
    session(greedy.folder, told, ("Better", 1, [look]), ("More", 2, [FAR_BETTER - 1.0]), said=said)
    assert greedy("rev-parse", "main") == base
    assert on_disk("status", "--porcelain", cwd=tmp_path / "mine") == ""
    assert any("main is checked out in" in line for line in said)
    assert known(greedy).find("2").parent == known(greedy).find("1").commit, "the loop did not go on from it"


def test_main_that_is_being_rebased_stays(greedy, told):
    base = greedy("rev-parse", "main")

    def rebase():
        folder = greedy.folder / ".git" / "rebase-merge"
        folder.mkdir()
        (folder / "head-name").write_text("refs/heads/main\n")
        return FAR_BETTER

    told.scores["the greedy rule"] = [2.0]
    session(greedy.folder, told, ("Better", 1, [rebase]))
    assert greedy("rev-parse", "main") == base


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (["merge", "other"], "a merge"),
        (["cherry-pick", "other"], "a cherry-pick"),
        (["revert", "--no-commit", "HEAD"], "a revert"),
    ],
)
def test_main_stays_while_a_person_is_in_the_middle_of_something(greedy, told, begin, what):
    """As git's own fast-forward would; what was kept is there when they are done."""
    (greedy.folder / "mine").write_text("a")
    greedy("add", "mine")
    greedy("commit", "-qm", "mine")
    greedy("branch", "other", "HEAD~1")
    greedy("switch", "-q", "other")
    (greedy.folder / "mine").write_text("b")
    greedy("add", "mine")
    greedy("commit", "-qm", "theirs")
    greedy("switch", "-q", "main")
    told.scores["mine"] = [2.0]
    base, said = greedy("rev-parse", "main"), []

    def start():
        subprocess.run(["git", *begin], cwd=greedy.folder, capture_output=True, check=False)
        return FAR_BETTER

    session(greedy.folder, told, ("Better", 1, [start]), said=said)
    assert greedy("rev-parse", "main") == base
    assert any(f"{what} is in progress, so main can't move" in line for line in said), said
    greedy(begin[0], "--abort")
    session(greedy.folder, told, ("Worse", 2, [3.0]))
    assert greedy("rev-parse", "main") == known(greedy).find("1").commit


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (["bisect", "start", "HEAD", "HEAD~1"], "a bisect is in progress.*git bisect reset"),
        (["rebase", "--exec", "false", "HEAD~1"], "a rebase is in progress.*git rebase --continue"),
        (["switch", "--detach"], "HEAD is detached.*git switch main"),
    ],
)
def test_a_loop_says_why_it_does_not_start_on_a_detached_head(greedy, begin, words):
    for name in "ab":
        (greedy.folder / name).write_text(name)
        greedy("add", name)
        greedy("commit", "-qm", name)
    subprocess.run(["git", *begin], cwd=greedy.folder, capture_output=True, check=False)
    if begin[0] == "bisect":
        greedy("checkout", "-q", "--detach")
    done = harness("loop", "--experiments", "1", cwd=greedy.folder)
    assert done.returncode == 1 and re.search(words, done.stderr), done.stderr


def test_a_sparse_checkout_without_our_folder_says_how_to_have_it(greedy):
    (greedy.folder / "docs").mkdir()
    (greedy.folder / "docs" / "a").write_text("a")
    greedy("add", "docs")
    greedy("commit", "-qm", "docs")
    greedy("sparse-checkout", "set", "--cone", "docs")
    done = harness("status", cwd=greedy.folder)
    assert done.returncode == 1 and "git sparse-checkout add .autoresearch" in done.stderr
    greedy("sparse-checkout", "add", ".autoresearch")
    assert harness("status", cwd=greedy.folder).returncode == 0


@pytest.mark.parametrize("how", ["autocrlf", "ignorecase", "gpgsign", "stash", "filter", "submodule"])
def test_a_session_leaves_alone_what_else_a_person_has_in_git(greedy, told, tmp_path, how):
    folder = greedy.folder
    if how == "autocrlf":
        greedy("config", "core.autocrlf", "true")
    elif how == "ignorecase":
        greedy("config", "core.ignorecase", "true")
    elif how == "gpgsign":
        greedy("config", "commit.gpgsign", "true")
        greedy("config", "user.signingkey", "0000")
    elif how == "stash":
        with (folder / "train.py").open("a") as file:
            file.write("# mine\n")
        greedy("stash", "-q")
    elif how == "filter":  # as LFS has one, and git-crypt
        greedy("config", "filter.small.clean", "md5sum")
        greedy("config", "filter.small.smudge", "false")
        greedy("config", "filter.small.required", "true")
        (folder / ".gitattributes").write_text("*.bin filter=small\n")
        (folder / "large.bin").write_bytes(b"large")
        greedy("add", ".")
        greedy("-c", "commit.gpgsign=false", "commit", "-qm", "large")
        told.scores["large"] = list(told.scores["baseline"])
    else:
        on_disk("clone", "-q", "--bare", str(folder), str(tmp_path / "bare"), cwd=tmp_path)
        greedy(
            "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "bare"), "sub"
        )
        greedy("-c", "commit.gpgsign=false", "commit", "-qm", "sub")
        told.scores["sub"] = list(told.scores["baseline"])
    before = on_disk("stash", "list", cwd=folder)
    told.scores.setdefault("the greedy rule", [2.0])
    session(folder, told, ("Better", 1, [FAR_BETTER]))
    (kept,) = known(greedy)
    assert on_disk("rev-parse", "main", cwd=folder) == kept.commit
    assert on_disk("status", "--porcelain", cwd=folder) == ""
    assert on_disk("stash", "list", cwd=folder) == before


def test_a_filter_on_train_py_is_named_with_what_takes_it_away(greedy):
    (greedy.folder / ".gitattributes").write_text("*.py filter=lfs\n")
    done = harness("loop", "--experiments", "1", cwd=greedy.folder)
    assert done.returncode == 1 and "git's filter 'lfs'" in done.stderr
    (greedy.folder / ".gitattributes").write_text("*.py filter=lfs\ntrain.py -filter\n")
    Checkout(open_repository(greedy.folder)).check_ready()


def test_a_file_system_without_locks_is_named_in_one_line(greedy, told, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(HarnessError, match=r"loop\S* can't be locked: No locks available"):
        session(greedy.folder, told, experiments=1)


def test_a_repository_whose_main_is_being_renamed_is_not_called_empty(greedy):
    greedy("update-ref", "refs/heads/trunk", "main")
    greedy("update-ref", "-d", "refs/heads/main")  # as `git branch -m` leaves it for a moment
    for command in (["run"], ["loop", "--experiments", "1"]):
        said = harness(*command, cwd=greedy.folder).stderr
        assert said == "harness: this repository has no branch 'main'. Try: git branch -m main\n"


def test_a_score_is_kept_though_main_has_another_name_when_it_comes(greedy, told):
    told.scores["the greedy rule"] = [2.0]

    def rename():
        greedy("branch", "-m", "main", "trunk")
        return 1.5

    with pytest.raises(HarnessError, match="no branch 'main'"):
        session(greedy.folder, told, ("Better", 1, [rename]))
    greedy("branch", "-m", "trunk", "main")
    (begun,) = known(greedy)
    assert [trial.value for trial in known(greedy).runs(begun.commit)] == [1.5]
    told.scores["Better"] = [1.6]
    loop_in(greedy.folder, Script(), experiments=1).run()
    assert known(greedy).find("1").runs == [1.5, 1.6]


def test_what_was_kept_while_main_was_amended_stands_on_the_new_one(greedy, told):
    told.scores["the greedy rule"] = [2.0]
    told.scores["other words"] = [2.0]

    def amend():
        greedy("commit", "-q", "--amend", "-m", "other words")
        return FAR_BETTER

    session(greedy.folder, told, ("Better", 1, [amend]), ("Worse", 2, [3.0]))
    again = known(greedy).find("2")
    assert again.message.trailers["Origin"] == known(greedy).find("1").commit
    assert greedy("log", "-1", "--format=%s", f"{again.commit}~") == "other words"
    assert greedy("rev-parse", "main") == again.commit


def test_a_hand_made_branch_of_several_commits_is_one_change(greedy, told):
    greedy("switch", "-qc", "exp/0007-mine")
    for number, title in ((1, "One"), (2, "Two")):
        (greedy.folder / "train.py").write_text(program(*range(1, number + 1)))
        greedy("commit", "-qam", f"{title}\n\nHypothesis: it may help")
    greedy("switch", "-q", "main")
    mine = known(greedy).find("7")
    assert mine.parent == greedy("rev-parse", "main")
    shown = harness("diff", "7", cwd=greedy.folder).stdout
    assert "+PLACE_1 = 1" in shown and "+PLACE_2 = 1" in shown


def test_notes_of_two_machines_are_one_record_and_a_commit_without_its_note_has_its_scores(greedy, told):
    told.scores["the greedy rule"] = [2.0, 2.1, 2.2]
    session(greedy.folder, told, ("Better", 1, [FAR_BETTER]))
    notes, main = "refs/notes/autoresearch", greedy("rev-parse", "main~")
    setting = known(greedy).setting
    shown = greedy("notes", "--ref", "autoresearch", "show", main)
    other = shown.replace('"value":2.0', '"value":2.5')
    greedy("notes", "--ref", "autoresearch", "add", "-f", "-m", f"{shown}\n{other}", main)
    assert known(greedy).scores(main, setting) == (2.0, 2.5)
    greedy("update-ref", "-d", notes)
    assert (FAR_BETTER,) in [each.scores for each in known(greedy).measured(setting)]


def test_a_tag_named_main_is_not_main(greedy, told):
    first = greedy("rev-parse", "HEAD~")
    greedy("tag", "main", first)
    done = harness("calibrate", "-n", "0", "--json", cwd=greedy.folder)
    assert greedy("rev-parse", "refs/heads/main") in done.stdout


def test_a_submodule_and_a_git_folder_elsewhere_are_repositories(tmp_path, greedy):
    elsewhere = tmp_path / "work"
    on_disk(
        "clone",
        "-q",
        f"--separate-git-dir={tmp_path / 'gits'}",
        str(greedy.folder),
        str(elsewhere),
        cwd=tmp_path,
    )
    assert open_repository(elsewhere).paths.root == elsewhere
    Checkout(open_repository(elsewhere)).check_ready()
    whole = tmp_path / "whole"
    on_disk("init", "-q", str(whole), cwd=tmp_path)
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(greedy.folder), "sub")
    on_disk(*add, cwd=whole)
    Checkout(open_repository(whole / "sub")).check_ready()


@pytest.mark.parametrize(
    ("prepare", "mend"),
    [(["init", "-q", "--object-format=sha256"], "git fast-export"), (["init", "-q"], None)],
)
def test_a_kind_of_repository_that_can_not_be_read_is_one_line(tmp_path, prepare, mend):
    on_disk(*prepare, cwd=tmp_path)
    done = harness("status", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert mend is None or mend in done.stderr


def test_references_in_a_table_are_named_with_what_makes_files_of_them(greedy):
    greedy("config", "core.repositoryformatversion", "1")
    greedy("config", "extensions.refstorage", "reftable")
    done = harness("status", cwd=greedy.folder)
    assert done.returncode == 1 and "git refs migrate --ref-format=files" in done.stderr


def test_an_index_that_is_split_is_named_with_what_mends_it(greedy):
    greedy("update-index", "--split-index")
    done = harness("status", cwd=greedy.folder)
    assert done.returncode == 1 and "git update-index --no-split-index" in done.stderr


def test_main_may_stand_on_a_branch_that_a_person_made(greedy, told):
    greedy("switch", "-qc", "exp/0050-mine")
    (greedy.folder / "train.py").write_text(program(3))
    greedy("commit", "-qam", "Mine\n\nHypothesis: it may help")
    greedy("switch", "-q", "main")
    greedy("merge", "-q", "--ff-only", "exp/0050-mine")
    told.scores["Mine"] = [2.0]
    session(greedy.folder, told, ("Better", 1, [FAR_BETTER]))
    assert known(greedy).find("51").status == "keep"
    before = len(told.ran)
    loop_in(greedy.folder, Changing([]), experiments=0).run()
    assert len(told.ran) == before


def test_what_stands_on_an_unproven_one_takes_it_along_when_a_person_moves_main(fresh, told):
    small = [2.0 - 2.5 * SD] * 4
    session(fresh.folder, told, ("Small", 1, list(small)))
    assert known(fresh).find("1").status == "keep"

    def words():
        (fresh.folder / "README").write_text("about it")
        fresh("add", "README")
        fresh("commit", "-qm", "words")
        return 2.0 - 9 * SD

    session(fresh.folder, told, ("More", 2, [words, *[2.0 - 9 * SD] * 4]))
    small, more, *again = known(fresh)
    assert [each.origin for each in again] == [small.commit, more.commit]
    assert [each.message.subject for each in again] == [small.message.subject, more.message.subject]
    assert again[1].parent == again[0].commit
    assert fresh("log", "-1", "--format=%s", f"{again[0].commit}~") == "words"
    source = fresh("show", f"{again[1].commit}:train.py")
    assert "PLACE_1 = 1" in source and "PLACE_2 = 1" in source


def test_a_commit_on_main_that_leaves_train_py_as_it_is_needs_no_run(fresh, told):
    session(fresh.folder, told, ("A bit", 1, [2.0 - 2.5 * SD] * 3), ("Bad", 2, [2.0 + 9 * SD]))
    before = len(told.ran)
    (fresh.folder / "README").write_text("about it")
    fresh("add", "README")
    fresh("commit", "-qm", "words")
    passed, short = harness("status", cwd=fresh.folder).stdout, fresh("rev-parse", "main~")[:7]
    assert f"aside    0001 stands on {short}, main before: the next loop puts it on this one" in passed
    session(fresh.folder, told, ("Worse", 3, [2.0 + 8 * SD]))
    again = [fresh("log", "-1", "--format=%s", commit).split(" (")[0] for commit, _ in told.ran[before:]]
    assert again == ["Worse"], "main was run again, or what stood on it"
    assert fresh("log", "-1", "--format=%s", "exp/0003-a-bit~") == "words"
    bit, worse = known(fresh).find("3"), known(fresh).find("4")
    assert worse.parent == bit.commit and worse.incumbent[1] == pytest.approx(bit.estimate, abs=SD / 2)
    said = harness("status", cwd=fresh.folder).stdout
    assert (
        f"main     {fresh('rev-parse', 'main')[:7]}  squared_error 2.0000, the mean of 4 runs, estimated"
        in said
    )
    runs = [each.scores for each in known(fresh).measured(bit.setting)]
    assert len(runs) == 4 and len(set(runs)) == 4, "what is there twice counts twice"


def test_what_a_person_cherry_picks_has_the_runs_of_the_experiment(fresh, told):
    session(fresh.folder, told, ("A bit", 1, [2.0 - 2.5 * SD] * 3), ("Bad", 2, [2.0 + 3 * SD]))
    told.scores["Bad"] = [2.0 + 4 * SD]
    bad = known(fresh).find("2")
    fresh("checkout", "-q", bad.commit, "--", "train.py")  # with what it stands on
    fresh("commit", "-qm", "Bad")
    session(fresh.folder, told, ("Worse", 3, [2.0 + 9 * SD]))
    assert known(fresh).main_scores(bad.setting) == (2.0 + 3 * SD, 2.0 + 4 * SD), "a commit is run twice"
    assert fresh("rev-parse", "main") in [e.parent for e in known(fresh).measured(bad.setting)]


def test_adopting_one_on_the_same_commit_is_one_more_run_of_it(greedy, told):
    told.scores["the greedy rule"] = [2.0]
    session(greedy.folder, told, ("Better", 1, [3.0]))
    (first,) = known(greedy)
    told.scores["Better"] = [1.9]
    loop_in(greedy.folder, Again([known(greedy).proposal(first)]), experiments=1).run()
    again = known(greedy).find("2")
    assert again.parent == first.parent and again.runs == [3.0, 1.9] and again.status == "discard"
    assert [each.commit for each in known(greedy).measured(first.setting)][1:] == [again.commit]


def test_a_change_of_main_that_was_taken_back_needs_no_run_either(fresh, told):
    session(fresh.folder, told, ("Bad", 2, [2.0 + 9 * SD]))
    told.scores["by hand"] = [2.0 + SD, 2.0 + 2 * SD]
    (fresh.folder / "train.py").write_text(program(5))
    fresh("commit", "-qam", "by hand")
    session(fresh.folder, told, ("Bad too", 6, [2.0 + 9 * SD]))
    fresh("revert", "--no-edit", "HEAD")
    before = len(told.ran)
    session(fresh.folder, told, ("Once more", 7, [2.0 + 9 * SD]))
    assert fresh("rev-parse", "main~2:train.py") == fresh("rev-parse", "main:train.py")
    assert all(fresh("rev-parse", "main") != commit for commit, _ in told.ran[before:])


@pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
def test_a_change_that_git_was_told_not_to_see_is_not_overwritten(greedy, told, flag):
    greedy("update-index", flag, "train.py")
    mine = (greedy.folder / "train.py").read_text() + "# mine\n"
    (greedy.folder / "train.py").write_text(mine)
    done = harness("loop", "--experiments", "1", cwd=greedy.folder)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "was told not to see. Try: git update-index --no-skip-worktree" in last
    assert (greedy.folder / "train.py").read_text() == mine


def test_what_git_sets_for_hooks_leads_to_no_other_repository(greedy, told, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    other = tmp_path / "other" / ".git"
    before = sorted((path.name, path.stat().st_mtime_ns) for path in other.rglob("*"))
    elsewhere = {"GIT_DIR": str(other), "GIT_INDEX_FILE": str(other / "index")}
    shown = harness("status", "--json", cwd=greedy.folder, **elsewhere)
    assert shown.returncode == 0 and greedy("rev-parse", "--short=7", "main") in shown.stdout
    assert harness("init", cwd=greedy.folder, **elsewhere).returncode == 0
    greedy("update-index", "--skip-worktree", "train.py")
    (greedy.folder / "train.py").write_text("# mine\n")
    done = harness("loop", "--experiments", "1", cwd=greedy.folder, **elsewhere)  # git is asked of this one
    assert done.returncode == 1 and "was told not to see" in done.stderr.splitlines()[-1]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in other.rglob("*")) == before
