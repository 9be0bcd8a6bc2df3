"""`harness calibrate`: how far two runs of one program lie apart here."""

import json
from contextlib import ExitStack, closing
from dataclasses import asdict

import click

from harness.errors import DONE
from harness.gate.noise import Noise
from harness.gate.policy import MOST_RUNS
from harness.gate.standing import revised
from harness.lock import held, refuse
from harness.report.live import RunView
from harness.sandbox.text import one_line
from harness.session.runner import Runner
from harness.store.checkout import Checkout
from harness.store.opening import open_repository
from harness.worker.service import Service

RUNS = 4
EXAMPLES = """\b
Examples:
  harness calibrate            # four runs more of the incumbent
  harness calibrate -n 12      # before a long session
  harness calibrate -n 0       # what is known already
"""


@click.command(epilog=EXAMPLES)
@click.option("-n", "count", default=RUNS, show_default=True, type=click.IntRange(min=0), help="Runs to add.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def calibrate(count: int, as_json: bool) -> int:
    """Run the incumbent again with fresh seeds: how large the noise is, and how small a gain shows.

    The incumbent is `main`, or the kept experiment on top of it that `main` may move to. Each run is
    recorded, counts in every later decision, and may be what moves `main`.
    """
    repository = open_repository()
    with ExitStack() as stack, RunView() as view, held(repository.loop_lock, refuse):
        Checkout(repository).check_ready()
        say = lambda kind, text, experiment=None, order=None: view.say(text.strip())  # noqa: E731
        runner = Runner(repository, say, lambda progress, _: view.show(progress))
        setup = runner.setup()
        worker = stack.enter_context(closing(Service(0, repository.paths.runs)))
        stack.enter_context(closing(runner.kept))
        known = runner.known(setup)
        commit = known.incumbent.commit if known is not None else runner.experiments.main
        subject = one_line(repository.commit(commit).subject)
        for number in range(count):
            view.say(f"{commit[:7]} {subject}: run {number + 1} of {count}")
            run = runner.again(commit, setup, worker)
            view.say(f"     {run.detail if run.value is None else run.metric.text(run.value)}")
        if (now := runner.known(setup)) is not None:
            for line in revised(known, now):
                view.say(line)
            runner.advance(now, setup, worker)
    noise, runs = runner.noise(setup), len(runner.experiments.counted(commit, setup.setting))
    if as_json:
        click.echo(json.dumps(_about(commit, noise, runs)))
    else:
        click.echo("\n".join(_words(commit, noise, runs)))
    return DONE


def _about(commit: str, noise: Noise | None, runs: int) -> dict:
    if noise is None or not runs:
        return {"commit": commit, "runs": runs, "noise": None}
    gains = {n: noise.least_gain(n, runs) for n in range(1, MOST_RUNS + 1)}
    return {
        "commit": commit, "runs": runs, "noise": {**asdict(noise), "interval": noise.interval()},
        "least_gain": gains,
    }  # fmt: skip


def _words(commit: str, noise: Noise | None, runs: int) -> list[str]:
    times = f"{runs} run{'s' * (runs != 1)}"
    if noise is None and runs > 1:
        return [f"{commit[:7]} had {times}, all with the same score: there is no noise to speak of"]
    if noise is None or not runs:
        return [f"{commit[:7]} had {times}: the noise is not known yet. Try: harness calibrate"]
    low, high = noise.interval()
    lines = [
        f"noise    sd {noise.sd:.5f} (90% between {low:.5f} and {high:.5f}), from {noise.freedom} repeats of "
        "all programs",
        f"gain     that a plain comparison with {commit[:7]} ({times}) finds four times of five; noise",
        "         passes for it once in twenty times:",
    ]
    for count in range(1, MOST_RUNS + 1):
        gain = noise.least_gain(count, runs)
        lines.append(f"         {gain:.5f} in {count} run{'s' * (count > 1)}")
    return [*lines, "main asks for 99%: a gain about twice as large, or several that are stacked"]
