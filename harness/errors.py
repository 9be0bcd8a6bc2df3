"""The one error for expected failures, and the exit codes.

An expected failure says what happened, why, and the command that mends it. Only the command line
catches it. A crash of train.py is data (a run's status), never an exception.
"""

DONE, FAILED, USAGE, BUG, INTERRUPTED = 0, 1, 2, 3, 130


class HarnessError(Exception):
    """Something a person can mend.

    `fix` is the command or the edit that mends it; it is printed after the message on one line.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. Try: {self.fix}" if self.fix else self.message


class MachineFailed(OSError):
    """A worker's machine: no disk, no process. Others may go on."""


class DeviceLost(HarnessError):
    """One device doesn't answer any more; the others do."""
