"""Looking at 10,000 experiments is quick, and what is shown is what git has."""

import csv
import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from conftest import HARNESS, HONEST, assert_mistake, harness
from past import fill

from harness.cli.status import status as shown
from harness.report import table
from harness.report.frontier import built_on
from harness.report.plot import draw
from harness.store import message as messages
from harness.store import notes, refs, views
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Decision, Incumbent, Proposal
from harness.store.experiment import Experiment, comparable
from harness.store.experiments import Experiments
from harness.store.history import History, HistorySnapshot
from harness.store.message import Message
from harness.store.metric import Metric
from harness.store.opening import open_repository
from harness.store.programs import Programs
from harness.store.records import DISCARD, RunRecord, Setting, Training

MANY = 10_000
COMMANDS = ["log", "log --all", "log --near-miss", "status", "plot", "export"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return folder, fill(folder, MANY, bare=True)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some")
    return folder, fill(folder, 3_000)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    return folder, fill(folder, 40)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("command", COMMANDS)
def test_ten_thousand_experiments_are_shown_within_two_seconds(many, command):
    assert is_shown_within(2, command, many[0])


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("command", COMMANDS)
def test_three_thousand_with_all_that_a_loop_leaves_are_shown_within_two_seconds(some, command):
    assert is_shown_within(2, command, some[0])


def test_status_reads_no_note_and_reckons_nothing_twice(tmp_path, monkeypatch):
    fill(tmp_path, 60)
    read, reckoned, real = [], [], notes.read
    monkeypatch.setattr(notes, "read", lambda git, commit: read.append(commit) or real(git, commit))
    monkeypatch.setattr(
        "harness.store.history.Programs", lambda *given: reckoned.append(given) or Programs(*given)
    )
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(shown).exit_code == 0
    assert len(read) == len(set(read)) > 5
    assert len(reckoned) == 1


@pytest.mark.parametrize("broken", [None, b"", b"\x92\x01\x90", b"\x92\x63\x90", b"nonsense"])
def test_what_views_keep_changes_nothing_of_what_they_show(tmp_path, monkeypatch, broken):
    """Without it, with it, where it is broken, and where a branch moved since."""
    fill(tmp_path, 150)
    monkeypatch.setattr(views, "FEWEST", 1)
    monkeypatch.setattr(views, "FEWEST_GISTS", 1)
    kept = views.place(open_repository(tmp_path).common)
    git = lambda *args: subprocess.run(["git", *args], cwd=tmp_path, capture_output=True, check=True)  # noqa: E731

    def all_shown():
        found = History(open_repository(tmp_path))
        seen = HistorySnapshot(open_repository(tmp_path))
        assert list(seen) == list(found)
        assert seen.measured(found.setting) == found.measured(found.setting)
        return list(seen)

    before = all_shown()
    assert kept.exists() and all_shown() == before
    if broken is not None:
        kept.write_bytes(broken)
    assert all_shown() == before
    git("branch", "-f", before[3].name.branch, before[5].commit)
    git("branch", "-D", before[7].name.branch)
    after = all_shown()
    assert len(after) == len(before) - 1 and after[3].commit == before[5].commit
    noted = [each.commit for each in after if each.status == "keep"]
    assert len(noted) > 2
    for commit, other in itertools.pairwise(noted):  # another commit's record, and none
        git("notes", "--ref", "autoresearch", "copy", "-f", other, commit)
        all_shown()
    git("notes", "--ref", "autoresearch", "remove", noted[0])
    all_shown()
    kept.unlink()
    assert all_shown() == after


def is_shown_within(seconds, command, folder):
    """From the start of Python; the machine's own pauses are not ours."""
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([*HARNESS, *command.split()], cwd=folder, capture_output=True, check=True)
        if time.perf_counter() - started < seconds:
            return True
    return False


@pytest.mark.slow
@pytest.mark.alone
def test_the_harness_takes_under_a_second_for_an_experiment_among_ten_thousand(many):
    experiments = Experiments(open_repository(many[0]))
    took = []
    for number in range(3):
        started = time.perf_counter()
        head = experiments.main
        known = {experiment.program for experiment in experiments}
        source = f"{HONEST}# new {number}".encode()
        begun = experiments.begin(Proposal(f"Try {number}", "h", source, "a/b"), head, f"new{number}")
        trial = RunRecord(
            begun.commit, 1, "ok", "", 9.0, Training("ok", ""), None, 1.0, "cpu", None, "d", "e", "none", 1.0
        )
        decision = Decision(DISCARD, "not lower", Incumbent(head, 2.0), 9.0, 7.0)
        experiments.complete(begun, trial, decision)
        assert experiments.main == head
        assert len(list(experiments)) > len(known)
        took.append(time.perf_counter() - started)
    assert min(took) < 1


def test_log_shows_what_git_has(few):
    folder, made = few
    shown = [json.loads(line) for line in harness("log", "--all", "--json", cwd=folder).stdout.splitlines()]
    assert [(e["number"], e["status"], e["title"]) for e in shown] == [
        (number, status, title) for number, (status, _, title) in made.items()
    ]
    kept = harness("log", "--kept", cwd=folder).stdout.splitlines()
    assert len(kept) == sum(status == "keep" for status, _, _ in made.values())
    near = [
        json.loads(x)
        for x in harness("log", "--near-miss", "--json", "-n", "3", cwd=folder).stdout.splitlines()
    ]
    assert [e["effect"] for e in near] == sorted(e["effect"] for e in shown if e["status"] == "discard")[:3]
    crashed = harness("log", "--crash", cwd=folder).stdout
    assert "keep" not in crashed and "discard" not in crashed


def test_export_has_the_references_five_columns_and_no_zero_for_what_is_not_known(few):
    folder, made = few
    text = harness("export", cwd=folder).stdout
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert text.splitlines()[0] == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert rows.pop(0)["description"] == "baseline"
    for row, (status, score, title) in zip(rows, made.values(), strict=True):
        known = status in ("keep", "discard")
        assert row["val_bpb"] == (f"{score:.6f}" if known else "")
        assert (row["status"], row["description"], row["memory_gb"]) == (status, title, "2.0")


def test_an_export_has_all_letters_where_the_terminal_has_few(repository):
    tree = ("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Größer λ\n\nHypothesis: it may help\n")
    repository("branch", "exp/0001-x", repository(*tree))
    done = harness("export", cwd=repository.folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "Größer λ" in done.stdout


def test_a_list_loads_neither_the_gate_nor_what_draws(few):
    code = "import sys; from harness.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('numpy', 'matplotlib', 'harness.gate', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, "log"], cwd=few[0], capture_output=True, text=True)
    assert done.stdout.startswith("0021") and done.stdout.endswith("[]\n")


def test_show_and_diff_name_one_experiment_in_every_way(few):
    folder, _ = few
    branch = "exp/0007-change-matrix-lr"
    commit = subprocess.run(
        ["git", "rev-parse", branch], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    answers = {harness("show", which, cwd=folder).stdout for which in ("7", "0007", branch, commit[:9])}
    assert len(answers) == 1
    assert "Hypothesis: it may help" in answers.pop()
    assert "+# 7" in harness("diff", "7", cwd=folder).stdout
    both = harness("diff", "7", "8", cwd=folder).stdout
    assert "-# 7" in both and "+# 8" in both
    assert_mistake(harness("show", "4711", cwd=folder), "there is no experiment '4711'", "harness log --all")


def test_plot_writes_a_picture_and_says_what_it_can_not_write(few, tmp_path):
    folder, _ = few
    assert harness("plot", "-o", str(tmp_path / "a.png"), cwd=folder).returncode == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert harness("plot", "-o", str(tmp_path / "a.svg"), cwd=folder).returncode == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert_mistake(harness("plot", "-o", "a.pdf", cwd=folder), ".png nor .svg")
    assert_mistake(harness("plot", "-o", "/nowhere/a.png", cwd=folder), "can't write")


def test_a_title_that_would_be_a_formula_is_drawn_as_it_is(tmp_path):
    trailers = {"Status": "keep", "Val-Bpb": "1.9", "Incumbent": f"{'b' * 7} 2.0", "Effect": "-0.1 0.01"}
    message = Message(r"Scale $\frac{1}{\sqrt d$ of the head", "h", trailers)
    name = refs.parse("refs/heads/exp/0001-x")
    draw([Experiment(name, "a" * 40, "b" * 40, 0, "a", message)], tmp_path / "a.svg", VAL_BPB)
    assert r"\frac" in (tmp_path / "a.svg").read_text()


def test_the_runs_that_a_score_is_the_mean_of_are_drawn(tmp_path):
    def picture(*runs):
        trailers = {"Status": "keep", "Val-Bpb": "1.9", "Val-Bpb-Runs": " ".join(runs)}
        name = refs.parse("refs/heads/exp/0001-x")
        draw(
            [Experiment(name, "a" * 40, "b" * 40, 0, "a", Message("x", "h", trailers))],
            tmp_path / "a.svg",
            VAL_BPB,
        )
        return (tmp_path / "a.svg").read_text()

    assert len(picture("1.85", "1.95").split("<path")) > len(picture("1.9").split("<path"))


def drawn(*said, line=None):
    """The line of the picture; each `said` is a commit, a status, what it was judged against, an effect."""
    made = []
    for number, (commit, status, on, believed, effect, *origin) in enumerate(said, 1):
        trailers = {"Status": status, "Incumbent": f"{on * 7} {believed}", "Effect": f"{effect} 0.01"}
        trailers |= {"Origin": origin[0] * 40} if origin else {}
        trailers |= {"Seeds": ord(origin[0] if origin else commit)}
        name, message = refs.parse(f"refs/heads/exp/{number:04d}-x"), Message("x", "h", trailers)
        made.append((number, 2.0, Experiment(name, commit * 40, on * 40, 0, "a", message)))
    return [(x, round(y, 3)) for x, y, _ in built_on(made, line)]


def test_the_line_of_the_picture_goes_back_where_a_commit_is_given_up_and_not_for_one_decided_late():
    kept, below = ("b", "keep", "a", 2.0, -0.1), ("d", "discard", "b", 1.91, 0.0)
    late, back = ("c", "discard", "a", 2.0, 0.0), ("e", "discard", "a", 2.01, 0.0)
    assert drawn(kept, late) == [(0, 2.0), (1, 1.9)]
    assert drawn(kept, late, below) == [(0, 2.0), (1, 1.91)]
    assert drawn(kept, below, back) == [(0, 2.0), (1, 1.91), (2, 2.01)]
    assert drawn(late, back) == [(0, 2.0)]
    again = ("f", "keep", "a", 2.0, -0.1, "b")  # on a commit of a person's that left train.py as it was
    assert drawn(kept, below, again, ("g", "discard", "f", 1.93, 0.0)) == [(0, 2.0), (1, 1.91)]
    assert drawn(kept, late, line=["a" * 40]) == [(0, 2.0), (1, 1.9), (1, 2.0)], "nothing was built on it"
    assert drawn(kept, late, line=["a" * 40, "b" * 40]) == [(0, 2.0), (1, 1.9)]
    assert drawn(kept, below, line=["a" * 40]) == [(0, 2.0), (1, 1.91), (2, 2.0)], (
        "given up by the last score"
    )


def test_a_crash_of_another_setting_is_not_compared_and_one_that_was_only_begun_is():
    def made(number, **trailers):
        name = refs.parse(f"refs/heads/exp/{number:04d}-x")
        return Experiment(name, "a" * 40, "b" * 40, 0, "a", Message("x", "h", trailers))

    crashed = made(1, Status="crash", **{"Budget-Seconds": "20"})
    scored = made(2, Status="discard", **{"Budget-Seconds": "4", "Val-Bpb": "2.0"})
    begun = made(3, Program="0" * 12)
    assert comparable([crashed, scored, begun]) == [scored, begun]
    assert comparable([crashed, begun]) == [crashed, begun]  # there is no other setting
    assert "(another setting)" in table.row(crashed, "crash", other=True) and "(" not in table.row(
        scored, "discard"
    )


def test_status_names_what_is_best_and_that_nothing_runs(few):
    folder, made = few
    shown = harness("status", cwd=folder).stdout
    assert "running  nothing" in shown
    last = [title for status, _, title in made.values() if status == "keep"][-1]
    assert last in next(line for line in shown.splitlines() if line.startswith("best"))
    about = json.loads(harness("status", "--json", cwd=folder).stdout)
    assert about["counts"]["keep"] == sum(status == "keep" for status, _, _ in made.values())
    assert sum(about["counts"].values()) == len(made)
    assert {"main_scores", "main_believed", "ahead"} <= set(about)


def test_status_tells_the_score_of_main_in_the_setting_that_the_config_means(research):
    assert "one run" in harness("status", cwd=research.folder).stdout
    path = research.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
    assert "not measured in this setting" in harness("status", cwd=research.folder).stdout
    was = path.read_text()
    path.write_text(was.replace("eval_items = 2000", "eval_items = 1999"))
    assert "config   WARNING: no prepared data at" in harness("status", cwd=research.folder).stdout
    path.write_text("a = [")
    shown = harness("status", cwd=research.folder).stdout
    assert "one run" in shown and "config   WARNING: " in shown


def test_a_config_that_can_not_be_read_makes_no_other_state_of_what_was_kept(few):
    folder, _ = few
    path = folder / ".autoresearch" / "config.toml"
    was, before = path.read_text(), harness("log", "--kept", cwd=folder)
    path.write_text("a = [")
    after = harness("log", "--kept", cwd=folder)
    path.write_text(was)
    assert after.stdout == before.stdout and not before.stderr
    assert "candidate" in after.stdout and "WARNING: " in after.stderr and "is not valid TOML" in after.stderr


def test_an_empty_repository_has_nothing_to_show_and_says_so(repository):
    assert harness("log", cwd=repository.folder).stderr.startswith("none yet")
    assert_mistake(harness("plot", cwd=repository.folder), "no scored experiment", "harness loop")
    assert "nothing" in harness("status", cwd=repository.folder).stdout


def test_a_branch_that_the_loop_did_not_make_is_not_shown_as_begun(repository):
    commit = repository("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Mine\n\nHypothesis: it may help\n")
    repository("branch", "exp/0099-mine", commit.strip())
    assert "0099  by hand " in harness("log", "--all", cwd=repository.folder).stdout
    assert "not measured: harness adopt 99 does" in harness("show", "99", cwd=repository.folder).stdout
    shown = harness("status", cwd=repository.folder).stdout
    assert "tried    1: 1 by hand\n" in shown and "not measured in this setting: the next loop" in shown


def test_clean_removes_run_folders_and_keeps_the_record(few):
    folder, made = few
    for name in ("20260101-000000-a", "20260102-000000-b"):
        run = folder / ".autoresearch" / "runs" / name
        run.mkdir(parents=True)
        (run / "trial.json").write_text("x" * 1000)
    running = folder / ".autoresearch" / "runs" / "20260103-000000-c"
    running.mkdir()
    assert "would remove 0" in harness("clean", "--keep", "5", "--dry-run", cwd=folder).stdout
    assert "would remove 2" in harness("clean", "--dry-run", cwd=folder).stdout
    removed = harness("clean", "--keep", "2", cwd=folder).stdout
    assert "removed 1" in removed and "; 2 stay: newest, running or with a kept checkpoint" in removed
    left = sorted(path.name for path in (folder / ".autoresearch" / "runs").iterdir())
    assert left == ["20260102-000000-b", running.name], "one that may be running was removed"
    assert len(harness("log", "--all", cwd=folder).stdout.splitlines()) == len(made)
    shutil.rmtree(running)
    assert "stay" not in harness("clean", cwd=folder).stdout
    kernel = folder / ".autoresearch" / "runs" / "compiled" / "a-gpu" / "kernel"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(bytes(2 * 2**20))
    assert "the compile cache stays, 2.0 MB" in harness("clean", cwd=folder).stdout and kernel.exists()
    assert "disk     the compile cache has 2 MB" in harness("status", cwd=folder).stdout
    assert "removed the compile cache, 2.0 MB" in harness("clean", "--compiled", cwd=folder).stdout
    assert not kernel.exists()


def test_a_look_at_what_runs_loads_no_torch():
    code = "import sys, harness.cli.status; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_metric_to_raise_is_raised_in_every_view_and_its_message_is_read_back(tmp_path):
    accuracy = Metric("accuracy", "max")
    setting = Setting("d", "c", "1", 60.0, "1 torch", accuracy)
    training = Training("ok", "", 1.0, 60.0)
    run = RunRecord(
        "a" * 40, 1, "ok", "", 0.91, training, None, 70.0, setting.device, None, setting.data,
        setting.evaluator, "bwrap", 60.0, runtime=setting.runtime, metric=accuracy,
    )  # fmt: skip
    better = Decision("keep", "", Incumbent("b" * 40, 0.9, 0.001), 0.91, 0.01, 0.008, 0.001, 0.99, 0.001)
    subject = f"Widen it ({messages.verdict(better, accuracy)})"
    assert subject == "Widen it (accuracy 0.9100, +0.0080)"
    text = Message(subject, "h", messages.measured(run, [run], better)).text()
    made = Experiment(refs.parse("refs/heads/exp/0001-x"), "a" * 40, "b" * 40, 0, "a", messages.parse(text))
    assert (made.message.title, made.value, made.setting) == ("Widen it", 0.91, setting)
    assert "  0.9100   +0.0080  Widen it" in table.row(made, "candidate")
    assert table.record(made)["accuracy"] == 0.91
    (row,) = table.exported([made], accuracy)
    assert row["accuracy"] == "0.910000"
    worse = dataclasses.replace(made, commit="c" * 40, message=messages.parse(text.replace("0.91", "0.88")))
    draw([made, worse], tmp_path / "a.svg", accuracy)
    drawn = (tmp_path / "a.svg").read_text()
    dropped = text.replace("Status: keep", "Status: discard")
    near, far = (
        dataclasses.replace(made, message=messages.parse(each))
        for each in (dropped, dropped.replace("+0.008", "-0.008"))
    )
    assert table.near_misses([far, near]) == [near, far]
    assert "accuracy, higher is better" in drawn and "estimated accuracy" in drawn
