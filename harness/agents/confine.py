"""What a coding agent's command may touch: its clone, the folders it is given, and the network.

All else is read-only, home included, so that nothing which the harness or its owner starts later can be
planted. Prepared data, validation text, run folders (a model under test could print there what it is
scored on), sockets of other programs and the GPU are out of sight. Not covered:
abstract sockets, and secrets of home, which an agent with a network could send away as it could when
run by hand. Without bubblewrap only the hooks hold an agent, and it can go round those.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.errors import HarnessError
from harness.paths import Paths, cache_dir
from harness.tasks.lm.interpreter import hidden_dirs

# Where well-known agents keep their sessions, below home; writable where they are.
SESSIONS = (".claude", ".codex", ".gemini", ".config/opencode", ".local/share/opencode", ".aider")
MOST_HIDDEN = 2000  # bubblewrap takes 9,000 arguments
NAMES = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")  # what resolv.conf may point to


def without_tokens(variables: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, without what lets a process run anything on the hosts of a cluster."""
    return {name: value for name, value in variables.items() if not name.startswith("RAY_")}


def _tokens() -> tuple[Path, ...]:
    """Where those lie."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path.home() / ".ray", *([Path(named)] if named else []))


def check_writable(folders: tuple[Path, ...], paths: Paths) -> None:
    """Whether an agent may be given these folders.

    Raises:
        HarnessError: one holds, or lies in, something that has to stay as it is.
    """
    fixed = {paths.root, cache_dir(), Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent}
    for folder in folders:
        if not folder.is_dir():
            raise HarnessError(f"{folder} is no folder", "--writable FOLDER")
        for path in (path.resolve() for path in fixed):
            if path.is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(path):
                raise HarnessError(f"an agent can't be given {folder}: {path} must stay as it is")


def prefix(paths: Paths, clone: Path, writable: tuple[Path, ...], hide: tuple[Path, ...]) -> list[str]:
    """What stands before a command line that is confined to `clone`.

    Args:
        writable: further folders that it may write to.
        hide: files and folders out of sight: the person's own texts, if runs train on those.

    Raises:
        HarnessError: those are too many.
    """
    if len(hide) > MOST_HIDDEN:
        why = f"`source` matches {len(hide):,} files below your home: too many to hide from an agent"
        raise HarnessError(why, "a folder of their own, as `source`")
    args = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"]
    args += ["--cap-drop", "ALL", "--ro-bind", "/", "/"]
    args += ["--dev", "/dev", "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    args += ["--ro-bind-try", "/proc/sysrq-trigger", "/proc/sysrq-trigger"]
    # Those of /tmp and /run first: what lies in them and is needed is mounted on top again.
    args += ["--tmpfs", "/tmp", "--tmpfs", "/run"]
    for name in NAMES:
        args += ["--ro-bind-try", name, name]
    package = Path(__file__).parent.parent.parent
    needed = (paths.root, Path.home(), Path(sys.prefix), Path(sys.base_prefix), package)
    for path in sorted({_real(path) for path in needed}):
        if path.is_relative_to("/tmp") or path.is_relative_to("/run"):
            args += ["--ro-bind", str(path), str(path)]
    sessions = [path for name in SESSIONS if (path := Path.home() / name).is_dir()]
    for path in (*sessions, *writable):
        args += ["--bind", str(_real(path)), str(_real(path))]
    root = _real(paths.root)
    unseen = (cache_dir(), *hidden_dirs(), *_tokens(), *hide)
    for path in sorted({_real(p) for p in unseen if p.exists()} - {root}):
        args += ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", "/dev/null", str(path)]
        if root.is_relative_to(path):
            args += ["--ro-bind", str(root), str(root)]
    args += ["--tmpfs", str(_real(paths.runs))]
    return [*args, "--bind", str(_real(clone)), str(_real(clone)), "--chdir", str(_real(clone))]


def _real(path: Path) -> Path:
    """Without links: bubblewrap mounts on no link."""
    return path.resolve()


def problem(bwrap: list[str]) -> str | None:
    """One line on why these options (from `prefix`) can't be used here; None if they can."""
    if shutil.which(bwrap[0]) is None:
        return "bubblewrap is not installed (apt install bubblewrap)"
    tried = subprocess.run([*bwrap, "--", "true"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    return f"bubblewrap does not work here: {(tried.stderr.strip().splitlines() or ['no reason given'])[-1]}"
