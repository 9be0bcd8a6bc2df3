"""What was tried: `log`, `show`, `diff`, `plot`, `export`. All of it is read from git.

What only a picture or one experiment needs (the gate, matplotlib) is imported there; a list needs none of it.
"""

import csv
import io
import json
import math
import subprocess
from dataclasses import asdict
from pathlib import Path

import click

from harness.errors import DONE, HarnessError
from harness.report import explain, story, table, timing
from harness.report.snapshot import Snapshot, snapshot
from harness.store.opening import open_repository
from harness.store.records import CRASH, ERROR, INVALID, KEEP

LOG_EXAMPLES = """\b
Examples:
  harness log                  # the last twenty
  harness log --kept           # the discoveries
  harness log --near-miss -n 5 # discarded, the closest first
  harness log --all --json | jq .title
"""


@click.command(epilog=LOG_EXAMPLES)
@click.option("--all", "which", flag_value="all", help="Every experiment, not the last N.")
@click.option("--kept", "which", flag_value="kept", help="Only what was kept, confirmed first.")
@click.option("--near-miss", "which", flag_value="near", help="Discarded, the closest first.")
@click.option("--crash", "which", flag_value="crash", help="Only crashed, invalid and error.")
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def log(which: str | None, count: int, as_json: bool) -> int:
    """Experiments, newest last.

    A kept one is confirmed (main has it), a candidate (on the frontier: worth building on, not proven) or
    dropped (later results make it look worse). --kept lists confirmed ones first.
    """
    now = snapshot(open_repository())
    known, found = now.known, list(now.experiments)
    if which == "kept":
        found = [e for e in found if e.status == KEEP]
    elif which == "crash":
        found = [e for e in found if e.status in (CRASH, INVALID, ERROR)]
    elif which == "near":
        found = table.near_misses(found)[:count]
    if which == "kept":
        on_main = known.all_on_main([e.commit for e in found])
        found = sorted(found, key=lambda e: e.commit not in on_main)[:count]
    elif which != "all":
        found = found[-count:]
    states = {} if as_json else now.states(found)
    here = {e.commit for e in now.comparable}
    width = table.width()
    lines = (
        json.dumps(table.record(e))
        if as_json
        else table.styled(e, states[e.commit], width, e.commit not in here)
        for e in found
    )
    click.echo("".join(f"{line}\n" for line in lines), nl=False)
    if now.frontier.config_trouble:
        click.echo(f"WARNING: {now.frontier.config_trouble}", err=True)
    if not found:
        some = which in ("kept", "near", "crash")
        click.echo("none of that kind" if some else "none yet (harness loop)", err=True)
    return DONE


SHOW_EXAMPLES = """\b
Examples:
  harness show 7
  harness show exp/0007-halve-the-batch --json
"""


@click.command(epilog=SHOW_EXAMPLES)
@click.argument("experiment")
@click.option("--json", "as_json", is_flag=True, help="The full record as one JSON object.")
def show(experiment: str, as_json: bool) -> int:
    """One experiment: its message, why it was decided so, loss curve, and the end of its log."""
    now = snapshot(open_repository())
    found = now.known.find(experiment)
    note = now.note(found)
    if as_json:
        runs = [asdict(run) for run in note.runs]
        click.echo(json.dumps({**table.record(found), **note.stored, "trials": runs}))
        return DONE
    click.echo(f"{found.name.branch}  {found.commit[:7]} on {found.parent[:7]}\n")
    click.echo(found.message.text())
    why = story.why(now, found)
    if why:
        click.echo("\n".join(why) + "\n")
    for run in note.runs:
        curve = [point.loss for point in run.training.curve if math.isfinite(point.loss)]
        if curve:
            click.echo(f"loss {curve[0]:.3f} to {curve[-1]:.3f}\n{table.sparkline(curve)}\n")
        if len(note.runs) > 1 or run.host:
            ended = run.metric.exact(run.value) if run.value is not None else run.status
            where = f" on {run.host}" if run.host else ""
            where += " (another setting)" if found.setting not in (None, run.setting) else ""
            click.echo(f"seed {run.seed}: {ended}{where}")
        if run.total_seconds:
            click.echo(f"time {timing.line(run)}\n")
        if how := explain.checked(run):
            click.echo(f"{how}\n")
        for odd in filter(None, (run.mismatch, run.delay)):
            click.echo(f"WARNING: {odd}\n")
        for attempt in run.instead_of:
            click.echo(f"an attempt that doesn't count: {attempt}\n")
        if run.detail:
            click.echo(f"{run.status}: {run.detail}\n")
        if tail := run.training.log.strip().splitlines()[-15:]:
            click.echo("log, its end:\n  " + "\n  ".join(tail))
    return DONE


DIFF_EXAMPLES = """\b
Examples:
  harness diff 7           # what it changed
  harness diff 7 12        # from one's train.py to the other's
"""


@click.command(epilog=DIFF_EXAMPLES)
@click.argument("experiment")
@click.argument("other", required=False)
def diff(experiment: str, other: str | None) -> int:
    """The change of an experiment, or the difference between two."""
    repository = open_repository()
    known = snapshot(repository).known
    first = known.find(experiment)
    old, new = (first.commit, known.find(other).commit) if other else (first.parent, first.commit)
    done = subprocess.run(["git", "diff", old, new, "--", "train.py"], cwd=repository.paths.root, check=False)
    return done.returncode


PLOT_EXAMPLES = """\b
Examples:
  harness plot                 # progress.png
  harness plot -o session.svg
"""


@click.command(epilog=PLOT_EXAMPLES)
@click.option("-o", "--output", default="progress.png", show_default=True, type=click.Path(path_type=Path))
def plot(output: Path) -> int:
    """Every experiment a dot, kept ones labelled, the frontier a line."""
    if output.suffix not in (".png", ".svg"):
        raise HarnessError(f"{output.name} is neither .png nor .svg", "-o progress.png")
    from harness.report.plot import draw

    now = snapshot(open_repository())
    if not any(each.value is not None for each in now.comparable):
        raise HarnessError("there is no scored experiment to plot", "harness loop")
    if others := len(now.experiments) - len(now.comparable):
        click.echo(
            f"left out: {others} scored in another setting (device, data, budget, evaluator)", err=True
        )
    try:
        draw(list(now.comparable), output, now.metric, now.frontier.chain or None)
    except OSError as error:
        raise HarnessError(f"can't write {output}: {error.strerror}", "-o another file") from None
    click.echo(f"wrote {output}", err=True)
    return DONE


EXPORT_EXAMPLES = """\b
Examples:
  harness export > results.tsv
  harness export --format json > results.json
  harness export --format parquet > results.parquet
  harness export --to tensorboard            # a folder a run; then tensorboard --logdir tensorboard
  harness export --to wandb                  # offline; then wandb sync wandb/offline-run-*
  harness export --to mlflow --into http://127.0.0.1:5000
"""


@click.command(epilog=EXPORT_EXAMPLES)
@click.option(
    "--format", "kind", type=click.Choice(["tsv", "csv", "json", "parquet"]), default="tsv", show_default=True
)
@click.option("--to", "tool", type=click.Choice(["tensorboard", "wandb", "trackio", "mlflow"]),
              help="Every run with its curve, score, hypothesis and diff, to that tool.")  # fmt: skip
@click.option("--into", default="", help="Its folder, or its server's address.")
@click.option("--project", help="What it is called there. Default: the repository's name.")
def export(kind: str, tool: str | None, into: str, project: str | None) -> int:
    """All experiments on stdout: commit, score, memory_gb, status, description. Or every run to a tool.

    The first line is the baseline. A figure that nobody measured is empty. JSON and Parquet have all that is
    on the commits. A run that was exported to a tool before is left as it is.
    """
    now = snapshot(open_repository())
    if tool is not None:
        return _export_to(now, tool, into, project or now.repository.paths.root.name)
    if kind == "json":
        click.echo(json.dumps([table.record(e) for e in now.experiments], indent=1))
    elif kind == "parquet":
        click.echo(table.parquet(now.experiments), nl=False)
    else:
        text, metric = io.StringIO(), now.metric
        columns = ("commit", metric.name, "memory_gb", "status", "description")
        delimiter = "\t" if kind == "tsv" else ","
        writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*_baseline(now), *table.exported(now.experiments, metric)])
        click.echo(text.getvalue(), nl=False)
    return DONE


def _baseline(now: Snapshot) -> list[dict[str, str]]:
    """What the first experiment was built on, as a row; none where it has no run of this setting."""
    first = now.experiments[0].parent if now.experiments else now.main
    runs = [run for run in now.known.runs(first) if run.setting == now.setting]
    return [table.baseline(first, runs, now.metric)] if any(run.value is not None for run in runs) else []


def _export_to(now: Snapshot, tool: str, into: str, project: str) -> int:
    from harness.report import exports

    where, new, known = exports.sink(tool, into, project), 0, 0
    for run in exports.runs(now):
        if where.has(run):
            known += 1
            continue
        where.take(run)
        new += 1
        if new % 20 == 0:
            click.echo(f"{new} runs", err=True)
    click.echo(f"{tool}: {new} runs exported, {known} were there", err=True)
    return DONE
