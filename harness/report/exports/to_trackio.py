"""Trackio's database on this machine: `trackio show` shows it."""

import contextlib
import io
import os
from pathlib import Path

import trackio
from trackio.utils import TRACKIO_DIR

from harness.report.exports import Exported


class Local:
    def __init__(self, project: str) -> None:
        self._project = project
        self._whole = Path(TRACKIO_DIR) / f".harness-{project}"
        self._whole.mkdir(parents=True, exist_ok=True)

    def has(self, run: Exported) -> bool:
        return (self._whole / run.id).exists()

    def take(self, run: Exported) -> None:
        with contextlib.suppress(ValueError):  # it is a new project
            for half in [found for found in trackio.Api().runs(self._project) if found.name == run.id]:
                half.delete()  # a kill cut it short
        texts = {name: trackio.Markdown(f"```\n{text}\n```") for name, text in run.texts.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # it greets
            about = {**run.config, "title": run.title}
            trackio.init(self._project, name=run.id, group=run.group, config=about, embed=False)
            for step, seconds, loss in run.curve:
                trackio.log({"loss": loss, "seconds": seconds}, step=step)
            last = run.curve[-1][0] + 1 if run.curve else 0
            trackio.log({**run.figures, **texts}, step=last)
            trackio.finish()
        (self._whole / run.id).touch()


def make(into: str, project: str) -> Local:
    if into:
        os.environ["TRACKIO_DIR"] = into
    return Local(project)
