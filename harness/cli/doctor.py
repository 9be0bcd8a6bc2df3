"""`harness doctor`: everything a run needs, each with the command that mends it."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from harness import config as configs
from harness.agents.known import PROVIDERS
from harness.agents.program import constants
from harness.errors import DONE, FAILED, HarnessError
from harness.paths import HOOKS, cache_dir
from harness.sandbox.isolation import Isolation, choose
from harness.store.checkout import Checkout
from harness.store.history import History
from harness.store.hooks import Hooks
from harness.store.opening import open_repository
from harness.store.repo import Repository
from harness.tasks.lm import fit
from harness.tasks.registry import changed, open_task
from harness.worker import device, probe
from harness.worker.probe import probe_inside

LOW_DISK_GB = 10.0
BUSY = 0.5  # of all cores
COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Finding:
    name: str
    level: str
    detail: str
    fix: str = ""


@click.command(epilog="\b\nExamples:\n  harness doctor\n  harness doctor --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of findings.")
def doctor(as_json: bool) -> int:
    """Check what runs need: each line ok, warn or fail, and what mends it.

    Exit code 1 if anything fails.
    """
    findings = []
    for finding in _findings():
        findings.append(finding)
        if not as_json:
            level = click.style(f"{finding.level:<5}", fg=COLORS[finding.level])
            fix = f"\n               try: {finding.fix}" if finding.fix else ""
            click.echo(f"{level} {finding.name:<8} {finding.detail}{fix}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    return FAILED if any(finding.level == "fail" for finding in findings) else DONE


def _findings() -> Iterator[Finding]:
    repository, config, readable = None, configs.CPU, True
    try:
        repository = open_repository()
        yield from _git(repository)
    except HarnessError as error:
        yield Finding("git", "fail", error.message, error.fix)
    if repository is not None:
        try:
            config = configs.load(repository.paths.config)
            yield Finding("config", "ok", f"profile {config.profile}, task {config.task.name}")
        except HarnessError as error:
            readable = False
            yield Finding("config", "fail", error.message, error.fix)
        yield _hooks(repository)
    yield _guarded("device", lambda: _device(config))
    yield from _torch(config, repository)
    yield _guarded("sandbox", lambda: _sandbox(config))
    if readable:
        root = repository.paths.root if repository is not None else Path.cwd()
        yield _guarded("data", lambda: _data(config, root))
    yield _disk()
    yield _load()
    found = [name for names in PROVIDERS.values() for name in names if os.environ.get(name)]
    if found:
        yield Finding("key", "ok", ", ".join(found))
    else:
        yield Finding("key", "ok", "none set; only agents that ask a model need one")


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except HarnessError as error:
        return Finding(name, "fail", error.message, error.fix)


def _data(config: configs.Config, root: Path) -> Finding:
    found = open_task(config, root).data.id
    if why := changed(config):
        return Finding("data", "warn", f"{found}; its source has other files now: {why}", "harness prepare")
    return Finding("data", "ok", found)


def _git(repository: Repository) -> Iterator[Finding]:
    try:
        commit = repository.commit("HEAD")
        yield Finding("git", "ok", f"{repository.paths.root}, HEAD is {commit.id[:7]}")
        _ = History(repository).main
        if Checkout(repository).train_is_dirty:
            about = "train.py has uncommitted changes: no loop begins with them"
            yield Finding("git", "warn", about, "git commit train.py, or git stash -- train.py")
    except HarnessError as error:
        yield Finding("git", "fail", error.message, error.fix)
    try:
        _ = repository.signature
    except HarnessError as error:
        yield Finding("git", "fail", error.message, error.fix)


def _hooks(repository: Repository) -> Finding:
    """A clone has the files, but git doesn't look for them there."""
    path, folder = Hooks(repository).path, repository.paths.hooks
    idle = [name for name in HOOKS if not os.access(folder / name, os.X_OK)]
    if path is None or (path == "hooks" and idle):
        what = "core.hooksPath is not set" if path is None else f"hooks/{idle[0]} can't be run"
        mend = "chmod +x hooks/*" if path and (folder / idle[0]).exists() else "harness init"
        return Finding("hooks", "warn", f"{what}: only the loop checks what is committed by hand", mend)
    if path != "hooks":
        return Finding("hooks", "ok", f"core.hooksPath is {path}, which should call `harness hook NAME`")
    if shutil.which("harness") is None:
        why = "harness is not on PATH: a git that is called from here checks nothing"
        return Finding("hooks", "warn", why, f"source {Path(sys.executable).parent / 'activate'}")
    return Finding("hooks", "ok", ", ".join(HOOKS))


def _device(config: configs.Config) -> Finding:
    found = device.resolve(config.trial.device, config.trial.gpu_memory_gb)
    detail = f"{found.kind}: {found.name}" + (f", {found.memory_mb / 1024:.0f} GB" if found.memory_mb else "")
    unused = device.nvidia() if found.kind == "cpu" and config.trial.device == "auto" else []
    if unused:  # a GPU is there, and nobody asked for anything else
        about = f"{unused[0].name} is here, but the installed torch is a CPU build"
        return Finding(
            "device", "fail", about, "pip install --force-reinstall torch (pytorch.org says which)"
        )
    if found.kind != "cuda" and config.profile == "gpu":
        return Finding(
            "device",
            "warn",
            f"{detail}, but the profile is gpu",
            "rm .autoresearch/config.toml && harness init",
        )
    return Finding("device", "ok", detail)


def _torch(config: configs.Config, repository: Repository | None) -> Iterator[Finding]:
    """Torch is tried where runs are: in the sandbox, on the device."""
    try:
        where, isolation = (
            device.resolve(config.trial.device, config.trial.gpu_memory_gb),
            choose(config.trial.sandbox),
        )
    except HarnessError:
        where, isolation = device.resolve("cpu"), Isolation("none", "")  # the trouble has a line of its own
    tried = probe_inside(isolation, where, config.trial)
    about = f"{tried.torch or 'torch'}" + (f" for CUDA {tried.cuda}" if tried.cuda else "")
    if driver := device.driver() if where.kind == "cuda" else "":
        about += f", driver {driver}"
    if tried.trouble:
        mend = (
            "pip install -e ." if not tried.torch else "nvidia-smi; a driver for that CUDA, or another torch"
        )
        yield Finding("torch", "fail", f"{about}, tried in the sandbox: {tried.trouble}", mend)
        return
    size = probe.SIZE[where.kind]
    rate = f"{tried.tflops:.3g} TFLOP/s in {tried.dtype} ({size} x {size})"
    about += f", compute capability {tried.capability}" if tried.capability else ""
    yield Finding("torch", "ok", f"{about}, tried in the sandbox: {rate}")
    if where.kind == "cuda" and repository is not None and config.task.name == "lm":
        yield _fit(
            config, repository, fit.Machine("cuda", where.memory_mb, tried.tflops, tried.dtype != "float32")
        )


def _fit(config: configs.Config, repository: Repository, machine: fit.Machine) -> Finding:
    """What the starter takes of the card, where train.py still has its sizes."""
    source = repository.paths.train.read_bytes() if repository.paths.train.exists() else b""
    now = {each.name: each.value for each in constants(source, True)}
    wanted = fit.constants(machine, config.trial.budget_seconds)
    seconds = fit.scoring_seconds(config, machine)
    score = f"a score takes about {seconds:.0f} s" if seconds else ""
    if (now.get("DEPTH"), now.get("WIDTH")) not in {(each.depth, each.width) for each in fit.SHAPES}:
        return Finding("fit", "ok", score or "train.py has sizes of its own")
    takes = fit.memory_mb({name: now.get(name, 0) for name in fit.STARTER}, machine.has_bfloat16)
    about = f"train.py takes about {takes / 1024:.0f} of {machine.memory_mb / 1024:.0f} GB; {score}"
    if takes > machine.memory_mb:
        sizes = ", ".join(f"{name} = {value}" for name, value in wanted.items() if now.get(name) != value)
        return Finding("fit", "warn", f"{about}; each halving compiles once more", f"{sizes} in train.py")
    return Finding("fit", "ok", about)


def _sandbox(config: configs.Config) -> Finding:
    chosen = choose(config.trial.sandbox)
    if chosen.kind == "none":
        asked = "sandbox = 'auto' in .autoresearch/config.toml"
        mend = asked if config.trial.sandbox == "none" else "apt install bubblewrap"
        return Finding("sandbox", "warn", chosen.why, mend)
    return Finding("sandbox", "ok", f"bubblewrap at {shutil.which('bwrap')}")


def _disk() -> Finding:
    folder: Path = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    level = "ok" if free >= LOW_DISK_GB else "warn"
    return Finding("disk", level, f"{free:.0f} GB free at {folder}")


def _load() -> Finding:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    detail = f"{load:.1f} processes were at work on {cores} cores in the last minute"
    if load <= BUSY * cores:
        return Finding("load", "ok", detail)
    return Finding("load", "warn", f"{detail}: beside them a run takes longer", "top")
