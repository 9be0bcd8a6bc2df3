"""A table with a column that is to be predicted: log loss of classes, or squared error of a number.

The error is in units of the target's variance: 1 is what its mean gives. Columns of numbers come with mean 0
and deviation 1, and a column more that says where one is missing; columns of words as one of 0 and 1 a word.
"""

import importlib.util
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import ItemsConfig
from harness.errors import HarnessError
from harness.tasks.folder import Progress
from harness.tasks.items.measures import LOG_LOSS, accuracy, squared_error
from harness.tasks.items.task import Examples, Splits, Task

NAMED = {"diabetes": "load_diabetes", "breast-cancer": "load_breast_cancer", "wine": "load_wine"}
MOST_WORDS = 50  # of a column; rarer ones are one
MOST_CLASSES = 20  # whole numbers with more different values are predicted as numbers
LEAST = 3  # rows of a class
MOST_NAMES, MOST_CHARS = 500, 60  # of columns that a run is told
CLASSES, NUMBER = "log_loss", "squared_error"


@dataclass(frozen=True)
class Table:
    columns: dict[str, np.ndarray]
    """(N,) each, of numbers or of words."""
    target: str


def _examples(config: ItemsConfig, progress: Progress) -> Examples:
    """Inputs (N, F); what `trial.open()` gets beside shapes: `columns`, none where they are many, and
    `classes`, empty where a number is predicted."""
    table = read(config.source, config.target)
    goal = table.columns[table.target]
    for name, values in table.columns.items():
        if name != table.target and _same(values, goal):
            raise HarnessError(
                f"{config.source}: column {name!r} says the same as the target {table.target!r}"
            )
    inputs, names = _encoded({name: each for name, each in table.columns.items() if name != table.target})
    if not names:
        raise HarnessError(f"{config.source} has no column beside the target {table.target!r}")
    few = len(names) <= MOST_NAMES
    facts: dict[str, Any] = {"target": table.target, "columns": [name[:MOST_CHARS] for name in names] * few}
    if _is_number(goal):
        if goal.min() == goal.max():
            raise HarnessError(f"{config.source}: the target {table.target!r} is always {goal[0]:g}")
        facts["classes"] = []
        return Examples(inputs, goal.astype(np.float64), (), facts, NUMBER)
    classes, targets, counted = np.unique(goal, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise HarnessError(f"{config.source}: the target {table.target!r} is always {classes[0]}")
    if counted.min() < LEAST:
        rare = classes[counted.argmin()]
        raise HarnessError(
            f"{config.source}: class {str(rare)!r} has {counted.min()} rows; {LEAST} are the least"
        )
    facts["classes"] = [str(name) for name in classes]
    return Examples(inputs, targets.astype(np.int64), (len(classes),), facts, CLASSES)


def _scaled(splits: Splits) -> Splits:
    """Numbers with mean 0 and deviation 1, by what training's rows say alone: of all rows they would tell
    what is held out. `target_mean` and `target_sd` turn a reply back into a target."""
    train = splits.train
    columns = np.asarray(train.inputs).T
    inputs = [(0.0, 1.0) if np.isin(column, (0.0, 1.0)).all() else _by(column) for column in columns]
    facts, target = dict(train.facts), (0.0, 1.0)
    if train.measure == NUMBER:
        target = _by(np.asarray(train.targets))
        facts |= {"target_mean": target[0], "target_sd": target[1]}

    def scaled(part: Examples) -> Examples:
        means, sds = np.array(inputs).T
        found = replace(part, inputs=((part.inputs - means) / sds).astype(np.float32), facts=facts)
        if train.measure != NUMBER:
            return found
        return replace(found, targets=((part.targets - target[0]) / target[1]).astype(np.float32))

    return Splits(scaled(train), scaled(splits.val), scaled(splits.holdout))


def _by(column: np.ndarray) -> tuple[float, float]:
    """What a column's values, (N,), are scaled by: their mean and deviation."""
    largest = float(np.abs(column).max()) or 1.0  # squares of huge values have no end
    return float((column / largest).mean()) * largest, (float((column / largest).std()) * largest) or 1.0


def read(source: str, target: str) -> Table:
    """A table by its name or file; without a `target` its last column is.

    Raises:
        HarnessError: it can't be read, or has no such column.
    """
    columns = _named(source) if source in NAMED else _file(Path(source).expanduser())
    target = unicodedata.normalize("NFC", target) or [*columns][-1]
    if target not in columns:
        names = ", ".join([*columns][:10])
        raise HarnessError(f"{source} has no column {target!r}, only {names}", "[data] target in the config")
    missing = _missing(columns[target])
    if missing.any():
        where = f"{missing.sum()} rows, first in row {int(missing.argmax()) + 1}"
        raise HarnessError(
            f"{source}: the target {target!r} is missing or infinite in {where}",
            "without those rows, or another `target` under [data] in the config",
        )
    return Table(columns, target)


def _named(source: str) -> dict[str, np.ndarray]:
    """One of scikit-learn's own."""
    try:
        import sklearn.datasets
    except ImportError:
        raise HarnessError(
            f"{source} comes with scikit-learn, which isn't here", "pip install scikit-learn"
        ) from None
    found = getattr(sklearn.datasets, NAMED[source])()
    columns = {str(name): found.data[:, at] for at, name in enumerate(found.feature_names)}
    names = getattr(found, "target_names", None)
    return {**columns, "target": found.target if names is None else np.asarray(names)[found.target]}


def _file(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as arrow
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    if path.suffix not in (".csv", ".parquet") or not path.is_file():
        names = ", ".join(NAMED)
        raise HarnessError(
            f"no table at {path}: not {names}, a .csv (with commas) or a .parquet file", "another `source`"
        )
    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
        found = [unicodedata.normalize("NFC", str(name)) for name in table.column_names]
    except UnicodeDecodeError:
        raise HarnessError(f"{path} is not UTF-8", f"iconv -f latin1 -t utf8 {path} > utf8.csv") from None
    except (arrow.ArrowInvalid, OSError) as error:
        raise HarnessError(f"{path} can't be read: {str(error).splitlines()[0]}") from None
    if len(found) == 1 and any(sign in found[0] for sign in ";\t|"):
        raise HarnessError(f"{path} has one column, {found[0]!r}: its values are to stand between commas")
    if table.num_rows == 0:
        raise HarnessError(f"{path} has no rows")
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise HarnessError(f"{path} has {Counter(found)[twice[0]]} columns named {twice[0]!r}")
    for name, of in zip(found, table.schema.types, strict=True):
        if arrow.types.is_nested(of) or arrow.types.is_binary(of) or arrow.types.is_large_binary(of):
            raise HarnessError(f"{path}: column {name!r} has {of} values, neither numbers nor words")
    return {name: _plain(table[at]) for at, name in enumerate(found)}


def _plain(column: Any) -> np.ndarray:
    """Numbers as float64 with NaN for none, anything else as words with "" for none."""
    import pyarrow as arrow

    if arrow.types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy()
    kinds = arrow.types.is_floating, arrow.types.is_integer, arrow.types.is_decimal
    if any(is_one(column.type) for is_one in kinds):
        return column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.array(["" if value is None else str(value) for value in column.to_pylist()])


def _is_number(values: np.ndarray) -> bool:
    if values.dtype.kind == "f":
        return bool((values != np.round(values)).any()) or len(np.unique(values)) > MOST_CLASSES
    return values.dtype.kind in "iu" and len(np.unique(values)) > MOST_CLASSES


def _missing(values: np.ndarray) -> np.ndarray:
    return (
        ~np.isfinite(values)
        if values.dtype.kind == "f"
        else values == ""
        if values.dtype.kind == "U"
        else values != values
    )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether either can be told from the other: a copy, a scaled one, or one of other words."""
    if one.dtype.kind in "fiu" and other.dtype.kind in "fiu" and _is_number(other):
        one, other = one.astype(np.float64), other.astype(np.float64)
        if np.isnan(one).any() or one.std() == 0 or other.std() == 0:
            return False
        return abs(float(np.corrcoef(one, other)[0, 1])) > 1 - 1e-9
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    values = len(set(one.tolist()))  # as many as rows: names or dates, which tell of nothing but their row
    return values < len(one) and len(pairs) == values == len(set(other.tolist()))


def _encoded(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """(N, F) float64, and what each of the F is."""
    parts, names = list[np.ndarray](), list[str]()
    for name, values in columns.items():
        if values.dtype.kind in "fiub":
            values = values.astype(np.float64)
            missing = ~np.isfinite(values)
            known = values[~missing]
            if len(known) == 0 or known.min() == known.max():
                continue  # it says nothing
            parts.append(np.where(missing, known[0], values))
            names.append(name)
            if missing.any():
                parts.append(missing.astype(np.float64))
                names.append(f"{name} is missing")
            continue
        words, counted = np.unique(values, return_counts=True)
        for word in words[np.argsort(-counted)][:MOST_WORDS] if len(words) > 1 else ():
            parts.append((values == word).astype(np.float64))
            names.append(f"{name} is {word or 'missing'}")
    return np.stack(parts, axis=1) if parts else np.empty((0, 0)), names


def _hidden(config: ItemsConfig) -> list[Path]:
    found = importlib.util.find_spec("sklearn")
    return [Path(found.origin).parent / "datasets" / "data"] if found and found.origin else []


TASK = Task(
    {CLASSES: LOG_LOSS, NUMBER: squared_error()},
    _examples,
    {CLASSES: {"accuracy": accuracy}},
    hidden=_hidden,
    after_split=_scaled,
)
