"""The constants of a train.py as axes of a space: which values each may take, and how far apart they are.

Coordinates are in octaves or what counts like one, 0 where the incumbent is. A value comes back from its
coordinate to the digit if it was the incumbent's.
"""

import enum
import math
import re
from dataclasses import dataclass
from functools import cached_property

from harness.agents.program import Constant

Value = int | float | bool

REACH = 2.0  # octaves to either side of the incumbent
NEAR_ONE = re.compile(r"MOMENTUM|BETA|EMA|POLYAK")  # where what counts is the distance from 1
SHARE = re.compile(r"RATIO|FRAC|DROPOUT|SHARE|PROB|PART")
# Luck, tests, the task's own, the machine's.
NO_AXIS = re.compile(r"SEED|^MAX_STEPS$|VOCAB|^DEVICE_BATCH_SIZE$|^TOKENS_A_SECOND$")
SHARE_STEP = 0.2  # of a share, what counts like an octave
ZERO_STEP = 0.1  # the same where a rate begins at 0
LONGEST = 40  # characters of a name: it goes into messages and prompts
LARGE = 16  # whole numbers from here on are sizes


class Kind(enum.Enum):
    RATE = "rate"
    """Any number: by factors."""
    NEAR_ONE = "distance from 1"
    """A momentum, a decay."""
    SHARE = "share"
    """From 0 to 1."""
    SIZE = "size"
    """Doublings, and half-way between them."""
    COUNT = "count"
    """Whole numbers."""
    FLAG = "flag"


@dataclass(frozen=True)
class Axis:
    """One constant of the incumbent."""

    constant: Constant

    @property
    def name(self) -> str:
        return self.constant.name

    @property
    def now(self) -> Value:
        return self.constant.value

    @cached_property
    def kind(self) -> Kind:
        now, name = self.now, self.name
        if isinstance(now, bool):
            return Kind.FLAG
        if isinstance(now, int):
            return Kind.SIZE if abs(now) >= LARGE else Kind.COUNT
        if 0.5 <= now < 1 and (NEAR_ONE.search(name) or (now >= 0.9 and not SHARE.search(name))):
            return Kind.NEAR_ONE
        return Kind.SHARE if SHARE.search(name) and 0 <= now <= 1 else Kind.RATE

    def coordinate(self, value: Value) -> float:
        """Where `value` lies; not finite where this axis has no place for it."""
        now = self.now
        if self.kind is Kind.FLAG:
            return float(bool(value) - now)
        if self.kind is Kind.SHARE:
            return (value - now) / SHARE_STEP
        if self.kind is Kind.NEAR_ONE:
            return -math.log2((1 - value) / (1 - now)) if value < 1 else math.inf
        if now == 0:
            return value if self.kind is Kind.COUNT else value / ZERO_STEP
        if value == 0 and self.kind is Kind.COUNT:
            return -math.log2(2 * abs(now))
        return math.log2(value / now) if value / now > 0 else -math.inf

    def value(self, coordinate: float) -> Value:
        """The nearest value that may be written."""
        now = self.now
        if self.grid:
            return min(self.grid, key=lambda place: abs(place[0] - coordinate))[1]
        if abs(coordinate) < 1e-9:
            return now
        if self.kind is Kind.SHARE:
            return round(min(1.0, max(0.0, now + SHARE_STEP * coordinate)), 3)
        if self.kind is Kind.NEAR_ONE:
            left = (1 - now) * 2**-coordinate
            return max(0.0, round(1 - left, 2 - math.floor(math.log10(left))))
        if now == 0:
            return float(f"{max(0.0, coordinate * ZERO_STEP):.3g}")
        return float(f"{now * 2**coordinate:.3g}")

    @cached_property
    def grid(self) -> tuple[tuple[float, Value], ...]:
        """All that may be chosen, with coordinates, if it isn't any number."""
        now = self.now
        if self.kind is Kind.FLAG:
            values: list[Value] = [False, True]
        elif self.kind is Kind.COUNT:
            sign = -1 if now < 0 else 1
            top = max(2, math.ceil(abs(now) * 2**REACH)) if abs(now) <= 2 else 2 * abs(int(now))
            values = [sign * count for count in range(0 if now == 0 else 1, top + 1)]
        elif self.kind is Kind.SIZE:
            doubled = [now * 2.0**step for step in range(-int(REACH), int(REACH) + 1)]
            values = sorted({int(v) for v in (*doubled, 0.75 * now, 1.5 * now) if v == int(v)})
        else:
            return ()
        return tuple((self.coordinate(value), value) for value in values)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        if self.grid:
            places = [place for place, _ in self.grid]
            return min(places), max(places)
        if self.kind is Kind.SHARE:
            return max(-REACH, -self.now / SHARE_STEP), min(REACH, (1 - self.now) / SHARE_STEP)
        if self.now == 0:
            return 0.0, REACH
        return -REACH, REACH

    def said(self, value: Value) -> str:
        """A change to `value` in words: `EMBEDDING_LR up by 1.6`, `DEPTH 8 to 9`."""
        now = self.now
        if self.kind is Kind.RATE and now != 0 and value / now > 0:
            factor = value / now
            return f"{self.name} {'up' if factor > 1 else 'down'} by {max(factor, 1 / factor):.2g}"
        return f"{self.name} {now!r} to {value!r}"


def axes_of(constants: list[Constant]) -> tuple[Axis, ...]:
    """Those that are searched, in the order of the file."""
    known = (c for c in constants if len(c.name) <= LONGEST and math.isfinite(c.value))
    return tuple(Axis(c) for c in known if not NO_AXIS.search(c.name))
