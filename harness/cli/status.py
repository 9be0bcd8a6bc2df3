"""`status`: what runs now, the frontier, and how it goes."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import click

from harness.config import load
from harness.errors import DONE, HarnessError
from harness.lock import holder
from harness.report import explain, table, timing
from harness.report.snapshot import Snapshot, snapshot
from harness.session.events import Running, Session, read
from harness.store.opening import open_repository
from harness.store.records import Setting
from harness.worker.run import device_for, open_setup

STATUS_EXAMPLES = """\b
Examples:
  harness status
  watch -n 5 harness status
  harness status --constants    # which of them matter, and what they may still bring
"""


@click.command(epilog=STATUS_EXAMPLES)
@click.option("--constants", is_flag=True, help="What was learned of train.py's constants; takes a second.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(constants: bool, as_json: bool) -> int:
    """What runs now, the frontier, the last results, the limits."""
    repository = open_repository()
    now = snapshot(repository)
    setting, trouble = _setting(now)
    now = replace(now, asked=setting)
    if constants:
        return _constants(now, as_json)
    process = holder(repository.loop_lock)
    session = read(repository.events) if process else None
    cache_mb = repository.paths.megabytes(repository.paths.compiled)
    if as_json:
        click.echo(json.dumps(_values(now, process, session, cache_mb, trouble)))
        return DONE
    for lines in (
        _running(process, session),
        _main(now, process, trouble),
        _trouble(now, cache_mb),
        _tried(now),
    ):
        click.echo("".join(f"{line}\n" for line in lines), nl=False)
    return DONE


def _constants(now: Snapshot, as_json: bool) -> int:
    """What the process of `search` knows of the frontier's head."""
    from harness.agents import Context
    from harness.agents.search import think, told
    from harness.agents.tuning import FIRST
    from harness.session.contexts import MEMORY, as_tried

    repository, setting, head = now.repository, now.setting, now.frontier.head
    if setting is None:
        raise HarnessError("nothing is measured yet, so nothing is known of the constants", "harness loop")
    scores = now.frontier.scores(head)
    history = tuple(as_tried(now.known, each, setting) for each in now.experiments[-MEMORY:])
    on_gpu = device_for(load(repository.paths.config), repository.paths.root).kind == "cuda"
    context = Context(
        "", now.known.source_or_nothing(head), now.metric, sum(scores) / len(scores) if scores else None,
        head, history, on_gpu, len(history), 0, noise=now.frontier.noise_sd,
    )  # fmt: skip
    thought, why = think(context, 0, count=1)
    if as_json:
        click.echo(json.dumps({"head": head, "trouble": why or None, **asdict(thought)}))
        return DONE
    few = f"{thought.scored} scored programs differ in constants, {FIRST} are needed to say anything"
    click.echo(told(context, thought) or why or few)
    return DONE


def _values(
    now: Snapshot, process: int | None, session: Session | None, cache_mb: float, trouble: str
) -> dict:
    """As plain JSON values; what is not known is null."""
    share = timing.training_share(now.last_runs)
    return {
        "process": process, "loop": _session_values(session) if session else None, "main": now.main,
        "main_scores": list(now.frontier.scores(now.main)), "main_believed": now.frontier.main_estimate,
        "ahead": list(now.frontier.ahead), "counts": now.counts,
        "best": table.record(now.head_experiment) if now.head_experiment else None,
        "config": trouble or None,
        "holdout": [asdict(found) for found in now.holdouts], "holdout_failed": now.holdout_failed,
        "training_share": share[0] if share else None, "compile_cache_mb": cache_mb,
        "between_seconds": share[1] if share else None,
        "last": [table.record(each) for each in now.last],
    }  # fmt: skip


def _session_values(session: Session) -> dict:
    titles = ", ".join(running.title for running in session.running)
    about = {"running": titles, "began": session.began, "limits": dict(session.limits)}
    runs = [asdict(running) for running in session.running]
    return about | {"measured": session.measured, "spent": session.spent_usd, "runs": runs}


def _running(process: int | None, session: Session | None) -> Iterator[str]:
    if session is None:
        yield "running  nothing (harness loop)"
        return
    for place, running in enumerate(session.running):
        about = _progress(running, len(session.running) > 1)
        yield f"{'' if place else 'running':<9}{running.title} ({about})"
    if not session.running:
        yield "running  between two runs"
    yield f"session  for {table.age(time.time() - session.began)}, process {process}; {_limits(session)}"


def _progress(running: Running, several: bool) -> str:
    parts = [running.phase, f"step {running.step}" if running.step is not None else ""]
    parts += [f"loss {running.loss:.4f}" if running.loss is not None else ""]
    parts += [f"worker {running.run.place}" if several else ""]
    return ", ".join([*filter(None, parts), f"for {table.age(time.time() - running.since)}"])


def _main(now: Snapshot, process: int | None, trouble: str) -> Iterator[str]:
    frontier, which = now.frontier, "this" if process else "the next"
    if trouble:
        yield f"config   WARNING: {trouble}"
    about = f"not measured in this setting: {which} loop begins with it"
    if scores := frontier.scores(now.main):
        estimated = ""
        if (estimate := frontier.main_estimate) is not None:
            estimated = f", estimated {now.metric.text(estimate)}"
        about = f"{now.metric.name} {explain.mean(scores, now.metric)}{estimated}"
    yield f"main     {now.main[:7]}  {about}"
    if frontier.ahead:
        head = now.head_experiment.name.digits if now.head_experiment else frontier.head[:7]
        follows = "main follows if proven better together"
        follows = "the next loop moves main there" if frontier.policy == "greedy" else follows
        yield f"ahead    {len(frontier.ahead)} kept, up to {head}: {follows}"
    elif frontier.aside:
        number, stood_on = frontier.aside[0].name.digits, frontier.aside[1][:7]
        yield f"aside    {number} stands on {stood_on}, main before: {which} loop puts it on this one"


def _trouble(now: Snapshot, cache_mb: float) -> Iterator[str]:
    if now.holdout_failed:
        yield f"holdout  WARNING: none for main: {now.holdout_failed}"
    for line in explain.holdout(now.holdouts, now.frontier.noise_sd, now.metric) if now.holdouts else ():
        yield f"holdout  {line}"
    if share := timing.training_share(now.last_runs):
        yield (
            f"time     {share[0]:.1%} of the device's time was training: {share[1]:.1f} s between two "
            f"trainings, on average of {share[2]}"
        )
    if cache_mb:
        yield f"disk     the compile cache has {cache_mb:.0f} MB, at most 1024 (harness clean --compiled)"
    disturbed, of = now.disturbed
    if disturbed:
        yield f"WARNING  {disturbed} of the last {of} runs, main's too, waited long for a processor"


def _tried(now: Snapshot) -> Iterator[str]:
    figures = ", ".join(f"{count} {state}" for state, count in now.counts.items() if count)
    yield f"tried    {len(now.experiments)}{': ' if figures else ''}{figures}"
    head, width = now.head_experiment, table.width() - 9
    states = now.states([*now.last, *([head] if head else [])])
    if head:
        yield f"best     {table.styled(head, states[head.commit], width)}"
        by_now = now.frontier.scores(now.frontier.head)
        if len(by_now) > max(1, len(head.runs)) and now.frontier.head != now.main:
            yield f"         run again since: by now {explain.mean(by_now, now.metric)}"
    for place, each in enumerate(now.last):
        other = each.setting not in (None, now.setting)
        yield f"{'' if place else 'last':<9}{table.styled(each, states[each.commit], width, other)}"


def _setting(now: Snapshot) -> tuple[Setting | None, str]:
    """Of the config as it stands; where the last measurements are another machine's, theirs. And why a run
    couldn't begin."""
    last, paths = now.known.setting, now.repository.paths
    try:
        here = open_setup(load(paths.config), paths.root).setting
    except HarnessError as wrong:
        return last, str(wrong)
    return here if last is None or here.device == last.device else last, ""


def _limits(session: Session) -> str:
    limits = {name: value for name, value in session.limits.items() if value is not None}
    hours = (time.time() - session.began) / 3600
    done = {"experiments": session.measured, "hours": round(hours, 2), "usd": session.spent_usd}
    parts = [f"{done[name]} of {limits[name]:g} {name}" for name in done if name in limits]
    if "patience" in limits:
        parts.append(f"patience {limits['patience']:g}")
    return ", ".join(parts) or "no limit: until Ctrl-C"
