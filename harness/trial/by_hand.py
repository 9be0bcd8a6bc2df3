"""`python train.py` without a harness around it: the same data, budget and score, no protection.

For a person who debugs. The clock is this process's own and nothing is recorded; the score is taken
by the same scorer, and the run ends with the same summary.
"""

import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config

from harness import config as configs
from harness.errors import FAILED, INTERRUPTED, HarnessError
from harness.paths import Paths
from harness.store.records import OK, Failure, Reported, RunRecord, Training
from harness.trial.api import Run
from harness.worker import scoring
from harness.worker.device import exclusive
from harness.worker.run import Setup, open_setup

ECHO_SECONDS = 1.0

ALONE = contextlib.ExitStack()  # the device is this process's, to its end


class ByHand:
    """The host that a person's own run talks to."""

    def __init__(self, setup: Setup, seed: int, source: Path, folder: Path) -> None:
        self._setup, self._seed, self._source, self._folder = setup, seed, source, folder
        self._now = time.process_time if setup.device.is_processor else time.monotonic
        self._began, self._started_at = time.monotonic(), self._now()
        self._first_batch_at: float | None = None  # by the clock of the budget, as the next one
        self._ended_at: float | None = None
        self._echoed_at = 0.0
        self._interrupted = False
        atexit.register(self._leave)
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise SystemExit(INTERRUPTED)

    def _leave(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._interrupted:
            sys.stderr.write("interrupted\n")
        elif self._ended_at is None:
            sys.stderr.write("harness: it ended without a score: run.submit(model) was not called\n")

    def training_tokens(self) -> int:
        self._first_batch_at = self._now()
        return os.open(self._setup.task.data.train_file, os.O_RDONLY)

    def log(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._echoed_at >= ECHO_SECONDS:
            self._echoed_at = now
            spent = self._now() - (self._first_batch_at or 0.0)
            left = self._setup.config.trial.budget_seconds - spent
            line = f"step {message['step']:>6}  loss {message['loss']:.4f}  {max(0.0, left):.0f} s left\n"
            sys.stderr.write(line)

    def training_ended(self) -> None:
        self._ended_at = self._now()

    def submit(self, folder: Path, reported: dict[str, Any]) -> None:
        setup, first, ended = self._setup, self._first_batch_at, self._ended_at
        if first is None or ended is None:
            raise RuntimeError("submitted without training: no batch was asked for")
        _say("scoring ...")
        scored = scoring.score(
            self._source, folder, setup.task, "val", setup.config, setup.device, setup.isolation,
            self._folder / "server.txt", lambda *_: None,
        )  # fmt: skip
        training = Training(
            OK, "", first - self._started_at, ended - first, 0.0, reported=Reported(**reported)
        )
        failure = scored if isinstance(scored, Failure) else None
        trial = RunRecord(
            commit="", seed=self._seed, status=failure.status if failure else OK,
            detail=failure.detail if failure else "",
            value=None if isinstance(scored, Failure) else scored.value, training=training,
            score=None if isinstance(scored, Failure) else scored,
            total_seconds=time.monotonic() - self._began, device=setup.device.name,
            peak_flops=setup.device.peak_flops, data=setup.task.data.id,
            evaluator=setup.setting.evaluator, runtime=setup.setting.runtime, isolation="by hand",
            budget_seconds=setup.config.trial.budget_seconds, metric=setup.setting.metric,
        )  # fmt: skip
        if failure:
            raise SystemExit(f"{failure.status}: {failure.detail}")
        sys.stdout.write(trial.block() + "\n")


def open_run() -> Run:
    """The run of the train.py that is being executed, from the config of its repository."""
    source = Path(sys.argv[0]).absolute()
    torch._functorch.config.enable_autograd_cache = False  # see compile_cache.FRESH_BACKWARD
    with _plainly():
        seed = _seed(os.environ.get("SEED", "1"))
        config = configs.load(Paths(source.parent).config)
        setup = open_setup(config, source.parent)
        with contextlib.suppress(OSError):  # where there is no such file to be had: in an agent's sandbox
            ALONE.enter_context(exclusive(setup.device, _say))
    if setup.device.is_processor:
        torch.set_num_threads(1)  # as in a run
    folder = Path(tempfile.mkdtemp(prefix="harness-byhand-"))
    return Run(ByHand(setup, seed, source, folder), setup.spec(seed), folder / "checkpoint")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise HarnessError(f"SEED is {text!r}, no number", "SEED=1") from None


@contextlib.contextmanager
def _plainly() -> Any:
    """Expected failures end a person's run with one line, as on the command line."""
    try:
        yield
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(INTERRUPTED) from None
