"""TensorBoard's event files, a folder a run."""

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from harness.report.exports import Exported


class Folders:
    def __init__(self, into: Path) -> None:
        self._into = into

    def has(self, run: Exported) -> bool:
        return (self._into / run.id).is_dir()

    def take(self, run: Exported) -> None:
        half = self._into / f".{run.id}.half"
        shutil.rmtree(half, ignore_errors=True)
        with SummaryWriter(str(half)) as writer:
            for step, _, loss in run.curve:
                writer.add_scalar("loss", loss, step)
            last = run.curve[-1][0] if run.curve else 0
            for name, value in run.figures.items():
                writer.add_scalar(f"run/{name}", value, last)
            for name, text in {"title": run.title, **run.texts}.items():
                writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))  # as it is
            about = "\n".join(f"    {name}: {value}" for name, value in run.config.items())
            writer.add_text("config", about)
        half.replace(self._into / run.id)


def make(into: str, project: str) -> Folders:
    folder = Path(into or "tensorboard")
    folder.mkdir(parents=True, exist_ok=True)
    return Folders(folder)
