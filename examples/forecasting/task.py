"""Forecasting: from the last 48 values of a series its next 12. What is held out is the end of it.

`source` in the config is a csv with a column of numbers, oldest first (`target` names it; else the last one).
Without a source there is a made-up series: two seasons, a slow swing, and noise that remembers itself.
"""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.tasks.items.measures import squared_error
from harness.tasks.items.salt import generator
from harness.tasks.items.task import Examples, Splits, Task

PAST, FUTURE = 48, 12
TRAIN, VAL = 0.7, 0.15  # of the series; the holdout is the rest


def series(source: str, column: str) -> np.ndarray:
    if not source:
        time, drawn = np.arange(60_000), generator("forecasting")
        noise = np.zeros(len(time))
        for at in range(1, len(time)):
            noise[at] = 0.8 * noise[at - 1] + 0.2 * drawn.standard_normal()
        return (
            np.sin(time / 24 * 2 * np.pi) + 0.5 * np.sin(time / 168 * 2 * np.pi) + np.sin(time / 3000) + noise
        )
    path = Path(source).expanduser()
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        name = column or [*rows[0]][-1]
        return np.array([float(row[name]) for row in rows])
    except (OSError, IndexError, KeyError, ValueError, TypeError) as error:
        raise HarnessError(f"{path} has no column of numbers to forecast: {error!r}") from None


def windows(values: np.ndarray, first: int, last: int, step: int) -> Examples:
    """That forecast a value from `first` to `last`, a `step` apart; what they forecast lies there whole."""
    at = np.arange(max(first, PAST), last - FUTURE + 1, step)
    inputs = values[at[:, None] + np.arange(-PAST, 0)]  # (N, 48)
    targets = values[at[:, None] + np.arange(FUTURE)]  # (N, 12)
    return Examples(inputs.astype(np.float32), targets.astype(np.float32), (FUTURE,))


def examples(config, progress) -> Splits:
    values = series(config.source, config.target)
    if len(values) < 20 * (PAST + FUTURE):
        raise HarnessError(f"a series of {len(values)} values is too short for windows of {PAST + FUTURE}")
    ends = [0, int(TRAIN * len(values)), int((TRAIN + VAL) * len(values)), len(values)]
    values = (values - values[: ends[1]].mean()) / values[: ends[1]].std()  # of what training sees
    # What is held out may not overlap: a model that is asked one window would know what follows another.
    steps = (1, PAST + FUTURE, PAST + FUTURE)
    parts = [windows(values, *pair, step) for pair, step in zip(pairwise(ends), steps, strict=True)]
    chosen = np.random.default_rng(0)  # of those held out, as many as are asked for
    held_out = [part.part(chosen.permutation(len(part))[: config.eval_items]) for part in parts[1:]]
    return Splits(parts[0], *held_out)


TASK = Task(squared_error(), examples, library="numpy")
