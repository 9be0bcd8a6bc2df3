"""What a host of a cluster is asked before it is used, and the workers that are started on it.

No engine here: whatever carries calls to a host makes one `Host` there and calls its methods.
"""

import platform
import shutil
import time
import tomllib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition

from harness import __version__
from harness import config as configs
from harness.errors import HarnessError
from harness.executors.local import ProcessPipe
from harness.paths import Paths, cache_dir
from harness.store.records import Setting
from harness.tasks import registry
from harness.tasks.items import salt
from harness.worker.device import Device, driver, nvidia
from harness.worker.run import open_setup

MOST_WAIT_SECONDS = 2.0
SETTLED_SECONDS = 120.0  # after which a checkpoint that nobody holds on to is removed
PREPARE = "harness prepare --cluster auto"
FREE_MB = 1024  # beyond what a run may write


@dataclass(frozen=True)
class Wanted:
    """What a host is to be able to do."""

    repository: str
    """What names it in the host's cache."""
    config: str
    """As a file has it."""
    task: bytes
    """Of a person's own; else empty."""
    places: int | None
    """Runs at a time on a processor; None for as many as it has room for."""


@dataclass(frozen=True)
class About:
    """What a host said of itself."""

    host: str
    version: str
    python: str
    driver: str
    time: float
    """Seconds since 1970, by its clock."""
    devices: tuple[Device, ...] = ()
    """One for each worker that it can have."""
    setting: Setting | None = None
    """Of scores there, on the first device."""
    refused: str = ""
    """Why it can't be used, and what would mend that, in one line."""


class Host:
    """On a host: its workers, whose lines are kept until they are known to have arrived."""

    def __init__(self) -> None:
        self._pipes: dict[int, ProcessPipe] = {}
        self._lines: deque[tuple[int, int, bytes | None]] = deque()  # number of the line, of the worker
        self._count, self._changed = 0, Condition()
        self._runs = Path()

    def about(self, wanted: Wanted) -> About:
        """Whether it can run what is wanted; also makes what that needs of files here."""
        said = About(platform.node(), __version__, platform.python_version(), driver(), time.time())
        try:
            return self._checked(wanted, said)
        except HarnessError as why:
            fix = PREPARE if why.fix.startswith("harness prepare") else why.fix  # from where this is asked
            return _refused(said, str(HarnessError(why.message, fix)))
        except OSError as why:
            return _refused(said, str(why))

    def _checked(self, wanted: Wanted, said: About) -> About:
        config, root = self._config(wanted)
        self._runs = Paths(root).runs
        setup = open_setup(config, root)
        if setup.isolation.kind == "none" and config.trial.sandbox != "none":
            return _refused(said, f"no sandbox there: {setup.isolation.why}")
        needed, free = config.trial.disk_mb + FREE_MB, shutil.disk_usage(root).free // 2**20
        if free < needed:
            return _refused(said, f"only {free} MB are free at {root}, a run may need {needed}")
        if setup.device.kind == "cuda":
            devices = [each.with_at_most(setup.device.memory_mb) for each in nvidia()]
            devices = [each for each in devices if each.name == setup.device.name]
        else:
            devices = [setup.device] * (wanted.places or setup.device.most_at_a_time)
        placed = tuple(each.at(place, len(devices)) for place, each in enumerate(devices))
        return replace(said, devices=placed, setting=setup.setting)

    def prepare(self, wanted: Wanted, secret: bytes) -> str:
        """Make the data here; what they are named, or in one line why that failed.

        Args:
            secret: the salt by which items are held out: hosts with another one would hold out others.
        """
        config, root = self._config(wanted)
        try:
            salt.take(secret)
            return f"data {registry.prepare(config, root, lambda *_: None).data.id}"
        except (HarnessError, OSError) as why:
            return f"failed: {why}"

    def _config(self, wanted: Wanted) -> tuple[configs.Config, Path]:
        """And the folder that stands for the repository here."""
        config = configs.from_table(tomllib.loads(wanted.config))
        root = cache_dir() / "hosts" / wanted.repository
        Paths(root).runs.mkdir(parents=True, exist_ok=True)
        if wanted.task:
            file = root / config.task.file
            if not file.resolve().is_relative_to(root.resolve()):
                raise HarnessError(f"the task's file is {config.task.file}, outside of the repository")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(wanted.task)
        return config, root

    # ── its workers ───────────────────────────────────────────────────────────────────────────

    def start(self, number: int, place: int) -> None:
        """A worker, named by a number that no other one had."""
        root = self._runs.parent.parent
        try:
            self._pipes[number] = ProcessPipe(
                place, self._runs, root, lambda line: self._put(number, line), lambda: self._put(number, None)
            )
        except OSError:
            self._put(number, None)

    def send(self, number: int, line: bytes) -> None:
        """To a worker; one that is gone was told of."""
        with suppress(OSError, KeyError):
            self._pipes[number].send(line)

    def receive(self, after: int) -> list[tuple[int, int, bytes | None]]:
        """Lines of its workers behind line `after`: the line's number, the worker's, and what it said, None
        for its end. Waits a moment for some. What came before is known to have arrived."""
        with self._changed:
            while self._lines and self._lines[0][0] <= after:
                self._lines.popleft()
            if not self._lines:
                self._changed.wait(MOST_WAIT_SECONDS)
            return list(self._lines)

    def _put(self, number: int, line: bytes | None) -> None:
        with self._changed:
            self._count += 1
            self._lines.append((self._count, number, line))
            self._changed.notify_all()

    def hold(self, folders: list[Path]) -> None:
        """Remove the checkpoints of all runs that ended a while ago, but of these."""
        for record in self._runs.glob("*/trial.json"):
            folder = record.parent
            with suppress(OSError):
                if folder not in folders and time.time() - record.stat().st_mtime > SETTLED_SECONDS:
                    shutil.rmtree(folder / "checkpoint", ignore_errors=True)

    def close(self) -> None:
        """End its workers."""
        for pipe in self._pipes.values():
            pipe.close()


def _refused(said: About, why: str) -> About:
    return replace(said, refused=" ".join(why.split()))


def differs(about: About, expected: Callable[[Device], Setting]) -> str:
    """Why a host can't be used here, by what it said of itself; empty if it can."""
    if about.refused:
        return about.refused
    if why := other_version(about):
        return why
    if not about.devices or about.setting is None:
        return "it has no device for this config"
    if about.setting != (wanted := expected(about.devices[0])):
        return f"its scores would be of another setting: {differences(about.setting, wanted)}"
    return ""


def other_version(about: About) -> str:
    """That it has another one of this program; empty if it hasn't."""
    if about.version == __version__:
        return ""
    return f"it has harness {about.version}, this one is {__version__} (pip install there)"


def differences(ours: Setting, others: Setting) -> str:
    """In words, what two settings don't have in common."""
    mend = {"data": PREPARE, "runtime": "the same torch there"}
    found = []
    for name in ("data", "evaluator", "budget_seconds", "runtime", "metric"):
        if (one := getattr(ours, name)) != (other := getattr(others, name)):
            found.append(f"{name} {one}, not {other}" + (f" ({mend[name]})" if name in mend else ""))
    return ", ".join(found)
