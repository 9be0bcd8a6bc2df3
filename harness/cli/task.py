"""`harness task check`: whether a task is what it has to be, by its data and by real runs of odd programs."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from harness import config as configs
from harness.errors import DONE, FAILED, HarnessError
from harness.store.opening import open_repository
from harness.store.records import INVALID, OK, RunRecord
from harness.tasks import registry
from harness.tasks.items import check as checks
from harness.tasks.items import store
from harness.tasks.items.check import Finding
from harness.tasks.items.measures import blame
from harness.tasks.items.task import Task
from harness.worker.run import Setup, measure, open_setup

EXAMPLES = """\b
Examples:
  harness task check           # the config's task, before any loop
  harness task check --json    # for a script
"""
LARGE = 10_000  # numbers of a reply that stand in a program
BUDGET_SECONDS = 0.5
# It answers the same whatever it is asked; or, with ODD, otherwise each second time.
PROGRAM = """
import numpy as np
from harness import trial
REPLY, SHAPE, ODD = {reply}, {shape}, {odd}
asked = 0

def answer(inputs):
    global asked
    asked += 1
    reply = np.zeros((len(inputs), *SHAPE), np.float32) + np.array(REPLY, np.float32)
    if ODD and asked % 2:
        flat = np.roll(reply.reshape(len(reply), -1), 1, axis=1)  # another class is the likeliest
        flat[:, -1] += ODD
        reply = flat.reshape(reply.shape)
    return reply

def load(checkpoint_dir, device):
    if {numpy}:
        return answer
    import torch
    return lambda inputs: torch.from_numpy(answer(inputs)).to(inputs.device)

def main():
    run = trial.open()
    for _ in run.batches(8):
        pass
    if {numpy}:
        run.submit({{"none": np.zeros(1, np.float32)}})
    import torch
    run.submit(torch.nn.Linear(1, 1))

if __name__ == "__main__":
    main()
"""


@click.group(epilog=EXAMPLES)
def task() -> None:
    """A task of your own: what is trained for."""


@task.command(epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(as_json: bool) -> int:
    """Check the config's task: that its data can be scored, and that it is hard to fool.

    A constant reply must get the floor and a perfect one more. What is scored must not be known to
    training. Two programs are really run: one that always says the same, and one whose answers
    depend on what was asked before, which must be refused.
    """
    paths = open_repository().paths
    config = configs.load(paths.config)
    unused = registry.unused(config, paths.root)
    if config.task.name == "lm":
        raise HarnessError(unused or "the language model's task is built in: its own tests check it")
    if unused:
        click.echo(f"WARNING: {unused}", err=True)
    registry.prepare(config, paths.root, lambda *_: None)
    setup = open_setup(configs.with_budget(config, BUDGET_SECONDS), paths.root)
    findings = []
    for finding in _said(_findings(config, setup, paths.root), str(paths.root / config.task.file)):
        findings.append(finding)
        if not as_json:
            level = click.style("ok   ", fg="green") if finding.is_right else click.style("fail ", fg="red")
            click.echo(f"{level} {finding.name:<9} {finding.says}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    return DONE if all(finding.is_right for finding in findings) else FAILED


def _said(findings: Iterator[Finding], file: str) -> Iterator[Finding]:
    """
    Raises:
        HarnessError: the task's own program raised; says where.
    """
    try:
        yield from findings
    except HarnessError:
        raise
    except Exception as error:
        if not Path(file).is_file():
            raise
        raise HarnessError(blame(error, file)) from None


def _findings(config: configs.Config, setup: Setup, root: Path) -> Iterator[Finding]:
    found, data = registry.task_of(config, root), setup.task.data
    assert isinstance(data, store.Items)
    shape = tuple(data.facts["facts"]["reply_shape"])
    reply = np.zeros(shape)
    if isinstance(found, Task):
        yield from checks.looked_at(found, data, config.items)
        reply = checks.constant(found, data)
    said = reply.tolist() if reply.size <= LARGE else 0.0
    metric = setup.task.metric
    same, again = (_run(setup, said, shape, 0.0) for _ in range(2))
    if same.value is None or again.value is None:
        refused = not isinstance(found, Task) and same.status == INVALID  # a game's rules may be so
        yield Finding("constant", refused, f"a run that always says the same: {same.status}, {same.detail}")
    else:
        took = f"{same.score.total_seconds:.1f} s to score" if same.score else ""
        values = f"{metric.name} {metric.text(same.value)} and {metric.text(again.value)}, {took}"
        yield Finding("constant", True, f"two runs that always say the same: {values}")
    odd = _run(setup, said, shape, 1.0)
    yield Finding(
        "odd", odd.status == INVALID, f"answers that depend on what was asked before: {odd.status}"
        + (f", {odd.detail}" if odd.status != OK else ""),
    )  # fmt: skip


def _run(setup: Setup, reply: object, shape: tuple[int, ...], odd: float) -> RunRecord:
    numpy = setup.task.library == "numpy"
    source = PROGRAM.format(reply=reply, shape=shape, odd=odd, numpy=numpy)
    with tempfile.TemporaryDirectory() as made:
        return measure(
            source.encode(), "0" * 40, 1, setup, Path(made) / "run", lambda _: None, lambda _: None
        )
