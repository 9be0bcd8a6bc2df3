"""The supervisor: one training of one train.py, by our clock.

It hands out the training tokens' descriptor when they are asked for, and that instant starts the
clock. It reads progress and output without trusting them, takes the checkpoint as descriptors, and
kills everything the moment it has them or a cap is passed. Nothing that train.py does can lengthen
its time. One thread, no polling of the run's files.
"""

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.sandbox import compile_cache, readonly
from harness.sandbox.processes import delayed_seconds, out_of_memory_kills, would_compute
from harness.sandbox.seal import MOST_CALLS, Seal
from harness.sandbox.text import Tail
from harness.sandbox.wire import Channel, ProtocolError, close_all
from harness.store.records import CRASH, ERROR, INVALID, OK, Failure, Kind, Point, Reported, Training
from harness.tasks.feeds import TEXT
from harness.worker import checkpoint, ended
from harness.worker.clock import Clock
from harness.worker.curve import Curve
from harness.worker.monitor import Monitor
from harness.worker.prestart import Prestarted
from harness.worker.progress import Observer, Progress

WAIT_SECONDS = 1.0  # a moment: the deadline moves on with the clock
AWAY_SECONDS = 5.0  # what no busy machine makes of a quarter of a second
SPENT = f"for more than {MOST_CALLS:,} names and files after its first batch (open what you need before it)"
MOST_PROCESSES = 64  # of a training on a processor
DRAIN_READS = 16  # of 64 KB: the most that a pipe holds


@dataclass
class _State:
    started_at: float
    first_batch_at: float | None = None
    first_batch_ns: int = 0  # of the clock that files are dated by
    saving_at: float | None = None
    submitted_at: float | None = None
    trained_seconds: float | None = None  # by the clock of the budget, as the next one
    spent_seconds: float | None = None
    passed_seconds: float | None = None
    failure: Failure | None = None
    curve: Curve = field(default_factory=Curve)
    last_step: int | None = None
    last_loss: float | None = None
    last_tokens: int | None = None
    opened_at: float | None = None
    asked_at: float | None = None  # for its first batch, which may have to wait
    told: bool = False
    away_seconds: float = 0.0
    """The longest that we ourselves did nothing while it trained: stopped, or asleep with the machine."""
    delayed_seconds: float = 0.0
    would_go_on: list[bool] = field(default_factory=list)
    """Whether it computed or would have, each time that we looked; where a processor's time counts."""
    sealed: bool = False
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
        config: RunConfig,
        prestarted: Prestarted,
        observe: Observer,
        on_training: Callable[[], None] = lambda: None,
        may_train: Callable[[], bool] = lambda: True,
        other_trains: Callable[[], bool] = lambda: False,
    ) -> None:
        """`spec` is what train.py is told, `tokens` the training split that it gets when it asks.

        Args:
            prestarted: the process that it runs in; closed in the end.
            on_training: called once, when the clock has begun.
            may_train: whether the tokens may be handed out; until then it waits with what it compiled.
            other_trains: whether another run has the device meanwhile, which it may hardly disturb.
        """
        self.source, self.checkpoint_dir = source, checkpoint_dir
        self.spec, self.tokens = spec, tokens
        self.config, self.prestarted = config, prestarted
        self.observe, self.on_training = observe, on_training
        self.may_train, self.other_trains = may_train, other_trains
        self.watch = Monitor(prestarted.device, prestarted.process.pid)
        self._seal: Seal | None = None
        is_processor = prestarted.device.is_processor
        self._clock = Clock(prestarted.process.pid, is_processor, self._process_started_at)
        self.first_batch_at: float | None = None  # by the monotonic clock, as what follows
        self.ended_at: float | None = None

    def train(self) -> Training:
        """Run train.py to its end, its submission or its caps.

        Raises:
            OSError: the machine failed us (no process, no disk); a repeat may work.
        """
        prestarted, tail, killed = self.prestarted, Tail(), out_of_memory_kills()
        state = _State(time.monotonic())
        tokens = -1
        try:
            tokens = readonly.open_file(self.tokens, prestarted.isolation)
            prestarted.go(self.source, self.spec)
            code = self._watch(tail, state, tokens)
            self.first_batch_at, self.ended_at = state.first_batch_at, state.saving_at or time.monotonic()
            prestarted.process.kill()
            for _ in range(DRAIN_READS):  # bounded, should a survivor go on writing
                self._read(prestarted.reading, tail)
            if state.failure is None and state.submitted_at is None:
                starts = self._seal.refused_starts if self._seal is not None else 0
                was_killed = out_of_memory_kills() > killed
                state.failure = ended.by_itself(code, tail, state.booted, was_killed, starts)
            if state.failure is None:
                handed = checkpoint.Handed(
                    state.names, state.checkpoint, state.trained_seconds, state.spent_seconds,
                    state.first_batch_ns, tokens, state.reported.loss_seconds or 0.0,
                )  # fmt: skip
                in_memory = prestarted.isolation.kind == "bwrap"
                state.failure = checkpoint.take(handed, self.checkpoint_dir, self.config, in_memory)
            if state.failure and state.failure.status == INVALID and state.away_seconds > AWAY_SECONDS:
                away = f"the harness stood still for {state.away_seconds:.0f} s while it trained"
                state.failure = Failure(ERROR, f"{away}: {state.failure.detail}")
        finally:
            prestarted.close()
            if self._seal is not None:
                self._seal.close()
            close_all([*([tokens] if tokens >= 0 else []), *state.checkpoint])
        return self._outcome(state, tail)

    @property
    def _unit(self) -> str:
        return "tokens" if self.spec["feed"] == TEXT else "items"

    def _process_started_at(self) -> float | None:
        return self._seal.started_at if self._seal is not None else None

    # ── while it runs ─────────────────────────────────────────────────────────────────────────

    def _watch(self, tail: Tail, state: _State, tokens: int) -> int | None:
        channel, reading = self.prestarted.channel, self.prestarted.reading
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            selector.register(channel.fileno(), selectors.EVENT_READ)
            shown_at, passed_at = 0.0, time.monotonic()
            while True:
                if state.asked_at is not None and state.first_batch_at is None and self.may_train():
                    state.first_batch_at, state.first_batch_ns = time.monotonic(), time.time_ns()
                    self._clock.begin()
                    if self._seal is not None:
                        self._seal.limit(MOST_CALLS)
                    channel.offer({"ok": True}, [tokens])
                    state.delayed_seconds = -delayed_seconds(self.prestarted.process.pid)
                now = time.monotonic()
                if state.first_batch_at is not None:
                    state.away_seconds = max(state.away_seconds, now - passed_at)
                passed_at = now
                if (left := self._seconds_left(state, now)) <= 0:
                    state.failure = self._overrun(state)
                    return None
                if now - shown_at >= 0.25:
                    shown_at = now
                    self.observe(self._progress(state, now))
                    self._look(state)
                waits = state.asked_at is not None and state.first_batch_at is None
                soon = waits and not self.other_trains()
                for key, _ in selector.select(0.01 if soon else min(left, 0.25)):
                    if key.fd == reading:
                        if not self._read(reading, tail):
                            selector.unregister(reading)
                    elif not self._hear(channel, state, tokens):
                        selector.unregister(channel.fileno())
                if self._seal is not None and self._seal.refused and state.failure is None:
                    state.failure = Failure(INVALID, f"asked the kernel {SPENT}")
                if state.failure or state.submitted_at is not None:
                    return None
                if (code := self.prestarted.process.poll()) is not None:
                    while not state.failure and self._hear(channel, state, tokens):
                        pass  # what it said before it ended still counts
                    return code

    def _look(self, state: _State) -> None:
        """At the GPU; and begin what else is to be ready when it has trained."""
        if state.first_batch_at is None:
            if self.other_trains() and (took := self.watch.strain(waits=state.asked_at is not None)):
                state.failure = Failure(CRASH, f"took {took} beside another run")
            return
        if not state.told:
            state.told = True
            self.on_training()
        if self._clock.by_processor:
            state.would_go_on.append(would_compute(self._clock.processes))
            if len(self._clock.processes) > MOST_PROCESSES:
                why = f"has more than {MOST_PROCESSES} processes, whose time nobody can tell"
                state.failure = Failure(INVALID, why)
        self.watch.look()
        if (most := self.config.gpu_memory_gb) and self.watch.peak_memory_mb > most * 1024:
            used = f"used {self.watch.peak_memory_mb} MB of GPU memory"
            state.failure = Failure(CRASH, f"{used}, over gpu_memory_gb ({most:g})")

    def _seconds_left(self, state: _State, now: float) -> float:
        """At least so many until it is killed."""
        if state.first_batch_at is None:
            if state.asked_at is not None:
                return WAIT_SECONDS  # it did its part
            return state.started_at + self.config.startup_seconds - now
        return self._clock.seconds_left(self.config.budget_seconds + self.config.save_seconds)

    def _overrun(self, state: _State) -> Failure:
        if state.first_batch_at is None:
            return ended.without_a_batch(self.config)
        doing = "training" if state.saving_at is None else "saving"
        # Who computes a quarter of the time spends a budget before it has passed five times, if it may.
        would = 4 * sum(state.would_go_on) >= len(state.would_go_on)
        return ended.by_the_clock(self._clock, self.config, doing, would)

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
        if ask == "seal" and not state.sealed:  # our own first word: nothing untrusted ran before
            state.sealed = True
            self._seal = Seal(sent.pop()) if sent else None
        elif ask == "data" and state.asked_at is None and sent and self.prestarted.compiled:
            # before the tokens: nothing in it was learned
            compile_cache.take(sent[0], self.prestarted.compiled)
        if ask != "submit":
            close_all(sent)
        state.booted = state.booted or ask == "boot"
        if ask == "open":
            state.opened_at = state.opened_at or now
        elif ask == "data" and state.first_batch_at is None:
            state.asked_at = state.asked_at or now
            if self._seal is not None and self._clock.by_processor:
                self._seal.no_more_starts()
        elif ask == "data":
            channel.offer({"ok": True}, [tokens])
        elif ask == "log":
            self._note(message, state, now)
        elif ask == "saving" and state.saving_at is None and state.first_batch_at is not None:
            state.saving_at = now
            state.trained_seconds, state.passed_seconds = self._clock.look(), self._clock.passed_seconds
            state.delayed_seconds += delayed_seconds(self.prestarted.process.pid)
        elif ask == "submit":
            state.checkpoint += sent
            state.submitted_at = now
            state.spent_seconds = self._clock.look() if state.trained_seconds is not None else None
            names = message.get("names")
            state.names = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
            state.reported = Reported(
                num_steps=_count(message.get("num_steps")),
                total_tokens=_count(message.get("total_tokens")),
                num_params=_count(message.get("num_params")),
                flops_per_token=_figure(message.get("flops_per_token")),
                peak_vram_mb=_figure(message.get("peak_vram_mb")),
                trained_nats=_figure(message.get("trained_nats")),
                loss_seconds=_figure(message.get("loss_seconds")),
                device_batch_size=_count(message.get("device_batch_size")),
                unit=self._unit,
            )

    def _note(self, message: dict[str, Any], state: _State, now: float) -> None:
        step, loss = _count(message.get("step")), _figure(message.get("loss"))
        if step is None or loss is None or state.first_batch_at is None:
            return
        state.last_step, state.last_loss = step, loss
        state.last_tokens = _count(message.get("tokens"))
        state.curve.add(Point(round(self._clock.about_seconds, 3), step, loss))

    def _progress(self, state: _State, now: float) -> Progress:
        if state.asked_at is not None and state.first_batch_at is None:
            return Progress("waiting", now - state.asked_at, 0.0)
        if state.first_batch_at is None:
            return Progress("starting", now - state.started_at, self.config.startup_seconds)
        phase = "training" if state.saving_at is None else "saving"
        return Progress(
            phase, self._clock.about_seconds, self.config.budget_seconds,
            state.last_step, state.last_loss, state.last_tokens, self._unit,
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

    def _outcome(self, state: _State, tail: Tail) -> Training:
        first, saving, submitted = state.first_batch_at, state.saving_at, state.submitted_at
        return Training(
            status=state.failure.status if state.failure else OK,
            detail=state.failure.detail if state.failure else "",
            kind=state.failure.kind if state.failure else Kind.OTHER,
            startup_seconds=(state.asked_at or first) - state.started_at if first is not None else None,
            delayed_seconds=max(0.0, state.delayed_seconds) if saving is not None else None,
            held_seconds=first - state.asked_at if first is not None and state.asked_at is not None else 0.0,
            training_seconds=state.trained_seconds,
            passed_seconds=state.passed_seconds if self._clock.by_processor else None,
            save_seconds=submitted - saving if submitted is not None and saving is not None else None,
            open_seconds=state.opened_at - state.started_at if state.opened_at is not None else None,
            curve=tuple(state.curve.points),
            reported=state.reported,
            log=tail.text(),
            conditions=self.watch.conditions(),
        )


def _count(value: Any) -> int | None:
    """A reported count, or None: train.py may have sent anything."""
    return value if type(value) is int and 0 <= value < 2**53 else None  # as JSON's readers have it


def _figure(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    return float(value) if abs(value) < 1e30 else None
