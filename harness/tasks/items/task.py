"""A task of items, as its owner writes it down; `.autoresearch/task.py` defines `TASK`, one of these.

See docs/your-own-task.md for one from end to end.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.config import ItemsConfig
from harness.store.metric import NAME
from harness.tasks.folder import Progress
from harness.tasks.items.measures import Figure, Measure


@dataclass(frozen=True)
class Examples:
    """Items of which none says anything of another's target."""

    inputs: np.ndarray
    """(N, ...), of numbers."""
    targets: np.ndarray
    """(N, ...), of numbers."""
    reply_shape: tuple[int, ...]
    """Of what a model says of one item: (C,) logits of classes, () for a number."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `trial.open()` tells a train.py beside shapes, by attribute: numbers, texts, lists of them."""
    measure: str = ""
    """Which of the task's, where it has several by name."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Places of what could not be read and is left out, and why; over 1% of all is refused."""

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, which: np.ndarray) -> "Examples":
        return Examples(self.inputs[which], self.targets[which], self.reply_shape, self.facts, self.measure)


@dataclass(frozen=True)
class Splits:
    """Where the owner says what is held out, as of a series, whose end is."""

    train: Examples
    val: Examples
    holdout: Examples


def check_library(name: str) -> None:
    """
    Raises:
        ValueError: it is none that batches can be of.
    """
    if name not in ("torch", "numpy"):
        raise ValueError(f"library is {name!r}, not torch or numpy")


@dataclass(frozen=True)
class Task:
    """What is trained for; `examples` reads what `[data]` in the config says."""

    measure: Measure | Mapping[str, Measure]
    """What a reply is worth; several, if that depends on the data."""
    examples: Callable[[ItemsConfig, Progress], Examples | Splits]
    """May raise `harness.errors.HarnessError`, in one line."""
    figures: Mapping[str, Figure] | Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    """Shown beside a score, by name; of each measure, where there are several."""
    library: str = "torch"
    """What batches are arrays of, and replies: `torch` or `numpy`."""
    after_split: Callable[[Splits], Splits] = lambda splits: splits
    """What is to go by training's items alone, as scaling: a mean of all would tell of what is held out."""
    hidden: Callable[[ItemsConfig], list[Path]] = lambda _: []
    """Where else the data lie: no run may see these files and folders."""

    def __post_init__(self) -> None:
        check_library(self.library)
        names = [name for each in self.figures.values() if isinstance(each, Mapping) for name in each]
        for name in [name for name, each in self.figures.items() if not isinstance(each, Mapping)] + names:
            if not NAME.fullmatch(name):
                raise ValueError(f"a figure's name is {name!r}, not one word")

    def measure_of(self, name: str) -> Measure:
        """By the name that `Examples` has."""
        return self.measure if isinstance(self.measure, Measure) else self.measure[name]

    def figures_of(self, name: str) -> Mapping[str, Figure]:
        if isinstance(self.measure, Measure):
            return cast(Mapping[str, Figure], self.figures)
        return cast(Mapping[str, Mapping[str, Figure]], self.figures).get(name, {})


def drawn(inputs: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Inputs like those, (count, ...), that say nothing of any: each number is drawn for itself."""
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
    if flat.shape[1] == 0:
        return np.zeros((count, *inputs.shape[1:]), inputs.dtype)
    rows = generator.integers(0, len(flat), (count, flat.shape[1]))
    return flat[rows, np.arange(flat.shape[1])].reshape(count, *inputs.shape[1:])
