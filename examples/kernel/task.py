"""The speed of a kernel: how many times faster than a plain GELU is what train.py made?

The scorer draws fresh inputs for each call, compares every answer with the reference in float64, and takes
the time itself: what the model's process had of a processor, from the question to the answer in the scorer's
own memory. Between questions that process stands still. So a patched timer, a replayed result or a lazy
output gains nothing. Faster than reading and writing the memory once is refused. On a GPU the copy of the
inputs is part of the time.
"""

import time

import numpy as np

from harness.store.metric import Metric
from harness.tasks.items.game import Ask, Game
from harness.tasks.items.measures import BadReply

ROWS, COLUMNS = 256, 4096
TOLERANCE = 1e-4
CALLS = 3  # that each of the seeds stands for; the fastest counts, as for the reference


def reference(x: np.ndarray) -> np.ndarray:
    """GELU by tanh (Hendrycks and Gimpel, 2016), in as many passes as it has operations."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))


def seconds_of(function, *given) -> float:
    began = time.thread_time_ns()  # not the scorer's other threads', which a model could keep busy
    function(*given)
    return max(1, time.thread_time_ns() - began) / 1e9


def play(seeds: np.ndarray, ask: Ask) -> np.ndarray:
    """How many times faster, for each of the seeds, (N,)."""
    worth = np.zeros(len(seeds))
    for at, seed in enumerate(seeds):
        generator, ours, theirs, least = np.random.default_rng(seed), [], [], []
        for _ in range(CALLS):
            x = generator.standard_normal((1, ROWS, COLUMNS), np.float32) * generator.uniform(0.1, 3)
            y, seconds = ask(x)
            wrong = float(np.abs(y - reference(x.astype(np.float64))).max())
            if wrong > TOLERANCE:
                raise BadReply(f"the kernel is wrong by {wrong:.2g}, over {TOLERANCE:g}")
            theirs.append(seconds)
            ours.append(seconds_of(reference, x))
            least.append(seconds_of(np.copyto, np.empty_like(x), x))
        if min(theirs) < min(least) / 2:
            raise BadReply("the kernel is faster than its memory can be read and written")
        worth[at] = min(ours) / min(theirs)
    return worth


TASK = Game(
    Metric("speedup", goal="max", decimals=2, low=0.0, high=1000.0), play,
    asked_shape=(ROWS, COLUMNS), reply_shape=(ROWS, COLUMNS), at_once=1, is_timed=True,
)  # fmt: skip
