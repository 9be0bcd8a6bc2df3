"""The scorer: a process of ours that holds the validation tokens and computes the score itself.

It asks a sandboxed model server for logits, and takes cross-entropy and bits per byte from one look at the
shared buffer, which a server could still write to. Then a second, fresh server is audited. Both are loaded,
warmed up and sealed before the first row is asked; the second one stands still while the first is scored. It
prints JSON lines: progress, then the result.

Reads one JSON request on stdin, starts both servers, and waits for another line before it goes on; see
`harness.worker.scoring`, which starts it while the training still runs.
"""

import json
import math
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.sandbox import limits
from harness.store.records import CRASH, INVALID, Audit, Failure, Kind, Score
from harness.tasks.lm import METRIC
from harness.tasks.lm.store import first_rows
from harness.worker import audit
from harness.worker.device import Device
from harness.worker.losses import FARTHEST, losses
from harness.worker.model_client import Refused, Server
from harness.worker.model_server import warm_up
from harness.worker.overtime import in_time, overtime_seconds

BATCH_TOKENS = 8192  # few, so that no single batch has time to learn in
GPU_BATCH_TOKENS = 262144  # more costs memory and saves nothing
LEAST_BATCHES = 8  # of a score: with fewer, one that learning took could pass for the usual one
LOGITS_SHARE = 20  # on a GPU, what part of its memory the logits of a batch may take: one in this many
PROGRESS_SECONDS = 0.25
SUSPECTED = 10  # times as many rows are audited where a score seems too good


def rows_of_batch(device: Device, seq_len: int, vocab_size: int) -> int:
    """Many on a large GPU: between two batches it waits for both processes."""
    if device.kind != "cuda":
        return max(1, BATCH_TOKENS // seq_len)
    tokens = device.memory_mb * 2**20 // LOGITS_SHARE // (4 * vocab_size)
    return max(1, min(GPU_BATCH_TOKENS, tokens) // seq_len)


@dataclass(frozen=True)
class Answers:
    """What a server answered to rows, and what that took."""

    nats: np.ndarray
    """Losses of all targets, (R, T) float64."""
    waited_seconds: float
    """For the model, in all."""
    first_seconds: float
    """The part of it for the first batch."""
    spent_seconds: tuple[float, ...]
    """Of each batch, see `WorkClock`."""


def filled(rows: np.ndarray, batch_rows: int, last: np.ndarray, least: int) -> np.ndarray:
    """Whole batches, another shape could mean other kernels: the (R, ...) `rows`, then the first of them once
    more, at `least` so many, and the few `last` ones."""
    batches = -(-(len(rows) + least + len(last)) // batch_rows)
    again = np.arange(batches * batch_rows - len(rows) - len(last)) % len(rows)
    return np.concatenate([rows, rows[again], last])


def answer(
    server: Server, tokens: np.ndarray, targets: np.ndarray, batch_rows: int, seconds: float, say: str
) -> Answers:
    """Ask for all rows, (R, T) of each, R in whole batches."""
    total, seq_len = tokens.shape
    result = np.empty((total, seq_len), np.float64)
    deadline = time.monotonic() + seconds
    waited = first = told = 0.0
    spent = []
    server.clock.stop()  # what it did until here is no answer
    clock = server.clock.now()
    server.ask(tokens[:batch_rows])
    for at in range(0, total, batch_rows):
        end = at + batch_rows
        began = time.monotonic()
        logits = server.logits(deadline)
        waited += time.monotonic() - began
        first = first or waited
        now = server.clock.now()
        spent.append(now - clock)
        clock = now
        following = tokens[end : end + batch_rows]
        if len(following) and not server.is_on_gpu:  # it works on the next ones while these are read
            server.ask(following)
        goal = torch.from_numpy(targets[at:end].astype(np.int64)).to(logits.device)
        found, near = losses(logits.view(-1, logits.shape[-1]), goal.view(-1))
        if len(following) and server.is_on_gpu:  # two processes on a GPU only get in each other's way
            server.ask(following)
        nats = found.numpy().reshape(batch_rows, seq_len)
        result[at:end] = nats
        if not np.isfinite(nats).all():
            raise Refused(INVALID, "the model gave logits with NaN or infinite loss", Kind.DIVERGED)
        if not near:
            raise Refused(
                INVALID,
                f"the model gave logits beyond {FARTHEST:g}: float32 can't tell probabilities apart there "
                "(-inf excludes a token)",
            )
        if began - told > PROGRESS_SECONDS:
            told = began
            emit({"progress": say, "done": end, "of": total})
    return Answers(result, waited, first, tuple(spent))


def score(request: dict[str, Any], wait: Callable[[], bool], tell: Callable[[Score], None]) -> None:
    """The whole evaluation of one checkpoint.

    Args:
        wait: returns when there is a checkpoint to score; False if there will be none.
        tell: takes the score, before the last server's end, which takes a moment on a GPU.

    Raises:
        Refused: crash or invalid, with its reason.
    """
    device = request["device"]["kind"]
    rows = np.load(request["rows"], mmap_mode="r")  # (R, T + 1) uint16
    byte_lengths = np.load(request["token_bytes"])
    inputs, targets = rows[:, :-1], rows[:, 1:]
    seq_len, vocab_size = inputs.shape[1], len(byte_lengths)
    most_rows = rows_of_batch(Device(**request["device"]), seq_len, vocab_size)
    batch_rows = min(-(-len(inputs) // LEAST_BATCHES), most_rows)
    shape = (batch_rows, seq_len, vocab_size)
    seed = request["audit_seed"]
    trained = first_rows(Path(request["train"]), seq_len)
    asked = (filled(inputs, batch_rows, trained[:, :-1], 1), filled(targets, batch_rows, trained[:, 1:], 1))
    counted = byte_lengths[targets]  # (R, T)
    text_bytes, counted = int(counted.sum(dtype=np.int64)), counted > 0
    servers = first, second = Server(request, shape), Server(request, shape)
    early = Device(**request["device"]).has_room
    try:
        for server in servers if early else ():
            server.warm()  # neither has seen train.py yet
        if device == "cuda" and early:
            warm_up("cuda")
        planned = audit.plan(inputs, targets, vocab_size, request["audit_rows"], seed)  # while they start
        emit({"ready": True})
        if not wait():
            return
        started = time.monotonic()
        for server in servers if not early else ():
            server.warm()
        load_seconds = _seal(first, second, _noise(shape))
        scoring_started = time.monotonic()
        scored = answer(first, *asked, batch_rows, request["scoring_seconds"], "scoring")
        own_seconds = time.monotonic() - scoring_started - scored.waited_seconds
        usual = statistics.median_low(scored.spent_seconds)
        overtime = _overtime(first, scored, usual, request)
        row_nats, again, trained_nats = np.split(scored.nats, [len(inputs), len(scored.nats) - len(trained)])
        better = float((row_nats[np.arange(len(again)) % len(row_nats)] - again).mean())
        _refuse(audit.improved(better, device))
        refused_calls = first.refused_calls
        first.end(wait=not early)
        nats = float(np.sum(row_nats, where=counted, dtype=np.float64))
        value = nats / (math.log(2) * text_bytes)
        if not METRIC.is_score(value):
            raise Refused(CRASH, f"the model has diverged: {value:.3g} bits for a byte", Kind.DIVERGED)
        audit_started = time.monotonic()
        second.resume()
        beyond = request["suspect_beyond"]
        if beyond is not None and METRIC.is_better(value, beyond):
            planned = audit.plan(inputs, targets, vocab_size, SUSPECTED * request["audit_rows"], seed)
        found = _audit(second, planned, row_nats, targets, batch_rows, usual, request)
        if request["row_nats"]:
            np.save(request["row_nats"], np.sum(row_nats, axis=1, where=counted))
        tell(
            Score(
                value=value,
                tokens=int(targets.size),
                text_bytes=text_bytes,
                total_seconds=time.monotonic() - started,
                load_seconds=load_seconds,
                warm_seconds=first.warm_seconds,
                forward_seconds=scored.waited_seconds,
                first_seconds=scored.first_seconds,
                own_seconds=own_seconds,
                audit_seconds=time.monotonic() - audit_started,
                audit=found,
                overtime_seconds=overtime,
                better_nats=better,
                trained_nats=float(trained_nats.mean()) if len(trained) else None,
                is_sealed=first.is_sealed and second.is_sealed,
                refused_calls=refused_calls + second.refused_calls,
            )
        )
    finally:
        first.close()
        second.close()


def _noise(shape: tuple[int, int, int]) -> np.ndarray:
    """Random tokens, (B, T), of their own seed: a server sees them, and must not learn the audit's."""
    rows, seq_len, vocab_size = shape
    return np.random.default_rng(secrets.randbits(256)).integers(0, vocab_size, (rows, seq_len))


def _seal(first: Server, second: Server, noise: np.ndarray) -> float:
    """Load, warm up with the `noise`, (B, T), and seal both; the second one stands still in the end, so that
    they can't meet. Returns what the first one's load took, in seconds."""
    for server in (first, second):
        server.begin_load()
    for server in (first, second):
        server.take_seal()
    load_seconds = first.end_load()
    second.end_load()
    touched: set[tuple[int, int]] = set()
    for server in (first, second):
        server.begin_warm_up(noise)
    for server in (first, second):
        server.end_warm_up(touched)
    second.pause()
    return load_seconds


def _audit(
    server: Server, planned: audit.Plan, scored: np.ndarray, targets: np.ndarray, batch_rows: int,
    usual: float, request: dict[str, Any],
) -> Audit:  # fmt: skip
    """Ask the other server what was planned, and compare with the losses (R, T) that were `scored`."""
    before = scored[planned.rows]
    asked = audit.questions(planned, before)
    none, seconds = asked.tokens[:0], request["scoring_seconds"]
    rows, goal = (filled(of, batch_rows, none, 0) for of in (asked.tokens, targets[asked.rows]))
    answered = answer(server, rows, goal, batch_rows, seconds, "auditing")
    _overtime(server, answered, usual, request)
    found = audit.compare(asked, before, answered.nats[: len(asked.rows)])
    _refuse(audit.judge(found, request["device"]["kind"]))
    return found


def _overtime(server: Server, answered: Answers, usual: float, request: dict[str, Any]) -> float:
    """What it worked beyond answering, in seconds; `usual`: a scored batch's."""
    checkpoint, kind = Path(request["checkpoint"]), request["device"]["kind"]
    seconds = overtime_seconds(server.clock.worked_seconds, answered.spent_seconds, usual, kind)
    _refuse(in_time(seconds, request["budget_seconds"], checkpoint, kind))
    return seconds


def _refuse(failure: Failure | None) -> None:
    if failure is not None:
        raise Refused(failure.status, failure.detail, failure.kind)


def emit(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    limits.die_with_parent()
    request = json.loads(sys.stdin.readline())
    device = Device(**request["device"])
    if device.kind == "cpu":
        # One thread: the server works on the next batch meanwhile, with all the others.
        torch.set_num_threads(1)
    if device.kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    try:
        score(
            request, wait=lambda: bool(sys.stdin.readline()),
            tell=lambda found: emit({"score": asdict(found)}),
        )  # fmt: skip
    except Refused as refused:
        emit({"failure": asdict(refused.failure)})
    except torch.OutOfMemoryError:
        emit(
            {
                "failure": asdict(
                    Failure(CRASH, "the model left no GPU memory to compute its score in", Kind.MEMORY)
                )
            }
        )


if __name__ == "__main__":
    main()
