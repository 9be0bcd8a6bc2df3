"""`harness loop` and `harness adopt`: experiments, one after another."""

import json
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from harness import config as configs
from harness.agents import Agent, catalogue
from harness.agents.catalogue import Edit
from harness.errors import DONE, HarnessError
from harness.executors import local
from harness.executors.jobs import Pool
from harness.gate.standing import rebuilt
from harness.paths import starter
from harness.report import table
from harness.report.panel import SessionPanel
from harness.session.events import MOVED, Event, Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.session.notices import Notices
from harness.store.experiment import last_kept
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.repo import Repository
from harness.tasks.registry import changed
from harness.worker.device import chosen
from harness.worker.run import device_for

FOLDER = click.Path(path_type=Path)


def _number(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no limit", param=option)
    return value


MINUTES = click.FloatRange(min=0, min_open=True)
LOOP_EXAMPLES = """\b
Examples:
  harness loop                          # search, until Ctrl-C
  harness loop --experiments 5          # five, then a summary
  harness loop --hours 8 --patience 40
  harness loop --gpus all               # a run on each
  harness loop --cluster auto           # on every host of a Ray cluster, see docs/clusters.md
  harness loop --workers 1              # the other cores are for you
  harness loop --json > events.jsonl    # one event a line
  harness loop --agent llm --model anthropic/claude-sonnet-4-5 --max-usd 5
  harness loop --agent command --command claude   # see harness agents
  harness loop --agent mix --model anthropic/claude-sonnet-4-5   # search and a model, by what they earn
"""
ADOPT_EXAMPLES = """\b
Examples:
  harness log --near-miss
  harness adopt 12 15                   # both changes, one after the other
"""


@click.command(epilog=LOOP_EXAMPLES)
@click.option(
    "--agent", type=click.Choice(["search", "llm", "command", "mix"]), default="search", show_default=True
)
@click.option("--model", "models", multiple=True, help="litellm model name; repeat it for fall-backs.")
@click.option("--command", help="Of `command`: any coding agent's command line, its task on stdin.")
@click.option(
    "--minutes",
    default=15.0,
    show_default=True,
    type=MINUTES,
    callback=_number,
    help="What `command` may take for a proposal.",
)
@click.option("--writable", multiple=True, type=FOLDER, help="Of `command`: a folder that it may write to.")
@click.option("--experiments", type=click.IntRange(min=1), help="Stop after so many.")
@click.option("--hours", type=click.FloatRange(min=0), callback=_number, help="Begin none after so long.")
@click.option("--max-usd", type=click.FloatRange(min=0), callback=_number, help="Stop when models cost this.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many in a row not kept.")
@click.option("--seed", default=0, show_default=True, help="Of the agent's own choices.")
@click.option("--gpus", help="`all`, or numbers from 0: one run at a time on each.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Runs at a time on a processor. Default: all cores."
)
@click.option("--cluster", metavar="ADDRESS", help="Run on the hosts of a Ray cluster: HOST:PORT, or `auto`.")
@click.option("--json", "as_json", is_flag=True, help="One event a line on stdout.")
def loop(
    agent: str,
    models: tuple[str, ...],
    command: str | None,
    minutes: float,
    writable: tuple[Path, ...],
    experiments: int | None,
    hours: float | None,
    max_usd: float | None,
    patience: int | None,
    seed: int,
    gpus: str | None,
    workers: int | None,
    cluster: str | None,
    as_json: bool,
) -> int:
    """Propose, train, score, decide, record; again and again.

    Without limits it never stops. Ctrl-C ends it after what runs now, a second one at once: what
    was begun is measured at the next start.
    """
    repository = open_repository()
    limits = Limits(experiments, hours, max_usd, patience)
    if agent == "llm" and not models:
        raise HarnessError("--agent llm asks a model, and none is named", "--model PROVIDER/NAME")
    if agent == "command" and not command:
        raise HarnessError("--agent command runs a program, and none is named", "--command 'PROGRAM ...'")

    if agent == "mix" and bool(models) == bool(command):
        raise HarnessError(
            "--agent mix is search and one other", "--model PROVIDER/NAME, or --command 'PROGRAM ...'"
        )
    for option, given, kind in (("--model", models, "llm"), ("--command", command, "command")):
        if given and agent not in (kind, "mix"):
            raise click.UsageError(f"{option} is for --agent {kind} or mix")

    from harness.agents.known import command_line
    from harness.agents.mix import Mix
    from harness.agents.search import Search

    config = configs.load(repository.paths.config)
    search = Search(_edits(repository, config.task.name))

    def make(say: Callable[[str], None]) -> Agent:
        other: Agent | None = None
        if models:
            from harness.agents.llm import Llm

            other = Llm(models, say, log=repository.paths.agent_log)
        elif command:
            from harness.agents.command import Command

            other = Command(command_line(command), repository, say, minutes, writable)
        return Mix(search, other) if agent == "mix" and other is not None else other or search

    if why := changed(config):
        said = f"{config.data.source} has other files than were prepared ({why})"
        click.echo(f"WARNING: {said}: harness prepare", err=True)
    stand_in = search if agent != "search" else None
    if cluster is not None:
        if gpus is not None:
            raise click.UsageError("--gpus is for this host, --cluster uses all of every host")
        if command and config.trial.sandbox == "none":
            raise HarnessError(
                "a coding agent without a sandbox could reach every host of the cluster",
                'sandbox = "auto" in the config, or --agent search',
            )
        from harness.cli.cluster import in_cluster

        reach = partial(in_cluster, repository.paths, cluster, workers)
        return _session(repository, make, limits, seed, as_json, reach, stand_in)
    device, devices = device_for(config, repository.paths.root), None
    if gpus is not None:
        devices = chosen(device, gpus)
    if workers and not device.is_processor:
        raise HarnessError(
            f"--workers is for a processor, and this config trains on {device.name}", "--gpus all"
        )
    places = workers or device.most_at_a_time
    here = lambda _: local.pool(repository.paths, devices, places)  # noqa: E731
    return _session(repository, make, limits, seed, as_json, here, stand_in)


def _edits(repository: Repository, task: str) -> tuple[Edit, ...]:
    """What search may try besides constants: a person's own, or what the task brings."""
    if repository.paths.edits.exists() or task != "lm":
        own = repository.paths.edits
        return catalogue.read(own if own.exists() else starter("edits.toml", task))
    return catalogue.CATALOGUE


@click.command(epilog=ADOPT_EXAMPLES)
@click.argument("experiments", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One event a line on stdout.")
def adopt(experiments: tuple[str, ...], as_json: bool) -> int:
    """Measure the changes of EXPERIMENTS anew, each on the frontier's head, and keep what is better.

    `main` follows as in a loop.

    An experiment is named by its number, branch or commit.
    """
    from harness.agents.again import Again

    repository = open_repository()
    known = Experiments(repository)
    chosen = [known.find(which) for which in experiments]
    setting, config = known.setting, configs.load(repository.paths.config)
    measured = known.measured(setting) if setting else []
    standing = rebuilt(known.main, measured, config.gate.policy, setting.metric) if setting else None
    for experiment in chosen:
        if standing is not None and experiment.commit in standing.chain[1:]:
            name = experiment.name.branch
            raise HarnessError(f"{name} is on the frontier already", "harness status")
        if known.on_main(experiment.commit):
            raise HarnessError(f"{experiment.name.branch} is part of main already", "harness log --kept")
        head = standing.chain[-1] if standing is not None else known.main
        if known.are_one_program(experiment.commit, head):
            name = experiment.name.branch
            raise HarnessError(f"{name} is the program of {head[:7]}, the frontier's head", "harness status")
    proposals = [known.proposal(experiment) for experiment in chosen]
    limits = Limits(experiments=len(chosen) + sum(e.is_due for e in known))
    device = device_for(config, repository.paths.root)
    here = lambda _: local.pool(repository.paths, places=device.most_at_a_time)  # noqa: E731
    return _session(repository, lambda _: Again(proposals), limits, 0, as_json, here)


def _session(
    repository: Repository,
    agent: Callable[[Callable[[str], None]], Agent],
    limits: Limits,
    seed: int,
    as_json: bool,
    reach: Callable[[Callable[[str, str], None]], Pool],
    stand_in: Agent | None = None,
) -> int:
    """`reach` makes the workers; whom it is given hears of those that come and go."""
    with ExitStack() as stack:
        view = stack.enter_context(SessionPanel(as_json, last_kept(list(Experiments(repository)))))
        command = configs.load(repository.paths.config).notify.command
        notices = stack.enter_context(closing(Notices(command, repository.paths.root, view.say)))

        def tell(event: Event) -> None:
            view.tell(event)
            if event.kind == MOVED:
                about = {"experiment": table.record(event.experiment)} if event.experiment else {}
                notices.send(MOVED, event.text, about)

        watcher = Watcher(tell, view.show)
        pool = stack.enter_context(closing(reach(lambda kind, text: view.tell(Event(kind, text)))))
        session = Loop(repository, agent(view.say), limits, seed, watcher, pool, stand_in)

        def interrupt(number: int, frame: object) -> None:
            for again in (signal.SIGINT, signal.SIGTERM):
                signal.signal(again, earlier)
            session.stop("interrupted")
            view.say("stopping after this run; Ctrl-C again stops at once")

        earlier = signal.signal(signal.SIGINT, interrupt)
        try:
            summary = session.run()
        except Exception as error:
            notices.send("error", str(error), {})
            raise
        notices.send("end", summary.why, asdict(summary))
    if as_json:
        click.echo(json.dumps({"kind": "end", "text": summary.why, **asdict(summary)}))
    count = f"{summary.measured} experiment{'s' * (summary.measured != 1)}"
    spent = f"{summary.usd:.2f} USD, " if summary.usd else ""
    if summary.disturbed:
        many = f"{summary.disturbed} run{'s' * (summary.disturbed != 1)}"
        click.echo(f"WARNING: {many} waited long for a processor: such scores say little", err=True)
    if summary.stood_in:
        many = f"{summary.stood_in} experiment{'s' * (summary.stood_in != 1)}"
        where = repository.paths.agent_log
        click.echo(f"NOTE: search proposed {many} in the agent's place, whose log is {where}", err=True)
    overhead = summary.own_seconds / max(1, summary.measured)
    click.echo(
        f"{count}, {summary.kept} kept, in {summary.seconds / 60:.1f} minutes, {spent}harness overhead "
        f"{overhead:.2f} s per experiment ({summary.why}). See: harness log",
        err=as_json,
    )
    return DONE
