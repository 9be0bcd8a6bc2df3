"""A session writes what it does into `.autoresearch/events.jsonl`; whoever looks reads it there."""

import json
import os
import time

import pytest
from conftest import harness
from stubs import BASELINE, SD, Changing, begin, known

from harness.lock import held
from harness.session.events import BEGUN, MEASURED, Journal, Run, Tail, Watcher, read
from harness.session.limits import Limits
from harness.store.opening import open_repository
from harness.worker.orders import Order
from harness.worker.progress import Progress

WORSE = [2.0 + 5 * SD] * 3


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "events.jsonl", Limits(hours=8.0), Watcher(*[lambda *_: None] * 2), lambda: 0.5)
    made.begin()
    return made


def order(name, seed):
    return Order("c" * 40, b"", seed, name)


def test_two_runs_of_one_commit_at_once_are_two(journal, tmp_path):
    for seed in (1, 2):
        journal.tell(BEGUN, f"baseline {seed}/2: main", order=order("baseline", seed))
    found = read(tmp_path / "events.jsonl")
    assert [each.title for each in found.running] == ["baseline 1/2: main", "baseline 2/2: main"]
    journal.tell(MEASURED, "     baseline: 2.0", order=order("baseline", 1))
    found = read(tmp_path / "events.jsonl")
    assert [each.run.seed for each in found.running] == [2] and found.measured == 0
    assert found.limits["hours"] == 8.0 and found.spent_usd == 0.5


def test_a_run_is_where_its_last_progress_says(journal, tmp_path):
    journal.tell(BEGUN, "0007 Halve the rate", order=order("0007", 1))
    run = read(tmp_path / "events.jsonl").running[0].run
    for phase, step, loss in (("training", 1, 3.0), ("training", 2, 2.5), ("scoring", 9, None)):
        journal.show(Progress(phase, 1.0, 2.0, step, loss), run)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(lines) == 4, "of one phase at most one line in five seconds"
    (found,) = read(tmp_path / "events.jsonl").running
    assert (found.title, found.phase, found.step, found.loss) == ("0007 Halve the rate", "scoring", 9, None)


def test_what_never_ends_by_an_event_is_not_said_to_run(journal, tmp_path):
    """The holdout is scored beside: no event ends that, and it would be shown to the session's end."""
    journal.show(Progress("scoring", 1.0, 0.0), Run("holdout", "c" * 40, 0))
    journal.tell(BEGUN, "0007 Halve the rate", order=order("0007", 1))
    journal.tell(MEASURED, "0007 discard", order=order("0007", 1))
    journal.show(Progress("scoring", 1.0, 0.0), Run("0007", "c" * 40, 1))
    assert read(tmp_path / "events.jsonl").running == ()


def test_lines_of_somebody_else_and_a_cut_one_are_left_out(journal, tmp_path):
    journal.tell(BEGUN, "0007 Halve the rate", order=order("0007", 1))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(
            b'[7]\n{"kind": 3}\n\xff\xfe\n{"time": 1, "kind": "progress", "step": "x"}\n{"time": 1, "ki'
        )
    assert [each.title for each in read(tmp_path / "events.jsonl").running] == ["0007 Halve the rate"]
    assert read(tmp_path / "nothing").running == ()


def test_a_session_s_events_have_its_runs_and_git_does_not_see_the_file(fresh, told):
    told.scores["One"] = list(WORSE)
    begin(fresh, Changing([("One", 1, 0)]), places=1, experiments=1).run()
    lines = [json.loads(line) for line in (fresh.folder / ".autoresearch" / "events.jsonl").open()]
    assert [line["kind"] for line in lines].count(BEGUN) == len(BASELINE) + 1
    last = [line for line in lines if line["kind"] == MEASURED][-1]
    (one,) = known(fresh)
    about = {"run": "0001", "status": "discard", "squared_error": one.value, "measured": 1}
    assert about.items() <= last.items()
    assert fresh("status", "--porcelain") == ""


def test_status_says_what_runs_now_with_phase_and_step(fresh, told):
    said = []

    def look():
        said.append(harness("status", cwd=fresh.folder).stdout)
        return 2.0 + 5 * SD

    told.scores["One"] = [look]
    begin(fresh, Changing([("One", 1, 0)]), places=1, experiments=1).run()
    assert "running  0001 One (for " in said[0], said[0]
    assert "session  for" in said[0] and "0 of 1 experiments" in said[0]


def test_a_second_loop_that_is_refused_leaves_the_events_of_the_first(fresh, told):
    repository = open_repository(fresh.folder)
    repository.events.write_text('{"time": 1.0, "kind": "begun", "text": "0001 One", "run": "0001"}\n')
    with held(repository.loop_lock, lambda _: None):
        assert harness("loop", "--experiments", "1", cwd=fresh.folder).returncode == 1
    assert [each.title for each in read(repository.events).running] == ["0001 One"]


def test_who_reads_again_sees_a_new_session_as_new_and_no_half_line(journal, tmp_path):
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    journal.tell(BEGUN, "0007 Halve the rate", order=order("0007", 1))
    assert [each.title for each in tail.session().running] == ["0007 Halve the rate"]
    with path.open("ab") as file:
        file.write(b'{"time": 1.0, "kind": "begun", "text": "0008 Ha')
    assert len(tail.session().running) == 1
    with path.open("ab") as file:
        file.write(b'lve it again", "run": "0008", "commit": "c", "seed": 2}\n')
    assert len(tail.session().running) == 2
    time.sleep(0.11)  # a session's first line has the time
    journal.begin()
    for number in range(9, 19):  # a longer file, perhaps in the same place on the disk
        journal.tell(BEGUN, f"{number:04d} Another", order=order(f"{number:04d}", 1))
    assert [each.title[:4] for each in tail.session().running] == [f"{number:04d}" for number in range(9, 19)]


def test_a_file_of_nonsense_costs_little_and_what_comes_after_it_is_read(journal, tmp_path):
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    line = json.dumps(
        {"time": 1.0, "kind": "begun", "text": "0009 It", "run": "0009", "commit": "c", "seed": 1}
    )
    nonsense = [b'{"x":' + b"[" * 100_000, b"\xff\xfe", b'"\\ud800"', b"1e999", b"x" * 9_000_000, b"null"]
    with path.open("ab") as file:
        file.write(b"\n".join([*nonsense, line.encode()]) + b"\n")
    began = time.monotonic()
    assert [each.title for each in tail.session().running] == ["0009 It"]
    progress = {"time": 1.0, "kind": "progress", "run": "0009", "commit": "c", "seed": 1, "phase": "training"}
    with path.open("a") as file:
        for second in range(60_000):
            file.write(json.dumps(progress | {"seconds": second, "loss": 2.0}) + "\n")
    assert 100 < len(tail.session().running[0].curve) <= 400
    assert time.monotonic() - began < 5
    path.unlink()
    os.mkfifo(path)
    assert tail.session().running  # what it said last; and it comes back
