"""The live view of a session: a steady panel on a terminal, a line or a JSON object an event elsewhere."""

import json
import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from harness.report import table
from harness.report.live import PLAIN_EVERY_SECONDS, Shown, describe
from harness.session.events import BEGUN, MEASURED, PUT_BACK, Event, Run
from harness.store.decisions import CANDIDATE
from harness.store.experiment import Experiment
from harness.store.records import KEEP

LAST = 10
CURVE_POINTS = 400


class SessionPanel:
    """A context manager; `tell` takes events, `show` progress of what runs.

    Args:
        as_json: events as objects on stdout, one a line, and nothing else.
        kept: the last kept experiment of earlier sessions.
    """

    def __init__(self, as_json: bool = False, kept: Experiment | None = None) -> None:
        self._as_json = as_json
        self._console = Console(file=sys.stderr)
        self._live: Live | None = None
        self._lines: list[Text] = []
        self._titles: dict[str, str] = {}  # of what runs, by its key, the oldest first
        self._shown: dict[int, Shown] = {}  # by worker
        self._curve: list[float] = []
        self._kept = kept
        self._counts: dict[str, int] = {}
        self._printed: dict[int, tuple[str, float]] = {}  # phase and moment of a worker's last plain line
        self._began = time.monotonic()

    def __enter__(self) -> "SessionPanel":
        if self._console.is_terminal and not self._as_json:
            self._live = Live(self._panel(), console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            for line in self._lines:
                self._console.print(line, soft_wrap=True)

    def tell(self, event: Event) -> None:
        experiment = event.experiment
        if event.run is not None:
            self._titles.pop(event.run.key, None)
            if event.kind == BEGUN:
                self._titles[event.run.key] = event.text
        if event.kind == PUT_BACK:
            return
        if event.kind == MEASURED:
            self._curve = []
            if experiment is not None:
                status = experiment.status or ""
                self._counts[status] = self._counts.get(status, 0) + 1
                if status == KEEP:
                    self._kept = experiment
        if self._as_json:
            about = {"experiment": table.record(experiment)} if experiment is not None else {}
            sys.stdout.write(json.dumps({"kind": event.kind, "text": event.text.strip(), **about}) + "\n")
            sys.stdout.flush()
        elif self._live is None:
            self._console.print(event.text, markup=False, highlight=False, soft_wrap=True)
        else:
            if event.kind != BEGUN:
                self._lines = [*self._lines, _line(event, self._width - 4)][-LAST:]
            self._live.update(self._panel())

    def say(self, text: str) -> None:
        self.tell(Event("note", text))

    def show(self, shown: Shown, run: Run) -> None:
        place = run.place
        self._shown[place] = shown
        if shown.loss is not None and place == 0:
            self._curve.append(shown.loss)
            if len(self._curve) > CURVE_POINTS:
                self._curve = self._curve[::2]
        if self._live is not None:
            self._live.update(self._panel())
            return
        now, (phase, printed_at) = time.monotonic(), self._printed.get(place, ("", 0.0))
        if self._as_json or (shown.phase == phase and now - printed_at < PLAIN_EVERY_SECONDS):
            return
        self._printed[place] = shown.phase, now
        of = run.name[:4] if len(self._shown) > 1 else ""  # one line may be another run's
        self._console.print(f"{of:<4} {describe(shown)}", markup=False, highlight=False, soft_wrap=True)

    @property
    def _width(self) -> int:
        """With room for the ^C that a terminal writes behind it: a line of it more would stay."""
        return self._console.width - 3

    def _panel(self) -> Panel:
        titles = list(self._titles.values()) or ["between two runs"]
        parts = [Text(title, style="bold", overflow="ellipsis", no_wrap=True) for title in titles]
        for place, shown in sorted(self._shown.items()) if self._titles else []:
            gpu = f"{place}  " if len(self._shown) > 1 else ""
            parts.append(Text(gpu + describe(shown)))
        parts.append(Text(table.sparkline(self._curve) if self._titles else "", style="cyan"))
        if self._kept is not None:
            parts.append(Text(f"kept  {table.row(self._kept, KEEP, self._width - 10)}", style="green"))
        parts += [Text(""), *self._lines] if self._lines else []
        counts = "  ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        past = table.age(time.monotonic() - self._began)
        return Panel(Group(*parts), title="harness loop", subtitle=f"{past}  {counts}", width=self._width)


def _line(event: Event, width: int) -> Text:
    if event.experiment is None:
        return Text(event.text.strip(), style="yellow" if event.kind == "trouble" else "")
    state = CANDIDATE if event.experiment.status == KEEP else event.experiment.state
    row = table.row(event.experiment, state, width, when=time.strftime("%H:%M"))
    return Text(row, style=table.COLORS.get(state, ""))
