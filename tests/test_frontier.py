"""The loop under the gate's rule: it knows its noise, repeats what is close, moves main when it is sure."""

import datetime
import itertools
import json
import subprocess

import pytest
from conftest import assert_mistake, edit, harness
from sessions import FASTER, Script, loop_in
from stubs import BASELINE, MUCH_BETTER, SD, Changing, known, program

import harness.session.checkpoints as kept
import harness.session.runner as runner
import harness.worker.attempts as attempts
from harness.config import load
from harness.errors import HarnessError
from harness.gate.noise import pooled
from harness.gate.policy import CALIBRATION_RUNS, MOST_RUNS
from harness.report import explain
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Holdout, Opinion
from harness.store.opening import open_repository
from harness.store.records import Setting
from harness.store.repo import Repository
from harness.worker.run import open_setup
from harness.worker.service import Service


def session(repository, told, *answers, said=None, **limits):
    """A loop of these (title, number of the place that it changes, scores)."""
    for title, _, scores in answers:
        told.scores[title] = list(scores)
    agent = Changing(answers)
    limits.setdefault("experiments", len(answers))
    tell = (lambda event: said.append(event.text)) if said is not None else lambda _: None
    return loop_in(repository.folder, agent, tell, **limits).run(), agent


def test_the_noise_is_measured_before_anything_is_decided_and_only_once(fresh, told):
    said = []
    session(fresh, told, ("Try it", 1, [2.0 + 3 * SD] * 3), said=said)
    main = fresh("rev-parse", "main")
    assert len({seed for commit, seed in told.ran if commit == main}) == CALIBRATION_RUNS
    assert sum("to measure run-to-run noise" in line for line in said) == CALIBRATION_RUNS - 1
    session(fresh, told, ("Try that", 2, [2.0 + 3 * SD] * 3))
    assert len([1 for commit, _ in told.ran if commit == main]) == CALIBRATION_RUNS


def test_what_seems_too_good_is_run_again_with_a_fresh_seed_and_what_is_clear_is_not(fresh, told):
    lucky, bad = [2.0 - 30 * SD, 2.0 + SD, 2.0], [2.0 + 20 * SD]
    session(fresh, told, ("Too good", 1, lucky), ("Bad", 2, bad))
    one, two = known(fresh)
    assert len(one.runs) == len(set(one.message.trailers["Seeds"].split())) in (2, 3) and MOST_RUNS >= 3
    assert len(two.message.trailers["Seeds"].split()) == 1
    assert one.value == pytest.approx(sum(one.runs) / len(one.runs), abs=1e-6)
    assert [run.seed for run in known(fresh).runs(one.commit)] == [
        int(seed) for seed in one.message.trailers["Seeds"].split()
    ]
    assert told.held_out == [BASELINE[0]], "main moved for an accident"
    assert two.status == "discard" and float(two.message.trailers["Confidence"]) < 0.01


def test_a_small_gain_is_built_on_and_main_waits_until_it_is_proven(fresh, told):
    base = fresh("rev-parse", "main")
    small, more = [2.0 - 2.5 * SD] * 3, [2.0 - 12 * SD] * 3
    session(fresh, told, ("A bit", 1, small))
    (first,) = known(fresh)
    assert first.status == "keep" and first.delta > -2.5 * SD, "a lucky run was believed at its word"
    assert fresh("rev-parse", "main") == base
    shown = harness("status", cwd=fresh.folder).stdout
    assert (
        "1 kept, up to 0001: main follows" in shown
        and f"main     {base[:7]}  squared_error 2.0000, the mean of 4 runs, estimated" in shown
    )
    session(fresh, told, ("Much", 2, more))
    _, second = known(fresh)
    assert second.parent == first.commit
    assert fresh("rev-parse", "main") == second.commit
    assert fresh("rev-parse", "main~2") == base
    assert fresh("status", "--porcelain") == ""


def test_twenty_harmless_changes_never_move_main(fresh, told):
    base, luck = fresh("rev-parse", "main"), [-1.1, 0.2, 0.9, -0.4, 1.6, -1.9, 0.1, -0.7, 0.5, 1.2]
    tries = [
        (f"Rename it, {n}", n, [2.0 + SD * luck[(n + 3 * run) % 10] for run in range(MOST_RUNS)])
        for n in range(20)
    ]
    summary, _ = session(fresh, told, *tries)
    assert summary.measured == 20 and fresh("rev-parse", "main") == base


def test_the_holdout_is_scored_when_main_moves_and_no_agent_hears_of_it(fresh, told):
    _, agent = session(fresh, told, ("Much", 1, MUCH_BETTER), ("Bad", 2, [2.5]), ("Worse", 3, [2.6]))
    kept = known(fresh).find("1")
    assert fresh("rev-parse", "main") == kept.commit
    assert told.held_out == [BASELINE[0], kept.runs[-1]]
    note = known(fresh).note(kept.commit)
    assert note.holdouts[0].holdout_value == pytest.approx(kept.runs[-1] + 0.5)
    assert note.proven.confidence >= 0.99
    assert "holdout" not in str(agent.contexts) and str(kept.runs[-1] + 0.5)[:6] not in str(agent.contexts)
    assert "holdout  2.3" in harness("status", cwd=fresh.folder).stdout
    assert list((fresh.folder / ".autoresearch" / "runs").rglob("checkpoint")) == []


def test_a_run_that_was_interrupted_is_made_again_and_those_before_it_count(fresh, told):
    much = [MUCH_BETTER[0], KeyboardInterrupt(), *MUCH_BETTER[1:]]
    with pytest.raises(KeyboardInterrupt):
        session(fresh, told, ("Much", 1, much))
    (begun,) = known(fresh)
    assert begun.status is None
    assert [run.value for run in known(fresh).runs(begun.commit)] == much[:1]
    loop_in(fresh.folder, Script(), experiments=1).run()
    (done,) = known(fresh)
    assert done.runs[0] == much[0] and len(done.runs) >= 2
    seeds = [seed for commit, seed in told.ran if commit == begun.commit]
    assert seeds[1] != seeds[0] != seeds[2]
    assert done.message.trailers["Seeds"].split()[:2] == [str(seeds[0]), str(seeds[2])]
    assert known(fresh).runs(begun.commit) == (), "the record is there twice"


def test_a_stop_is_heard_between_the_runs_of_one_experiment_and_of_the_calibration(fresh, told):
    def stopping_at(count, title):
        told.ran.clear()
        stopped = loop_in(
            fresh.folder,
            Script((title, program(1))),
            lambda _: len(told.ran) >= count and stopped.stop("now"),
        )
        return stopped

    told.scores["Much"] = list(MUCH_BETTER)
    stopping_at(2, "Much").run()
    assert len(told.ran) == 2 and list(known(fresh)) == []
    stopping_at(3, "Much").run()
    (begun,) = known(fresh)
    assert begun.status is None and len(known(fresh).runs(begun.commit)) == 1
    loop_in(fresh.folder, Script(), experiments=1).run()
    assert known(fresh).find("1").runs == MUCH_BETTER[:2]


def test_checkpoints_are_bounded_and_what_a_killed_loop_left_is_removed(fresh, told, monkeypatch):
    monkeypatch.setattr(kept, "CHECKPOINTS", 2)
    runs = fresh.folder / ".autoresearch" / "runs"
    (runs / "20260101-killed" / "checkpoint").mkdir(parents=True)
    (runs / "20260101-killed" / "trial.json").write_text("{}")
    (runs / "20260102-by-hand" / "checkpoint").mkdir(parents=True)  # being scored by somebody
    session(fresh, told, *((f"A bit {n}", n, [2.0 - 0.4 * n * SD]) for n in range(1, 5)))
    held = {path.parent for path in runs.glob("*/checkpoint")} - {runs / "20260102-by-hand"}
    assert held == {path.parent for path in runs.glob("*/kept")} and len(held) == 2
    assert "removed" in harness("clean", cwd=fresh.folder).stdout
    assert {path.parent for path in runs.glob("*/trial.json")} == held, "the tip's is gone"


def test_the_checkpoint_that_was_kept_last_stays_though_a_clock_went_back(fresh, told, monkeypatch):
    class Back(datetime.datetime):
        times = itertools.count()

        @classmethod
        def now(cls):
            return datetime.datetime(2026, 1, 1) - datetime.timedelta(hours=next(cls.times))

    monkeypatch.setattr(attempts, "datetime", Back)
    monkeypatch.setattr(kept, "CHECKPOINTS", 2)
    session(fresh, told, *((f"A bit {n}", n, [2.0 - 0.4 * n * SD]) for n in range(1, 5)))
    runs = (fresh.folder / ".autoresearch" / "runs").glob("*/kept")
    held = {path.with_name("train.py").read_text().strip() for path in runs}
    last = [each.commit for each in known(fresh) if each.status == "keep"][-2:]
    assert held == {fresh("show", f"{commit}:train.py") for commit in last}


def test_no_run_is_lost_where_git_has_to_be_waited_for(fresh, told, monkeypatch):
    real, failures = Repository.move, [OSError("locked"), OSError("locked")]

    def move(*args):
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(Repository, "move", move)
    session(fresh, told, ("Much", 1, MUCH_BETTER))
    (done,) = known(fresh)
    assert len(done.message.trailers["Seeds"].split()) == 2 and done.runs == MUCH_BETTER[:2]
    assert len(known(fresh).runs(done.commit)) == 2


def test_main_never_moves_for_a_single_score(fresh, told):
    base = fresh("rev-parse", "main")
    session(fresh, told, ("Lucky", 1, [2.0 - 9 * SD]))
    (lucky,) = known(fresh)
    assert lucky.status == "keep" and fresh("rev-parse", "main") == base
    session(fresh, told, ("Really", 2, [2.0 - 190 * SD + n * SD for n in range(4)]))
    assert fresh("rev-parse", "main") == known(fresh).find("2").commit


ODD = (
    (1e308, 1, "x"),
    (float("nan"), "y", [1]),
    ("2.0", 10**30, {"shorter": 5, "val_bpb": "a"}),
    (-1.0, 1, 7),
    (2.0, [1], {"status": "keep", "val_bpb": 2.0, "delta": 0.1, "effect": 10**400, "effect_sd": 10**400}),
)
NOTES = [
    {
        "trials": [{"status": "ok", "val_bpb": value, "seed": seed}], "decision": part, "proven": part,
        "holdout": part,
    }
    for value, seed, part in ODD
]  # fmt: skip


def test_notes_and_messages_of_others_end_in_no_traceback(fresh, told):
    session(fresh, told, ("A bit", 1, [2.0 - 2.5 * SD]), ("Bad", 2, [2.5]))
    kept, bad = known(fresh)
    base = fresh("rev-parse", "main")
    forged = bad.message.text().replace(f"Value: {bad.value:.6f}", "Value: 1e308")
    forged = forged.replace("Seeds:", "Peak-Vram-Mb: lots\nSeeds:")
    tree = f"{bad.commit}^{{tree}}"
    fresh("branch", "exp/0099-mine", fresh("commit-tree", tree, "-p", base, "-m", forged))
    for number, note in enumerate(NOTES):
        trial = known(fresh).note(bad.commit).stored["trials"][0]
        curve = [{"loss": float("nan")}, {"loss": 1.0}, {"loss": 10**400}]
        odd = {"detail": "x", "training": {"curve": curve if number else 7}, "idle_seconds": 10**400}
        note = {**note, "trials": [*({**trial, **found} for found in note["trials"]), odd]}
        for commit in (kept.commit, base):
            text = json.dumps(note)
            fresh("notes", "--ref", "autoresearch", "add", "-f", "-m", text, commit)
        told.scores["baseline"] = list(BASELINE)
        session(fresh, told, (f"Worse {number}", 3 + number, [2.6]))
        for command in ("status", "status --json", "show 1", "log", "export", "calibrate -n 0"):
            done = harness(*command.split(), cwd=fresh.folder)
            assert done.returncode == 0, (command, done.stderr)


def test_the_holdout_of_each_setting_is_kept(fresh, told):
    path = fresh.folder / ".autoresearch" / "config.toml"
    session(fresh, told, ("Bad", 1, [2.5]))
    path.write_text(path.read_text().replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
    told.scores["baseline"] = [1.5 + score for score in BASELINE]
    session(fresh, told, ("Bad too", 2, [5.5]))
    held_out = known(fresh).note(fresh("rev-parse", "main")).holdouts
    assert [each.setting.budget_seconds for each in held_out] == [0.3, 0.5]


def test_no_score_of_another_setting_is_part_of_a_decision(fresh, told):
    session(fresh, told, ("Much", 1, MUCH_BETTER))
    moved = fresh("rev-parse", "main")
    path = fresh.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
    told.scores["Much"] = [1.0 - SD, 1.0, 1.0 + SD, 1.0]  # main's, all anew
    session(fresh, told, ("Worse here", 2, [1.5]))
    worse = known(fresh).find("2")
    assert worse.status == "discard" and fresh("rev-parse", "main") == moved
    setting = open_setup(load(path), fresh.folder).setting
    assert {each.scores for each in known(fresh).measured(setting)} == {
        (1.0 - SD, 1.0, 1.0 + SD, 1.0), (1.5,)
    }  # fmt: skip
    assert worse.message.trailers["Incumbent"].split()[1].startswith(("0.99", "1.00"))


def test_what_a_person_put_on_main_is_measured_and_the_stack_beside_it_applied_again(fresh, told):
    session(fresh, told, ("A bit", 1, [2.0 - 2.5 * SD] * 3))
    (first,) = known(fresh)
    (fresh.folder / "train.py").write_text(program() + "# by hand\n")
    fresh("commit", "-qam", "by hand")
    told.scores |= {"by hand": [2.0, 2.0 + SD], "A bit": [2.0 - 2.5 * SD] * 3}
    loop_in(fresh.folder, Script(), experiments=1).run()
    again = known(fresh).find("2")
    assert again.parent == fresh("rev-parse", "main")
    assert again.message.trailers["Origin"] == first.commit
    with pytest.raises(Exception, match="nothing usable"):  # and only once
        loop_in(fresh.folder, Script(), experiments=1).run()


def test_the_greedy_rule_is_one_word_in_the_config(fresh, told):
    path = fresh.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('policy = "belief"', 'policy = "greedy"'))
    session(fresh, told, ("Luck", 1, [BASELINE[0] - 0.1 * SD]))
    (lucky,) = known(fresh)
    assert lucky.status == "keep" and fresh("rev-parse", "main") == lucky.commit
    assert "Effect" not in lucky.message.trailers
    assert "this may be luck" in harness("show", "1", cwd=fresh.folder).stdout


def test_show_says_why_in_words(fresh, told):
    session(
        fresh, told, ("A bit", 1, [2.0 - 2.5 * SD] * 3), ("Bad", 2, [2.0 + 9 * SD]),
        ("Much", 3, MUCH_BETTER),
    )  # fmt: skip
    bit, bad, much = (harness("show", str(n), cwd=fresh.folder).stdout for n in (1, 2, 3))
    assert "The noise of one run has an sd of 0.0" in bit
    assert "by itself it was not proven better" in bit and "on average it gains: a candidate" in bit
    assert "the change's doing, or an accident of the run" in bad and "not enough to build on" in bad
    assert "it is better than" in much and "main is there" in much
    about = json.loads(harness("show", "3", "--json", cwd=fresh.folder).stdout)
    assert about["decision"]["confidence"] > 0.9 and about["proven"]["new"] == about["commit"]


def test_a_gain_that_the_holdout_does_not_show_is_said_aloud():
    setting = Setting("d", "c", "e", 1.0)
    start = Holdout(2.0, 2.1, setting)
    (fine,) = explain.holdout([start, Holdout(1.9, 2.02, setting)], SD, VAL_BPB)
    assert "-0.0800 since the first (-0.1000 on val)" in fine
    _, warning = explain.holdout([start, Holdout(1.9, 2.08, setting)], SD, VAL_BPB)
    assert warning.startswith("WARNING") and "not seen on the holdout" in warning
    assert len(explain.holdout([start, Holdout(1.99, 2.1, setting)], SD, VAL_BPB)) == 1, (
        "a gain within the noise"
    )
    assert explain.holdout([], SD, VAL_BPB) == []


@pytest.mark.slow
def test_calibrate_adds_runs_to_the_incumbent_and_says_what_can_be_told_apart(repository):
    nothing = harness("calibrate", "-n", "0", cwd=repository.folder)
    assert "the noise is not known yet" in nothing.stdout
    done = harness("calibrate", "-n", "3", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    runs = known(repository).runs(repository("rev-parse", "main"))
    scores = [run.value for run in runs]
    assert len({run.seed for run in runs}) == 3 and about["runs"] == 3
    assert about["noise"]["sd"] == pytest.approx(pooled([scores]).sd), "one may be spoilt"
    assert about["least_gain"]["1"] > about["least_gain"]["3"]
    words = harness("calibrate", "-n", "0", cwd=repository.folder).stdout
    assert "from 2 repeats" in words and "in 3 runs" in words
    (repository.folder / "train.py").write_text("raise ValueError('no luck')\n")
    repository("commit", "-qam", "broken")
    assert "had 0 runs" in harness("calibrate", "-n", "0", cwd=repository.folder).stdout
    assert_mistake_of_main = harness("calibrate", "-n", "1", cwd=repository.folder)
    assert assert_mistake_of_main.returncode == 1 and "gives no score" in assert_mistake_of_main.stderr


@pytest.mark.slow
def test_a_real_gain_moves_main_and_its_real_checkpoint_is_scored_on_the_holdout(believing):
    (believing.folder / "train.py").write_text(edit(("lr=1.0", "lr=0.001"), ("0, 0.1,", "0, 0.01,")))
    believing("commit", "-qam", "a rate that is far too low")
    said = []
    agent = Script(("Put the rate back", FASTER))
    loop_in(believing.folder, agent, lambda event: said.append(event.text), experiments=1).run()
    (kept,) = known(believing)
    assert kept.status == "keep" and believing("rev-parse", "main") == kept.commit, said
    opinion = known(believing).note(kept.commit).opinion
    assert isinstance(opinion, Opinion) and opinion.spread < 1e-3, opinion
    note = known(believing).note(kept.commit)
    (held,) = note.holdouts
    assert held.value == note.runs[-1].value
    assert held.holdout_value != held.value and abs(held.holdout_value - held.value) < 0.5
    shown = subprocess.run(
        ["git", "log", "-1", "--format=%(trailers:key=Effect,valueonly,separator=)", "main"],
        cwd=believing.folder, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert float(shown[0]) < 0 < float(shown[1])


def test_a_config_without_such_a_rule_is_refused(repository):
    path = repository.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('policy = "belief"', 'policy = "hope"'))
    assert_mistake(harness("run", cwd=repository.folder), "gate.policy must be one of belief, greedy")


def test_repeats_of_a_commit_count_when_main_has_moved_on_too(fresh, told):
    session(fresh, told, ("Much", 1, MUCH_BETTER))
    at = known(fresh).main
    made = runner.Runner(open_repository(fresh.folder), lambda *_: None, lambda *_: None)
    told.scores["Much"] = [MUCH_BETTER[0] + each * SD for each in (-1, 0, 1)]
    for _ in range(3):
        made.again(at, made.setup(), Service(0, fresh.folder / ".autoresearch" / "runs"))
    session(fresh, told, ("Much more", 2, [score - 40 * SD for score in MUCH_BETTER]))
    assert known(fresh).main != at and known(fresh).on_main(at)
    (scores,) = (each.scores for each in known(fresh).measured(made.setup().setting) if each.commit == at)
    assert len(scores) == 5


def test_a_branch_made_without_the_hooks_brings_no_other_file_to_main(fresh, told):
    session(fresh, told, ("Bad", 1, [2.0 + 20 * SD]))
    fresh("switch", "-qc", "exp/0050-smuggled", "main")
    (fresh.folder / "train.py").write_text(program(2))
    (fresh.folder / "more.py").write_text("0")
    fresh("add", "-A")
    fresh("commit", "-qm", "Smuggled\n\nHypothesis: x\n\nProgram: abcabcabcabc")
    fresh("switch", "-q", "main")
    told.scores["Smuggled"], said = list(MUCH_BETTER), []
    with pytest.raises(HarnessError, match="nothing left to say"):
        session(fresh, told, said=said, experiments=1)
    assert "0050 can't be measured: an experiment may change train.py only, not more.py" in said
    assert fresh("ls-tree", "--name-only", "main").count("more.py") == 0


def test_ahead_in_status_is_where_the_next_one_stands(fresh, told):
    session(fresh, told, ("Small", 1, [2.0 - 1.5 * SD]))
    (small,) = known(fresh)
    assert small.status == "keep"
    assert "ahead    1 kept, up to 0001" in harness("status", cwd=fresh.folder).stdout
    made = runner.Runner(open_repository(fresh.folder), lambda *_: None, lambda *_: None)
    told.scores["Small"] = [2.0 + 9 * SD] * 2
    for _ in range(2):
        made.again(small.commit, made.setup(), Service(0, fresh.folder / ".autoresearch" / "runs"))
    assert "ahead" not in harness("status", cwd=fresh.folder).stdout
    shown = harness("show", "1", cwd=fresh.folder).stdout
    assert "Dropped from the frontier" in shown and shown.count("seed ") == 3


def test_a_tip_that_its_children_speak_against_is_given_up_aloud(fresh, told):
    said = []
    worse = [(f"On it {n}", n, [2.0 + 4 * SD] * 3) for n in range(2, 6)]
    session(fresh, told, ("Small", 1, [2.0 - 1.5 * SD]), *worse, said=said)
    small, *rest = known(fresh)
    assert f"     {small.commit[:7]} dropped from the frontier: later results make it look worse" in said
    assert small.commit in {e.parent for e in rest} != {e.parent for e in rest[-1:]}


def test_a_seed_tells_no_program_which_of_its_runs_it_is(fresh, told):
    made = runner.Runner(open_repository(fresh.folder), lambda *_: None, lambda *_: None)
    seeds = [made.order(known(fresh).main, "baseline").seed for _ in range(50)]
    assert len(set(seeds)) > 45 and all(0 < seed < 1_000_000 for seed in seeds)
    assert len({seed % 10 for seed in seeds}) > 4, "the last digit counts the runs"
