"""A real campaign with planted changes: twenty that do nothing, then one that truly helps.

    python benchmarks/planted.py            # a quarter of an hour on two cores: real trials, cpu profile
    python benchmarks/planted.py --tries 3  # a quick look

`main` begins with a learning rate that is a tenth of what it should be. The loop is the real one; only
what it is told to try is planted: constants in another order, arguments and attributes by another name,
and in the end the rate put back. `main` must move for that one alone. Writes
benchmarks/results/planted.md.
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

from harness.agents import Context, NoProposal
from harness.ledger.experiments import Experiments
from harness.ledger.repo import open_repository
from harness.limits import Limits
from harness.loop import Loop, Watcher
from harness.records import Proposal

RESULTS = Path(__file__).parent / "results"
RATE, BAD_RATE = "MATRIX_LR = 0.03", "MATRIX_LR = 0.003"
NAMES = ("scale", "first", "mask", "rotary", "mlp", "matrices", "gate", "blocks", "masks", "embedding")


class Planted:
    """An agent; see `harness.agents.Agent`."""

    def __init__(self, tries: int) -> None:
        self._left, self._chooser = tries, random.Random(0)
        self._names = list(NAMES)

    def propose(self, context: Context) -> Proposal:
        source = context.source.decode()
        self._left -= 1
        if self._left >= 0 and self._left % 2 and self._names:
            name = self._names.pop()
            return self._harmless(f"Rename {name}", re.sub(rf"\b{name}\b", f"the_{name}", source))
        if self._left >= 0:
            return self._harmless("Put constants in another order", reordered(source, self._chooser))
        if BAD_RATE not in source:
            raise NoProposal("the rate is back already")
        return Proposal("Put the rate back", "it is a tenth of what it should be",
                        source.replace(BAD_RATE, RATE).encode(), "planted")  # fmt: skip

    def _harmless(self, title: str, source: str) -> Proposal:
        return Proposal(f"{title} ({self._left} left)", "does nothing", source.encode(), "planted")


def reordered(source: str, chooser: random.Random) -> str:
    """The constants from MLP_RATIO on, which don't depend on each other, shuffled."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    start = next(node.lineno for node in nodes if "MLP_RATIO" in ast.unparse(node.targets[0]))
    end = max(node.end_lineno or 0 for node in nodes if "MAX_STEPS" in ast.unparse(node))
    lines = source.splitlines(keepends=True)
    block = [line for line in lines[start - 1 : end] if line.strip()]
    chooser.shuffle(block)
    return "".join([*lines[: start - 1], *block, *lines[end:]])


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
    watcher = Watcher(lambda event: tell(event.text), lambda _: None)
    limits = Limits(experiments=options.tries)
    Loop(open_repository(folder), (agent := Planted(options.tries)), limits, 0, watcher).run()
    harmless = run("git", "rev-parse", "main")
    Loop(open_repository(folder), agent, Limits(experiments=1), 0, watcher).run()
    every = list(Experiments(open_repository(folder)))
    real = every[-1]
    still, went = harmless == base, run("git", "rev-parse", "main") == real.commit
    moved = f"main moved in {options.tries} harmless tries: {'no' if still else 'YES'}; "
    moved += f"for the real gain: {'yes' if went else 'NO'}"
    print(moved)
    shown = {
        which: run(*harness, "show", which).split("\nloss ")[0] for which in ("1", str(real.name.number))
    }
    calibrated = run(*harness, "calibrate", "-n", "0")
    minutes = (time.monotonic() - began) / 60
    RESULTS.joinpath("planted.md").write_text(
        f"`python benchmarks/planted.py --tries {options.tries}`: {minutes:.0f} minutes. {moved}.\n\n"
        f"    {'    '.join(line + chr(10) for line in said)}\n`harness calibrate -n 0`:\n\n"
        f"    {'    '.join(line + chr(10) for line in calibrated.splitlines())}\n"
        + "\n".join(
            f"`harness show {which}`:\n\n    {'    '.join(line + chr(10) for line in text.splitlines())}"
            for which, text in shown.items()
        )
    )


if __name__ == "__main__":
    main()
