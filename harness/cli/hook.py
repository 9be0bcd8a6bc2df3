"""`harness hook NAME`: what the shims in `hooks/` call. Not for people."""

import os
import subprocess

import click

from harness.errors import DONE, HarnessError
from harness.ledger.guards import broken_rule
from harness.ledger.repo import open_repository


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice(["pre-commit"]))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def hook(name: str, args: tuple[str, ...]) -> int:
    """Hold a commit to the rules of its branch, then run the hook that was there before."""
    repository = open_repository()
    if problem := broken_rule(repository.branch, repository.staged()):
        raise HarnessError(problem, "git restore --staged PATH")
    earlier = repository.own_hooks / name
    if os.access(earlier, os.X_OK):
        return subprocess.run([str(earlier), *args], check=False).returncode
    return DONE
