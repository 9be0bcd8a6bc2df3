"""Live progress of one run, on stderr: a steady line on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_EVERY_SECONDS = 5.0


class Shown(Protocol):
    """What `harness.worker.supervisor.Progress` has."""

    @property
    def phase(self) -> str: ...
    @property
    def elapsed_seconds(self) -> float: ...
    @property
    def of_seconds(self) -> float: ...
    @property
    def step(self) -> int | None: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def unit(self) -> str: ...


def describe(shown: Shown) -> str:
    """One line: what a tired person wants to know now."""
    if shown.phase == "starting":
        return f"starting   {shown.elapsed_seconds:.0f} s (imports, compilation, warm-up)"
    if shown.phase == "waiting":
        return f"waiting    {shown.elapsed_seconds:.0f} s (for the device)"
    if shown.phase in ("scoring", "auditing"):
        rows = f"{shown.step} asked" if shown.step else "model server starting"
        rows = f"{shown.step} of {shown.tokens} rows" if shown.tokens else rows
        return f"{shown.phase:<10} {rows}"
    parts = [f"{shown.phase:<10}"]
    if shown.step is not None and shown.loss is not None:
        parts += [f"step {shown.step}", f"loss {shown.loss:.4f}"]
    if shown.tokens and shown.elapsed_seconds > 0:
        parts.append(f"{shown.tokens / shown.elapsed_seconds:,.0f} {shown.unit}/s")
    parts.append(f"{max(0.0, shown.of_seconds - shown.elapsed_seconds):.0f} s left")
    return "  ".join(parts)


class RunView:
    """A context manager; `show` takes every progress event, `say` a line that stays."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._bar: Progress | None = None
        self._phase = ""
        self._printed_at = 0.0

    def __enter__(self) -> "RunView":
        if self._console.is_terminal:
            columns = (
                SpinnerColumn(), TimeElapsedColumn(), BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
            )  # fmt: skip
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=1.0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, shown: Shown) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=describe(shown), completed=_part(shown))
            return
        now = time.monotonic()
        if shown.phase != self._phase or now - self._printed_at >= PLAIN_EVERY_SECONDS:
            self._phase, self._printed_at = shown.phase, now
            self.say(describe(shown))


def _part(shown: Shown) -> float:
    if shown.phase in ("scoring", "auditing"):
        return (shown.step or 0) / shown.tokens if shown.tokens else 0.0
    if shown.phase in ("starting", "waiting"):
        return 0.0
    return min(1.0, shown.elapsed_seconds / shown.of_seconds)
