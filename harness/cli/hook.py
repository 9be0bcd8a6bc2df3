"""`harness hook NAME`: what the shims in `hooks/` call. Not for people."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from harness.errors import DONE, HarnessError
from harness.store import message, refs, rules
from harness.store.hooks import Hooks
from harness.store.opening import open_repository
from harness.store.repo import Repository

MOST_NAMED = 3  # files, in a line
SCISSORS = "\n# ------------------------ >8"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def hook(name: str, args: tuple[str, ...]) -> int:
    """Hold a commit to the rules of its branch, then run the hook that was there before."""
    repository = open_repository(checked=False)  # damaged notes are no reason to refuse a commit
    heard = sys.stdin.buffer.read() if name == "reference-transaction" else None
    if name == "pre-commit":
        _pre_commit(repository)
    elif name == "commit-msg":
        _commit_msg(repository, Path(args[0]))
    elif name == "reference-transaction" and args[:1] == ("prepared",):
        _reference_transaction(heard or b"")
    earlier = Hooks(repository).own / name
    if os.access(earlier, os.X_OK):
        return subprocess.run([str(earlier), *args], input=heard, check=False).returncode
    return DONE


def _pre_commit(repository: Repository) -> None:
    changes = repository.staged()
    problem = rules.broken_change(repository.branch, changes)
    if problem:
        others = [change.path for change in changes if change.path != "train.py"] or ["train.py"]
        left_out = f"git restore --staged {shlex.join(others[:MOST_NAMED])}"
        raise HarnessError(problem, f"{left_out}, then git commit without -a")
    on_experiment = f"refs/heads/{repository.branch}".startswith(refs.EXPERIMENTS)
    if not (changes and on_experiment):
        return
    if problem := rules.broken_source(repository.staged_source(), repository.commit("HEAD").source):
        raise HarnessError(problem, "mend train.py, git add train.py")


def _commit_msg(repository: Repository, file: Path) -> None:
    if f"refs/heads/{repository.branch}".startswith(refs.EXPERIMENTS):
        text = file.read_text(encoding="utf-8", errors="replace")
        if os.environ.get("GIT_EDITOR") != ":":  # else no editor was open, and git cuts nothing off
            text = text.split(SCISSORS, 1)[0]
        message.check_agents("\n".join(line for line in text.split("\n") if not line.startswith("#")))


def _reference_transaction(heard: bytes) -> None:
    own = os.environ.get(rules.AGENT_BRANCH, "")
    for line in heard.decode("utf-8", "replace").splitlines() if own else ():
        _, new, ref = line.split(" ", 2)
        if problem := rules.broken_move(own, ref, new):
            raise HarnessError(problem)
