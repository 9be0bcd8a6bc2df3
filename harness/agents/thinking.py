"""A process of its own for what takes a processor's time, at the lowest priority.

`elsewhere` asks it, `python -m harness.agents.thinking` is it: one JSON object in, one out. What it works on
are numbers and names; it reads no file and runs no experiment's code.
"""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass

import msgspec

from harness.agents.axes import Axis, Value
from harness.agents.program import Constant
from harness.agents.tuning import Seen, Thought, Tuning
from harness.sandbox import limits

LONGEST_SECONDS = 60.0
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True)
class Question:
    """See `Tuning`."""

    constants: dict[str, Value]
    """Of the incumbent: those to be searched."""
    structure: str
    seen: tuple[Seen, ...]
    noise: float | None
    seed: int
    count: int = 1
    """Steps that are wanted."""
    touched: tuple[str, ...] = ()

    def answer(self) -> Thought:
        import numpy as np

        axes = [Axis(Constant(name, value, 0, 0, 0)) for name, value in self.constants.items()]
        chooser = np.random.default_rng(self.seed)
        tuning = Tuning(axes, self.structure, self.seen, self.noise, chooser, self.touched)
        return tuning.thought(self.count)


def elsewhere(question: Question) -> Thought | str:
    """What the process says; or why it says nothing, in one line."""
    command = [sys.executable, "-m", "harness.agents.thinking"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(question), capture_output=True, timeout=LONGEST_SECONDS,
            env=os.environ | ONE_THREAD, check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the search thought for more than {LONGEST_SECONDS:.0f} s"
    except OSError as error:
        return f"no process for the search's thoughts: {error.strerror}"
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"the search's process ended with {done.returncode}: {''.join(last)}"
    try:
        return msgspec.json.decode(done.stdout, type=Thought)
    except msgspec.MsgspecError as error:
        return f"the search's process said what nobody understands: {error}"


if __name__ == "__main__":
    limits.die_with_parent()
    with contextlib.suppress(OSError):
        os.nice(19)
    sys.stdout.buffer.write(
        msgspec.json.encode(msgspec.json.decode(sys.stdin.buffer.read(), type=Question).answer())
    )
