"""Starting untrusted code, and making sure that it ends.

With bubblewrap: a new root of only what Python and the driver need, read-only; one writable
directory and a /tmp of bounded size, in memory; no network; its own process, IPC and user
namespaces; an allow-list of environment variables. Home, data, `.git` and the directories that hold
validation text are not in it. Without bubblewrap ("none") only the environment, the limits and the
process group are held: that keeps an honest run in order, and stops nobody.

System calls that could carry a note between processes are answered without being carried out, see `syscalls`.
Not covered: the kernel's own attack surface, and side channels of time.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import HarnessError
from harness.paths import cache_dir
from harness.sandbox.namespace import DEATH_SECONDS, Namespace
from harness.sandbox.processes import tree
from harness.tasks.lm.interpreter import hidden_dirs

LIBRARY = "/harness-lib"
WORK = "/trial"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix", "/sys")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "OpenCL")
PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CC", "CXX")
PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "MKL_", "NCCL_")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL")
AGAIN_SECONDS = 1.0, 5.0, 0.0  # a machine that is out of memory for a moment has bubblewrap all the same
SMALL_BYTES = 64 * 2**20
FATAL = {
    signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV,
    signal.SIGTERM,
}  # fmt: skip


@dataclass(frozen=True)
class Isolation:
    kind: str
    """`bwrap` or `none`, what the trailer says."""
    why: str
    """Why it is `none`, and what would help; empty otherwise."""
    hide: tuple[Path, ...] = ()
    """Folders that must not be seen even where they lie inside of a system folder."""


def choose(setting: str, hide: tuple[Path, ...] = ()) -> Isolation:
    """What a config's `sandbox` means on this machine.

    Args:
        hide: the repository, its data, and whatever else a run must not see.

    Raises:
        HarnessError: it says `require` and bubblewrap does not work here.
    """
    if setting == "none":
        return Isolation("none", "the config says sandbox = 'none'")
    problem = _bwrap_problem(shutil.which("bwrap"))
    if problem is None:
        return Isolation("bwrap", "", tuple(path.resolve() for path in hide))
    if setting == "require":
        raise HarnessError(f"sandbox = 'require', but {problem}", "harness doctor")
    return Isolation("none", problem)


@functools.lru_cache
def _bwrap_problem(program: str | None) -> str | None:
    """None if bubblewrap works with all that we ask of it, else one line saying why not."""
    if program is None:
        return "bubblewrap is not installed (apt install bubblewrap)"
    for pause in AGAIN_SECONDS:
        try:
            tried = subprocess.run(
                [*_bwrap(program, 1, [], gpu=""), "--", "/bin/true"],
                capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
            break
        except (OSError, subprocess.TimeoutExpired) as error:
            trouble = error
            time.sleep(pause)
    else:
        return f"bubblewrap does not start: {trouble}"
    if tried.returncode == 0:
        return None
    why = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    hint = ""
    if "namespace" in why or "uid map" in why:
        hint = " (user namespaces are off: sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu"
        hint += " kernel.apparmor_restrict_unprivileged_userns=0)"
    if "Unknown option" in why:
        hint = " (it is older than 0.8)"
    return f"bubblewrap does not work here: {why}{hint}"


def _bwrap(
    program: str, disk_bytes: int, binds: list[str], hide: tuple[Path, ...] = (), gpu: str | None = None
) -> list[str]:
    args = [
        program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc",
        "--unshare-uts", "--unshare-cgroup-try", "--uid", "1000", "--gid", "1000",
        "--hostname", "trial", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--disable-userns",
        "--as-pid-1",  # else its own first process has no filter, and memory that others may write to
    ]  # fmt: skip
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), str(path)]
    for name in ETC:
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # Run by root, what is inside still owns the kernel's settings, whatever its capabilities.
    args += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    args += ["--ro-bind-try", "/proc/sysrq-trigger", "/proc/sysrq-trigger", "--dev", "/dev"]
    for file in map(str, _gpu_files(gpu)):
        args += ["--dev-bind", file, file]
    args += ["--size", str(SMALL_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    args += ["--size", str(disk_bytes), "--tmpfs", "/tmp"]
    args += ["--size", str(disk_bytes), "--tmpfs", WORK]
    args += _view(hide)
    package = Path(__file__).resolve().parent.parent
    args += ["--ro-bind", str(package), f"{LIBRARY}/harness"]
    return [*args, *binds, "--remount-ro", "/", "--chdir", WORK]


def _gpu_files(gpu: str | None, folder: Path = Path("/dev")) -> list[Path]:
    """Of NVIDIA's driver, what a process is to see: one GPU, all of them if it is empty, none if None. Under
    WSL2 there is one file for all."""
    if gpu is None:
        return []
    only = Path(gpu) if gpu and Path(gpu).exists() else None  # a container may have given it another number
    every = sorted(folder.glob("nvidia*"))
    kept = [file for file in every if only in (None, file) or not file.name.removeprefix("nvidia").isdigit()]
    return kept + [file for file in (folder / "dxg",) if file.exists()]


def _view(hide: tuple[Path, ...]) -> list[str]:
    """Mounts of the system and of this Python, with what is private inside of them covered up.

    Deeper paths come later, so that each covers, or shows again, a part of what is above it.
    """
    shown = {path for path in map(Path, SYSTEM) if path.is_dir() and not path.is_symlink()}
    private = {Path.home(), cache_dir(), *hide, *hidden_dirs()}
    libraries = {path for path in _extra_library_paths() if path.resolve() not in private}
    python = {Path(sys.prefix), Path(sys.base_prefix), *libraries}
    shown |= _toolchains() | python | {path.resolve() for path in python}
    covered = {
        p for p in private if p.is_dir() and any(p.is_relative_to(s) for s in shown) and p not in shown
    }
    args = []
    for path in sorted(shown | covered, key=lambda path: (len(path.parts), path)):
        if path in covered:
            args += ["--size", "4096", "--tmpfs", str(path)]
        else:
            args += ["--ro-bind", str(path), str(path)]
    for path in covered:  # last, because what is shown again needs its mount points made
        args += ["--remount-ro", str(path)]
    return args


def _toolchains() -> set[Path]:
    """Folders of /opt that the environment names (compilers, CUDA); the rest of /opt may be anything."""
    named = [os.environ.get(name, "") for name in ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CC", "CXX")]
    entries = [Path(entry) for value in named for entry in value.split(os.pathsep)]
    return {Path(*e.parts[:3]) for e in entries if e.parts[:2] == ("/", "opt") and len(e.parts) > 2}


def _extra_library_paths() -> list[Path]:
    """Entries of PYTHONPATH, without those that are a repository (they hold .git, and our code)."""
    entries = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return [p for p in entries if p.is_absolute() and p.is_dir() and not (p / ".git").exists()]


def _block_bytes() -> int:
    """The largest block that glibc may keep: before 2.35 it refuses to be told more than 32 MB."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        version = ""  # another C library, which doesn't read it anyway
    found = re.match(r"glibc (\d+)\.(\d+)", version)
    return 2**30 if found and (int(found[1]), int(found[2])) >= (2, 35) else 32 * 2**20


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part of ours, and `extra`. No name that smells of a secret passes."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if (name in PASSED or name.startswith(PASSED_PREFIXES)) and not any(word in name for word in SECRET)
    }
    fixed = {
        "USER": "trial",
        "LOGNAME": "trial",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        # glibc gives large blocks back to the kernel at once, and faults them in again at every step.
        "MALLOC_MMAP_THRESHOLD_": str(_block_bytes()),
        "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    }
    return {**passed, **fixed, **extra}


class Process:
    """Untrusted code on its way: started in a session of its own, ended with all it started."""

    def __init__(
        self,
        isolation: Isolation,
        module: str,
        *,
        files: Mapping[str, Path],
        descriptors: Mapping[str, int],
        limits: Mapping[str, float],
        variables: Mapping[str, str],
        disk_mb: int,
        output: int | IO[bytes],
        gpu: str | None = None,
    ) -> None:
        """Start `python -m module` in WORK (or in a temporary folder, without bubblewrap).

        Args:
            files: name inside WORK -> file or folder of ours that is seen there, read-only.
            descriptors: environment variable that carries the number -> descriptor handed over.
            limits: see `harness.sandbox.limits`.
            variables: further environment variables.
            output: where stdout and stderr go.
            gpu: the file in /dev of the only NVIDIA GPU that is seen; empty for all, None for none.
        """
        self._gone = False
        self._mark = uuid.uuid4().hex
        self._folder: Path | None = None
        env = {
            **variables,
            **{name: str(number) for name, number in descriptors.items()},
            "HARNESS_LIMITS": json.dumps(dict(limits)),
            "HARNESS_MARK": self._mark,
        }
        python = [sys.executable, "-m", module]
        extra = [str(path) for path in _extra_library_paths()]
        if isolation.kind == "bwrap":
            binds = []
            for name, path in files.items():
                binds += ["--ro-bind", str(path), f"{WORK}/{name}"]
            program = shutil.which("bwrap") or "bwrap"
            bwrap = _bwrap(program, disk_mb * 2**20, binds, isolation.hide, gpu)
            env |= {"HOME": WORK, "TMPDIR": "/tmp", "PYTHONPATH": ":".join([LIBRARY, *extra])}
            folder = None
        else:
            bwrap = []
            self._folder = folder = Path(tempfile.mkdtemp(prefix="harness-trial-"))
            for name, path in files.items():
                copy = shutil.copytree if path.is_dir() else shutil.copyfile
                copy(path, folder / name)
            home = str(Path(__file__).resolve().parent.parent.parent)
            env |= {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": ":".join([home, *extra])}
        self._namespace = Namespace(
            bwrap, python, environment=environment(env), descriptors=list(descriptors.values()),
            folder=folder, output=output,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process that all others in it descend from."""
        return self._namespace.process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        code = self._namespace.process.poll()
        # bwrap passes a signal on as 128 + its number, which a plain exit code can be too.
        return 128 - code if code is not None and code - 128 in FATAL else code

    def signal(self, number: int) -> None:
        """To every process in it."""
        for process in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """Kill everything that it started, and wait until the kernel says that all is gone."""
        if self._gone:
            return
        self._gone = True
        self._namespace.kill()
        if self._folder and sys.platform == "linux":
            self._sweep()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Without namespaces: kill what left the process group but kept our mark."""
        mark = f"HARNESS_MARK={self._mark}".encode()
        deadline = time.monotonic() + DEATH_SECONDS
        while time.monotonic() < deadline:
            found = False
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if mark in (entry / "environ").read_bytes():
                        os.kill(int(entry.name), signal.SIGKILL)
                        found = True
                except OSError:
                    continue
            if not found:
                return
            time.sleep(0.02)
