"""`.autoresearch/config.toml`: two profiles, checked key by key.

Every key has a type, a unit in its name and a default from its profile; a file holds only what
differs if a person likes it short. An unknown key or a wrong type is an error that names the key
and the nearest valid one. Nothing here reads the environment or the machine.
"""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from harness.errors import HarnessError


@dataclass(frozen=True)
class TaskConfig:
    """What is trained for."""

    name: str
    """`lm`, a language model; `images`; `tabular`; `toy`; `own`, see `file`."""
    file: str
    """A task of one's own, such as `.autoresearch/task.py`; of use where `name` is `own`."""


@dataclass(frozen=True)
class DataConfig:
    """What a language model is trained on and scored on."""

    source: str
    """`python`, `climbmix`, `tinystories`, `hf:OWNER/NAME` for a data set of the hub, or a path: a file, a
    folder, or a pattern with `*`."""
    seq_len: int
    """Tokens in a row, for training and for scoring."""
    vocab_size: int
    """BPE vocabulary, its 4 reserved tokens included."""
    eval_tokens: int
    """Tokens that one score is made of (rounded down to whole rows)."""
    shards: int
    """Training files that are taken of a data set of the hub."""
    column: str = ""
    """The column that is the text; empty for `text`, `content`, `document`, `story` or `code`, or the only
    one."""


@dataclass(frozen=True)
class ItemsConfig:
    """What is trained on and scored on where a task has items, each with a target: all but `lm`."""

    source: str
    """A name that the task knows, `hf:OWNER/NAME` for pictures, or a path to a file or folder."""
    target: str
    """The column of a table that is to be predicted; empty for the last one."""
    eval_items: int
    """Items that one score is made of; the holdout has as many."""


@dataclass(frozen=True)
class RunConfig:
    """The caps of a run. Each phase has its own."""

    device: str
    """`auto`, `cuda`, `mps` or `cpu`."""
    budget_seconds: float
    """Training time, from the first batch; on a processor what a run's own processes have of it."""
    startup_seconds: float
    """From process start to the first batch: imports, compilation, warm-up."""
    save_seconds: float
    """Longest time for saving after the budget is spent, before everything is killed."""
    load_seconds: float
    """For importing train.py and `load`, in the model server."""
    scoring_seconds: float
    """For the forward passes of the score, and again for those of the audit."""
    audit_rows: int
    """Rows that the second, fresh model server answers again, altered."""
    sandbox: str
    """`auto`: bubblewrap where it works; `require`: refuse without it; `none`: never."""
    disk_mb: int
    """What a run may write in all: checkpoint and temporary files (held in memory)."""
    memory_gb: float
    """Memory a process of the run may take; 0 means four fifths of the machine or container."""
    gpu_memory_gb: float
    """GPU memory that may be in use while it trains; 0 means all of it."""
    desktop_percent: float
    """What graphics, a desktop or a browser, may take of the GPU's time; with more, a run doesn't count."""
    prestart: str = "training"
    """When the next run may start in advance, on a GPU with room for it: while another is in `training`, in
    `scoring`, or not at all (`off`)."""


@dataclass(frozen=True)
class GateConfig:
    """How it is decided what is better."""

    policy: str
    """`belief`: the gate; `greedy`: karpathy/autoresearch's rule: what scored lower once is better."""


@dataclass(frozen=True)
class NotifyConfig:
    """Whom a session tells what happened; see docs/page.md."""

    command: str = ""
    """For `sh`: run when `main` moves and when a session ends, with one JSON line on its standard input."""


@dataclass(frozen=True)
class Config:
    profile: str
    data: DataConfig | ItemsConfig
    trial: RunConfig
    gate: GateConfig = GateConfig("belief")
    task: TaskConfig = TaskConfig("lm", "")
    notify: NotifyConfig = NotifyConfig()

    @property
    def text(self) -> DataConfig:
        """The data, where the task is a language model."""
        assert isinstance(self.data, DataConfig)
        return self.data

    @property
    def items(self) -> ItemsConfig:
        """The data, where it is any other one."""
        assert isinstance(self.data, ItemsConfig)
        return self.data


GPU = Config(
    profile="gpu",
    data=DataConfig("climbmix", 2048, 8192, 40 * 524288, 10),
    trial=RunConfig(
        device="auto", budget_seconds=300.0, startup_seconds=300.0, save_seconds=5.0,
        load_seconds=60.0, scoring_seconds=120.0, audit_rows=3328, sandbox="auto",
        disk_mb=8192, memory_gb=0.0, gpu_memory_gb=0.0, desktop_percent=5.0,
    ),
)  # fmt: skip
CPU = Config(
    profile="cpu",
    data=DataConfig("python", 256, 512, 512 * 256, 1),
    trial=RunConfig(
        device="auto", budget_seconds=20.0, startup_seconds=30.0, save_seconds=5.0,
        load_seconds=30.0, scoring_seconds=30.0, audit_rows=256, sandbox="auto",
        disk_mb=1024, memory_gb=0.0, gpu_memory_gb=0.0, desktop_percent=5.0,
    ),
)  # fmt: skip
PROFILES = {"gpu": GPU, "cpu": CPU}
# Of the tasks whose data are items: which, and the budget with a GPU and without one, in seconds.
ITEMS = {
    "images": (ItemsConfig("fashion-mnist", "", 10_000), 60.0, 20.0),
    "tabular": (ItemsConfig("diabetes", "", 2_000), 20.0, 5.0),
    "toy": (ItemsConfig("line", "", 2_000), 0.2, 0.2),
    "own": (ItemsConfig("", "", 2_000), 60.0, 20.0),
}
OF_OTHERS: dict[type, tuple[type, str]] = {
    DataConfig: (ItemsConfig, "tasks other than lm"), ItemsConfig: (DataConfig, "the task lm"),
}  # fmt: skip
TASKS = ("lm", *ITEMS)  # `own` is what is said of a file

CHOICES = {
    "name": TASKS,
    "device": ("auto", "cuda", "mps", "cpu"), "sandbox": ("auto", "require", "none"),
    "policy": ("belief", "greedy"),
    "prestart": ("training", "scoring", "off"),
}  # fmt: skip
MOST = {int: 10**12, float: 1e6}  # a million seconds are a week and a half; more is a slip of the finger
MAY_BE_ZERO = {"memory_gb", "gpu_memory_gb", "save_seconds", "desktop_percent"}
T = TypeVar("T", TaskConfig, DataConfig, ItemsConfig, RunConfig, GateConfig, NotifyConfig)
SECTIONS = ("task", "data", "trial", "gate", "notify")
HEADER = """\
# What every run in this repository runs under. Keys left out take their profile's default;
# `harness doctor` checks the file. Scores compare only between equal settings.
"""


def load(path: Path) -> Config:
    """Read and check a config file.

    Raises:
        HarnessError: the file is missing, not TOML, or a key is unknown, mistyped or out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"no config at {path}", "harness init") from None
    except IsADirectoryError:
        raise HarnessError(f"{path} is a folder", f"mv {path} elsewhere; harness init") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} is not valid TOML: {error}", f"edit {path}") from None
    return from_table(table, str(path))


def from_table(table: dict[str, Any], where: str = "config") -> Config:
    """A checked `Config` from parsed TOML; `where` names the file in error messages."""
    profile = table.get("profile", "cpu")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise HarnessError(f"{where}: profile must be one of cpu, gpu, not {profile!r}")
    names = [f"task.{f.name}" for f in dataclasses.fields(TaskConfig)]
    task = _section(PROFILES[profile].task, table.get("task", {}), "task", where, names)
    if task.file and task.name != "own":
        raise HarnessError(f"{where}: task.file is for name = 'own', and the name is {task.name!r}")
    base = defaults(profile, task.name)
    known = [f"{name}.{f.name}" for name in SECTIONS for f in dataclasses.fields(getattr(base, name))]
    for key in table:
        if key not in ("profile", *SECTIONS):
            raise _unknown(where, key, [*SECTIONS, "profile", *known])
    sections: Any = {
        name: _section(getattr(base, name), table.get(name, {}), name, where, known) for name in SECTIONS
    }
    return Config(profile=profile, **sections)


def defaults(profile: str, task: str = "lm") -> Config:
    """What a config says that says nothing else."""
    base = PROFILES[profile]
    if task == "lm":
        return base
    data, *budgets = ITEMS[task]
    trial = dataclasses.replace(base.trial, budget_seconds=budgets[profile == "cpu"])
    return dataclasses.replace(base, data=data, trial=trial, task=TaskConfig(task, ""))


def for_task(profile: str, task: str, changes: dict[str, Any], gpu_memory_gb: float = 0.0) -> Config:
    """What `harness init` writes: of a task that is built in, or of an example of one's own.

    Args:
        changes: a table as in a file, of what isn't as by default.
    """
    own = {} if task in TASKS else {"task": {"name": "own", "file": ".autoresearch/task.py"}}
    named = {"task": {"name": task}, **own, **changes, "profile": profile}
    found = from_table(named, f"the starter of {task}")
    return dataclasses.replace(found, trial=dataclasses.replace(found.trial, gpu_memory_gb=gpu_memory_gb))


def dump(config: Config) -> str:
    """The TOML text of a config, every key spelled out."""
    table = dataclasses.asdict(config)
    return HEADER + tomli_w.dumps({"profile": table["profile"], **{name: table[name] for name in SECTIONS}})


def with_budget(config: Config, seconds: float) -> Config:
    """The same config with another training time.

    Raises:
        HarnessError: it is no time.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise HarnessError(f"a budget of {seconds:g} seconds", "--budget 20")
    return dataclasses.replace(config, trial=dataclasses.replace(config.trial, budget_seconds=seconds))


def _names(section: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(section)}


def _unknown(where: str, key: str, valid: list[str]) -> HarnessError:
    by_last = {name.rpartition(".")[2]: name for name in valid}
    near = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.4)
    hint = f"the nearest valid key is {by_last[near[0]]!r}" if near else f"keys are {valid}"
    return HarnessError(f"{where}: unknown key {key!r}; {hint}")


def _section(base: T, table: Any, name: str, where: str, known: list[str]) -> T:
    """`known`: all keys, for one that isn't."""
    if not isinstance(table, dict):
        raise HarnessError(f"{where}: [{name}] must be a table, not {table!r}")
    unknown: list[str] = [key for key in table if key not in _names(base)]
    if unknown and (others := OF_OTHERS.get(type(base))) and {*unknown} <= _names(others[0]):
        raise HarnessError(
            f"{where}: of {others[1]}, and not of this task: {', '.join(unknown)}",
            f"without them under [{name}], or another [task] name",
        )
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in unknown:
            raise _unknown(where, f"{name}.{key}", known)
        values[key] = _checked(f"{where}: {name}.{key}", key, value, getattr(base, key))
    return dataclasses.replace(base, **values)


def _checked(label: str, key: str, value: Any, default: Any) -> Any:
    wanted = type(default)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:  # `type`, not isinstance: true is no number of seconds
        raise HarnessError(f"{label} must be {wanted.__name__}, not {value!r}")
    if key == "source":
        try:
            return str(Path(value).expanduser()) if value.startswith("~") else value
        except RuntimeError:
            raise HarnessError(f"{label} names the home folder of nobody here: {value!r}") from None
    if key in CHOICES and value not in CHOICES[key]:
        raise HarnessError(f"{label} must be one of {', '.join(CHOICES[key])}, not {value!r}")
    in_range = wanted is str or 0 < value <= MOST[wanted] or (value == 0 and key in MAY_BE_ZERO)
    if not in_range:
        raise HarnessError(f"{label} must be finite, above 0 and at most {MOST[wanted]:g}, not {value!r}")
    if key == "vocab_size" and not 300 <= value <= 65536:
        raise HarnessError(f"{label} must be between 300 and 65536, not {value!r}")
    return value
