"""`harness init`: a research repository, or what is missing in one."""

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from harness import config as configs
from harness.errors import HarnessError
from harness.paths import HOOKS, Paths, examples, starter
from harness.store.checkout import Checkout
from harness.store.hooks import Hooks
from harness.store.opening import create_repository
from harness.store.repo import Repository
from harness.tasks.lm import fit
from harness.worker import device
from harness.worker.probe import probe

IGNORED = (
    "/.autoresearch/runs/",
    "/.autoresearch/worktrees/",
    "/.autoresearch/events.jsonl",
    "/progress.png",
)
EXAMPLES = """\b
Examples:
  harness init                     # here; touches nothing that is there
  harness init ~/research          # a new repository
  harness init --profile gpu       # not what the device suggests
  harness init --gpu-memory-gb 20  # the rest is for others
  harness init --task images pics  # pictures instead of text
"""


@click.command(epilog=EXAMPLES)
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--profile", type=click.Choice(["cpu", "gpu"]), help="Default: what the device suggests.")
@click.option("--gpu-memory-gb", type=click.FloatRange(1), help="What runs may use of it. Default: all.")
@click.option("--task", "named", type=click.Choice(["lm", *examples()]), help="What to train. Default: lm.")
def init(directory: Path | None, profile: str | None, gpu_memory_gb: float | None, named: str | None) -> None:
    """Make DIRECTORY (default: here) a research repository.

    Writes train.py, hooks, .autoresearch/config.toml and program.md, and for coding agents AGENTS.md and a
    skill, where they are missing. Ignores run folders and points git at the hooks. What exists is left as
    it is, but for a train.py that is still the starter of text: its sizes are fitted to this machine. A
    task brings a train.py of its own.
    """
    folder = (directory or Path.cwd()).absolute()
    if folder == Path.home() and not (folder / ".git").exists():
        raise HarnessError("this is your home folder, not a place for a repository", "harness init DIR")
    repository = create_repository(folder)
    paths = repository.paths
    paths.home.mkdir(exist_ok=True)
    hooks = Hooks(repository)
    if there := configs.load(paths.config) if paths.config.exists() else None:
        chosen, memory_gb = there.profile, there.trial.gpu_memory_gb  # what runs here will have
    else:
        chosen = profile or ("gpu" if device.resolve("auto").kind == "cuda" else "cpu")
        memory_gb = gpu_memory_gb or 0.0
    task = named or "lm"
    if there is not None and named is None:
        task = there.task.name
    if task == "lm":
        fits = not paths.train.exists() or (there is None and _is_starter(repository))
        machine = _machine(chosen, memory_gb) if fits or there is None else fit.Machine("cpu")
        config = fit.config(configs.PROFILES[chosen], machine, memory_gb)
        budget_seconds = (there or config).trial.budget_seconds
        began = [_fit(paths.train, fit.constants(machine, budget_seconds)) if fits else None]
    else:
        about = _about(task)
        config = configs.for_task(chosen, task, about.get("config", {}), memory_gb)
        train = starter("train.py", task).read_text(encoding="utf-8") if task in examples() else ""
        began = [
            _write(paths.train, fit.fitted(train, about.get(chosen, {}))) if train else None,
            _copy(starter("task.py", task), paths.task),
        ]
    made = [
        *began,
        _copy(starter("program.md", task if task in examples() else "lm"), paths.program),
        _write(paths.config, configs.dump(config)),
        _copy(starter("AGENTS.md"), paths.root / "AGENTS.md"),
        _copy(starter("SKILL.md"), paths.root / ".agents" / "skills" / "autoresearch" / "SKILL.md"),
        *(_copy(starter(name), paths.hooks / name) for name in HOOKS),
        *(_copy(starter(HOOKS[0]), paths.hooks / name) for name in hooks.earlier),
        _ignore(paths),
    ]
    for path in filter(None, made):
        click.echo(f"wrote {path.relative_to(paths.root)}")
    if hooks.path is None:
        hooks.path = "hooks"
        click.echo("set core.hooksPath to hooks")
    elif hooks.path != "hooks":
        click.echo(f"core.hooksPath is {hooks.path}: call `harness hook NAME` from there", err=True)
    if profile and there is not None and there.profile != profile:
        click.echo(f"{paths.config} is there with another profile: rm it, then the same command", err=True)
    if there is not None and named not in (None, there.task.name):
        click.echo(f"{paths.config} is there with another task: rm it, then the same command", err=True)
    if gpu_memory_gb and there is not None and memory_gb != gpu_memory_gb:
        click.echo(f"{paths.config} is there: set gpu_memory_gb in it", err=True)
    if not any(made):
        click.echo("nothing was missing")
    elif paths.train in made:
        first = f"cd {directory}, " if directory and folder != Path.cwd() else ""
        click.echo(
            f"Next: {first}git add -A && git commit -m baseline, harness prepare, harness loop", err=True
        )


def _about(task: str) -> dict[str, Any]:
    """What a task's starter says of the config, and of its sizes by profile."""
    path = starter("starter.toml", task)
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _is_starter(repository: Repository) -> bool:
    """Whether the sizes in its train.py are nobody's choice yet."""
    text = repository.paths.train.read_text(encoding="utf-8", errors="replace")
    return fit.is_starter(text) and not Checkout(repository).train_is_dirty


def _machine(profile: str, gpu_memory_gb: float) -> fit.Machine:
    """What is to be fitted to: the GPU here, if the profile is for one."""
    if profile == "cpu":
        return fit.Machine("cpu")
    found = device.resolve("auto", gpu_memory_gb)
    if found.kind != "cuda":
        return fit.Machine("cuda")
    click.echo(f"measuring {found.name} ...", err=True)
    seen = probe("cuda")
    if seen.trouble:
        click.echo(f"torch can't use {found.name}: {seen.trouble} (harness doctor)", err=True)
    free = min(found.memory_mb, seen.memory_mb or found.memory_mb)
    return fit.Machine("cuda", free, seen.tflops, seen.dtype != "float32")


def _fit(train: Path, values: Mapping[str, int | float]) -> Path | None:
    """The starter with these sizes; None if they are there already."""
    old = train.read_text(encoding="utf-8") if train.exists() else ""
    text = fit.fitted(old or starter("train.py").read_text(encoding="utf-8"), values)
    if text == old:
        return None
    train.write_text(text, encoding="utf-8")
    sizes = ", ".join(f"{name} {value}" for name, value in values.items())
    click.echo(f"fitted train.py to this machine: {sizes}")
    return train


def _copy(source: Path, target: Path) -> Path | None:
    if target.exists() or not source.exists():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)  # with its mode: hooks are executable
    return target


def _write(target: Path, text: str) -> Path | None:
    if target.exists():
        return None
    target.write_text(text, encoding="utf-8")
    return target


def _ignore(paths: Paths) -> Path | None:
    path = paths.root / ".gitignore"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    present = {line.strip().strip("/") for line in text.splitlines()}
    missing = [entry for entry in IGNORED if entry.strip("/") not in present]
    if not missing:
        return None
    glue = "" if not text or text.endswith("\n") else "\n"
    path.write_text(text + glue + "\n".join(missing) + "\n", encoding="utf-8")
    return path
