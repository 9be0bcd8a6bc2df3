"""Why a training ended without a checkpoint, in one line: what it said, or what it did not do in time."""

import re

from harness.config import RunConfig
from harness.sandbox.text import Tail, kind_of, one_line
from harness.store.records import CRASH, ERROR, INVALID, Failure, Kind
from harness.worker.clock import Clock

EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b")  # a traceback's last line
NO_START = "no process can be started after the first batch is asked for: start it before run.batches()"
PLACE = re.compile(r'\s*File "[^"]*\btrain\.py", line (\d{1,7})')


def by_itself(code: int | None, tail: Tail, booted: bool, killed: bool, starts: int) -> Failure:
    """
    Args:
        killed: whether the kernel ended a process for want of memory meanwhile.
        starts: how many processes it was not let start.
    """
    lines = [line for line in tail.text().splitlines() if line.strip()] or ["no output"]
    if not booted:
        return Failure(ERROR, f"the sandbox did not start: {one_line(lines[-1])}")
    if code == 0:
        return Failure(CRASH, "exited without submitting a checkpoint (run.submit(model) does)")
    if code is not None and code < 0:
        hint = " (out of memory: the kernel ended it)" if code == -9 and killed else ""
        kind = Kind.MEMORY if hint else Kind.OTHER
        return Failure(CRASH, f"ended by signal {-code}, or exit {128 - code}{hint}", kind)
    said = next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1])
    places = [place for place in map(PLACE.match, lines) if place]
    where = f" (train.py line {places[-1][1]})" if places else ""
    rule = f"; {NO_START}" if starts and said.startswith("PermissionError") else ""
    return Failure(CRASH, f"exit {code}: {one_line(said)}{where}{rule}", kind_of(said))


def without_a_batch(caps: RunConfig) -> Failure:
    return Failure(CRASH, f"no batch asked for within startup_seconds ({caps.startup_seconds:g} s)")


def by_the_clock(clock: Clock, caps: RunConfig, doing: str, would_go_on: bool) -> Failure:
    """
    Args:
        doing: what it did last, `training` or `saving`.
        would_go_on: whether it computed or would have, often enough when we looked.
    """
    if clock.by_processor and clock.spent_seconds < caps.budget_seconds + caps.save_seconds:
        had = f"{clock.spent_seconds:.1f} of {caps.budget_seconds:g} s of a processor"
        passed = f"in {clock.passed_seconds:.0f} s"
        if would_go_on:
            return Failure(ERROR, f"the machine was too busy: it had {had} {passed}")
        return Failure(CRASH, f"it used {had} {passed}: it waits for something that doesn't come")
    return Failure(
        INVALID,
        f"still {doing} {caps.save_seconds:g} s after its {caps.budget_seconds:g} s were spent; killed "
        "(leave the loop when run.batches() ends)",
    )
