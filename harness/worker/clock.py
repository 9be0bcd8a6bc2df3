"""The clock of a training: what it has spent of its budget.

On a GPU that is the time that passes. On a processor it is the time that the training's own processes had of
one, all of them together: what else the machine does decides nothing. Both are the kernel's word.

A process that ends takes along what it worked since the last look. So that while counts in full, as if the
run's one core had been its own. From when the first batch is asked for no process may be started, see `seal`;
one whose start was under way then is looked for, and counts in full, for some seconds more.
"""

import time
from collections.abc import Callable, Iterable

from harness.sandbox import processes

TIMES = 5.0  # a budget of a processor's time may take so much longer to pass
UNDER_WAY_SECONDS = 5.0  # the longest that a start may take, of a large process on a busy machine
TICK_SECONDS = 0.02  # that a look may be off


class Clock:
    """From the first batch on.

    Attributes:
        spent_seconds: of the budget, when `look` was last called.
    """

    def __init__(self, process: int, by_processor: bool, started_at: Callable[[], float | None]) -> None:
        """
        Args:
            process: the sandbox's; what is below it counts.
            by_processor: whether its processes' time counts, rather than the time that passes.
            started_at: when a process was started inside last, by the monotonic clock, 0 for never; None
                where nobody sees that.
        """
        self._process, self.by_processor, self._started_at = process, by_processor, started_at
        self.spent_seconds = 0.0
        self._known: dict[int, float] = {}  # what its processes had worked at the last look

    def begin(self) -> None:
        self._began = self._looked = time.monotonic()
        if self.by_processor:
            self._known = self._found(processes.tree(self._process))

    @property
    def processes(self) -> list[int]:
        """The training's, as far as they are known."""
        return [*self._known]

    @property
    def passed_seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def about_seconds(self) -> float:
        """What it may have spent by now, without a look: for a curve or a display."""
        since = time.monotonic() - self._looked
        return self.spent_seconds + since if self.by_processor else self.passed_seconds

    def look(self) -> float:
        """What it has spent by now, in seconds."""
        if not self.by_processor:
            self.spent_seconds = self.passed_seconds
            return self.spent_seconds
        last = self._started_at()
        is_sealed = last is not None
        under_way = last is None or self._looked < last + UNDER_WAY_SECONDS
        found = self._found(processes.tree(self._process) if under_way else self._known)
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        worked = sum(seconds - self._known.get(process, 0.0) for process, seconds in found.items())
        if is_sealed:  # it stays on one core
            worked = min(worked, passed + TICK_SECONDS)
            if under_way or not self._known.keys() <= found.keys():
                worked = max(worked, passed)
        self._known = found
        self.spent_seconds += max(0.0, worked)
        return self.spent_seconds

    @staticmethod
    def _found(of: Iterable[int]) -> dict[int, float]:
        """What each of these has worked, but for those that are gone."""
        every = ((process, processes.own_seconds_of(process)) for process in of)
        return {process: seconds for process, seconds in every if seconds is not None}

    def seconds_left(self, seconds: float) -> float:
        """At least so many, of so many; 0 or less too if they have passed often enough."""
        left = seconds - self.look()
        return min(left, TIMES * seconds - self.passed_seconds) if self.by_processor else left
