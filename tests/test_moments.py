"""A person, a kill or a full disk at the worst moment: nothing is ignored, nothing is lost."""

import contextlib
import subprocess
import time

import pytest
from stubs import BASELINE, MUCH_BETTER, SD, Changing, begin, known

import harness.paths as paths
import harness.session.runner as runner
import harness.worker.attempts as attempts
import harness.worker.service as service
from harness.errors import HarnessError
from harness.store.records import ERROR, INVALID, Failure

WORSE = [2.0 + 5 * SD] * 4


def commit_by_hand(fresh):
    path = fresh.folder / "train.py"
    path.write_text(path.read_text() + "# by hand\n")
    for left in reversed(range(20)):
        try:
            return fresh("commit", "-qam", "By hand")
        except (
            subprocess.CalledProcessError
        ):  # as `main` moves in this moment: git says so, and to do it again
            if not left:
                raise
            time.sleep(0.1)


def test_what_a_person_commits_while_the_holdout_of_a_winner_is_scored_is_built_on(fresh, told, monkeypatch):
    told.scores |= {
        "Much": MUCH_BETTER * 2,
        "By hand": list(BASELINE),
        "One": list(WORSE),
        "Two": list(WORSE),
    }
    real = told.measure_holdout

    def holdout(folder, value, *args):
        if value < 1.9 and "By hand" not in fresh("log", "--format=%s", "main"):
            commit_by_hand(fresh)
        return real(folder, value, *args)

    monkeypatch.setattr(service, "measure_holdout", holdout)
    begin(fresh, Changing([("Much", 1, 0), ("One", 5, 0), ("Two", 6, 0)]), places=1, experiments=3).run()
    by_hand = fresh("rev-list", "--max-count=1", "--grep=By hand", "main")
    found = known(fresh)
    assert len(found.runs(by_hand)) >= 2
    assert any(each.parent == by_hand for each in found), "what comes next stands on it"


def test_what_a_person_commits_while_the_runs_of_main_are_counted_is_measured(fresh, told, monkeypatch):
    told.scores |= {"By hand": list(BASELINE), "One": list(WORSE)}
    real, calls = runner.Runner.wanted_runs, []

    def missing(*args):
        found = real(*args)
        if not calls:
            commit_by_hand(fresh)
        calls.append(found)
        return found

    monkeypatch.setattr(runner.Runner, "wanted_runs", missing)
    assert begin(fresh, Changing([("One", 1, 0)]), places=1, experiments=1).run().measured == 1
    assert len(known(fresh).runs(fresh("rev-parse", "main"))) == 4


@pytest.mark.parametrize("held", [False, True])
def test_a_repeat_waits_for_the_score_of_main_in_a_new_setting(fresh, told, beside, held):
    path = fresh.folder / ".autoresearch" / "config.toml"
    ours, said = path.read_text(), []

    def change():
        path.write_text(ours.replace("budget_seconds = 0.3", "budget_seconds = 9.0"))

    def train(title):
        runs = [name for name, _ in beside.started].count("Much")
        if title == "Much" and runs == 1:
            beside.until_start_of("Two") if held else change()
        if title == "Two" and held and runs < 3:
            beside.until_start_of("Much", 2)
            change()

    beside.train = train
    # In nine seconds all are at about 1.0, and Much is worse there.
    told.scores |= {"Much": [MUCH_BETTER[0], 1.1, 1.1, 1.1], "Two": [2.05, 1.05, 1.05, 1.05]}
    told.scores["baseline"] += [1.0 - SD, 1.0, 1.0 + SD, 1.0]
    answers = [("Much", 1, 0), ("Two", 9, 0)]
    begin(fresh, Changing(answers), places=1, said=said, experiments=2 if held else 1).run()
    assert "keep" not in [each.status for each in known(fresh)], said
    much = known(fresh).find("1")
    assert 0.9 < float(much.message.trailers["Incumbent"].split()[1]) < 1.1


def test_a_winner_beside_another_is_applied_on_it_though_the_loop_was_killed_in_the_holdout(
    fresh, told, monkeypatch
):
    told.scores |= {"Bit": [2.0 - 3 * SD] * 3 + [1.7] * 3, "Much": [2.0 - 25 * SD] * 3}
    measure, killed = told.measure, []

    def slow(source, commit, *args):  # Bit is kept first
        time.sleep({"Bit": 0.5, "Much": 1.5}.get(fresh("log", "-1", "--format=%s", commit), 0))
        return measure(source, commit, *args)

    def holdout(folder, value, *args):
        if value < 1.8 and not killed:
            killed.append(value)
            raise KeyboardInterrupt
        return told.measure_holdout(folder, value, *args)

    monkeypatch.setattr(attempts, "measure", slow)
    monkeypatch.setattr(service, "measure_holdout", holdout)
    with pytest.raises(KeyboardInterrupt):
        begin(fresh, Changing([("Bit", 1, 0), ("Much", 9, 0)]), experiments=2).run()
    with contextlib.suppress(HarnessError):
        begin(fresh, Changing([]), experiments=2).run()
    assert [each.message.title for each in known(fresh)] == ["Bit", "Much", "Bit"]


def test_a_checkpoint_is_held_on_to_before_its_experiment_has_a_status(fresh, told, monkeypatch):
    told.scores["Much"] = list(MUCH_BETTER)
    real = runner.Experiments.complete

    def killed(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.Experiments, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(fresh, Changing([("Much", 1, 0)]), places=1, experiments=1).run()
    begin(fresh, Changing([]), places=1, experiments=0).run()
    (much,) = known(fresh)
    assert much.commit == fresh("rev-parse", "main") and len(known(fresh).note(much.commit).holdouts) == 1


def test_a_holdout_that_the_machine_spoilt_is_scored_by_the_next_loop(fresh, told, monkeypatch):
    told.scores["Much"] = list(MUCH_BETTER)
    with monkeypatch.context() as patch:
        patch.setattr(service, "measure_holdout", lambda *args: Failure(ERROR, "killed"))
        begin(fresh, Changing([("Much", 1, 0)]), places=1, experiments=1).run()
    main = fresh("rev-parse", "main")
    assert known(fresh).find("1").commit == main and not known(fresh).note(main).holdouts
    for _ in range(2):
        begin(fresh, Changing([]), places=1, experiments=0).run()
        assert len(known(fresh).note(main).holdouts) == 1


def test_a_program_that_gives_no_score_on_the_holdout_leaves_a_trace_of_it(fresh, told, monkeypatch):
    from conftest import harness

    told.scores["Much"] = list(MUCH_BETTER)
    real, calls = told.measure_holdout, []

    def refused(folder, value, *args):
        calls.append(value)
        return real(folder, value, *args) if value > 1.9 else Failure(INVALID, "it looked ahead")

    monkeypatch.setattr(service, "measure_holdout", refused)
    for answers in ([("Much", 1, 0)], []):
        begin(fresh, Changing(answers), places=1, experiments=len(answers)).run()
    assert len(calls) == 2, "once is enough"
    (noted,) = known(fresh).note(fresh("rev-parse", "main")).holdouts
    assert (noted.status, noted.detail) == (INVALID, "it looked ahead")
    shown = harness("status", cwd=fresh.folder).stdout
    assert "holdout  WARNING: none for main: invalid: it looked ahead" in shown and "2.49" in shown


@pytest.mark.parametrize("fault", ["mark", "record", "events"])
def test_a_disk_that_takes_nothing_more_ends_no_night_for_what_is_only_told(fresh, told, monkeypatch, fault):
    told.scores |= {"Much": list(MUCH_BETTER), "One": list(WORSE)}
    runs, said = fresh.folder / ".autoresearch" / "runs", []
    if fault == "mark":
        monkeypatch.setattr("harness.paths.Paths.mark", staticmethod(lambda run: run / "missing" / "kept"))
    elif fault == "record":
        (runs / "29990101").mkdir(parents=True)
        (runs / "29990101" / "kept").symlink_to("/nowhere/at/all")
        (runs / "29990101" / "trial.json").write_text("[7]")
    else:
        (fresh.folder / ".autoresearch" / "events.jsonl").mkdir()
    begin(fresh, Changing([("Much", 1, 0), ("One", 5, 0)]), places=1, said=said, experiments=2).run()
    assert [each.status for each in known(fresh)] == ["keep", "discard"], said
    assert (fault == "mark") == any("not kept for the holdout" in line for line in said)


def test_an_agent_that_ends_itself_has_given_nothing(fresh, told):
    class Ends(Changing):
        def propose(self, context):
            if context.trouble:
                return super().propose(context)
            raise SystemExit("its library gave up")

    told.scores["One"], said = list(WORSE), []
    begin(fresh, Ends([("One", 1, 0)]), places=1, said=said, experiments=1).run()
    assert any("SystemExit: its library gave up" in line for line in said)


def test_what_a_person_writes_in_the_moment_in_which_main_moves_stays_theirs(tmp_path, monkeypatch):
    path, real = tmp_path / "train.py", paths._exchange
    path.write_bytes(b"old")
    path.chmod(0o755)

    def late(one, other):
        if not late.wrote:
            late.wrote = True
            path.write_bytes(b"a person's")
        return real(one, other)

    late.wrote = False
    monkeypatch.setattr(paths, "_exchange", late)
    assert not paths.write_over(path, b"new", b"old")
    assert path.read_bytes() == b"a person's" and [*tmp_path.iterdir()] == [path]
    assert paths.write_over(path, b"new", b"a person's")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o755
    assert [*tmp_path.iterdir()] == [path]
    monkeypatch.setattr(paths, "_exchange", lambda *_: False)  # elsewhere than on Linux
    assert paths.write_over(path, b"newer", b"new") and not paths.write_over(path, b"x", b"new")
    assert path.read_bytes() == b"newer"
