"""Prepared items on disk.

manifest.json               recipe, facts, counts; see `harness.tasks.folder`
train.items val.items holdout.items    two arrays each, as numpy writes them: inputs, then targets
task.py                     a person's own task, as it was when this was prepared
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

SPLITS = ("train", "val", "holdout")
FIRST_ITEMS = 64
SHOWN = 8  # names of classes or columns
OWN = "task.py"


@dataclass(frozen=True)
class Items:
    """A verified folder of items."""

    folder: Path
    id: str
    """`name@digest`, what a score's `Data:` trailer says."""
    facts: dict[str, Any]
    """What a training is told, see `harness.tasks.items.feed`."""
    measure: str
    """Which of the task's."""
    growth_bytes: int
    """By which an experiment may make train.py longer, see `harness.tasks.items.prepare`."""
    unread: tuple[int, Mapping[str, str]] = (0, MappingProxyType({}))
    """How much could not be read and is left out; the first places, and why."""

    @property
    def train_file(self) -> Path:
        return self.folder / "train.items"

    def files(self, split: str) -> dict[str, Any]:
        """What an exam is made of, see `harness.tasks.items.exam`."""
        own = self.folder / OWN
        return {
            "items": str(self.folder / f"{split}.items"), "train": str(self.train_file),
            "reply_shape": self.facts["facts"]["reply_shape"], "measure": self.measure,
            "source_file": str(own) if own.exists() else "",
        }  # fmt: skip

    def about(self) -> list[str]:
        facts = self.facts["facts"]
        shape, replies = (" x ".join(map(str, facts[name])) for name in ("input_shape", "reply_shape"))
        parts = [
            f"inputs {shape or 'one number'} {self.facts['input_type']}",
            f"replies {replies or 'one number'}",
        ]
        for name, value in facts.items():
            if isinstance(value, list) and value and isinstance(value[0], str):
                more = ", ..." if len(value) > SHOWN else ""
                shown = (repr(each) if "," in each else each for each in value[:SHOWN])
                parts.append(f"{len(value)} {name}: {', '.join(shown)}{more}")
            elif isinstance(value, str):
                parts.append(f"{name} {value}")
        count, first = self.unread
        listed = [f"{name}: {why}" for name, why in first.items()] + ["..."] * (count > len(first))
        return ["; ".join(parts)] + (
            [f"can't be read, left out: {count}: {'; '.join(listed)}"] if count else []
        )

    def warning(self) -> str:
        """None: there is nothing to say, see `harness.tasks.registry.Prepared`."""
        return ""


def write(path: Path, inputs: np.ndarray, targets: np.ndarray) -> None:
    with path.open("wb") as file:
        for array in (inputs, targets):
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read(where: int | str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, mapped, by a name or by a descriptor."""
    with os.fdopen(os.dup(where), "rb") if isinstance(where, int) else Path(where).open("rb") as file:
        file.seek(0)
        inputs = _mapped(file)
        return inputs, _mapped(file)


def _mapped(file: Any) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    reading = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = reading(file)
    if dtype.hasobject:
        raise ValueError("not an array of numbers")
    start = file.tell()
    array = np.memmap(file, dtype, "r", start, shape) if math.prod(shape) else np.zeros(shape, dtype)
    file.seek(start + array.nbytes)
    return array
