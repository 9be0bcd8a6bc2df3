"""Run folders of other hosts: each has one here too, with what views read; its checkpoint stays where it is.

In place of the checkpoint stands a file that says where that is. A checkpoint that is removed here is removed
there a little later, see `harness.executors.hosts`.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.store.note import write_run
from harness.store.records import RunRecord

ELSEWHERE = "elsewhere"


def make(runs: Path, host: str, folder: Path, source: bytes, run: RunRecord) -> Path:
    """Here, of a run in `folder` on a host."""
    here = runs / folder.name
    (here / "checkpoint").mkdir(parents=True)
    (here / "train.py").write_bytes(source)
    (here / "log.txt").write_text(run.training.log, encoding="utf-8")
    (here / "trial.json").write_bytes(write_run(run))
    (here / "checkpoint" / ELSEWHERE).write_text(f"{host}\n{folder}\n")
    return here


def where(folder: Path) -> tuple[str, Path] | None:
    """The host of a run's folder, and its path there; None if it is this one's."""
    with suppress(OSError, ValueError):
        host, path = (folder / "checkpoint" / ELSEWHERE).read_text().split("\n")[:2]
        return host, Path(path)
    return None


def of(runs: Path, host: str) -> Iterator[Path]:
    """Folders on a host whose checkpoint is still wanted, their paths there."""
    for file in runs.glob(f"*/checkpoint/{ELSEWHERE}"):
        found = where(file.parent.parent)
        if found is not None and found[0] == host:
            yield found[1]
