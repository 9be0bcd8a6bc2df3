"""One run from end to end: hold the device, train, score, put it into a record.

The scorer and, on a GPU, the process of the next run are started while this one trains, so that imports
cost no GPU time; a processor's clock leaves them out. So is the next run, where there is room.

The run folder keeps the exported train.py, the log and the record. Whoever asked for the run takes
the checkpoint or has it removed, because many of them fill a disk.
"""

import contextlib
import dataclasses
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.paths import Paths, write_atomically
from harness.sandbox.isolation import Isolation, choose
from harness.store.decisions import Holdout, Opinion
from harness.store.note import write_run
from harness.store.records import ERROR, INVALID, OK, Failure, Kind, RunRecord, Score, Setting, Training
from harness.tasks.registry import Opened, library_of, open_task
from harness.worker import scoring, unscored, versions
from harness.worker.device import Device, resolve, torch_version
from harness.worker.monitor import Monitor, contaminated
from harness.worker.progress import Observer, Progress
from harness.worker.supervisor import Supervisor
from harness.worker.worker import RunHandle, Worker

LOOK_SECONDS = 2.0
ROW_NATS = "row_nats.npy"  # beside the checkpoint: what each row of val cost


@dataclass(frozen=True)
class Setup:
    """What all runs of one setting share."""

    config: Config
    task: Opened
    device: Device
    isolation: Isolation
    compiled: Path | None = None
    """Where what was compiled is kept between runs."""

    @property
    def setting(self) -> Setting:
        """What every run here carries, known before the first one."""
        return Setting(
            self.device.name, self.task.data.id, versions.evaluator(self.task),
            self.config.trial.budget_seconds, versions.runtime(self.device), self.task.metric,
        )  # fmt: skip

    def spec(self, seed: int) -> dict[str, Any]:
        """What a training is told of itself, the attributes of `trial.open()`."""
        return {
            "seed": seed,
            "device": self.device.kind,
            "budget_seconds": self.config.trial.budget_seconds,
            "by_processor": self.device.is_processor,
            "gpu_memory_mb": int(1024 * self.config.trial.gpu_memory_gb),
            **self.task.spec,
        }


def open_setup(config: Config, repository: Path) -> Setup:
    """Data, device and sandbox for a config; `repository` is hidden from what runs.

    Raises:
        HarnessError: the data is not there, or the device or the sandbox that is asked for.
    """
    task = open_task(config, repository)
    device = _device(config, task.library)
    isolation = choose(config.trial.sandbox, (repository, *task.hidden))
    return Setup(
        config, task, device, isolation,
        _compiled(repository, device) if device.kind == "cuda" and isolation.kind == "bwrap" else None,
    )  # fmt: skip


def device_for(config: Config, repository: Path) -> Device:
    """What runs are on: a processor where the task is one for numpy.

    Raises:
        HarnessError: it isn't there, or a person's own task can't be read.
    """
    return _device(config, library_of(config, repository))


def _device(config: Config, library: str) -> Device:
    return resolve(config.trial.device if library == "torch" else "cpu", config.trial.gpu_memory_gb)


def _compiled(repository: Path, device: Device) -> Path:
    """The compile cache of a device's kind and the installed torch."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{device.name} {torch_version()}")
    folder = Paths(repository).compiled / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measure(
    source: bytes,
    commit: str,
    seed: int,
    setup: Setup,
    folder: Path,
    observe: Observer,
    on_wait: Callable[[str], None],
    keep_checkpoint: bool = False,
    worker: Worker | None = None,
    handle: RunHandle | None = None,
    suspect_beyond: float | None = None,
    trained: Training | None = None,
) -> RunRecord:
    """Train and score one train.py.

    Args:
        source: the commit's blob, not a working copy.
        folder: made for this run; must not exist, unless it `trained` there.
        observe: told of progress a few times a second.
        on_wait: told once if somebody else uses the device.
        keep_checkpoint: leave what was scored in `folder / "checkpoint"`.
        worker: where it runs, if runs follow each other there.
        handle: says when it may train, if another one is being scored there.
        suspect_beyond: what is better than that is not taken without a larger audit.
        trained: how an earlier one went, of which only the score is missing.

    Raises:
        KeyboardInterrupt, Cancelled: everything that was started is dead by then.
    """
    folder.mkdir(parents=True, exist_ok=trained is not None)
    script, checkpoint, log = folder / "train.py", folder / "checkpoint", folder / "log.txt"
    script.write_bytes(source)
    checkpoint.mkdir(exist_ok=trained is not None)
    place, handle = worker or Worker(), handle or RunHandle.alone()
    to_sit = setup.config.trial, setup.isolation, setup.device, setup.compiled
    with _whole_or_gone(folder), contextlib.ExitStack() as stack:
        if worker is None:
            stack.callback(place.close)
        waited = time.monotonic()
        waits = lambda: observe(Progress("waiting", time.monotonic() - waited, 0.0))  # noqa: E731
        stack.enter_context(place.hold(setup.device, on_wait, waits))
        if (trains := place.trains) is not None:  # read once: its own thread ends it
            trains.was_joined = True
        watch = Monitor(setup.device)
        _wait_until_alone(watch, setup.device, waits, on_wait)
        started = time.monotonic()
        scored: Score | None = None
        begun: list[scoring.Scoring] = []  # begun while it trains

        def begin() -> None:
            place.trains, handle.watch = handle, supervisor.watch
            if setup.device.kind != "cuda" and not setup.device.is_processor:
                return  # there it would be in the way
            if (
                setup.isolation.kind == "bwrap"
            ):  # else its servers get copies, of a checkpoint that isn't there
                begun.append(_begin_scoring(folder, "val", setup, suspect_beyond))
                stack.callback(begun[0].close)
            place.prepare(*to_sit)

        def may_train() -> bool:
            if not (handle.may_train.is_set() and place.take()):
                return False
            stack.callback(place.leave)
            return True

        def show(progress: Progress) -> None:
            observe(progress)
            if progress.phase == "waiting":  # another may go first, on a head that has just moved
                place.prepare(*to_sit)

        def of_training(training: Training) -> RunRecord:
            return RunRecord(
                commit=commit, seed=seed, status=training.status, detail=training.detail, kind=training.kind,
                value=None, training=training, score=None,
                total_seconds=time.monotonic() - started, waited_seconds=started - waited,
                device=setup.device.name, peak_flops=setup.device.peak_flops, data=setup.task.data.id,
                evaluator=setup.setting.evaluator, runtime=setup.setting.runtime,
                isolation=setup.isolation.kind, budget_seconds=setup.config.trial.budget_seconds,
                metric=setup.task.metric, host=platform.node(), gpu=setup.device.uuid,
            )  # fmt: skip

        idle = None
        try:
            if trained is not None:
                while not place.take(LOOK_SECONDS):
                    handle.check()
                stack.callback(place.leave)
                training = trained
            else:
                supervisor = Supervisor(
                    script, checkpoint, setup.spec(seed), setup.task.data.train_file, setup.config.trial,
                    place.prestarted(*to_sit), show, begin, may_train,
                    lambda: place.trains is not None,
                )  # fmt: skip
                try:
                    training = supervisor.train()
                finally:
                    if place.trains is handle:
                        place.trains = handle.watch = None
                    handle.was_joined = handle.was_joined or place.is_shared
                if place.trained_at is not None and supervisor.first_batch_at is not None:
                    idle = supervisor.first_batch_at - place.trained_at
                if supervisor.first_batch_at is not None:
                    place.trained_at = supervisor.ended_at
        except OSError as failed:
            training = Training(ERROR, f"the machine failed: {failed}")
        log.write_text(training.log, encoding="utf-8")
        status, detail, kind = training.status, training.detail, training.kind
        if why := contaminated(training.conditions, setup.config.trial.desktop_percent):
            status, detail, kind = ERROR, why, Kind.CONTAMINATED
        if status == OK:
            unscored.keep(folder, of_training(training))
            if not training.is_short(setup.config.trial.budget_seconds):  # that one is trained once more
                handle.has_trained()
            if not begun:
                begun.append(_begin_scoring(folder, "val", setup, suspect_beyond))
                stack.callback(begun[0].close)
            result = _scored(begun[0], folder, "val", setup, place, observe, suspect_beyond)
            if isinstance(result, Failure):
                status, detail, kind = result.status, result.detail, result.kind
            else:
                scored = result
        if status != OK and (why := watch.lost()):
            status, detail, kind = ERROR, why, Kind.LOST
        if not keep_checkpoint or scored is None:
            shutil.rmtree(checkpoint, ignore_errors=True)
        run = dataclasses.replace(
            of_training(training), status=status, detail=detail, kind=kind,
            value=scored.value if scored else None, score=scored, idle_seconds=idle,
        )  # fmt: skip
    write_atomically(folder / "trial.json", write_run(run))
    unscored.drop(folder)
    return run


def _wait_until_alone(
    watch: Monitor, device: Device, waits: Callable[[], None], on_wait: Callable[[str], None]
) -> None:
    """Until nobody else is at work on the device."""
    told = False
    while who := watch.foreign():
        if not told:
            told = True
            on_wait(f"{device.name} is in use by {who}; waiting for it")
        waits()
        time.sleep(LOOK_SECONDS)


def measure_holdout(
    folder: Path, value: float, setup: Setup, observe: Observer, on_wait: Callable[[str], None],
    worker: Worker, handle: RunHandle,
) -> Holdout | Failure:  # fmt: skip
    """Score a checkpoint that was kept on the tokens that no decision uses.

    Its processes start at once; while a run has the device, they wait.

    Args:
        folder: of the run.
        value: of the same checkpoint on val.
        handle: by which it may be cancelled.
    """
    with worker.hold(setup.device, on_wait, handle.check), contextlib.ExitStack() as stack:
        begun = stack.enter_context(contextlib.closing(_begin_scoring(folder, "holdout", setup)))
        deadline = time.monotonic() + scoring.START_SECONDS
        while not begun.is_ready(LOOK_SECONDS) and time.monotonic() < deadline:
            handle.check()
        while not worker.take(LOOK_SECONDS):
            handle.check()
        stack.callback(worker.leave)
        result = _scored(begun, folder, "holdout", setup, worker, observe)
    if isinstance(result, Failure):
        return result
    return Holdout(value, result.value, setup.setting)


def second_opinion(
    folder: Path, setup: Setup, on_wait: Callable[[str], None], worker: Worker
) -> Opinion | Failure | None:
    """Of a checkpoint that was kept, with the device to itself; None where too little was kept for it."""
    if not (folder / ROW_NATS).exists():
        return None
    from harness.worker.second_opinion import ask  # it takes torch along, which whoever only looks needs not

    request = scoring.request_for(
        folder / "train.py", folder / "checkpoint", setup.task, "val", setup.config, setup.device,
        setup.isolation, folder / "server.txt", setup.compiled,
    )  # fmt: skip
    with worker.hold(setup.device, on_wait), contextlib.ExitStack() as stack:
        while not worker.take(LOOK_SECONDS):
            pass
        stack.callback(worker.leave)
        return ask(request, folder / ROW_NATS)


def _begin_scoring(
    folder: Path, split: str, setup: Setup, suspect_beyond: float | None = None
) -> scoring.Scoring:
    return scoring.Scoring(
        folder / "train.py", folder / "checkpoint", setup.task, split, setup.config, setup.device,
        setup.isolation, folder / "server.txt", setup.compiled, suspect_beyond,
        folder / ROW_NATS if split == "val" else None,
    )  # fmt: skip


def _scored(
    begun: scoring.Scoring, folder: Path, split: str, setup: Setup, place: Worker, observe: Observer,
    suspect_beyond: float | None = None,
) -> Score | Failure:  # fmt: skip
    result = _result(begun, observe)
    # The scorer died; or it may be for want of what another one took. Not a failed audit: another draw.
    died = isinstance(result, Failure) and result.status == ERROR and result.kind == Kind.OTHER
    if died or (isinstance(result, Failure) and result.status != INVALID and place.is_shared):
        with contextlib.closing(_begin_scoring(folder, split, setup, suspect_beyond)) as once_more:
            return _result(once_more, observe)
    return result


def _result(begun: scoring.Scoring, observe: Observer) -> Score | Failure:
    began = time.monotonic()

    def told(phase: str, done: int, of: int) -> None:
        observe(Progress(phase, time.monotonic() - began, 0.0, step=done, tokens=of))

    told("scoring", 0, 0)
    return begun.result(told)


@contextmanager
def _whole_or_gone(folder: Path) -> Iterator[None]:
    """An interrupted run leaves no folder: there is no record that it would belong to. Unless it trained."""
    try:
        yield
    except BaseException:
        if not unscored.is_in(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
