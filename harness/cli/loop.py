"""`harness loop`: the main job."""

import signal

import click

from harness.agents import Agent
from harness.errors import DONE
from harness.ledger.repo import open_repository
from harness.loop import Limits, Loop, Watcher
from harness.views.live import TrialView

EXAMPLES = """\b
Examples:
  harness loop                          # search, until Ctrl-C
  harness loop --experiments 5          # five, then a summary
  harness loop --hours 8 --patience 40
"""


@click.command(epilog=EXAMPLES)
@click.option("--agent", type=click.Choice(["search"]), default="search", show_default=True)
@click.option("--experiments", type=click.IntRange(min=1), help="Stop after so many.")
@click.option("--hours", type=click.FloatRange(min=0), help="Begin none after so long.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many in a row not kept.")
@click.option("--seed", default=0, show_default=True, help="Of the agent's own choices.")
def loop(agent: str, experiments: int | None, hours: float | None, patience: int | None, seed: int) -> int:
    """Propose, train, score, decide, record; again and again.

    Without limits it never stops. Ctrl-C ends it after the running trial, a second one at once: what
    was begun is measured at the next start.
    """
    repository = open_repository()
    limits = Limits(experiments, hours, None, patience)
    with TrialView() as view:
        night = Loop(repository, _agent(agent), limits, seed, Watcher(view.say, view.show))

        def interrupt(number: int, frame: object) -> None:
            for again in (signal.SIGINT, signal.SIGTERM):
                signal.signal(again, earlier)
            night.stop("interrupted")
            view.say("stopping after this trial; Ctrl-C again stops at once")

        earlier = signal.signal(signal.SIGINT, interrupt)
        summary = night.run()
    click.echo(
        f"{summary.measured} experiments, {summary.kept} kept, in {summary.seconds / 60:.1f} minutes "
        f"({summary.why}). See: git log main"
    )
    return DONE


def _agent(kind: str) -> Agent:
    from harness.agents.search import Search

    return Search()
