"""What was tried: `status`, `log`, `show`, `diff`, `plot`, `export`. All of it is read from git."""

import csv
import gc
import io
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from harness.config import load
from harness.errors import DONE, HarnessError
from harness.gate.noise import pooled
from harness.gate.standing import rebuilt
from harness.lab import passed_by, standing_on
from harness.ledger.experiment import Experiment, comparable
from harness.ledger.known import Known
from harness.ledger.opening import open_repository
from harness.ledger.repo import Repository
from harness.lock import holder
from harness.records import CRASH, DISCARD, ERROR, INVALID, KEEP, Setting, disturbed
from harness.state import read
from harness.trial.measure import open_bench
from harness.views import table, wall, words

LAST = 5

gc.disable()  # each command ends in a moment: to look for garbage among 10,000 experiments is a tenth of it


def _width() -> int:
    import shutil

    return min(160, shutil.get_terminal_size((100, 24)).columns)


STATUS_EXAMPLES = """\b
Examples:
  harness status
  watch -n 5 harness status
"""


@click.command(epilog=STATUS_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(as_json: bool) -> int:
    """What runs now, what is built on, the last results, the limits."""
    repository = open_repository()
    known = Known(repository)
    experiments = list(known)
    process = holder(repository.loop_lock)
    running = read(repository.loop_state) if process else {}
    setting, (policy, broken) = _setting(repository, known), _policy(repository)
    holdouts = known.holdouts(setting) if setting else []
    of_main = known.holdout(known.main, setting) if setting else None
    failed = of_main if isinstance(of_main, str) else None
    trials = [trial for e in experiments[-wall.LAST :] for trial in known.trials(e.commit)]
    share = wall.training_share(trials)
    states = (KEEP, DISCARD, CRASH, INVALID, ERROR, "begun", "by hand")
    counts = {s: sum(e.state == s for e in experiments) for s in states}
    scores = known.main_scores(setting) if setting else ()
    measured = known.measured(setting) if setting else []
    standing = rebuilt(known.main, measured, policy) if policy else None
    believed = standing.believed(known.main) if standing and scores else None
    above = standing.line[1:] if standing else ()
    top = standing.line[-1] if standing else known.main
    kept = next((e for e in experiments if e.commit == top), None)
    if as_json:
        about = {
            "process": process, "loop": running or None, "main": known.main, "main_scores": list(scores),
            "main_believed": believed, "ahead": list(above), "counts": counts,
            "best": table.record(kept) if kept else None,
            "config": broken or None,
            "holdout": [asdict(found) for found in holdouts],
            "holdout_failed": failed,
            "training_share": share[0] if share else None,
            "between_seconds": share[1] if share else None,
            "last": [table.record(e) for e in experiments[-LAST:]],
        }  # fmt: skip
        click.echo(json.dumps(about))
        return DONE
    if process:
        since = table.age(time.time() - running.get("since", time.time()))
        click.echo(f"running  {running.get('running') or 'between trials'} (for {since}, process {process})")
        click.echo(f"limits   {_limits(running)}")
    else:
        click.echo("running  nothing (harness loop)")
    if broken:
        click.echo(f"config   WARNING: {broken}")
    about_main = f"not measured in this setting: {'this' if process else 'the next'} loop begins with it"
    if scores:
        runs = "one run" if len(scores) == 1 else f"the mean of {len(scores)} runs"
        belief = f", believed {believed:.4f}" if believed is not None else ""
        about_main = f"val_bpb {statistics.fmean(scores):.4f}, {runs}{belief}"
    click.echo(f"main     {known.main[:7]}  {about_main}")
    if above:
        tip = next((f"{e.name.number:04d}" for e in experiments if e.commit == above[-1]), above[-1][:7])
        greedy, proof = "the next loop moves main there", "main follows if proven better together"
        click.echo(f"ahead    {len(above)} kept, up to {tip}: {greedy if policy == 'greedy' else proof}")
    elif setting and policy and (passed := passed_by(known, setting, policy)):
        tip, which = f"{passed[0].name.number:04d}", "this" if process else "the next"
        click.echo(f"aside    {tip} stands on {passed[1][:7]}, main before: {which} loop puts it on this one")
    if failed:
        click.echo(f"holdout  WARNING: none for main: {failed}")
    if holdouts and setting:
        noise = pooled(each.scores for each in measured)
        for line in words.holdout(holdouts, noise.sd if noise else None):
            click.echo(f"holdout  {line}")
    if share:
        click.echo(
            f"time     {share[0]:.1%} of the device's time was training: {share[1]:.1f} s between two "
            f"trainings, on average of {share[2]}"
        )
    if known.main not in {e.commit for e in experiments[-wall.LAST :]}:
        trials += known.trials(known.main)
    odd = sum(1 for trial in trials if wall.was_disturbed(trial))
    if odd:
        click.echo(
            f"WARNING  {odd} of the last {len(trials)} trials, main's too, waited long for a processor"
        )
    figures = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    click.echo(f"tried    {len(experiments)}{': ' if figures else ''}{figures}")
    if kept:
        click.echo(f"best     {table.styled(kept, _width() - 9)}")
    for label, experiment in zip(("last", *[""] * LAST), experiments[-LAST:], strict=False):
        other = experiment.setting not in (None, setting)
        click.echo(f"{label:<9}{table.styled(experiment, _width() - 9, other)}")
    return DONE


def _setting(repository: Repository, known: Known) -> Setting | None:
    """Of the config as it stands; where the last measurements are another machine's, theirs."""
    last = known.setting
    try:
        now = open_bench(load(repository.paths.config), repository.paths.root).setting
    except HarnessError:
        return last
    return now if last is None or now.device == last.device else last


def _policy(repository: Repository) -> tuple[str, str]:
    """The gate's; empty, which means belief, where the config can't be read; and what is wrong with that."""
    try:
        return load(repository.paths.config).gate.policy, ""
    except HarnessError as wrong:
        return "", str(wrong)


def _limits(state: dict) -> str:
    limits = {name: value for name, value in (state.get("limits") or {}).items() if value is not None}
    hours = (time.time() - state.get("began", time.time())) / 3600
    done = {"experiments": state.get("measured"), "hours": round(hours, 2), "usd": state.get("spent")}
    parts = [f"{done[name]} of {limits[name]:g} {name}" for name in done if name in limits]
    if "patience" in limits:
        parts.append(f"patience {limits['patience']}")
    return ", ".join(parts) or "none: until Ctrl-C"


LOG_EXAMPLES = """\b
Examples:
  harness log                  # the last twenty
  harness log --kept           # the discoveries
  harness log --near-miss -n 5 # discarded, the closest first
  harness log --all --json | jq .title
"""


@click.command(epilog=LOG_EXAMPLES)
@click.option("--all", "which", flag_value="all", help="Every experiment, not the last N.")
@click.option("--kept", "which", flag_value="kept", help="Only what was kept.")
@click.option("--near-miss", "which", flag_value="near", help="Discarded, the closest first.")
@click.option("--crash", "which", flag_value="crash", help="Only crashed, invalid and error.")
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def log(which: str | None, count: int, as_json: bool) -> int:
    """Experiments, newest last."""
    found = every = list(Known(open_repository()))
    if which == "kept":
        found = [e for e in found if e.status == KEEP]
    elif which == "crash":
        found = [e for e in found if e.status in (CRASH, INVALID, ERROR)]
    elif which == "near":
        discarded = [e for e in found if e.status == DISCARD and e.delta is not None]
        found = sorted(discarded, key=lambda e: e.delta or 0.0)[:count]
    found = found if which == "all" else found[-count:]
    here = {e.commit for e in comparable(every)}
    lines = (
        json.dumps(table.record(e)) if as_json else table.styled(e, _width(), e.commit not in here)
        for e in found
    )
    for line in lines:
        click.echo(line)
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
    repository = open_repository()
    known = Known(repository)
    found = known.find(experiment)
    record, trials = known.record(found.commit), known.trials(found.commit)
    if as_json:
        click.echo(json.dumps({**table.record(found), **record, "trials": trials}))
        return DONE
    click.echo(f"{found.name.branch}  {found.commit[:7]} on {found.parent[:7]}\n")
    click.echo(found.message.text())
    decision, proven = (known.part(found.commit, name) for name in ("decision", "proven"))
    taken = next((c for c, _ in known.history if known.are_one_program(c, found.commit)), "")
    why = words.explain(decision, proven, bool(taken))
    if taken and taken != found.commit:
        why.append(f"Its program is on main as {taken[:7]}, which has its runs too.")
    if found.status == KEEP and not taken and found.setting:
        why += _given_up(known, found, found.setting, _policy(repository)[0])
    if found.state == "begun":
        why.append("Begun, and not measured yet: a loop does that before anything new.")
    if found.state == "by hand":
        made = next((e for e in known if e.origin == found.commit), None)
        after = f"measured as {made.name.number:04d}" if made else f"harness adopt {found.name.number} does"
        why.append(f"Made by hand; {after}." if made else f"Made by hand, and not measured: {after}.")
    if why:
        click.echo("\n".join(why) + "\n")
    for trial in trials:
        training = trial.get("training")
        training = training if isinstance(training, dict) else {}
        points = (point.get("loss") for point in training.get("curve") or [] if isinstance(point, dict))
        curve = [loss for loss in points if isinstance(loss, float)]
        if curve:
            click.echo(f"loss {curve[0]:.3f} to {curve[-1]:.3f}\n{table.sparkline(curve)}\n")
        if len(trials) > 1:
            score = trial.get("val_bpb")
            ended = f"{score:.6f}" if isinstance(score, float) else trial.get("status")
            click.echo(f"seed {trial.get('seed')}: {ended}")
        if trial.get("total_seconds"):
            click.echo(f"time {wall.line(trial)}\n")
        if odd := disturbed(training.get("delayed_seconds"), training.get("training_seconds")):
            click.echo(f"WARNING: {odd}\n")
        unused = trial.get("instead_of")
        for attempt in unused if isinstance(unused, list) else []:
            click.echo(f"an attempt that doesn't count: {attempt}\n")
        if trial.get("detail"):
            click.echo(f"{trial.get('status', '?')}: {trial['detail']}\n")
        if tail := str(training.get("log") or "").strip().splitlines()[-15:]:
            click.echo("log, its end:\n  " + "\n  ".join(tail))
    return DONE


def _given_up(known: Known, found: Experiment, setting: Setting, policy: str) -> list[str]:
    """Why a kept one is not built on; empty where it is."""
    standing = standing_on(known, setting, policy)
    if standing is None or found.commit in standing.line:
        return []
    if (passed := passed_by(known, setting, policy)) is not None:
        below = standing_on(known, setting, policy, passed[1])
        if below is not None and found.commit in below.line:
            return [f"It stands on {passed[1][:7]}, main before: a loop puts it on this one."]
    return [words.GIVEN_UP]


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
    known = Known(repository)
    first = known.find(experiment)
    old, new = (first.commit, known.find(other).commit) if other else (first.parent, first.commit)
    done = subprocess.run(["git", "diff", old, new, "--", "train.py"], cwd=repository.paths.root, check=False)
    return done.returncode


PLOT_EXAMPLES = """\b
Examples:
  harness plot                 # progress.png
  harness plot -o night.svg
"""


@click.command(epilog=PLOT_EXAMPLES)
@click.option("-o", "--output", default="progress.png", show_default=True, type=click.Path(path_type=Path))
def plot(output: Path) -> int:
    """Every experiment a dot, kept ones labelled, what is built on as a line."""
    if output.suffix not in (".png", ".svg"):
        raise HarnessError(f"{output.name} is neither .png nor .svg", "-o progress.png")
    from harness.views.plot import draw

    known = Known(repository := open_repository())
    every = list(known)
    found = comparable(every)
    if not any(e.val_bpb is not None for e in found):
        raise HarnessError("there is no scored experiment to plot", "harness loop")
    if others := len(every) - len(found):
        click.echo(
            f"left out: {others} scored in another setting (device, data, budget, evaluator)", err=True
        )
    try:
        setting = known.setting
        standing = standing_on(known, setting, _policy(repository)[0]) if setting else None
        draw(found, output, standing.line if standing else None)
    except OSError as error:
        raise HarnessError(f"can't write {output}: {error.strerror}", "-o another file") from None
    click.echo(f"wrote {output}", err=True)
    return DONE


EXPORT_EXAMPLES = """\b
Examples:
  harness export > results.tsv
  harness export --format json > results.json
"""


@click.command(epilog=EXPORT_EXAMPLES)
@click.option("--format", "kind", type=click.Choice(["tsv", "csv", "json"]), default="tsv", show_default=True)
def export(kind: str) -> int:
    """All experiments on stdout: commit, val_bpb, memory_gb, status, description.

    A figure that nobody measured is empty. JSON has everything that is on the commits.
    """
    found: list[Experiment] = list(Known(open_repository()))
    if kind == "json":
        click.echo(json.dumps([table.record(e) for e in found], indent=1))
        return DONE
    text = io.StringIO()
    delimiter = "\t" if kind == "tsv" else ","
    writer = csv.DictWriter(text, table.EXPORTED, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.exported(found))
    sys.stdout.write(text.getvalue())
    return DONE
