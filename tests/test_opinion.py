"""Before `main` moves its new score is taken once more, plainly; what differs stops it."""

import dataclasses

import numpy as np
import pytest
from conftest import assert_refused, harness
from hypothesis import example, given
from hypothesis import strategies as st
from stubs import MUCH_BETTER, Changing, begin, known
from text import (
    TEXT,
    using_text,  # noqa: F401
)

import harness.worker.service as service
from harness.report import explain
from harness.store.aliases import VAL_BPB
from harness.store.note import read_run, write_run
from harness.store.records import (
    ERROR,
    INVALID,
    OK,
    Audit,
    Failure,
    Point,
    Reported,
    RunRecord,
    Score,
    Training,
)
from harness.worker import supervisor
from harness.worker.run import ROW_NATS, measure, second_opinion
from harness.worker.second_opinion import Opinion, differs
from harness.worker.worker import Worker


def test_a_second_opinion_is_that_of_the_first_or_the_score_is_not_believed(setup, tmp_path):
    """An honest one, one that the fast path made too low, and one of a version that kept no values."""
    folder = tmp_path / "run"
    trial = measure(TEXT.encode(), "0" * 40, 1, setup, folder, lambda _: None, lambda _: None, True)
    assert trial.status == "ok", trial.detail

    def again():
        return second_opinion(folder, setup, lambda _: None, Worker())

    said = again()
    assert isinstance(said, Opinion), said
    assert said.rows == len(np.load(setup.task.data.rows_file("val")))
    assert abs(said.difference) < 1e-5
    nats = np.load(folder / ROW_NATS)
    np.save(folder / ROW_NATS, nats - 0.01 * nats * (np.arange(len(nats)) % 3 == 0))
    assert_refused(again(), INVALID, "asked again, plainly")
    (folder / ROW_NATS).unlink()
    assert again() is None


@pytest.mark.parametrize("status", [INVALID, ERROR])
def test_main_stays_where_the_second_opinion_differs_and_moves_where_the_machine_failed(
    fresh, told, monkeypatch, status
):
    told.scores["One"], before = list(MUCH_BETTER), fresh("rev-parse", "main")
    why = "2000 rows asked again, plainly: +0.1 bits per byte"
    monkeypatch.setattr(service, "second_opinion", lambda *_: Failure(status, why))
    begin(fresh, Changing([("One", 1, MUCH_BETTER)]), places=1, experiments=1).run()
    assert (fresh("rev-parse", "main") == before) == (status == INVALID)
    one = fresh("log", "--all", "--format=%H", "--grep=One").splitlines()[0]
    assert known(fresh).note(one).opinion.detail == why
    assert (one in known(fresh).gone) == (status == INVALID)
    state = "dropped" if status == INVALID else "confirmed"
    assert harness("log", "--kept", cwd=fresh.folder).stdout.split()[1] == state


def test_differences_that_cancel_out_are_differences_too():
    assert differs(Opinion(2000, 0.0, 0.0002, 1.0), 0.00024) is None
    assert differs(Opinion(2000, 0.0, 0.001, 1.0), 0.00024) is not None
    assert differs(Opinion(2000, 0.004, 0.001, 1.0), 0.00024) is not None
    assert differs(Opinion(2000, float("nan"), 0.001, 1.0), 0.00024) is not None


A_RUN = RunRecord(
    "", 1, OK, "", 1.0, Training(OK, ""), None, 1.0, "a GPU", None, "text", "1", "bwrap", 300.0,
)  # fmt: skip


LIES = st.integers(-(2**70), 2**70) | st.floats() | st.text() | st.none() | st.booleans()


@given(LIES)
@example(10**18)
@example(2**63 - 1)
def test_whatever_a_train_py_reports_the_record_of_its_run_is_read_back(lie):
    """One that can't be read would have no checkpoint for a second opinion, and no run that was made."""
    count, figure = supervisor._count(lie), supervisor._figure(lie)
    told = Reported(count, count, count, figure, figure, count, figure, figure)
    training = Training(OK, "", reported=told, curve=(Point(1.0, count or 0, figure or 0.0),))
    run = dataclasses.replace(A_RUN, training=training)
    assert read_run(write_run(run)) == run


def test_show_says_how_a_score_was_checked():
    def checked(**about):
        score = Score(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, Audit(3328, 0.0, 0.0, 0.0), **about)
        return explain.checked(dataclasses.replace(A_RUN, score=score))

    said = "model servers sealed, 3,328 rows audited, 3 calls to the kernel refused"
    assert checked(is_sealed=True, refused_calls=3) == said
    assert "WARNING" in checked(is_sealed=False)
    assert checked() == "", "of an earlier version"
    assert "+0.00010 bits" in explain.opinion(Opinion(9, 1e-4, 2e-4, 1.0), VAL_BPB)
    assert (
        explain.opinion(Failure(ERROR, "no second opinion: x"), VAL_BPB)
        == "Second opinion: no second opinion: x."
    )
    assert explain.opinion(None, VAL_BPB) == ""
