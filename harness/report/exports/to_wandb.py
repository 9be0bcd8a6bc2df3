"""Weights & Biases, offline: folders that `wandb sync` sends."""

from pathlib import Path

import wandb

from harness.report.exports import Exported


class Offline:
    def __init__(self, into: Path, project: str) -> None:
        self._into, self._project = into, project

    def has(self, run: Exported) -> bool:
        return self._whole(run).exists()

    def _whole(self, run: Exported) -> Path:
        """Is there when all of it was written: one that a kill cut short is exported again."""
        return self._into / "wandb" / f".harness-{self._project}-{run.id}"

    def take(self, run: Exported) -> None:
        made = wandb.init(
            project=self._project, id=run.id, name=run.id, group=run.group, notes=run.title, mode="offline",
            dir=str(self._into), config=dict(run.config), reinit="finish_previous", settings=QUIET,
        )  # fmt: skip
        for step, seconds, loss in run.curve:
            made.log({"loss": loss, "seconds": seconds}, step=step)
        made.summary.update(dict(run.figures))
        made.summary.update(dict(run.texts))
        made.finish()
        self._whole(run).touch()


QUIET = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)


def make(into: str, project: str) -> Offline:
    folder = Path(into or ".")
    folder.mkdir(parents=True, exist_ok=True)
    return Offline(folder, project)
