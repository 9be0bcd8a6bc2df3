"""A real campaign with planted changes: twenty that do nothing, then one that truly helps.

    python benchmarks/planted.py            # a quarter of an hour on two cores: real trials, cpu profile
    python benchmarks/planted.py --tries 3  # a quick look

`main` begins with a learning rate that is a tenth of what it should be. The loop is the real one; only
what it is told to try is planted: constants in another order, arguments and attributes by another name,
and in the end the rate put back. `main` must move for that one alone: at once, or, as on any night, when a
few more experiments on top of it have been measured. Writes planted.md and planted.png in benchmarks/results.
"""

import argparse
import ast
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.agents import Agent, Context
from harness.executors import local
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.decisions import Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository

PATIENCE = 5  # more harmless tries, for `main` to follow the gain
RESULTS = Path(__file__).parent / "results"
RATE, BAD_RATE = "MATRIX_LR = 0.03", "MATRIX_LR = 0.003"
CONSTANTS = {
    "MLP_RATIO", "WINDOW_PATTERN", "VALUE_EMBEDDING_EVERY", "LOGIT_CAP", "ROTARY_BASE", "MATRIX_LR",
    "EMBEDDING_LR", "HEAD_LR", "SCALAR_LR", "WEIGHT_DECAY", "MOMENTUM", "WARMUP", "WARMDOWN", "FINAL_LR",
}  # fmt: skip
NAMES = ("scale", "first", "mask", "rotary", "mlp", "matrices", "gate", "blocks", "masks", "embedding")


class Harmless:
    """An agent; see `harness.agents.Agent`. By turns a name is changed, and the order of constants."""

    def __init__(self) -> None:
        self._count, self._chooser, self._names = 0, random.Random(0), list(NAMES)

    def propose(self, context: Context) -> Proposal:
        source, self._count = context.source.decode(), self._count + 1
        if self._count % 2 and self._names:
            name = self._names.pop()
            title, source = f"Rename {name}", re.sub(rf"\b{name}\b", f"the_{name}", source)
        else:
            title, source = "Put constants in another order", reordered(source, self._chooser)
        return Proposal(f"{title} ({self._count})", "does nothing", source.encode(), "planted")


class Gain:
    """An agent that has one thing to say."""

    def propose(self, context: Context) -> Proposal:
        source = context.source.decode().replace(BAD_RATE, RATE)
        return Proposal("Put the rate back", "it is a tenth of what it should be", source.encode(), "planted")


def reordered(source: str, chooser: random.Random) -> str:
    """The constants of one line that don't depend on each other, from MLP_RATIO on, shuffled."""
    places = [
        node.lineno - 1 for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in CONSTANTS
    ]  # fmt: skip
    lines = source.splitlines(keepends=True)
    block = [lines[place] for place in places]
    chooser.shuffle(block)
    for place, line in zip(places, block, strict=True):
        lines[place] = line
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    harness = [sys.executable, "-m", "harness"]

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    run(*harness, "init", "--profile", "cpu")
    config = folder / ".autoresearch" / "config.toml"  # a new name may not suit a GPU's kernels
    config.write_text(config.read_text().replace('device = "auto"', 'device = "cpu"'))
    train = folder / "train.py"
    train.write_text(train.read_text().replace(RATE, BAD_RATE))
    run("git", "add", "-A")
    run("git", "commit", "-qm", "a rate that is far too low")
    run(*harness, "prepare")
    base, began = run("git", "rev-parse", "main"), time.monotonic()
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        print(text, flush=True)

    os.chdir(folder)
    watcher = Watcher(lambda event: tell(event.text), lambda *_: None)
    limits = Limits(experiments=options.tries)

    def session(agent: Agent, limits: Limits) -> None:
        found = open_repository(folder)
        Loop(found, agent, limits, 0, watcher, local.pool(found.paths)).run()

    agent = Harmless()
    session(agent, limits)
    harmless = run("git", "rev-parse", "main")
    session(Gain(), Limits(experiments=1))
    real = list(Experiments(open_repository(folder)))[-1]
    later = 0
    while run("git", "rev-parse", "main") == harmless and later < PATIENCE:
        later += 1
        session(agent, Limits(experiments=1))
    on_main = run("git", "rev-list", "main").split()
    moved = f"main moved in {options.tries} harmless tries: {'no' if harmless == base else 'YES'}; "
    moved += f"for the real gain: {'yes' if real.commit in on_main else 'NO'}"
    moved += f", after {later} more" if later else ""
    print(moved)
    blocks = [("The loop", said)]
    for which in ("1", str(real.name.number)):
        shown = run(*harness, "show", which).split("\nloss ")[0]
        blocks.append((f"`harness show {which}`", shown.splitlines()))
    blocks.append(("`git log -1 main`", run("git", "log", "-1", "--format=%B", "main").splitlines()))
    blocks.append(("`harness calibrate -n 0`", run(*harness, "calibrate", "-n", "0").splitlines()))
    minutes = (time.monotonic() - began) / 60
    text = f"`python benchmarks/planted.py --tries {options.tries}`: {minutes:.0f} minutes. {moved}.\n"
    for title, lines in blocks:
        text += f"\n{title}:\n\n" + "".join(f"    {line}".rstrip() + "\n" for line in lines)
    (RESULTS / "planted.md").write_text(text)
    run(*harness, "plot", "-o", str(RESULTS / "planted.png"))


if __name__ == "__main__":
    main()
