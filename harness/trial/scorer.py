"""The scorer: a process of ours that holds the validation tokens and computes the score itself.

It asks a sandboxed model server for logits, and takes cross-entropy and bits per byte from one look at the
shared buffer, which a server could still write to. Then a second, fresh server is audited. Both are loaded,
warmed up and sealed before the first row is asked; the second one stands still while the first is scored. It
prints JSON lines: progress, then the result.

Reads one JSON request on stdin, starts both servers, and waits for another line before it goes on; see
`harness.trial.score`, which starts it while the training still runs.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.records import CRASH, INVALID, Failure, Score, is_score
from harness.trial import audit, limits
from harness.trial.buffers import CudaBuffer, SharedArray
from harness.trial.device import Device
from harness.trial.losses import FARTHEST, losses
from harness.trial.sandbox import Isolation, Process
from harness.trial.seal import Seal
from harness.trial.server import warm_up
from harness.trial.text import Tail, one_line
from harness.trial.wire import ProtocolError, close_all, pair

BATCH_TOKENS = 16384
GPU_BATCH_TOKENS = 262144  # more costs memory and saves nothing
LOGITS_SHARE = 20  # on a GPU, what part of its memory the logits of a batch may take: one in this many
START_SECONDS = 120.0
LAST_WORDS = 8  # messages that are read from a server that can't be talked to
PROGRESS_SECONDS = 0.25


class Refused(Exception):
    """There is no score; `failure` says why."""

    def __init__(self, status: str, detail: str) -> None:
        self.failure = Failure(status, detail)


class Server:
    """A sandboxed model server, from our side."""

    def __init__(self, request: dict[str, Any], shape: tuple[int, int, int]) -> None:
        self._request, self._shape = request, shape
        self._device = Device(**request["device"])
        self._channel, theirs = pair()
        self._logits: CudaBuffer | SharedArray | None = None
        self._tokens: SharedArray | None = None
        self._seal: Seal | None = None
        self._tail = Tail()
        reading, writing = os.pipe()  # of its own: a shared log would be a way to talk to the next one
        self._drain = threading.Thread(target=self._read_log, args=(reading,), daemon=True)
        isolation = Isolation(request["isolation"], "", tuple(map(Path, request["hide"])))
        self._process = Process(
            isolation,
            "harness.trial.server",
            files={
                "train.py": Path(request["source"]),
                "checkpoint": Path(request["checkpoint"]),
            },
            descriptors={"HARNESS_SOCKET": theirs.fileno()},
            limits=self._device.limits(request["memory_gb"]),
            variables=self._device.variables | ({"HARNESS_PRELOAD": "1"} if self.is_on_gpu else {}),
            disk_mb=request["disk_mb"],
            output=writing,
            gpu=self._device.node,
        )
        os.close(writing)
        theirs.close()
        self._drain.start()

    @property
    def is_on_gpu(self) -> bool:
        return self._device.kind == "cuda"

    def warm(self) -> None:
        """Have it make its GPU context, without waiting for that."""
        if self.is_on_gpu:
            self._say({"device": "cuda"})

    def load(self) -> float:
        """Hand over the buffers, have `load` called; returns its seconds."""
        self.begin_load()
        return self.end_load()

    def begin_load(self) -> None:
        """The first half of it: something else can be done meanwhile."""
        self._hear(START_SECONDS, "ready", f"start within {START_SECONDS:g} s")
        rows, seq_len, _ = self._shape
        self._tokens = SharedArray.create((rows, seq_len), "int64")
        descriptors = [self._tokens.descriptor]
        handle = ""
        if self.is_on_gpu:
            self._logits = CudaBuffer(self._shape)
            goal = torch.zeros(rows * seq_len, dtype=torch.int64, device="cuda")
            losses(self._logits.tensor.view(len(goal), -1), goal)  # takes its memory before the model can
            handle = self._logits.handle()
        else:
            self._logits = SharedArray.create(self._shape, "float32")
            descriptors.append(self._logits.descriptor)
        order = {
            "device": self._device.kind, "shape": self._shape, "handle": handle, "checkpoint": "checkpoint",
        }  # fmt: skip
        self._load_began = time.monotonic()
        self._say(order, descriptors)
        self._take_seal()

    def _take_seal(self) -> None:
        """What answers its calls to the kernel from here on; it sends that before train.py is imported."""
        try:
            packet = self._channel.receive(START_SECONDS)
        except (TimeoutError, ProtocolError):
            packet = None
        if packet is None or "sealed" not in packet[0]:
            raise Refused(CRASH, "the model server died: it did not start")
        if packet[1]:
            self._seal = Seal(packet[1][0])

    def warm_up(self, tokens: np.ndarray) -> None:
        """Have it answer rows that don't count: what it needs for the first time it may still fetch. Then it
        is sealed, and gives back the memory that it keeps for more."""
        self.ask(tokens, rest=True)
        self.logits(time.monotonic() + self._request["scoring_seconds"])
        if self._seal is not None:
            self._seal.limit(0)

    def pause(self) -> None:
        """Freeze it: it sees nothing of what happens meanwhile."""
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.signal(signal.SIGCONT)

    def end_load(self) -> float:
        """Waits for it; returns its seconds."""
        within = f"load the checkpoint within load_seconds ({self._request['load_seconds']:g} s)"
        left = self._load_began + self._request["load_seconds"] - time.monotonic()
        self._hear(max(0.0, left), "loaded", within)
        return time.monotonic() - self._load_began

    def ask(self, tokens: np.ndarray, rest: bool = False) -> None:
        """Have it work on (B, T) token ids; it may not write yet. `rest`: another server's turn is next."""
        assert self._tokens is not None
        self._tokens.array[:] = tokens
        self._say({"forward": True, "rest": rest})

    def logits(self, deadline: float) -> torch.Tensor:
        """The (B, T, V) buffer, with the answer in it; for the caller until the next call."""
        assert self._logits is not None
        self._say({"write": True})
        spent = f"answer all rows within scoring_seconds ({self._request['scoring_seconds']:g} s)"
        self._hear(max(0.0, deadline - time.monotonic()), "done", spent)
        if isinstance(self._logits, CudaBuffer):
            return self._logits.tensor
        return torch.from_numpy(self._logits.array)

    def _read_log(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as log:
            while data := log.read(65536):
                self._tail.feed(data)

    def _say(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        if not self._channel.offer(message, descriptors):
            for _ in range(LAST_WORDS):  # what it said last may be why
                self._hear(0.0, None, "listen")
            raise Refused(INVALID, "the model server spoke out of turn")

    def _hear(self, timeout_seconds: float, wanted: str | None, what: str) -> None:
        try:
            packet = self._channel.receive(timeout_seconds)
        except TimeoutError:
            raise Refused(CRASH, f"the model server did not {what}") from None
        except ProtocolError as error:
            raise Refused(INVALID, f"the model server sent {error}") from None
        if packet is None:
            raise Refused(CRASH, f"the model server died: it did not {what}")
        close_all(packet[1])  # nobody asked for any
        if "error" in packet[0]:
            raise Refused(CRASH, f"the model server failed: {one_line(packet[0]['error'])}")
        if wanted is not None and wanted not in packet[0]:
            raise Refused(INVALID, "the model server spoke out of turn")

    def close(self) -> None:
        """Kill the server and free the buffers; a second call does nothing."""
        self._process.kill()
        if self._seal is not None:
            self._seal.close()
            self._seal = None
        self._channel.close()
        if self._drain.is_alive() or self._tail.text():
            self._drain.join(timeout=5)
            with Path(self._request["log"]).open("a", encoding="utf-8") as file:
                file.write(self._tail.text())
            self._tail = Tail()
        for buffer in (self._tokens, self._logits):
            if buffer is not None:
                buffer.close()
        self._tokens = self._logits = None


def rows_of_batch(device: Device, seq_len: int, vocab_size: int) -> int:
    """Many on a large GPU: between two batches it waits for both processes."""
    if device.kind != "cuda":
        return max(1, BATCH_TOKENS // seq_len)
    tokens = device.memory_mb * 2**20 // LOGITS_SHARE // (4 * vocab_size)
    return max(1, min(GPU_BATCH_TOKENS, tokens) // seq_len)


def answer(
    server: Server,
    tokens: np.ndarray,
    targets: np.ndarray,
    batch_rows: int,
    seconds: float,
    say: str,
) -> tuple[np.ndarray, float, float]:
    """Losses of all targets, (R, T) float64, and the seconds spent waiting for the model, in all and for
    its first batch.

    Every batch has `batch_rows` rows, the last one filled up with rows that don't count: another
    shape could mean other kernels, and the audit asks for the same ones.
    """
    total, seq_len = tokens.shape
    result = np.empty((total, seq_len), np.float64)
    deadline = time.monotonic() + seconds
    waited = first = 0.0
    told = 0.0
    device = "cpu"
    server.ask(tokens[np.arange(batch_rows) % total])
    for at in range(0, total, batch_rows):
        picked = np.arange(at, at + batch_rows) % total
        began = time.monotonic()
        logits = server.logits(deadline)
        waited += time.monotonic() - began
        first = first or waited
        if at + batch_rows < total:  # it works on the next ones while these are read
            server.ask(tokens[(picked + batch_rows) % total])
        device = logits.device.type
        goal = torch.from_numpy(targets[picked].astype(np.int64)).to(device)
        found, near = losses(logits.view(-1, logits.shape[-1]), goal.view(-1))
        nats = found.numpy()
        count = min(batch_rows, total - at)
        result[at : at + count] = nats.reshape(batch_rows, seq_len)[:count]
        if not np.isfinite(result[at : at + count]).all():
            raise Refused(INVALID, "the model gave logits with NaN or infinite loss")
        if not near:
            raise Refused(
                INVALID,
                f"the model gave logits beyond {FARTHEST:g}: float32 can't tell probabilities apart there "
                "(-inf excludes a token)",
            )
        if began - told > PROGRESS_SECONDS:
            told = began
            emit({"progress": say, "done": at + count, "of": total})
    return result, waited, first


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
    batch_rows = min(len(inputs), rows_of_batch(Device(**request["device"]), seq_len, vocab_size))
    shape = (batch_rows, seq_len, vocab_size)
    rarity = audit.rarity(targets, vocab_size)
    counted = byte_lengths[targets]  # (R, T)
    text_bytes, counted = int(counted.sum(dtype=np.int64)), counted > 0
    servers = first, second = Server(request, shape), Server(request, shape)
    early = Device(**request["device"]).has_room
    try:
        for server in servers if early else ():
            server.warm()  # neither has seen train.py yet
        if device == "cuda" and early:
            warm_up("cuda")
        emit({"ready": True})
        if not wait():
            return
        started = time.monotonic()
        for server in servers if not early else ():
            server.warm()
        for server in servers:
            server.begin_load()
        load_seconds = first.end_load()
        second.end_load()
        noise = np.random.default_rng(request["audit_seed"]).integers(0, vocab_size, (batch_rows, seq_len))
        for server in servers:
            server.warm_up(noise)
        second.pause()  # sealed and frozen before a row is asked: they can't meet
        scoring_started = time.monotonic()
        scored, forward_seconds, first_seconds = answer(
            first, inputs, targets, batch_rows, request["scoring_seconds"], "scoring"
        )
        own_seconds = time.monotonic() - scoring_started - forward_seconds
        first.close()
        audit_started = time.monotonic()
        second.resume()

        def doubts(rows: np.ndarray) -> np.ndarray:
            return np.maximum(rarity[targets[rows]] - scored[rows], 0.0)

        asked = audit.questions(inputs, doubts, request["audit_rows"], request["audit_seed"])
        audited, _, _ = answer(
            second, asked.tokens, targets[asked.rows], batch_rows, request["scoring_seconds"],
            "auditing",
        )  # fmt: skip
        found = audit.compare(asked, scored[asked.rows], audited)
        if failure := audit.judge(found, device):
            raise Refused(failure.status, failure.detail)
        nats = float(np.sum(scored, where=counted, dtype=np.float64))
        val_bpb = nats / (math.log(2) * text_bytes)
        if not is_score(val_bpb):
            raise Refused(CRASH, f"the model has diverged: {val_bpb:.3g} bits for a byte")
        tell(
            Score(
                val_bpb=val_bpb,
                tokens=int(targets.size),
                text_bytes=text_bytes,
                total_seconds=time.monotonic() - started,
                load_seconds=load_seconds,
                forward_seconds=forward_seconds,
                first_seconds=first_seconds,
                own_seconds=own_seconds,
                audit_seconds=time.monotonic() - audit_started,
                audit=found,
            )
        )
    finally:
        first.close()
        second.close()


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
        emit({"failure": asdict(Failure(CRASH, "the model left no GPU memory to compute its score in"))})


if __name__ == "__main__":
    main()
