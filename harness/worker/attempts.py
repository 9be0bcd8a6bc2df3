"""A run, and once more what the machine or its neighbours spoilt: nothing here touches git."""

import math
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from harness.errors import DeviceLost, HarnessError
from harness.paths import Paths
from harness.store.records import ERROR, Kind, RunRecord
from harness.worker.orders import Hears, Order
from harness.worker.progress import Progress
from harness.worker.run import Setup, measure
from harness.worker.worker import RunHandle, Worker

REPEATS_OF_ERROR = 2
TICK_SECONDS = 0.1


def attempt(
    order: Order, setup: Setup, runs: Path, worker: Worker, handle: RunHandle, hears: Hears
) -> tuple[RunRecord, Path]:
    """One run that counts, and its folder, which is made in `runs`.

    Raises:
        DeviceLost: the GPU doesn't answer any more.
        HarnessError: what only a person can mend: the task fails.
        Cancelled: nobody waits for it any more.
    """

    def show(progress: Progress) -> None:
        handle.check()
        handle.waits = progress.phase == "waiting"
        if handle.may_train.is_set():  # else the one that is being scored is shown
            hears.show(progress)

    repeats, first = 0, None  # the first with a score, if it is repeated
    attempts: list[RunRecord] = []
    while True:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        folder = runs / f"{stamp}-{order.commit[:7]}-s{order.seed}"
        trained = None
        if order.trained is not None and not attempts:
            folder, trained = order.trained
            hears.note(f"{order.name} was trained and not scored: its checkpoint is scored now")
        alone, handle.was_joined = handle.may_train.is_set(), False
        handle.trained.clear()
        run = measure(
            order.source, order.commit, order.seed, setup, folder, show, hears.note, True, worker, handle,
            order.suspect_beyond, trained,
        )  # fmt: skip
        attempts.append(run)
        if not alone and run.training.startup_seconds is None:
            while not handle.may_train.wait(TICK_SECONDS):  # it may be for want of what the other one had
                handle.check()
        elif run.kind == Kind.LOST:  # all that follows would fail
            raise DeviceLost(run.detail, "nvidia-smi, or a restart of the machine; then harness loop")
        elif run.kind == Kind.TASK:
            raise HarnessError(
                f"the task failed: {run.detail}", "mend it, then harness prepare, harness loop"
            )
        elif run.status == ERROR:
            hears.tell("trouble", f"     error, not the experiment's fault: {run.detail}")
            if repeats == REPEATS_OF_ERROR:
                break
            repeats += 1
        elif not repeats and _deserves_another(run, handle.was_joined):
            hears.tell("trouble", f"     run again: {run.detail or run.warning}")
            repeats += 1
            if run.kind == Kind.MEMORY:
                handle.wants_room.set()
                while worker.is_used:
                    handle.check()
                    time.sleep(TICK_SECONDS)
            if run.warning:
                first = run, folder
                continue
        else:
            break
        forget(folder)
    if first is not None:
        # The worse of two counts: else a train.py that ends early when it is unlucky draws twice.
        both = first, (run, folder)
        (_, unused), (run, folder) = sorted(both, key=lambda each: _as_loss(each[0]))
        forget(unused)
    for odd in filter(None, (run.warning, run.mismatch, run.delay)):
        hears.tell("trouble", f"     WARNING: {odd}")
    instead_of = tuple(_in_a_line(each) for each in attempts if each is not run)
    return replace(run, instead_of=instead_of), folder


def forget(folder: Path) -> None:
    """Remove a run's checkpoint, and the mark that held on to it."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    with suppress(OSError):
        Paths.mark(folder).unlink()


def _deserves_another(run: RunRecord, was_joined: bool) -> bool:
    """Whether the machine, or what ran beside it, may be why it ended as it did."""
    has_own_time = run.training.passed_seconds is not None  # which nobody else's work takes from it
    return (
        (bool(run.warning) and not has_own_time)
        or run.kind == Kind.LATE
        or (was_joined and run.kind == Kind.MEMORY)
    )


def _as_loss(run: RunRecord) -> float:
    return math.inf if run.value is None else run.metric.sign * run.value


def _in_a_line(run: RunRecord) -> str:
    """One that doesn't count."""
    score = "" if run.value is None else f" {run.metric.exact(run.value)}"
    return f"{run.status}{score}: {run.detail or run.warning}"
