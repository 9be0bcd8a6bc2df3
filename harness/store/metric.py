"""A metric: what a score is called, which way is better, and how it is written."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeGuard

DIGITS = 6  # behind the point, of what records say
MOST_DECIMALS = 12
MOST = 1e12  # from 0; beyond it no sum of squares is safe
NAME = re.compile(r"[^\s,]{1,60}")
MIN, MAX = "min", "max"
WORDS = {MIN: "lower is better", MAX: "higher is better"}


@dataclass(frozen=True)
class Metric:
    """Two are the same if name and goal are: the rest says how a value is shown and what can't be one."""

    name: str
    """A word: `log_loss`, `accuracy`. It stands in trailers, where a comma ends it."""
    goal: str = MIN
    """`min` or `max`."""
    unit: str = field(default="", compare=False)
    decimals: int = field(default=4, compare=False)
    """That a person is shown."""
    low: float = field(default=-MOST, compare=False)
    high: float = field(default=MOST, compare=False)
    """Values lie between these two, and are neither of them."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"a metric's name is {self.name!r}, not one word")
        if self.goal not in WORDS:
            raise ValueError(f"the goal of {self.name} is {self.goal!r}, neither 'min' nor 'max'")
        object.__setattr__(self, "decimals", min(max(self.decimals, 0), MOST_DECIMALS))

    @property
    def sign(self) -> int:
        """Of a value as a loss: below is better."""
        return -1 if self.goal == MAX else 1

    @property
    def words(self) -> str:
        """For a trailer and the axis of a plot."""
        return f"{self.name}, {WORDS[self.goal]}"

    def is_score(self, value: Any) -> TypeGuard[float]:
        """Whether it can be one: notes, messages and models may be anybody's."""
        return isinstance(value, float) and math.isfinite(value) and self.low < value < self.high

    def is_better(self, one: float, other: float) -> bool:
        return self.sign * one < self.sign * other

    def text(self, value: float) -> str:
        return f"{value:.{self.decimals}f}"

    def exact(self, value: float) -> str:
        """For records."""
        return f"{value:.{DIGITS}f}"

    def change(self, value: float) -> str:
        """A difference, with its sign; none of what is shown as zero."""
        return f"{round(value, self.decimals) + 0.0:+.{self.decimals}f}"


def read_metric(words: str) -> Metric | None:
    """Of `Metric.words`."""
    name, _, rest = words.partition(", ")
    goal = next((goal for goal, said in WORDS.items() if said == rest), None)
    return Metric(name, goal) if goal and NAME.fullmatch(name) else None
