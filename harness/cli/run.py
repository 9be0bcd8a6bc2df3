"""`harness run`: one measured run of one commit."""

import json
import time
from datetime import datetime

import click

from harness import config as configs
from harness.errors import DONE, FAILED, HarnessError
from harness.report.live import RunView
from harness.sandbox.text import one_line
from harness.store.checkout import Checkout
from harness.store.history import History
from harness.store.opening import open_repository
from harness.store.records import OK
from harness.worker.run import measure, open_setup

EXAMPLES = """\b
Examples:
  harness run                      # HEAD, seed 1
  harness run main~2 --seed 7      # an older commit, another seed
  harness run --budget 5 --json    # a short one, for a script
"""


@click.command(epilog=EXAMPLES)
@click.argument("rev", default="HEAD")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--budget", type=click.FloatRange(min=0.1), help="Seconds, instead of the config's.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def run(rev: str, seed: int, budget: float | None, as_json: bool) -> int:
    """Train the train.py of REV, a commit or an experiment's number, for the fixed time, then score it.

    What runs is the commit, not the working copy. Exit code 1 if the run gave no score.
    """
    repository = open_repository()
    config = configs.load(repository.paths.config)
    if budget is not None:
        config = configs.with_budget(config, budget)
    try:
        commit = repository.commit(rev)
    except HarnessError:
        if not rev.isdigit():
            raise
        commit = repository.commit(History(repository).find(rev).commit)
    setup = open_setup(config, repository.paths.root)
    with RunView() as view:
        view.say(f"{commit.id[:7]} {one_line(commit.subject)}  (seed {seed}, {setup.device.name})")
        if setup.isolation.kind == "none":
            view.say(f"WARNING: no sandbox, train.py can reach everything you can: {setup.isolation.why}")
        if rev == "HEAD" and Checkout(repository).train_is_dirty:
            view.say("WARNING: train.py has uncommitted changes; they are not part of this run")
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        place = repository.paths.runs / f"{stamp}-{commit.id[:7]}-s{seed}-{time.monotonic_ns() % 1000:03d}"
        record = measure(commit.source, commit.id, seed, setup, place, view.show, view.say)
        for odd in filter(None, (record.warning, record.mismatch, record.delay)):
            view.say(f"WARNING: {odd}")
    summary = record.summary()
    if as_json:
        extra = {"status": record.status, "detail": record.detail, "commit": record.commit}
        about = {**summary, **extra, "budget_seconds": record.budget_seconds, "record": str(place)}
        click.echo(json.dumps(about))
    elif record.status == OK:
        click.echo(record.block())
    click.echo(f"record, log and loss curve: {place}", err=True)
    if record.status == OK:
        return DONE
    log = place / ("log.txt" if record.training.status != OK else "server.txt")
    more = f" (see {log.name} there)" if log.exists() and log.stat().st_size else ""
    click.echo(f"harness: {record.status}: {record.detail}{more}", err=True)
    return FAILED
