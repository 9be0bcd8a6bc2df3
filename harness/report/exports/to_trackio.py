"""Trackio's database on this machine: `trackio show` shows it."""

import contextlib
import io
import os

import trackio

from harness.report.exports import Exported


class Local:
    def __init__(self, project: str) -> None:
        self._project = project
        self._known = set[str]()
        with contextlib.suppress(ValueError):  # it is a new project
            self._known = {run.name for run in trackio.Api().runs(project) if (run.config or {}).get("whole")}

    def has(self, run: Exported) -> bool:
        return run.id in self._known

    def take(self, run: Exported) -> None:
        texts = {name: trackio.Markdown(f"```\n{text}\n```") for name, text in run.texts.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # it greets
            about = {**run.config, "title": run.title, "whole": True}
            trackio.init(self._project, name=run.id, group=run.group, config=about, embed=False)
            for step, seconds, loss in run.curve:
                trackio.log({"loss": loss, "seconds": seconds}, step=step)
            last = run.curve[-1][0] + 1 if run.curve else 0
            trackio.log({**run.figures, **texts}, step=last)
            trackio.finish()
        self._known.add(run.id)


def make(into: str, project: str) -> Local:
    if into:
        os.environ["TRACKIO_DIR"] = into
    return Local(project)
