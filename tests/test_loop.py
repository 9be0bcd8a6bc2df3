"""The loop in git: a branch per hypothesis, `main` only forward and only on improvement, nothing lost."""

import dataclasses
import time

import pytest
from conftest import HONEST, assert_mistake, harness
from sessions import BROKEN, CRASHING, FASTER, WORSE, Script, all_of, loop_in, session
from stubs import SD, Changing

import harness.worker.attempts as attempts
from harness.agents.again import Again
from harness.errors import HarnessError
from harness.session import proposals
from harness.session.events import BEGUN, MEASURED
from harness.store import message as messages
from harness.store.decisions import Proposal
from harness.store.experiment import comparable
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.records import Kind

pytestmark = pytest.mark.slow


def test_every_hypothesis_is_a_branch_with_its_trailers_and_main_stays_for_what_is_not_better(research):
    before = research("rev-parse", "main")
    summary, _ = session(research, ("Make it worse", WORSE), ("Break it", CRASHING))
    assert (summary.measured, summary.kept) == (2, 0)
    assert research("rev-parse", "main") == before
    assert research("branch", "--list", "exp/*", "--format=%(refname:short)").split() == [
        "exp/0001-make-it-worse",
        "exp/0002-break-it",
    ]
    worse, broken = all_of(research)
    assert (worse.status, broken.status) == ("discard", "crash")
    assert worse.value > 0 and worse.delta > 0
    assert broken.value is None
    trailers = "%(trailers:key=Status,valueonly,separator=%x2C)|%(trailers:key=Value,valueonly)|%an|%cn"
    assert research("log", "-1", f"--format={trailers}", broken.name.branch) == "crash||script/test|A Person"
    assert "no luck" in research("notes", "--ref", "autoresearch", "show", broken.commit)
    assert research("status", "--porcelain") == ""


def test_main_fast_forwards_to_what_is_better_and_the_checkout_follows(research):
    base = research("rev-parse", "main")
    summary, _ = session(research, ("Sleep less", FASTER))
    assert summary.kept == 1
    (kept,) = all_of(research)
    assert kept.status == "keep" and kept.delta < 0
    assert research("rev-parse", "main") == kept.commit
    assert research("rev-parse", "main~1") == base
    assert (research.folder / "train.py").read_text() == FASTER
    assert research("status", "--porcelain") == ""
    assert research("log", "-1", "--format=%s", "main").startswith("Sleep less (squared_error ")
    shown = harness("status", cwd=research.folder).stdout
    assert (
        f"main     {kept.commit[:7]}  squared_error {kept.value:.4f}, one run, estimated {kept.value:.4f}"
        in shown
    )
    assert_mistake(harness("adopt", "1", cwd=research.folder), "is part of main already")


def test_a_second_night_goes_on_where_the_first_ended(research):
    session(research, ("Import nothing", BROKEN))
    said = []
    session(research, ("Break it", CRASHING), said=said)
    assert not any("was not measured" in line for line in said), "the baseline was measured again"
    assert [e.name.number for e in all_of(research)] == [1, 2]


def test_what_was_tried_before_costs_no_trial(research):
    session(research, ("Import nothing", BROKEN))
    said = []
    again = "# another comment\n" + BROKEN
    summary, agent = session(
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


def test_where_an_agent_gives_nothing_usable_any_more_another_stands_in_and_it_is_asked_again(research):
    said = []

    def asked(*answers, **limits):
        agent, stand_in = Script(*answers), Script(("In its place", BROKEN + "print(1)\n"))
        tell = lambda event: said.append(event.text)  # noqa: E731
        loop_in(research.folder, agent, tell, stand_in=stand_in, **limits).run()
        return agent

    told = asked(("First", BROKEN), "no", "no", "not this", ("Second", BROKEN + "print(2)\n"), experiments=3)
    assert [e.message.title for e in all_of(research)] == ["First", "In its place", "Second"]
    assert sum("proposes one in its place" in line for line in said) == 1
    assert told.contexts[-1].trouble == "not this", "it is told of its own failure, after another stood in"
    with pytest.raises(HarnessError, match="nothing usable 3 times"):  # in this night it never gave anything
        asked(*["no"] * 9, experiments=1)


class Away(Script):
    """An agent whose provider can't answer, until something has happened."""

    is_waiting, back = True, lambda self: True

    def propose(self, context):
        while not self.back():
            time.sleep(0.05)
        self.is_waiting = False
        return super().propose(context)


def test_no_device_is_idle_while_an_agent_s_provider_is_away_and_it_proposes_when_it_is_back(research):
    agent = Away(("It is back", BROKEN + "print(3)\n"))
    stand_in = Script(*[(f"Meanwhile {n}", BROKEN + f"print({n})\n") for n in range(9)])
    agent.back = lambda: len(stand_in.answers) < 7
    summary = loop_in(research.folder, agent, stand_in=stand_in, experiments=4).run()
    titles = [e.message.title for e in all_of(research)]
    assert titles[:2] == ["Meanwhile 0", "Meanwhile 1"] and "It is back" in titles
    assert summary.stood_in == sum(title.startswith("Meanwhile") for title in titles)


def test_a_person_is_told_once_that_an_agent_takes_long(research, monkeypatch):
    monkeypatch.setattr(proposals, "TELL_SECONDS", 0.2)

    class Slow(Script):
        def propose(self, context):
            time.sleep(1.0)
            return super().propose(context)

    said = []
    loop_in(
        research.folder, Slow(("Late", BROKEN)), lambda event: said.append(event.text), experiments=1
    ).run()
    assert said.count("waiting for slow") == 1


def test_after_an_answer_that_was_late_no_device_waits_for_the_next_one(research, monkeypatch):
    monkeypatch.setattr(proposals, "IDLE_SECONDS", 2.0)

    def begun():
        return sum(kind == BEGUN and title.startswith("Meanwhile") for kind, title, _ in seen)

    class Slow(Script):
        def propose(self, context):
            before = begun()
            while begun() == before < 2:  # until somebody else was
                time.sleep(0.02)
            return super().propose(context)

    agent, seen = Slow(*[(f"Late {n}", BROKEN + f"print(-1 - {n})\n") for n in range(9)]), []
    stand_in = Script(*[(f"Meanwhile {n}", BROKEN + f"print({n})\n") for n in range(9)])

    def tell(event):
        if event.experiment is not None and event.kind in (BEGUN, MEASURED):
            seen.append((event.kind, event.experiment.message.title, time.monotonic()))

    loop_in(research.folder, agent, tell, stand_in=stand_in, experiments=4).run()
    first = [each[:2] for each in seen].index((MEASURED, "Late 0"))
    (_, _, over), (kind, title, at) = seen[first : first + 2]
    assert (kind, title) == (BEGUN, "Meanwhile 1") and at - over < 1.2


def test_what_only_the_person_can_mend_leaves_the_rest_of_a_session_to_another_one(research):
    class Broke(Script):
        def propose(self, context):
            if not self.answers:
                raise HarnessError("no money is left", "the account page")
            return super().propose(context)

    said = []
    stand_in = Script(*[(f"Instead {n}", BROKEN + f"print({n})\n") for n in range(9)])
    tell = lambda event: said.append(event.text)  # noqa: E731
    session = loop_in(research.folder, Broke(("First", BROKEN)), tell, stand_in=stand_in, experiments=3)
    assert session.run().stood_in == 2
    assert [e.message.title for e in all_of(research)] == ["First", "Instead 0", "Instead 1"]
    assert any("no money is left" in line and "proposes from here on" in line for line in said)
    with pytest.raises(HarnessError, match="no money is left"):  # it never gave anything: told at once
        loop_in(research.folder, Broke(), stand_in=stand_in, experiments=1).run()


def test_an_agent_that_fails_in_a_way_that_nobody_thought_of_gave_nothing_usable(research):
    class Broken(Script):
        def propose(self, context):
            return 1 / 0

    with pytest.raises(HarnessError, match="3 times: the agent failed: ZeroDivisionError"):
        loop_in(research.folder, Broken(), experiments=1).run()


def test_a_stand_in_is_no_agent_for_a_whole_night(research, monkeypatch):
    monkeypatch.setattr("harness.session.proposals.STAND_INS", 2)
    stand_in = Script(*[(f"Stand-in {i}", BROKEN + f"print({i})\n") for i in range(20)])
    with pytest.raises(HarnessError, match="nothing usable 9 times"):
        loop_in(research.folder, Script(("First", BROKEN)), stand_in=stand_in, experiments=30).run()
    assert [e.message.title for e in all_of(research)] == ["First", "Stand-in 0", "Stand-in 1"]


def test_a_begun_experiment_is_measured_at_the_next_start(research):
    experiments = Experiments(open_repository(research.folder))
    base = experiments.main
    experiments.begin(Proposal("Make it worse", "h", WORSE.encode(), "script/test"), base, "abc")
    assert all_of(research)[0].status is None
    assert "not measured yet" in harness("show", "1", cwd=research.folder).stdout
    summary, _ = session(research, experiments=1)
    assert summary.measured == 1
    assert [e.status for e in all_of(research)] == ["discard"]


def test_messages_survive_the_round_trip():
    made = messages.Message("Halve it (val_bpb 0.9860, -0.0119)", "more steps", {"Status": "keep"})
    assert messages.parse(made.text()) == made
    assert made.title == "Halve it"
    assert messages.parse("Halve\x1b[2J \u202eit\U000e0041\n\nHypothesis: \x07why").subject == "Halve [2J  it"
    for forged in ("Val-Bpb: 0.1", "\u200bval-bpb\u3000: 0.1", "\x00Val-Bpb : 0.1"):
        with pytest.raises(HarnessError, match=r"(?i)val-bpb"):
            messages.check_agents(f"Title\n\nHypothesis: because\n\n{forged}\n")


def test_a_title_and_an_author_of_nothing_have_something_in_their_place(fresh):
    raw = fresh.folder / "raw"
    raw.write_text(fresh("cat-file", "commit", "main").replace("author A Person <", "author  <") + "\n")
    fresh("branch", "exp/0001-nobodys", fresh("hash-object", "-t", "commit", "-w", "--literally", str(raw)))
    assert harness("show", "1", cwd=fresh.folder).returncode == 0
    writer = Experiments(open_repository(fresh.folder))
    proposal = dataclasses.replace(writer.proposal(writer.find("1")), title=" ")
    made = writer.begin(proposal, writer.main, "0" * 12)
    assert fresh("log", "-1", "--format=%an: %s", made.commit) == "?: Untitled"


def test_failures_in_a_row_are_told_to_the_agent_and_in_the_end_stop_the_night(research, monkeypatch):
    monkeypatch.setattr("harness.session.proposals.FAILURES_TO_TELL", 2)
    monkeypatch.setattr("harness.session.limits.FAILURES_TO_STOP", 3)
    answers = [(f"Break it {n}", CRASHING.replace("no luck", f"no luck {n}")) for n in range(4)]
    summary, agent = session(research, *answers, experiments=9)
    assert summary.measured == 3
    assert "3 experiments in a row gave no score" in summary.why
    assert any("the last 2 experiments gave no score" in context.trouble for context in agent.contexts)


# ── a person's mistakes ───────────────────────────────────────────────────────────────────────


def test_what_an_error_of_the_machine_spoilt_is_measured_at_the_next_start(research, monkeypatch):
    import harness.worker.attempts as module

    real, contaminated = module.measure, []

    def failing(*args):
        trial = contaminated[0] if contaminated else real(*args)
        contaminated.append(trial)
        return dataclasses.replace(trial, status="error", detail="the GPU fell off", value=None, score=None)

    monkeypatch.setattr(module, "measure", failing)
    session(research, ("Make it worse", WORSE))
    assert all_of(research)[0].status == "error"
    assert len(contaminated) == 3, "it was not repeated"
    monkeypatch.setattr(module, "measure", real)
    summary, _ = session(research, experiments=1)
    (again,) = all_of(research)
    assert (summary.measured, again.status) == (1, "discard")
    assert "Reason" not in again.message.trailers


@pytest.mark.parametrize("delayed", [0.0, 0.5])
def test_one_that_was_late_is_measured_once_more_and_then_it_counts_however_busy_it_says_that_it_was(
    research, monkeypatch, delayed
):
    """It could have kept itself busy: each trial more is another draw."""
    import harness.worker.attempts as module

    real, late = module.measure, []

    def slow(*args):
        trial = late[0] if late else real(*args)
        late.append(trial)
        delay = delayed * trial.training.training_seconds
        training = dataclasses.replace(trial.training, delayed_seconds=delay)
        return dataclasses.replace(
            trial,
            status="invalid",
            detail="trained 1.3 s past its budget",
            kind=Kind.LATE,
            score=None,
            training=training,
        )

    monkeypatch.setattr(module, "measure", slow)
    session(research, ("Make it worse", WORSE))
    assert [e.status for e in all_of(research)] == ["invalid"]
    assert len(late) == 2


def test_a_main_that_was_only_late_is_not_called_wrong(fresh, told, monkeypatch):
    late = {"status": "invalid", "detail": "trained 1.3 s past its budget", "kind": Kind.LATE, "value": None}
    monkeypatch.setattr(attempts, "measure", lambda *args: dataclasses.replace(told.measure(*args), **late))
    with pytest.raises(HarnessError, match=r"past its budget. Try: harness loop, with less beside it"):
        loop_in(fresh.folder, Script(), experiments=1).run()


def test_scores_of_another_setting_are_no_scores_to_an_agent_and_not_in_the_plot(fresh, told):
    told.scores["baseline"] = [2.0, 2.0 + SD] * 9

    def one(title, number, score):
        agent = Changing([(title, number, [])])
        told.scores[title] = [score] * 3
        loop_in(fresh.folder, agent, experiments=1).run()
        return agent.contexts[0].history

    one("Make it worse", 1, 2.0 + 20 * SD)
    config = fresh.folder / ".autoresearch" / "config.toml"
    config.write_text(config.read_text().replace("budget_seconds = 0.3", "budget_seconds = 0.5"))
    (earlier,) = one("Break it", 2, 2.0 + 20 * SD)
    assert earlier.status == "discard" and earlier.value is None and earlier.delta is None
    one("Sleep less", 3, 2.0 - 20 * SD)
    assert [e.message.title for e in comparable(all_of(fresh))] == ["Break it", "Sleep less"]


def test_adopting_what_does_not_apply_says_so_once(research):
    before, forward = "inputs @ weights\n", "(inputs @ weights)\n"
    session(research, ("Make it worse", BROKEN.replace(before, f"0.0 * {forward}")))
    (research.folder / "train.py").write_text(HONEST.replace(before, f"1.0 * {forward}"))
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
    session(research, ("Import nothing", BROKEN))
    (research.folder / "train.py").write_text(HONEST.replace("spin(0.01)", "spin(0.02)"))
    research("commit", "-qam", "by hand")
    known = Experiments(open_repository(research.folder))
    loop_in(research.folder, Again([known.proposal(known.find("1"))]), experiments=1).run()
    first, again = all_of(research)
    assert again.parent == research("rev-parse", "main")
    assert again.message.title == first.message.title
    assert "not measured in this setting" not in harness("status", cwd=research.folder).stdout
    assert known.source(again.commit).decode() == BROKEN.replace("spin(0.01)", "spin(0.02)")
