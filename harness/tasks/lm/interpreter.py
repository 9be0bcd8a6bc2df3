"""Where this interpreter's own sources lie: text for the embedded corpus, a part of it held out."""

import sys
import sysconfig
from importlib import util
from pathlib import Path

# Directories that no run needs. The sandbox hides them, and only they are held out: a train.py
# could otherwise read the validation text, these being files of the Python that runs it.
HIDDEN_STDLIB = (
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "unittest/test", "ctypes/test",
    "sqlite3/test",
)  # fmt: skip
HIDDEN_TORCH = ("testing/_internal/opinfo", "testing/_internal/test_module")


def stdlib_dir() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def torch_dir() -> Path | None:
    """The installed torch, found without importing it."""
    spec = util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def hidden_dirs() -> list[Path]:
    """Directories of this interpreter that hold validation text, in every copy that is in sight."""
    stdlibs = {stdlib_dir()}
    for prefix in (Path("/usr/lib"), Path("/usr/local/lib"), Path(sys.base_prefix) / "lib"):
        stdlibs.update(prefix.glob("python3*"))
    found = [lib / name for lib in sorted(stdlibs) for name in HIDDEN_STDLIB]
    if torch := torch_dir():
        found += [torch / name for name in HIDDEN_TORCH]
    return [path for path in found if path.is_dir()]
