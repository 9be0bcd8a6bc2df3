"""One trial from end to end: hold the device, train, score, put it into a record.

The run folder keeps the exported train.py, the log and the record. Whoever asked for the trial takes
the checkpoint or has it removed, because a night of them fills a disk.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.corpus.prepare import open_prepared
from harness.corpus.store import Corpus
from harness.paths import write_atomically
from harness.records import ERROR, OK, Failure, Holdout, Score, Setting, Training, Trial
from harness.trial import score
from harness.trial.device import Device, exclusive, resolve
from harness.trial.sandbox import Isolation, choose
from harness.trial.supervisor import Observer, Progress, Supervisor


@dataclass(frozen=True)
class Bench:
    """What all trials of one setting share."""

    config: Config
    corpus: Corpus
    device: Device
    isolation: Isolation

    @property
    def setting(self) -> Setting:
        """What every trial here carries, known before the first one."""
        return Setting(
            self.device.name, self.corpus.id, score.fingerprint(self.config),
            self.config.trial.budget_seconds,
        )  # fmt: skip

    def spec(self, seed: int) -> dict[str, Any]:
        """What a training is told of itself, the attributes of `trial.open()`."""
        return {
            "seed": seed,
            "device": self.device.kind,
            "budget_seconds": self.config.trial.budget_seconds,
            "vocab_size": self.corpus.vocab_size,
            "seq_len": self.corpus.seq_len,
            "bos": self.corpus.bos,
        }


def open_bench(config: Config, repository: Path) -> Bench:
    """Data, device and sandbox for a config; `repository` is hidden from what runs.

    Raises:
        HarnessError: the data is not there, or the device or the sandbox that is asked for.
    """
    hide = [repository]
    if (source := Path(config.data.source).expanduser()).exists():
        hide.append(source if source.is_dir() else source.parent)
    return Bench(
        config,
        open_prepared(config.data),
        resolve(config.trial.device),
        choose(config.trial.sandbox, tuple(hide)),
    )


def measure(
    source: bytes,
    commit: str,
    seed: int,
    bench: Bench,
    folder: Path,
    observe: Observer,
    on_wait: Callable[[str], None],
    keep_checkpoint: bool = False,
) -> Trial:
    """Train and score one train.py.

    Args:
        source: the commit's blob, not a working copy.
        folder: made for this trial; must not exist.
        observe: told of progress a few times a second.
        on_wait: told once if another trial holds the device.
        keep_checkpoint: leave what was scored in `folder / "checkpoint"`.

    Raises:
        KeyboardInterrupt: everything that was started is dead by then.
    """
    folder.mkdir(parents=True)
    script, checkpoint, log = folder / "train.py", folder / "checkpoint", folder / "log.txt"
    script.write_bytes(source)
    config = bench.config
    with _whole_or_gone(folder), exclusive(bench.device, on_wait):
        started = time.monotonic()
        scored: Score | None = None
        try:
            supervisor = Supervisor(
                script, checkpoint, bench.spec(seed), bench.corpus.train_file, config.trial,
                bench.isolation, observe,
            )  # fmt: skip
            training = supervisor.train()
        except OSError as failed:
            training = Training(ERROR, f"the machine failed: {failed}")
        log.write_text(training.log, encoding="utf-8")
        status, detail = training.status, training.detail
        if status == OK:
            result = _score(folder, "val", bench, observe)
            if isinstance(result, Failure):
                status, detail = result.status, result.detail
            else:
                scored = result
        if not keep_checkpoint or scored is None:
            shutil.rmtree(checkpoint, ignore_errors=True)
        trial = Trial(
            commit=commit, seed=seed, status=status, detail=detail,
            val_bpb=scored.val_bpb if scored else None, training=training, score=scored,
            total_seconds=time.monotonic() - started, device=bench.device.name,
            peak_flops=bench.device.peak_flops, data=bench.corpus.id,
            evaluator=score.fingerprint(config), isolation=bench.isolation.kind,
            budget_seconds=config.trial.budget_seconds,
        )  # fmt: skip
    write_atomically(folder / "trial.json", json.dumps(trial.to_json()).encode())
    return trial


def measure_holdout(
    folder: Path, val_bpb: float, bench: Bench, observe: Observer, on_wait: Callable[[str], None]
) -> Holdout | None:
    """Score a checkpoint that was kept on the tokens that no decision uses; None if that gives no score.

    Args:
        folder: of the trial.
        val_bpb: of the same checkpoint.
    """
    with exclusive(bench.device, on_wait):
        result = _score(folder, "holdout", bench, observe)
    return None if isinstance(result, Failure) else Holdout(val_bpb, result.val_bpb, bench.setting)


def _score(folder: Path, split: str, bench: Bench, observe: Observer) -> Score | Failure:
    began = time.monotonic()

    def told(phase: str, done: int, of: int) -> None:
        observe(Progress(phase, time.monotonic() - began, 0.0, step=done, tokens=of))

    told("scoring", 0, 0)
    return score.score(
        folder / "train.py", folder / "checkpoint", bench.corpus, split, bench.config, bench.device,
        bench.isolation, folder / "server.txt", told,
    )  # fmt: skip


@contextmanager
def _whole_or_gone(folder: Path) -> Iterator[None]:
    """An interrupted trial leaves no folder: there is no record that it would belong to."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
