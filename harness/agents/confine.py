"""What a coding agent's command may touch: its clone, its owner's home and the network.

Everything else is read-only, the repository and the installed harness first of all; prepared data and
validation text are out of sight, and so is the GPU, on which a trial runs. Home stays writable because
agents keep their sessions there, except for what other programs start from: git's and the shells' own
files, ssh's keys. Without bubblewrap only the hooks hold an agent, and an agent can go round those.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from harness.corpus.sources import hidden_dirs
from harness.paths import cache_dir

STARTUP_FILES = (
    ".gitconfig", ".config/git", ".ssh", ".gnupg", ".netrc", ".profile", ".bashrc", ".bash_profile",
    ".zshrc", ".zshenv", ".zprofile", ".config/fish", ".config/autostart", ".config/systemd",
)  # fmt: skip


def prefix(repository: Path, clone: Path, hide: tuple[Path, ...] = ()) -> list[str]:
    """What stands before a command line that is confined to `clone`.

    Args:
        repository: its folder that holds `.git`, and every other folder that must stay as it is.
        hide: the person's own texts, if trials train on those.
    """
    home = Path.home()
    fixed = [home / name for name in STARTUP_FILES]
    fixed += [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent.parent.parent, repository]
    args = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"]
    args += ["--cap-drop", "ALL", "--ro-bind", "/", "/"]
    args += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    args += ["--bind", str(home), str(home)]
    for path in sorted({path.resolve() for path in fixed if path.exists()}):
        args += ["--ro-bind", str(path), str(path)]
    for path in {cache_dir(), *hidden_dirs(), *hide}:
        if path.is_dir():
            args += ["--tmpfs", str(path)]
    return [*args, "--bind", str(clone), str(clone), "--chdir", str(clone), "--"]


def problem(command: list[str]) -> str | None:
    """One line on why `command` (from `prefix`) can't be used here; None if it can."""
    if shutil.which(command[0]) is None:
        return "bubblewrap is not installed (apt install bubblewrap)"
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    return f"bubblewrap does not work here: {(tried.stderr.strip().splitlines() or ['no reason given'])[-1]}"
