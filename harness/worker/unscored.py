"""Runs that trained and have no score, since whatever scored them died: their checkpoint is scored then, and
not trained anew."""

from pathlib import Path

from harness.paths import write_atomically
from harness.store.note import read_run, write_run
from harness.store.records import RunRecord, Setting

FILE = "trained.json"  # beside the checkpoint, until there is a record of the whole run


def keep(folder: Path, run: RunRecord) -> None:
    """Say that its training is over and good."""
    write_atomically(folder / FILE, write_run(run))


def is_in(folder: Path) -> bool:
    """Whether a checkpoint waits there for its score."""
    return (folder / FILE).exists() and not (folder / "trial.json").exists()


def find(runs: Path, commit: str, setting: Setting) -> list[tuple[Path, RunRecord]]:
    """What is left of a commit's runs in a setting, newest first.

    Args:
        runs: the folder of run folders.
    """
    found = []
    for file in sorted(runs.glob(f"*-{commit[:7]}-s*/{FILE}"), reverse=True):
        if not is_in(file.parent) or not (file.parent / "checkpoint").is_dir():
            continue
        try:
            run = read_run(file.read_bytes())
        except OSError:
            continue
        if run is not None and run.commit == commit and run.setting == setting:
            found.append((file.parent, run))
    return found


def drop(folder: Path) -> None:
    """Nothing there waits any more."""
    (folder / FILE).unlink(missing_ok=True)
