"""The task that a config names, with its data.

`lm` is a language model; all others are tasks of items, see `harness.tasks.items`: built in, or a person's
own file, whose source is kept with the data that it prepared, so that no run is scored by another one.
"""

import contextlib
import hashlib
import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.config import Config
from harness.errors import HarnessError
from harness.paths import Paths
from harness.store.metric import Metric
from harness.store.records import GROWTH_BYTES
from harness.tasks import feeds
from harness.tasks.contract import Exam
from harness.tasks.folder import Progress, begins_at
from harness.tasks.items import prepare as items
from harness.tasks.items.game import Game, GameExam
from harness.tasks.items.measures import blame
from harness.tasks.items.task import Task

BUILT_IN = {"toy": "harness.tasks.toy", "images": "harness.tasks.images", "tabular": "harness.tasks.tabular"}
OWN = "own"
DIGITS = 7


class Prepared(Protocol):
    """Data that were found to be what their manifest says."""

    @property
    def folder(self) -> Path: ...

    @property
    def id(self) -> str:
        """`name@digest`, what a score's `Data:` trailer says."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a training is told, as JSON values."""

    @property
    def train_file(self) -> Path:
        """What is handed over when the clock starts."""

    def files(self, split: str) -> dict[str, Any]:
        """What an exam on `val` or `holdout` is made of, as JSON values."""

    def about(self) -> list[str]:
        """In one line what was understood: shapes, classes, columns."""

    def warning(self) -> str:
        """That a score on them says less than it seems to, and which key mends it; mostly empty."""


@dataclass(frozen=True)
class Opened:
    """A task with its data, as runs need it."""

    name: str
    metric: Metric
    library: str
    """What batches are arrays of: `torch` or `numpy`."""
    data: Prepared
    source: str = ""
    """Of a person's own: its digest, which is part of a score's setting."""
    growth_bytes: int = GROWTH_BYTES
    """By which an experiment may make train.py longer, compressed: what is scored must not fit in."""
    hidden: tuple[Path, ...] = ()
    """What no run may see."""

    @property
    def spec(self) -> dict[str, Any]:
        """What a training is told."""
        feed = feeds.TEXT if self.name == "lm" else feeds.ITEMS
        return {"feed": feed, "library": self.library, **self.data.facts}

    def request(self, split: str) -> dict[str, Any]:
        """What a scorer is told, see `exam_for`."""
        return {"task": self.name, **self.data.files(split)}


def open_task(config: Config, root: Path) -> Opened:
    """With data that are prepared; `root` is the repository's folder.

    Raises:
        HarnessError: they are not, or were altered; or a person's own task can't be read.
    """
    return _opened(config, root, None, again=False)


def prepare(config: Config, root: Path, progress: Progress, again: bool = False) -> Opened:
    """With data that are prepared now, if they weren't.

    Args:
        progress: told of every step that takes time.
        again: make them anew even if they are there.

    Raises:
        HarnessError: they can't be made of what is there, or the disk is full.
    """
    return _opened(config, root, progress, again)


def _opened(config: Config, root: Path, progress: Progress | None, again: bool) -> Opened:
    name = config.task.name
    if name == "lm":
        from harness.tasks.lm import METRIC
        from harness.tasks.lm import prepare as text

        corpus = text.prepare(config.text, progress, again) if progress else text.open_prepared(config.text)
        return Opened(name, METRIC, "torch", corpus, hidden=_where(config.text.source))
    own, where = (_own_source(config, root), str(root / config.task.file)) if name == OWN else (b"", "")
    task = _own(own, Path(where)) if own else _built_in(name)
    if progress:
        data = items.prepare(name, task, own, where, config.items, progress, again)
    else:
        data = items.open_prepared(name, own, config.items)
    hidden = _where(config.items.source)
    if isinstance(task, Game):
        return Opened(name, task.metric, task.library, data, _digest(own), hidden=hidden)
    metric, growth = task.measure_of(data.measure).metric, data.growth_bytes
    hidden += tuple(task.hidden(config.items))
    return Opened(name, metric, task.library, data, _digest(own), growth, hidden)


def changed(config: Config) -> str:
    """How a person's own files differ from those that the data were made of; empty if they don't."""
    if config.task.name != "lm":
        return ""
    from harness.tasks.lm import prepare as text

    return text.changed(config.text)


def unused(config: Config, root: Path) -> str:
    """That a person's own task is there and the config names another one; mostly empty."""
    path = Paths(root).task
    if config.task.name == OWN or not path.is_file():
        return ""
    how = f'name = "own" and file = "{path.relative_to(root)}" under [task]'
    return f"{path} is there and not used: the config's task is {config.task.name}; {how} would use it"


def library_of(config: Config, root: Path) -> str:
    """`torch` or `numpy`."""
    return "torch" if config.task.name == "lm" else task_of(config, root).library


def task_of(config: Config, root: Path) -> Task | Game:
    """A task of items, without its data."""
    if config.task.name != OWN:
        return _built_in(config.task.name)
    return _own(_own_source(config, root), root / config.task.file)


def _where(source: str) -> tuple[Path, ...]:
    """Of data, where that is a person's own file or folder, or a pattern of some."""
    path = begins_at(Path(source).expanduser())
    if not source or not path.exists():
        return ()
    return (path if path.is_dir() else path.parent,)


def exam_for(request: dict[str, Any]) -> Exam:
    """In the scorer's process, of what `Opened.request` says."""
    name = request["task"]
    if name == "lm":
        from harness.tasks.lm.exam import TextExam

        return TextExam(request)
    from harness.tasks.items.exam import ItemsExam

    if name == OWN:
        path = Path(request["source_file"])
        task = _own(path.read_bytes(), path)
    else:
        task = _built_in(name)
    return GameExam(task, request) if isinstance(task, Game) else ItemsExam(task, request)


def _built_in(name: str) -> Task | Game:
    task: Task | Game = importlib.import_module(BUILT_IN[name]).TASK
    return task


def _own_source(config: Config, root: Path) -> bytes:
    if not config.task.file:
        raise HarnessError(
            "the config's [task] says name = 'own' and no file", "file = '.autoresearch/task.py'"
        )
    path = root / config.task.file
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarnessError(
            f"can't read the task at {path}: {error.strerror}", "`file` under [task] in the config"
        ) from None


def _own(source: bytes, path: Path) -> Task | Game:
    """What `TASK` is there.

    Raises:
        HarnessError: it is no program, or raises; one line with the place.
    """
    module = types.ModuleType("own_task")
    module.__file__ = str(path)
    sys.modules["own_task"] = module  # dataclasses look there
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no answer of ours
            exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is a person's own program
        raise HarnessError(blame(error, str(path))) from None
    found = getattr(module, "TASK", None)
    if not isinstance(found, Task | Game):
        raise HarnessError(
            f"{path} defines no TASK that is a Task or a Game",
            "harness init --task forecasting DIR, and compare",
        )
    return found


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:DIGITS] if source else ""
