"""From a task's examples to prepared items: checked, split by a salt that no experiment knows, written.

What is held out of a set that everybody has (its test labels lie on many disks) is known to nobody: the salt
is this machine's, in the cache's folder. Who prepares the same data on several hosts copies that file.
"""

import contextlib
import hashlib
import json
import operator
import secrets
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from harness.config import ItemsConfig
from harness.errors import HarnessError
from harness.paths import data_dir
from harness.store.records import GROWTH_BYTES
from harness.tasks import folder as folders
from harness.tasks.folder import Progress
from harness.tasks.items import store
from harness.tasks.items.game import Game
from harness.tasks.items.measures import Measure, blame
from harness.tasks.items.salt import digest, salt
from harness.tasks.items.task import Examples, Splits, Task

VERSION = 1
VERSIONS = {"tabular": 2}  # of those tasks that read otherwise by now
SHARE = 5  # at most one item of so many is scored, and one is in the holdout
LEAST = 10  # of a score
LEAST_GROWTH = 1024  # bytes
FACTS_BYTES = 60_000  # they come to a run in a packet
SEEDS = 100_000  # to train a game with


def prepare(
    name: str, task: Task | Game, own: bytes, where: str, config: ItemsConfig, progress: Progress, again: bool
) -> store.Items:
    """
    Args:
        own: the source of a person's own task; empty for a built-in one.
        where: its file.

    Raises:
        HarnessError: there are no items to be made of it; one line.
    """
    salt()  # there from here on
    recipe = _recipe(name, own, config)
    folder = _folder(name, own, config)

    def build(building: Path) -> None:
        if isinstance(task, Game):
            return _write(building, task, _seeds(task, config.eval_items), recipe, own)
        progress("read", 0, 1)
        found = _examples(task, config, progress, where)
        progress("read", 1, 1)
        unread = (found.train if isinstance(found, Splits) else found).unread
        folders.refuse(config.source, unread, _count(found) + len(unread), "items")
        if isinstance(found, Splits):
            splits, left_out = found, 0
        else:
            splits = _split(_checked(found), config.eval_items)
            left_out = len(found) - sum(len(getattr(splits, name)) for name in store.SPLITS)
        splits = task.after_split(splits)
        if splits.train.measure not in ([""] if isinstance(task.measure, Measure) else task.measure):
            raise HarnessError(f"the task has no measure {splits.train.measure!r}")
        _check_measure(task, splits, where)
        _write(building, task, splits, recipe, own, left_out, unread)

    folders.make(folder, recipe, again, build)
    return open_prepared(name, own, config)


def open_prepared(name: str, own: bytes, config: ItemsConfig) -> store.Items:
    """The items that a config asks for, verified.

    Raises:
        HarnessError: they are not prepared, or by another task, or were altered.
    """
    folder, files = _folder(name, own, config), [f"{split}.items" for split in store.SPLITS]
    if folders.is_there(folder) and not folders.is_of(folder, _recipe(name, own, config)):
        raise HarnessError(
            f"the data at {folder} were prepared by another task, version or salt", "harness prepare"
        )
    found, manifest = folders.read(folder, "harness prepare", [*files, *([store.OWN] if own else [])])
    try:
        unread = manifest.get("unread", {"count": 0, "first": {}})  # there where there is one
        return store.Items(
            folder, found, manifest["facts"], manifest["measure"], manifest["growth_bytes"],
            (unread["count"], unread["first"]),
        )  # fmt: skip
    except KeyError:
        why = f"{folder / folders.MANIFEST} is not a manifest"
        raise HarnessError(why, "harness prepare --again") from None


def _examples(task: Task, config: ItemsConfig, progress: Progress, where: str) -> Examples | Splits:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no answer of ours
            found = task.examples(config, progress)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        if not where:
            raise
        raise HarnessError(blame(error, where)) from None
    if not isinstance(found, Examples | Splits):
        raise HarnessError(f"{where}: examples gave a {type(found).__name__}, no Examples and no Splits")
    for name in store.SPLITS if isinstance(found, Splits) else ():
        if not isinstance(part := getattr(found, name), Examples):
            raise HarnessError(f"{where}: the {name} split is a {type(part).__name__}, no Examples")
    return found


def _count(found: Examples | Splits) -> int:
    return sum(len(getattr(found, n)) for n in store.SPLITS) if isinstance(found, Splits) else len(found)


def _check_measure(task: Task, splits: Splits, where: str) -> None:
    """That targets can be scored: what is wrong is said before a run."""
    measure, shape = task.measure_of(splits.train.measure), splits.train.reply_shape
    for split in store.SPLITS:
        targets = np.asarray(_checked(getattr(splits, split), split).targets)
        if trouble := measure.trouble(targets, shape) if len(targets) else "":
            raise HarnessError(f"the task's {split} split: {trouble}")
    try:
        targets = np.asarray(splits.val.targets)
        perfect = np.asarray(measure.perfect(targets, shape))
        worth = np.asarray(measure.of(perfect, targets), np.float64)
    except Exception as error:  # noqa: BLE001 - it is a person's own program
        raise HarnessError(f"the measure can't score a perfect reply: {blame(error, where)}") from None
    _check_range(measure, splits, worth, shape, where)
    if perfect.shape != (len(targets), *shape):
        raise HarnessError(f"the measure's perfect replies are {perfect.shape}, not {(len(targets), *shape)}")
    if worth.shape != (len(targets),) or not np.isfinite(worth).all():
        raise HarnessError(
            f"the measure gave {worth.shape} for {len(targets)} items, not a finite number each"
        )


def _check_range(
    measure: Measure, splits: Splits, perfect: np.ndarray, shape: tuple[int, ...], where: str
) -> None:
    """That neither the best constant reply nor a perfect one is worth what no score may be."""
    targets, metric = np.asarray(splits.val.targets), measure.metric
    try:
        reply = np.asarray(measure.constant(np.asarray(splits.train.targets), shape), np.float64)
        constant = np.asarray(measure.of(np.zeros((len(targets), *shape)) + reply, targets), np.float64)
    except Exception as error:  # noqa: BLE001 - it is a person's own program
        raise HarnessError(f"the measure can't score its constant reply: {blame(error, where)}") from None
    for what, worth in (("constant", constant), ("perfect", perfect)):
        if worth.shape == (len(targets),) and not metric.is_score(value := float(worth.mean())):
            ends = f"between {metric.low:g} and {metric.high:g} and is neither"
            why = f"a {what} reply is worth {value:g}, and {metric.name} lies {ends}"
            raise HarnessError(why, "targets of another scale, or a wider range of the Metric")


def _recipe(name: str, own: bytes, config: ItemsConfig) -> dict[str, Any]:
    return {
        "version": VERSIONS.get(name, VERSION),
        "name": Path(config.source).name or name,
        "source": config.source,
        "task": name,
        "own": hashlib.sha256(own).hexdigest() if own else None,
        "target": config.target,
        "eval_items": config.eval_items,
        "salt": digest(),
    }


def _folder(name: str, own: bytes, config: ItemsConfig) -> Path:
    """One for each recipe: repositories beside each other don't take it from one another."""
    parts = hashlib.sha256(config.target.encode() + b"\0" + own).hexdigest()[:7]
    return data_dir(config.source or name, f"{name}-e{config.eval_items}-{parts}")


def _seeds(game: Game, eval_items: int) -> Splits:
    """Drawn now, so that nobody knows what is scored."""
    drawn = np.array([secrets.randbits(63) for _ in range(SEEDS + 2 * eval_items)], np.int64)
    every = Examples(drawn, np.zeros(len(drawn), np.int8), game.reply_shape, game.facts)
    return Splits(*map(every.part, np.split(np.arange(len(drawn)), [SEEDS, SEEDS + eval_items])))


def _checked(found: Examples, what: str = "examples") -> Examples:
    label = f"the task's {what}"
    inputs, targets = _plain(found.inputs), _plain(found.targets)
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise HarnessError(f"{label}: inputs are {inputs.shape} and targets {targets.shape}: not as many")
    for said, array in (("inputs", inputs), ("targets", targets)):
        if array.dtype.kind not in "fiub":
            raise HarnessError(f"{label}: {said} are {array.dtype}, not numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = int(np.argwhere(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0, 0])
            raise HarnessError(f"{label}: {said} of item {at} have NaN or infinity")
    try:
        shape = tuple(map(operator.index, found.reply_shape))
    except TypeError:
        shape = (0,)
    if not isinstance(found.reply_shape, tuple) or not all(size > 0 for size in shape):
        raise HarnessError(f"{label}: reply_shape is {found.reply_shape!r}, not a tuple of sizes")
    return replace(found, inputs=inputs, targets=targets, reply_shape=shape)


def _plain(values: Any) -> np.ndarray:
    """As any library takes it: in this machine's order of bytes, up to 64 bits, a class for a bool."""
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _split(examples: Examples, eval_items: int) -> Splits:
    """By a salted hash of each input, so that what comes twice is on one side."""
    total = len(examples)
    count = min(eval_items, total // SHARE)
    if count < LEAST:
        raise HarnessError(
            f"there are {total} examples: {LEAST * SHARE} are the least that a score can be made of"
        )
    key, inputs = salt(), np.ascontiguousarray(examples.inputs)
    keys = np.array(
        [hashlib.blake2b(each.tobytes(), key=key[:64], digest_size=8).digest() for each in inputs]
    )
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    ends = np.cumsum(sizes)  # in the order of their keys, which is anybody's guess
    holdout, val = int(np.searchsorted(ends, count)) + 1, int(np.searchsorted(ends, 2 * count)) + 1
    alone = np.argsort(group, kind="stable")
    starts = ends - sizes
    if val >= len(sizes) or min(holdout, val - holdout) < LEAST:
        raise HarnessError(
            f"of {total} examples only {len(sizes)} have an input of their own: too few to hold out"
        )
    return Splits(
        train=examples.part(alone[starts[val] :]),
        val=examples.part(first[holdout:val]),  # each once: what is scored twice counts twice
        holdout=examples.part(first[:holdout]),
    )


def _write(
    folder: Path,
    task: Task | Game,
    splits: Splits,
    recipe: dict[str, Any],
    own: bytes,
    left_out: int = 0,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> None:
    parts = {name: _checked(getattr(splits, name), name) for name in store.SPLITS}
    train = parts["train"]
    shapes = [(part.inputs.shape[1:], part.targets.shape[1:], part.reply_shape) for part in parts.values()]
    inputs_type = np.result_type(*(part.inputs for part in parts.values()))
    target_type = np.result_type(*(part.targets for part in parts.values()))
    for (name, part), found in zip(parts.items(), shapes, strict=True):
        if len(part) < (LEAST if name != "train" else 1):
            raise HarnessError(f"the task's {name} split has {len(part)} items: {LEAST} are the least")
        if found != shapes[0]:
            raise HarnessError(f"the task's {name} split has other shapes than training")
        store.write(
            folder / f"{name}.items", part.inputs.astype(inputs_type), part.targets.astype(target_type)
        )
    fed, target = map(list, shapes[0][:2])
    about = {
        **_json(train.facts), "input_shape": list(task.asked_shape) if isinstance(task, Game) else fed,
        "reply_shape": list(train.reply_shape), "train_items": len(train),
    }  # fmt: skip
    facts = {
        "facts": about, "fed_shape": fed, "input_type": str(inputs_type), "target_shape": target,
        "target_type": str(target_type),
    }  # fmt: skip
    if own:
        (folder / store.OWN).write_bytes(own)
    counts = {name: {"items": len(part)} for name, part in parts.items()}
    if left_out:
        counts["val"]["repeats left out of val and holdout"] = left_out
    files = [f"{name}.items" for name in store.SPLITS] + ([store.OWN] if own else [])
    more = {"measure": train.measure, "growth_bytes": _growth_bytes(parts["val"].targets), "splits": counts}
    if unread:
        first = dict(islice(unread.items(), folders.LISTED))
        more["unread"] = {"count": len(unread), "first": first}
    folders.seal(folder, recipe, {"facts": facts, **more}, files)


def _growth_bytes(targets: np.ndarray) -> int:
    """A quarter of what the scored targets, (N, ...), take when they are packed well: numbers count as a byte
    each. With few of them that is too little to change anything in: then it is `LEAST_GROWTH`."""
    bits = 8.0 * targets.size
    if targets.dtype.kind != "f":
        _, counted = np.unique(targets, return_counts=True)
        shares = counted / targets.size
        bits = -targets.size * float((shares * np.log2(shares)).sum())
    return int(min(GROWTH_BYTES, max(LEAST_GROWTH, bits / 8 / 4)))


# What `trial.open()` has itself.
RESERVED = {
    "seed", "device", "dtype", "budget_seconds", "checkpoint_dir", "batches", "dummy_batch", "fit_rows",
    "log", "submit", "progress", "elapsed_seconds", "input_shape", "reply_shape", "train_items",
}  # fmt: skip


def _json(facts: Mapping[str, Any]) -> dict[str, Any]:
    for name in facts:
        if not str(name).isidentifier() or str(name).startswith("_") or name in RESERVED:
            raise HarnessError(
                f"the task's fact {name!r} can't be an attribute of trial.open(): another name"
            )
    try:
        said = json.dumps(dict(facts), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise HarnessError(f"the task's facts are no JSON values: {error}") from None
    if len(json.dumps(said)) > FACTS_BYTES:
        large = max(facts, key=lambda name: len(json.dumps(facts[name])))
        why = f"the task's facts take over {FACTS_BYTES // 1000} KB, most of it {large!r}"
        raise HarnessError(why, "shorter names, or numbers in their place")
    found: dict[str, Any] = json.loads(said)
    return found
