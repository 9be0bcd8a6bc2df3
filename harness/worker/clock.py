"""The clock of a training: what it has spent of its budget.

On a GPU that is the time that passes. On a processor it is the time that the training's own processes had of
one, all of them together: what else the machine does decides nothing. Both are the kernel's word.

A process that ends can take its time along unseen: its parent need only ignore that it ended. So where one
was started or ended since the last look, that while counts in full, as if the run's core had been its own.
"""

import time
from collections.abc import Callable

from harness.sandbox import processes

TIMES = 5.0  # a budget of a processor's time may take so much longer to pass


class Clock:
    """From the first batch on.

    Attributes:
        spent_seconds: of the budget, when `look` was last called.
    """

    def __init__(self, process: int, by_processor: bool, starts: Callable[[], int | None]) -> None:
        """
        Args:
            process: the sandbox's; what is below it counts.
            by_processor: whether its processes' time counts, rather than the time that passes.
            starts: how many processes were started inside so far; None where nobody sees that.
        """
        self._process, self.by_processor, self._starts = process, by_processor, starts
        self.spent_seconds = 0.0

    def begin(self) -> None:
        self._began = self._looked = time.monotonic()
        if self.by_processor:
            self._started, self._known = self._starts(), processes.cpu_seconds_below(self._process)

    @property
    def passed_seconds(self) -> float:
        return time.monotonic() - self._began

    def look(self) -> float:
        """What it has spent by now, in seconds."""
        if not self.by_processor:
            self.spent_seconds = self.passed_seconds
            return self.spent_seconds
        started = self._starts()  # before the look: what starts after it is seen by the next one
        found, least = processes.cpu_seconds_of(self._known), 0.0
        if started is None or started != self._started or found.keys() != self._known.keys():
            found = processes.cpu_seconds_below(self._process)
            least = time.monotonic() - self._looked if started is not None else 0.0
        worked = sum(found.values()) - sum(self._known.values())
        self._started, self._known, self._looked = started, found, time.monotonic()
        self.spent_seconds += max(least, worked, 0.0)
        return self.spent_seconds

    def seconds_left(self, seconds: float) -> float:
        """Of so many, at least; 0 or less too if they have passed often enough."""
        left = seconds - self.look()
        return min(left, TIMES * seconds - self.passed_seconds) if self.by_processor else left
