"""`status`: what runs now, the frontier, and how it goes."""

import json
import time
from collections import Counter
from dataclasses import asdict

import click

from harness.config import load
from harness.errors import DONE, HarnessError
from harness.gate.noise import pooled
from harness.gate.standing import rebuilt
from harness.lock import holder
from harness.report import explain, table, timing
from harness.report.states import states as states_of
from harness.session.frontier import passed_by, policy_of
from harness.session.state import read
from harness.store.history import History, HistorySnapshot
from harness.store.opening import open_repository
from harness.store.records import CRASH, DISCARD, ERROR, INVALID, KEEP, Setting
from harness.store.repo import Repository
from harness.worker.run import open_setup

LAST = 5

STATUS_EXAMPLES = """\b
Examples:
  harness status
  watch -n 5 harness status
"""


@click.command(epilog=STATUS_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(as_json: bool) -> int:
    """What runs now, the frontier, the last results, the limits."""
    repository = open_repository()
    known = HistorySnapshot(repository)
    experiments = list(known)
    process = holder(repository.loop_lock)
    running = read(repository.loop_state) if process else {}
    setting, (policy, broken) = _setting(repository, known), policy_of(repository.paths.config)
    holdouts = known.holdouts(setting) if setting else []
    of_main = known.holdout(known.main, setting) if setting else None
    failed = of_main if isinstance(of_main, str) else None
    trials = [trial for e in experiments[-timing.LAST :] for trial in known.trials(e.commit)]
    share = timing.training_share(trials)
    kinds = (KEEP, DISCARD, CRASH, INVALID, ERROR, "begun", "by hand")
    found = Counter(e.state for e in experiments)
    counts = {kind: found[kind] for kind in kinds}
    scores = known.main_scores(setting) if setting else ()
    measured = known.measured(setting) if setting else []
    standing = rebuilt(known.main, measured, policy) if policy else None
    estimate = standing.estimate(known.main) if standing and scores else None
    above = standing.chain[1:] if standing else ()
    top = standing.chain[-1] if standing else known.main
    cache = repository.paths.megabytes(repository.paths.compiled)
    kept = next((e for e in experiments if e.commit == top), None)
    if as_json:
        about = {
            "process": process, "loop": running or None, "main": known.main, "main_scores": list(scores),
            "main_believed": estimate, "ahead": list(above), "counts": counts,
            "best": table.record(kept) if kept else None,
            "config": broken or None,
            "holdout": [asdict(found) for found in holdouts],
            "holdout_failed": failed,
            "training_share": share[0] if share else None, "compile_cache_mb": cache,
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
        estimated = f", estimated {estimate:.4f}" if estimate is not None else ""
        about_main = f"val_bpb {explain.mean(scores)}{estimated}"
    click.echo(f"main     {known.main[:7]}  {about_main}")
    if above:
        head = next((f"{e.name.number:04d}" for e in experiments if e.commit == above[-1]), above[-1][:7])
        greedy, proof = "the next loop moves main there", "main follows if proven better together"
        click.echo(f"ahead    {len(above)} kept, up to {head}: {greedy if policy == 'greedy' else proof}")
    elif setting and policy and (passed := passed_by(known, setting, policy)):
        head, which = f"{passed[0].name.number:04d}", "this" if process else "the next"
        click.echo(
            f"aside    {head} stands on {passed[1][:7]}, main before: {which} loop puts it on this one"
        )
    if failed:
        click.echo(f"holdout  WARNING: none for main: {failed}")
    if holdouts and setting:
        noise = pooled(each.scores for each in measured)
        for line in explain.holdout(holdouts, noise.sd if noise else None):
            click.echo(f"holdout  {line}")
    if share:
        click.echo(
            f"time     {share[0]:.1%} of the device's time was training: {share[1]:.1f} s between two "
            f"trainings, on average of {share[2]}"
        )
    if known.main not in {e.commit for e in experiments[-timing.LAST :]}:
        trials += known.trials(known.main)
    if cache:
        click.echo(f"disk     the compile cache has {cache:.0f} MB, at most 1024 (harness clean --compiled)")
    odd = sum(1 for trial in trials if timing.was_disturbed(trial))
    if odd:
        click.echo(
            f"WARNING  {odd} of the last {len(trials)} trials, main's too, waited long for a processor"
        )
    figures = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    click.echo(f"tried    {len(experiments)}{': ' if figures else ''}{figures}")
    states = states_of(known, [*experiments[-LAST:], *([kept] if kept else [])], lambda: (top, *above))
    if kept:
        click.echo(f"best     {table.styled(kept, states[kept.commit], table.width() - 9)}")
        by_now = next((each.scores for each in measured if each.commit == top), ())
        if len(by_now) > max(1, len(kept.runs)) and top != known.main:
            click.echo(f"         run again since: by now {explain.mean(by_now)}")
    for label, experiment in zip(("last", *[""] * LAST), experiments[-LAST:], strict=False):
        other = experiment.setting not in (None, setting)
        click.echo(
            f"{label:<9}{table.styled(experiment, states[experiment.commit], table.width() - 9, other)}"
        )
    return DONE


def _setting(repository: Repository, known: History) -> Setting | None:
    """Of the config as it stands; where the last measurements are another machine's, theirs."""
    last = known.setting
    try:
        now = open_setup(load(repository.paths.config), repository.paths.root).setting
    except HarnessError:
        return last
    return now if last is None or now.device == last.device else last


def _limits(state: dict) -> str:
    limits = {name: value for name, value in (state.get("limits") or {}).items() if value is not None}
    hours = (time.time() - state.get("began", time.time())) / 3600
    done = {"experiments": state.get("measured"), "hours": round(hours, 2), "usd": state.get("spent")}
    parts = [f"{done[name]} of {limits[name]:g} {name}" for name in done if name in limits]
    if "patience" in limits:
        parts.append(f"patience {limits['patience']}")
    return ", ".join(parts) or "none: until Ctrl-C"
