"""The supervisor: one training of one train.py, by our clock.

It hands out the training tokens' descriptor when they are asked for, and that instant starts the
clock. It reads progress and output without believing them, takes the checkpoint as descriptors, and
kills everything the moment it has them or a cap is passed. Nothing that train.py does can lengthen
its time. One thread, no polling of the trial's files.
"""

import json
import os
import re
import selectors
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import TrialConfig
from harness.records import CRASH, ERROR, INVALID, LATE, OK, Failure, Point, Reported, Training
from harness.trial import limits, readonly
from harness.trial.sandbox import Isolation, Process
from harness.trial.text import Tail, one_line
from harness.trial.wire import Channel, ProtocolError, close_all, pair

BOOT = "harness.trial.boot"
CURVE_POINTS = 1000
LATE_SECONDS = 1.0  # an honest train.py starts no step that doesn't fit; this is for jitter
SAVE_BYTES_PER_SECOND = 50e6  # the slowest disk that saving is excused by
NAME_CHARS = 100
COPY_BYTES = 2**24
DRAIN_READS = 16  # of 64 KB: the most that a pipe holds
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b")  # a traceback's last line
PLACE = re.compile(r'\s*File "[^"]*\btrain\.py", line (\d{1,7})')


@dataclass(frozen=True)
class Progress:
    """What a view may show while a training runs; step, loss and tokens are only reported."""

    phase: str
    """`starting`, `training`, `saving`, later `scoring` and `auditing`."""
    elapsed_seconds: float
    of_seconds: float
    step: int | None = None
    loss: float | None = None
    tokens: int | None = None


Observer = Callable[[Progress], None]


@dataclass
class _State:
    started_at: float
    first_batch_at: float | None = None
    saving_at: float | None = None
    submitted_at: float | None = None
    failure: Failure | None = None
    curve: list[Point] = field(default_factory=list)
    stride: int = 1
    last_step: int | None = None
    last_loss: float | None = None
    last_tokens: int | None = None
    booted: bool = False
    """It reached our own first line inside: whatever ends it before is not train.py's fault."""
    reported: Reported = field(default_factory=Reported)
    names: list[str] = field(default_factory=list)
    checkpoint: list[int] = field(default_factory=list)


class Supervisor:
    """Trains once. `train()` returns the outcome and leaves the checkpoint in `checkpoint_dir`."""

    def __init__(
        self,
        source: Path,
        checkpoint_dir: Path,
        spec: dict[str, Any],
        tokens: Path,
        config: TrialConfig,
        isolation: Isolation,
        observe: Observer,
    ) -> None:
        """`spec` is what train.py is told, `tokens` the training split that it gets when it asks."""
        self.source, self.checkpoint_dir = source, checkpoint_dir
        self.spec, self.tokens = spec, tokens
        self.config, self.isolation, self.observe = config, isolation, observe

    def train(self) -> Training:
        """Run train.py to its end, its submission or its caps.

        Raises:
            OSError: the machine failed us (no process, no disk); a repeat may work.
        """
        tokens = readonly.open_file(self.tokens, self.isolation)
        channel, theirs = pair()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)  # it can be read from inside too: emptied before we get to it
        state = _State(time.monotonic())
        tail = Tail()
        process = None
        try:
            process = Process(
                self.isolation,
                BOOT,
                files={"train.py": self.source},
                descriptors={"HARNESS_SOCKET": theirs.fileno()},
                limits={"memory_bytes": limits.memory_bytes(self.config.memory_gb)},
                variables={"HARNESS_TRIAL": json.dumps(self.spec)},
                disk_mb=self.config.disk_mb,
                output=writing,
            )
            theirs.close()
            os.close(writing)
            writing = -1
            code = self._watch(process, channel, reading, tail, state, tokens)
            process.kill()
            for _ in range(DRAIN_READS):  # bounded, should a survivor go on writing
                self._read(reading, tail)
            if state.failure is None and state.submitted_at is None:
                state.failure = _ended_without_checkpoint(code, tail, state.booted)
            if state.failure is None:
                state.failure = self._take_checkpoint(state)
        finally:
            if process is not None:
                process.kill()
            close_all([tokens, reading, *([writing] if writing >= 0 else []), *state.checkpoint])
            channel.close()
            theirs.close()
        return self._outcome(state, tail)

    # ── while it runs ─────────────────────────────────────────────────────────────────────────

    def _watch(
        self,
        process: Process,
        channel: Channel,
        reading: int,
        tail: Tail,
        state: _State,
        tokens: int,
    ) -> int | None:
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            selector.register(channel.fileno(), selectors.EVENT_READ)
            shown_at = 0.0
            while True:
                now = time.monotonic()
                deadline = self._deadline(state)
                if now >= deadline:
                    state.failure = self._overran(state)
                    return None
                if now - shown_at >= 0.25:
                    shown_at = now
                    self.observe(self._progress(state, now))
                for key, _ in selector.select(min(deadline - now, 0.25)):
                    if key.fd == reading:
                        if not self._read(reading, tail):
                            selector.unregister(reading)
                    elif not self._hear(channel, state, tokens):
                        selector.unregister(channel.fileno())
                if state.failure or state.submitted_at is not None:
                    return None
                if (code := process.poll()) is not None:
                    while not state.failure and self._hear(channel, state, tokens):
                        pass  # what it said before it ended still counts
                    return code

    def _deadline(self, state: _State) -> float:
        if state.first_batch_at is None:
            return state.started_at + self.config.startup_seconds
        return state.first_batch_at + self.config.budget_seconds + self.config.save_seconds

    def _overran(self, state: _State) -> Failure:
        caps = self.config
        if state.first_batch_at is None:
            return Failure(CRASH, f"no batch asked for within startup_seconds ({caps.startup_seconds:g} s)")
        doing = "training" if state.saving_at is None else "saving"
        return Failure(
            INVALID,
            f"still {doing} {caps.save_seconds:g} s after its {caps.budget_seconds:g} s were spent; killed "
            "(leave the loop when run.batches() ends)",
        )

    def _hear(self, channel: Channel, state: _State, tokens: int) -> bool:
        """Handle one packet, if there is one; False when there is none or the end was closed."""
        try:
            packet = channel.receive(timeout_seconds=0)
            if packet is None:
                return False
            self._handle(channel, *packet, state, tokens)
        except TimeoutError:
            return False
        except ProtocolError as error:
            state.failure = Failure(INVALID, f"wrote {error} to the supervisor's socket")
        except OSError:
            return False  # it died while we answered
        return True

    def _handle(
        self, channel: Channel, message: dict[str, Any], sent: list[int], state: _State, tokens: int
    ) -> None:
        now = time.monotonic()
        ask = message.get("ask")
        if ask != "submit":
            close_all(sent)
        if ask == "boot":
            state.booted = True
        elif ask == "data":
            if state.first_batch_at is None:
                state.first_batch_at = now
            channel.offer({"ok": True}, [tokens])
        elif ask == "log":
            self._note(message, state, now)
        elif ask == "saving" and state.saving_at is None and state.first_batch_at is not None:
            state.saving_at = now
        elif ask == "submit":
            state.checkpoint += sent
            state.submitted_at = now
            names = message.get("names")
            state.names = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
            state.reported = Reported(
                num_steps=_count(message.get("num_steps")),
                total_tokens=_count(message.get("total_tokens")),
                num_params=_count(message.get("num_params")),
                flops_per_token=_figure(message.get("flops_per_token")),
                peak_vram_mb=_figure(message.get("peak_vram_mb")),
            )

    def _note(self, message: dict[str, Any], state: _State, now: float) -> None:
        step, loss = _count(message.get("step")), _figure(message.get("loss"))
        if step is None or loss is None or state.first_batch_at is None:
            return
        state.last_step, state.last_loss = step, loss
        state.last_tokens = _count(message.get("tokens"))
        if step % state.stride == 0:
            state.curve.append(Point(round(now - state.first_batch_at, 3), step, loss))
        if len(state.curve) > CURVE_POINTS:  # thinned by step, so that equal runs give equal curves
            kept = [point for point in state.curve if point.step % (2 * state.stride) == 0]
            if len(kept) < len(state.curve):
                state.stride, state.curve = 2 * state.stride, kept
            else:
                state.curve.pop()

    def _progress(self, state: _State, now: float) -> Progress:
        if state.first_batch_at is None:
            return Progress("starting", now - state.started_at, self.config.startup_seconds)
        phase = "training" if state.saving_at is None else "saving"
        elapsed = now - state.first_batch_at
        return Progress(
            phase, elapsed, self.config.budget_seconds,
            state.last_step, state.last_loss, state.last_tokens,
        )  # fmt: skip

    @staticmethod
    def _read(reading: int, tail: Tail) -> bool:
        """What is in the pipe now, never waiting for more; False at its end."""
        try:
            data = os.read(reading, 65536)
        except BlockingIOError:
            return True
        tail.feed(data)
        return bool(data)

    # ── when it ended ─────────────────────────────────────────────────────────────────────────

    def _take_checkpoint(self, state: _State) -> Failure | None:
        """Copy what was handed over; the process is dead, so nothing changes under our hands."""
        first, submitted = state.first_batch_at, state.submitted_at
        if first is None or submitted is None or state.saving_at is None:
            return Failure(INVALID, "submitted without training: it never asked for a batch")
        late = state.saving_at - first - self.config.budget_seconds
        if late > LATE_SECONDS:
            return Failure(INVALID, f"trained {late:.1f} s {LATE} (on a busy machine, run it again)")
        if not state.checkpoint:
            return Failure(CRASH, "submitted an empty checkpoint")
        if not len(state.names) == len(set(state.names)) == len(state.checkpoint):
            return Failure(INVALID, "submitted files without a name each")
        size = written = 0
        for name, descriptor in zip(state.names, state.checkpoint, strict=True):
            if not _is_plain(name) or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Failure(INVALID, f"checkpoint file {one_line(name, 60)!r} is not a plain file")
            size += os.fstat(descriptor).st_size
            written += 512 * os.fstat(descriptor).st_blocks
        if size > self.config.disk_mb * 2**20:
            return Failure(INVALID, f"a checkpoint of {size / 2**20:.0f} MB, over disk_mb")
        if size > written and self.isolation.kind == "bwrap":  # a tmpfs counts what it holds
            return Failure(INVALID, "a checkpoint with holes: its files are larger than what was written")
        excused = min(self.config.save_seconds, LATE_SECONDS + size / SAVE_BYTES_PER_SECOND)
        late = submitted - first - self.config.budget_seconds
        if late > excused:
            return Failure(
                INVALID,
                f"handed {size / 2**20:.1f} MB over {late:.1f} s after its budget, {excused:.1f} s would do",
            )
        self.checkpoint_dir.mkdir(exist_ok=True)
        for name, descriptor in zip(state.names, state.checkpoint, strict=True):
            with (self.checkpoint_dir / name).open("xb") as copy:
                for offset in range(0, os.fstat(descriptor).st_size, COPY_BYTES):
                    try:
                        data = os.pread(descriptor, COPY_BYTES, offset)
                    except OSError as error:  # what it gave us to read is its fault, not the disk's
                        return Failure(INVALID, f"checkpoint file {name!r} can't be read: {error}")
                    copy.write(data)
        return None

    def _outcome(self, state: _State, tail: Tail) -> Training:
        first, saving, submitted = state.first_batch_at, state.saving_at, state.submitted_at
        return Training(
            status=state.failure.status if state.failure else OK,
            detail=state.failure.detail if state.failure else "",
            startup_seconds=first - state.started_at if first is not None else None,
            training_seconds=saving - first if first is not None and saving is not None else None,
            save_seconds=submitted - saving if submitted is not None and saving is not None else None,
            curve=tuple(state.curve),
            reported=state.reported,
            log=tail.text(),
        )


def _ended_without_checkpoint(code: int | None, tail: Tail, booted: bool) -> Failure:
    lines = [line for line in tail.text().splitlines() if line.strip()] or ["no output"]
    if not booted:
        return Failure(ERROR, f"the sandbox did not start: {one_line(lines[-1])}")
    if code == 0:
        return Failure(CRASH, "exited without submitting a checkpoint (run.submit(model) does)")
    if code is not None and code < 0:
        hint = " (out of memory?)" if code == -9 else ""
        return Failure(CRASH, f"ended by signal {-code}{hint}")
    said = next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1])
    places = [place for place in map(PLACE.match, lines) if place]
    where = f" (train.py line {places[-1][1]})" if places else ""
    return Failure(CRASH, f"exit {code}: {one_line(said)}{where}")


def _is_plain(name: str) -> bool:
    return (
        0 < len(name) <= NAME_CHARS
        and not name.startswith(".")
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    )


def _count(value: Any) -> int | None:
    """A reported count, or None: train.py may have sent anything."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def _figure(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    return float(value) if abs(value) < 1e30 else None
