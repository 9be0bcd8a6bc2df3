"""Pictures and their classes: decided by log loss over held-out pictures, the accuracy is shown beside it."""

from pathlib import Path

import numpy as np

from harness.config import ItemsConfig
from harness.errors import HarnessError
from harness.tasks.folder import Progress
from harness.tasks.images import sources
from harness.tasks.items.measures import LOG_LOSS, accuracy
from harness.tasks.items.task import Examples, Task

LEAST = 3  # pictures of a class: one each to train on, to score and for the holdout


def _examples(config: ItemsConfig, progress: Progress) -> Examples:
    """Inputs (N, H, W, C) uint8; what `trial.open()` gets beside shapes: `classes`, and of each channel
    `channel_mean` and `channel_sd`, from 0 to 1."""
    if config.target:
        raise HarnessError(
            "pictures have no columns", "target = '' under [data] in .autoresearch/config.toml"
        )
    found = sources.read(config.source, progress)
    pictures, classes = found.images, found.classes
    counted = np.bincount(found.targets, minlength=len(classes))
    for name, count in zip(classes, counted, strict=True):
        if count < LEAST:
            raise HarnessError(
                f"{config.source}: class {name!r} has {count} of the pictures; {LEAST} are the least",
                "more pictures of it, or without that class",
            )
    if len(classes) < 2:
        raise HarnessError(f"{config.source}: all pictures are of one class, {classes[0]!r}")
    facts = {
        "classes": classes,
        "channel_mean": (pictures.mean(axis=(0, 1, 2)) / 255).round(4).tolist(),
        "channel_sd": (pictures.std(axis=(0, 1, 2)) / 255).round(4).tolist(),
    }
    return Examples(pictures, found.targets, (len(classes),), facts, unread=found.unread)


def _hidden(config: ItemsConfig) -> list[Path]:
    return [sources.DEBIAN, sources.downloads()]


TASK = Task(LOG_LOSS, _examples, {"accuracy": accuracy}, hidden=_hidden)
