"""Whether a task is what it has to be: looked at as its data are, without a run. See `harness task check`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.config import ItemsConfig
from harness.tasks.items import store
from harness.tasks.items.measures import BadReply, Measure
from harness.tasks.items.task import Splits, Task

CONSTANT_LEAST = 3.0  # standard errors by which a perfect reply must beat a constant one
SHARE = 0.01  # of held-out inputs that may be in training too


@dataclass(frozen=True)
class Finding:
    name: str
    is_right: bool
    says: str


def constant(task: Task, data: store.Items) -> np.ndarray:
    """The reply, the same for all, that is worth most by training's targets."""
    _, targets = store.read(data.train_file)
    shape = tuple(data.facts["facts"]["reply_shape"])
    return task.measure_of(data.measure).constant(np.asarray(targets), shape)


def looked_at(task: Task, data: store.Items, config: ItemsConfig) -> Iterator[Finding]:
    """What its examples, its measure and its splits say."""
    measure, shape = task.measure_of(data.measure), tuple(data.facts["facts"]["reply_shape"])
    inputs, targets = map(np.asarray, store.read(data.files("val")["items"]))
    yield _agrees(task, config)
    reply = constant(task, data)
    floor = _worth(measure, np.broadcast_to(reply, (len(targets), *shape)), targets)
    best = _worth(measure, measure.perfect(targets, shape), targets)
    sign, text = measure.metric.sign, measure.metric.text
    apart = sign * (floor - best)
    sure = apart.mean() > CONSTANT_LEAST * apart.std() / np.sqrt(len(apart)) and apart.mean() > 0
    worse = "" if sure else f", which has to be better: {measure.metric.words}"
    yield Finding(
        "floor", bool(sure), f"{measure.metric.name}: {text(float(floor.mean()))} for a constant reply, "
        f"{text(float(best.mean()))} for a perfect one{worse}",
    )  # fmt: skip
    yield _refuses(measure, targets, shape)
    yield _apart(inputs, np.asarray(store.read(data.train_file)[0]))
    yield _no_target(inputs, targets, data)
    if (overlap := _overlap(inputs, targets)) is not None:
        yield overlap


def _worth(measure: Measure, replies: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(measure.of(np.asarray(replies, np.float64), targets), np.float64)


def _agrees(task: Task, config: ItemsConfig) -> Finding:
    """Twice the same examples: data that change are another setting each time."""

    def read() -> list[np.ndarray]:
        found = task.examples(config, lambda *_: None)
        parts = [found.train, found.val, found.holdout] if isinstance(found, Splits) else [found]
        return [array for part in parts for array in (part.inputs, part.targets)]

    same = all(np.array_equal(one, other) for one, other in zip(read(), read(), strict=True))
    return Finding(
        "examples",
        same,
        "the same each time" if same else "not the same when read twice: what draws them needs a fixed seed",
    )


def _refuses(measure: Measure, targets: np.ndarray, shape: tuple[int, ...]) -> Finding:
    """That chance isn't worth more than the best constant is checked by `floor`; here, that it is worth a
    number, or refused."""
    replies = np.random.default_rng(0).normal(0, 3, (len(targets), *shape))
    try:
        worth = _worth(measure, replies, targets)
    except BadReply as refused:
        return Finding("measure", True, f"replies by chance are refused: {refused}")
    if worth.shape != (len(targets),):
        said = f"it gave {worth.shape} for replies {replies.shape} and targets {targets.shape}, not (B,)"
        return Finding("measure", False, said)
    half = len(targets) // 2
    parts = [_worth(measure, replies[part], targets[part]) for part in (slice(half), slice(half, None))]
    if not np.allclose(np.concatenate(parts), worth, rtol=1e-6, atol=1e-12, equal_nan=True):
        return Finding("measure", False, "what a reply is worth depends on the others it is given with")
    right = bool(np.isfinite(worth).all())
    said = (
        measure.metric.text(float(worth.mean())) if right else f"of shape {worth.shape}, not one number each"
    )
    return Finding("measure", right, f"replies by chance are worth {said}")


def _apart(inputs: np.ndarray, known: np.ndarray) -> Finding:
    """How many of those that are scored were trained on."""
    seen = {row.tobytes() for row in np.ascontiguousarray(known)}
    count = sum(row.tobytes() in seen for row in np.ascontiguousarray(inputs))
    return Finding(
        "splits", count <= SHARE * len(inputs), f"{count} of {len(inputs)} scored inputs are in training"
    )


def _overlap(inputs: np.ndarray, targets: np.ndarray) -> Finding | None:
    """How many scored targets follow in another scored input what stands before them: windows of a series."""
    if inputs.ndim != 2 or inputs.shape[1] < 3 or inputs.dtype.kind != "f" or targets.dtype.kind != "f":
        return None
    first = targets.reshape(len(targets), -1)[:, :1].astype(inputs.dtype)
    asked = np.concatenate([inputs[:, -2:], first], axis=1)
    inside = {each.tobytes() for at in range(inputs.shape[1] - 2) for each in inputs[:, at : at + 3]}
    count = sum(each.tobytes() in inside for each in asked)
    said = f"{count} of {len(asked)} scored targets stand in another scored input"
    return Finding("windows", count <= SHARE * len(asked), said + (": windows that overlap" if count else ""))


def _no_target(inputs: np.ndarray, targets: np.ndarray, data: store.Items) -> Finding:
    """Whether a number of an input is the target, or the facts are."""
    flat, goal = inputs.reshape(len(inputs), -1), targets.reshape(len(targets), -1)[:, 0].astype(np.float64)
    for at, column in enumerate(flat.T.astype(np.float64)):
        if column.std() and goal.std() and abs(np.corrcoef(column, goal)[0, 1]) > 1 - 1e-9:
            return Finding("secret", False, f"number {at} of an input says the target")
    for name, said in data.facts["facts"].items():
        numbers = isinstance(said, list) and all(isinstance(each, int | float) for each in said)
        if numbers and name not in ("input_shape", "reply_shape") and len(said) >= len(goal):
            return Finding(
                "secret", False, f"the fact {name!r} has as many values as there are scored targets"
            )
    return Finding("secret", True, "no number of an input, and no fact, says a target")
