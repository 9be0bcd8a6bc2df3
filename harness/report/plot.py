"""The picture of a repository's research: every experiment a dot, the frontier's estimate a line."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import artist

# As matplotlib loads, it writes documentation for 105 classes and lists their properties in that of others: a
# seventh of the time of `harness plot`.
artist.Artist._update_set_signature_and_docstring = classmethod(lambda cls: None)  # type: ignore[attr-defined]
artist.kwdoc = lambda cls: ""  # type: ignore[assignment]
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402
from matplotlib.transforms import offset_copy  # noqa: E402

from harness.report.frontier import built_on  # noqa: E402
from harness.store.experiment import Experiment  # noqa: E402
from harness.store.metric import MAX, Metric  # noqa: E402
from harness.store.records import DISCARD, KEEP  # noqa: E402

LABELS = 20  # of the largest improvements
TITLE_CHARS = 40
SLANT_DEGREES = 28
LINE_PIXELS = 15  # between two labels
CHAR_PIXELS = 8  # of a label, on average and with some room
KEPT, TRIED, FAILED = "#1a7f4b", "#9aa0a6", "#c5362b"


def draw(
    experiments: list[Experiment], path: Path, metric: Metric, line: Sequence[str] | None = None
) -> None:
    """Write a .png or .svg.

    Args:
        metric: of all that have a score.
        line: commits from `main` to the frontier's head, as they stand now.

    Raises:
        OSError: it can't be written.
    """
    known = {e.commit: e for e in experiments}
    sign = metric.sign  # drawn are losses; what is to be raised then has its axis turned round
    every = [(e.name.number, None if e.value is None else sign * e.value, e) for e in experiments]
    end = max(x for x, _, _ in every)  # more than there are, where a person gave a number
    scored = [(x, y, e) for x, y, e in every if y is not None]
    steps: list[tuple[float, float]] = [(x, sign * y) for x, y, _ in built_on(scored, line)]
    scored = [(x, y, e) for x, y, e in scored if not e.is_once_more(known.get(e.origin))]  # one dot a run
    kept = [(x, y, e) for x, y, e in scored if e.status == KEEP]
    failed = [x for x, y, e in every if y is None and e.status is not None]
    figure = Figure(figsize=(11, 5.5), dpi=130)  # without pyplot, which takes longer to load than to draw
    axes = figure.subplots()
    low, high = _limits([y for _, y, _ in scored], [y for _, y, _ in kept] + [y for _, y in steps])
    dots: dict[str, Any] = {
        "linestyle": "none",
        "markersize": 4.7 if len(scored) < 300 else 2.3,
        "markeredgewidth": 0,
    }
    discarded = [(x, y, e) for x, y, e in scored if e.status == DISCARD]
    if shown := [(x, y) for x, y, _ in discarded if y <= high]:
        axes.plot(*zip(*shown, strict=True), marker="o", color=TRIED, label="not kept", **dots)
    if above := [x for x, y, _ in discarded if y > high]:
        axes.plot(
            above,
            [high] * len(above),
            marker="^" if sign > 0 else "v",
            color=TRIED,
            label="far worse",
            **dots,
        )
    if failed:
        crosses = dots | {"marker": "x", "markeredgewidth": 1}
        axes.plot(failed, [high] * len(failed), color=FAILED, label="no score", **crosses)
    if steps:
        steps.append((end + max(0.2, 0.02 * end), steps[-1][1]))
        axes.step(
            *zip(*steps, strict=True),
            where="post",
            color=KEPT,
            linewidth=1.4,
            label=f"frontier, estimated {metric.name}",
        )
    if kept:
        larger = dots | {"marker": "o", "markersize": 1.2 * dots["markersize"]}
        across, up = [x for x, _, _ in kept], [y for _, y, _ in kept]
        axes.plot(across, up, color=KEPT, zorder=3, label="kept", **larger)
    for color, group in ((TRIED, discarded), (KEPT, kept)):
        repeated = [(x, [sign * run for run in e.runs]) for x, y, e in group if y <= high]
        ends = [(x, y) for x, runs in repeated if len(runs) > 1 for y in (min(runs), max(runs), math.nan)]
        if ends:
            axes.plot(*zip(*ends, strict=True), color=color, linewidth=1, marker="_", markersize=4)
    room = 0.34 if kept else 0.06
    axes.set_ylim(low - room * (high - low), high + 0.04 * (high - low))
    late = any(x > 0.8 * end for x, _, _ in kept)  # its title needs room
    axes.set_xlim(-0.02 * end, (1.3 if late else 1.12) * end)
    if metric.goal == MAX:
        axes.invert_yaxis()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{-y:g}"))
    _label(axes, sorted(kept, key=lambda item: sign * (item[2].delta or 0.0)), sign)
    axes.set_xlabel("experiment")
    axes.set_ylabel(metric.words)
    count = len(scored) + len(failed)
    axes.set_title(f"{count} experiment{'s' * (count != 1)}, {len(kept)} kept", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=8)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.93, bottom=0.1)  # tight_layout draws it all twice
    with warnings.catch_warnings():  # of letters that the font hasn't: boxes stand there
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path)


def _label(axes: Any, kept: list[tuple[int, float, Experiment]], sign: int) -> None:
    """Titles beside their dots, slanted, the first ones first; what would cover another stays away.

    Args:
        sign: below the dots if it is 1, above them if it is -1: where better ones would be.
    """
    slope = math.radians(SLANT_DEGREES)
    taken: list[tuple[float, float, float]] = []
    beside = offset_copy(axes.transData, axes.figure, 4, -4 * sign, "points")
    places = axes.transData.transform([(x, y) for x, y, _ in kept]) if kept else []
    for (x, y, experiment), (across, up) in zip(kept, places, strict=True):
        title = experiment.message.title
        title = title if len(title) <= TITLE_CHARS else title[: TITLE_CHARS - 1] + "…"
        down = -sign * up
        line = across * math.sin(slope) - down * math.cos(slope)  # which of the slanted lines, and where
        begin = across * math.cos(slope) + down * math.sin(slope)
        end = begin + CHAR_PIXELS * len(title)
        covers = (abs(line - a) < LINE_PIXELS and begin < c and b < end for a, b, c in taken)
        if len(taken) == LABELS or any(covers):
            continue
        taken.append((line, begin, end))
        axes.text(
            x, y, title, transform=beside, rotation=-sign * SLANT_DEGREES, rotation_mode="anchor",
            fontsize=7.5, ha="left", va="top" if sign > 0 else "bottom", color=KEPT, parse_math=False,
        )  # fmt: skip


def _limits(scores: list[float], kept: list[float]) -> tuple[float, float]:
    """From the best to what most reached; the few far worse ones are drawn at the upper edge."""
    ordered = sorted(scores)
    high = ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))]
    high = max([high, *kept])
    low = min([ordered[0], *kept])
    return low, high if high > low else low + 0.01
