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
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.sandbox import holdings, limits
from harness.store.records import CRASH, ERROR, Audit, Failure, Kind, Score
from harness.tasks.contract import Exam, Ungraded
from harness.tasks.items.game import GameExam
from harness.tasks.registry import exam_for
from harness.worker import playing, tolerance
from harness.worker.answers import Answers
from harness.worker.boot import uncollected
from harness.worker.device import Device
from harness.worker.model_client import Server, still_there
from harness.worker.model_server import warm_up
from harness.worker.overtime import answered_in_time, in_time, overtime_seconds

LEAST_BATCHES = 8  # of a score: with fewer, one that learning took could pass for the usual one
REPLIES_SHARE = 20  # on a GPU, what part of its memory the replies of a batch may take: one in this many
PROGRESS_SECONDS = 0.25
MESSAGES = sys.stdout
SUSPECTED = 10  # times as many rows are audited where a score seems too good


def items_of_batch(exam: Exam, device: Device) -> int:
    """As many as the exam takes at once, if there is memory for the replies; never all in a few."""
    most = exam.most_at_once(device.kind == "cuda")
    if device.kind == "cuda":
        most = min(most, device.memory_mb * 2**20 // REPLIES_SHARE // (4 * math.prod(exam.reply_shape)))
    return max(1, min(-(-len(exam.inputs) // LEAST_BATCHES), most))


def filled(items: np.ndarray, batch: int, last: np.ndarray, least: int) -> np.ndarray:
    """Whole batches, another shape could mean other kernels: the (N, ...) `items`, then the first of them
    once more, at `least` so many, and the few `last` ones."""
    batches = -(-(len(items) + least + len(last)) // batch)
    again = np.arange(batches * batch - len(items) - len(last)) % len(items)
    return np.concatenate([items, items[again], last])


def answer(
    server: Server, exam: Exam, inputs: np.ndarray, targets: np.ndarray, batch: int, seconds: float, say: str
) -> Answers:
    """Ask for all items, (N, ...) of each, N in whole batches.

    Raises:
        Ungraded: no loss can be taken of a reply.
    """
    total = len(inputs)
    result: np.ndarray | None = None
    figures = np.empty((total, len(exam.figures)))
    deadline = time.monotonic() + seconds
    waited = first = told = 0.0
    spent = []
    server.clock.stop()  # what it did until here is no answer
    clock = server.clock.now()
    server.ask(inputs[:batch])
    for at in range(0, total, batch):
        end = at + batch
        began = time.monotonic()
        replies = server.replies(deadline)
        waited += time.monotonic() - began
        first = first or waited
        now = server.clock.now()
        spent.append(now - clock)
        clock = now
        following = inputs[end : end + batch]
        if len(following) and not server.is_on_gpu:  # it works on the next ones while these are read
            server.ask(following)
        losses, figures[at:end] = exam.grade(replies, targets[at:end])
        if len(following) and server.is_on_gpu:  # two processes on a GPU only get in each other's way
            server.ask(following)
        if result is None:
            result = np.empty((total, *losses.shape[1:]), np.float64)
        result[at:end] = losses
        if began - told > PROGRESS_SECONDS:
            told = began
            emit({"progress": say, "done": end, "of": total})
    assert result is not None
    return Answers(result, figures, waited, first, tuple(spent))


def score(request: dict[str, Any], wait: Callable[[], bool], tell: Callable[[Score], None]) -> None:
    """The whole evaluation of one checkpoint.

    Args:
        wait: returns when there is a checkpoint to score; False if there will be none.
        tell: takes the score, before the last server's end, which takes a moment on a GPU.

    Raises:
        Ungraded: there is no score; `failure` says why.
    """
    device, exam, seed = request["device"]["kind"], exam_for(request), request["audit_seed"]
    batch = items_of_batch(exam, Device(**request["device"]))
    servers = first, second = Server(request, exam, batch), Server(request, exam, batch)
    early = Device(**request["device"]).has_room
    try:
        for server in servers if early else ():
            server.warm()  # neither has seen train.py yet
        if device == "cuda" and early:
            warm_up("cuda")
        planned = exam.plan(request["audit_rows"], seed)  # while they start
        touched = holdings.Touched()
        if early:
            holdings.touch([os.getpid()], touched)  # what both servers will hold, too
        for server in servers if early else ():
            server.touch(touched)
        emit({"ready": True})
        if not wait():
            return
        started = time.monotonic()
        for server in servers if not early else ():
            server.warm()
        load_seconds = _seal(first, second, exam.noise(batch), touched)
        scoring_started = time.monotonic()
        scored, better, trained = _scored(first, exam, batch, request["scoring_seconds"])
        losses = scored.losses
        own_seconds = time.monotonic() - scoring_started - scored.waited_seconds
        usual = statistics.median_low(scored.spent_seconds)
        overtime = _overtime(first, scored, usual, request)
        _refuse(tolerance.improved(better / exam.unit(losses), device))
        refused_calls = first.refused_calls
        first.end(wait=not early)
        value = exam.value(losses)
        audit_started = time.monotonic()
        second.resume()
        beyond = request["suspect_beyond"]
        if beyond is not None and exam.metric.is_better(value, beyond):
            planned = exam.plan(SUSPECTED * request["audit_rows"], seed)
        found = _audit(second, exam, planned, losses, batch, usual, request)
        if request["row_nats"] and not isinstance(exam, GameExam):
            np.save(request["row_nats"], exam.sums(losses))
        tell(
            Score(
                value=value,
                **exam.sizes(),
                standard_error=_standard_error(exam, losses),
                figures=dict(zip(exam.figures, scored.figures.mean(axis=0).tolist(), strict=True)),
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
                trained_nats=trained,
                is_sealed=first.is_sealed and second.is_sealed,
                refused_calls=refused_calls + second.refused_calls,
            )
        )
    finally:
        first.close()
        second.close()


def _scored(server: Server, exam: Exam, batch: int, seconds: float) -> tuple[Answers, float, float | None]:
    """Answers to all items; by how much those to the first ones were better in the end; and the mean loss of
    items that were trained on, if there are any."""
    if isinstance(exam, GameExam):
        asked = lambda count: emit({"progress": "scoring", "done": count, "of": 0})  # noqa: E731
        return playing.play(server, exam, batch, seconds, asked), 0.0, None
    every = zip((exam.inputs, exam.targets), exam.trained, strict=True)
    inputs, targets = (filled(of, batch, last, 1) for of, last in every)
    found, known = answer(server, exam, inputs, targets, batch, seconds, "scoring"), len(exam.trained[0])
    losses, again, trained = np.split(found.losses, [len(exam.inputs), len(found.losses) - known])
    better = float((losses[np.arange(len(again)) % len(losses)] - again).mean())
    found = replace(found, losses=losses, figures=found.figures[: len(losses)])
    return found, better, float(trained.mean()) if known else None


def _standard_error(exam: Exam, losses: np.ndarray) -> float:
    """Of the value, by which items were drawn."""
    every = exam.in_value(exam.sums(losses), np.arange(len(losses)))
    return float(every.std() / math.sqrt(len(every)))


def _seal(first: Server, second: Server, noise: np.ndarray, touched: holdings.Touched) -> float:
    """Load, warm up with the `noise`, (B, ...), and seal both; the second one stands still in the end, so
    that they can't meet. `touched` was before. Returns what the first one's load took, in seconds."""
    for server in (first, second):
        server.begin_load()
    for server in (first, second):
        server.take_seal()
    load_seconds = first.end_load()
    second.end_load()
    touched = still_there(touched)
    for server in (first, second):
        server.begin_warm_up(noise)
    for server in (first, second):
        server.end_warm_up(touched)
    second.pause()
    return load_seconds


def _audit(
    server: Server, exam: Exam, planned: Any, losses: np.ndarray, batch: int, usual: float,
    request: dict[str, Any],
) -> Audit:  # fmt: skip
    """Ask the other server what was planned, and compare with the `losses`, (N, ...), of what was scored."""
    asked = exam.again(planned, losses, batch)
    inputs, targets = (filled(of, batch, of[:0], 0) for of in (asked.inputs, asked.targets))
    answered = answer(server, exam, inputs, targets, batch, request["scoring_seconds"], "auditing")
    found = exam.compare(asked, losses, answered.losses[: len(asked.inputs)])
    _refuse(tolerance.judge(found, request["device"]["kind"], exam.must_not_see))
    _overtime(server, answered, usual, request)  # last: what is late is run again, which is another draw
    return found


def _overtime(server: Server, answered: Answers, usual: float, request: dict[str, Any]) -> float:
    """What it worked beyond answering, in seconds; `usual`: a scored batch's."""
    checkpoint, kind = Path(request["checkpoint"]), request["device"]["kind"]
    seconds = overtime_seconds(server.clock.worked_seconds, answered.spent_seconds, usual, kind)
    _refuse(in_time(seconds, request["budget_seconds"], checkpoint, kind))
    _refuse(answered_in_time(sum(answered.spent_seconds), request["budget_seconds"]))
    return seconds


def _refuse(failure: Failure | None) -> None:
    if failure is not None:
        raise Ungraded(failure)


def emit(message: dict[str, Any]) -> None:
    MESSAGES.write(json.dumps(message) + "\n")
    MESSAGES.flush()


def main() -> None:
    limits.die_with_parent()
    sys.stdout = sys.stderr  # what a person's task prints is no message
    request = json.loads(sys.stdin.readline())
    if request["library"] == "torch":
        with uncollected():
            import torch

        if request["device"]["kind"] == "cpu":
            torch.set_num_threads(1)  # the server works on the next batch meanwhile, with all the others
        torch.backends.cuda.matmul.allow_tf32 = False
    try:
        score(
            request, wait=lambda: bool(sys.stdin.readline()),
            tell=lambda found: emit({"score": asdict(found)}),
        )  # fmt: skip
    except Ungraded as refused:
        emit({"failure": asdict(refused.failure)})
    except HarnessError as failed:
        emit({"failure": asdict(Failure(ERROR, str(failed)))})
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        why = "the model left no GPU memory to compute its score in"
        emit({"failure": asdict(Failure(CRASH, why, Kind.MEMORY))})


if __name__ == "__main__":
    main()
    os._exit(0)  # all is said and closed, and torch takes half a second to leave
