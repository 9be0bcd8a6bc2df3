"""Starting the scorer, under a cap of its own, and reading its answer.

The scorer is our own code, so its answer is trusted; if it dies or hangs, that is `error`.
"""

import contextlib
import json
import os
import secrets
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.sandbox.isolation import Isolation
from harness.sandbox.text import one_line
from harness.store.records import ERROR, Audit, Failure, Score
from harness.tasks.registry import Opened
from harness.worker.device import Device

START_SECONDS = 240.0
END_SECONDS = 10.0
Observer = Callable[[str, int, int], None]
"""Called with (`scoring` or `auditing`, rows done, of)."""


def request_for(
    source: Path, checkpoint: Path, task: Opened, split: str, config: Config, device: Device,
    isolation: Isolation, log: Path, compiled: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a scorer is told, as JSON values. `compiled`: what trainings compiled, if that is kept."""
    caps = config.trial
    return {
        "source": str(source), "checkpoint": str(checkpoint), "log": str(log),
        "device": asdict(device), "isolation": isolation.kind,
        "hide": [str(path) for path in isolation.hide], "disk_mb": caps.disk_mb,
        "memory_gb": caps.memory_gb, "load_seconds": caps.load_seconds,
        "scoring_seconds": caps.scoring_seconds, "audit_rows": caps.audit_rows,
        "budget_seconds": caps.budget_seconds, "audit_seed": secrets.randbits(256),
        "compiled": str(compiled) if compiled else "", "library": task.library, **task.request(split),
    }  # fmt: skip


class Scoring:
    """One score, of a checkpoint that may not be there yet: the scorer and its servers are started now."""

    def __init__(
        self, source: Path, checkpoint: Path, task: Opened, split: str, config: Config, device: Device,
        isolation: Isolation, log: Path, compiled: Path | None = None, suspect_beyond: float | None = None,
        row_nats: Path | None = None,
    ) -> None:  # fmt: skip
        """Of `checkpoint`, a folder that exists, with the train.py that wrote it, on `val` or `holdout`.

        Args:
            compiled: what trainings compiled, if that is kept.
            suspect_beyond: what is better than that is not taken without a larger audit.
            row_nats: where to write what each row cost, (R,) float64, for a second opinion.
        """
        caps = config.trial
        request = request_for(source, checkpoint, task, split, config, device, isolation, log, compiled)
        request |= {"suspect_beyond": suspect_beyond, "row_nats": str(row_nats) if row_nats else ""}
        self._cap_seconds = START_SECONDS + 2 * (caps.load_seconds + caps.scoring_seconds)
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.worker.scorer"],  # -P: nothing from the current folder
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path, **device.variables},
        )  # fmt: skip
        self._ends, self._on_gpu = False, device.kind == "cuda"
        self._say(json.dumps(request))

    def _say(self, line: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died: what it said last is read below
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether it has started, or failed to: it says so, and nothing else before it is asked."""
        assert self._process.stdout
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def result(self, observe: Observer) -> Score | Failure:
        """Score it now. On a GPU, where it takes a moment, the last server's end is not waited for."""
        self._say("go")
        try:
            found = _converse(self._process, time.monotonic() + self._cap_seconds, observe)
            self._ends = isinstance(found, Score)
        finally:
            self.close()
        if self._ends and self._on_gpu:
            threading.Thread(target=self._end, daemon=True).start()
        elif self._ends:
            self._end()
        return found

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._kill()

    def close(self) -> None:
        """Kill it with all that it started, unless it gave its result and ends by itself."""
        if not self._ends:
            self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def score(
    source: Path, checkpoint: Path, task: Opened, split: str, config: Config, device: Device,
    isolation: Isolation, log: Path, observe: Observer,
) -> Score | Failure:  # fmt: skip
    """Score a checkpoint that is there."""
    return Scoring(source, checkpoint, task, split, config, device, isolation, log).result(observe)


def _converse(process: subprocess.Popen[bytes], deadline: float, observe: Observer) -> Score | Failure:
    assert process.stdout and process.stderr
    pending, complaint, shown = b"", b"", ("scoring", 0, 0)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() >= deadline:
                return Failure(ERROR, "the scorer did not finish in time")
            ready = selector.select(0.5)
            if not ready:
                observe(*shown)  # whoever watches may want to end it
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    complaint = (complaint + data)[-8192:]
                else:
                    *lines, pending = (pending + data).split(b"\n")
                    for message in map(json.loads, lines):
                        if "ready" in message:
                            continue
                        if "progress" not in message:
                            return _understood(message)
                        shown = message["progress"], message["done"], message["of"]
                        observe(*shown)
    last = (complaint.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[-1]
    return Failure(ERROR, f"the scorer died: {one_line(last)}")


def _understood(message: dict) -> Score | Failure:
    if "failure" in message:
        return Failure(**message["failure"])
    fields = message["score"]
    return Score(**{**fields, "audit": Audit(**fields["audit"])})
