"""What a commit on an experiment's branch may be: the change of one regular file, train.py.

Pure checks, called by the hooks and by whoever trusts a commit that it did not see being made. Each
gives one line naming the first rule that is broken, or None. Only branches of experiments are held to
them; a person's own branches are theirs.
"""

import ast
import zlib

from harness.store import refs, seeds
from harness.store.records import GROWTH_BYTES
from harness.store.repo import TRAIN_BYTES, Change

REGULAR_MODES = (0o100644, 0o100755)
AGENT_BRANCH = "HARNESS_BRANCH"  # set where an agent works: the one branch that is its own


def broken_change(branch: str, changes: list[Change]) -> str | None:
    """Of the paths that a commit changes."""
    if not f"refs/heads/{branch}".startswith(refs.EXPERIMENTS):
        return None
    for change in changes:
        if change.path != "train.py":
            return f"an experiment may change train.py only, not {change.path}"
        if change.new_mode not in REGULAR_MODES or change.new_mode != change.old_mode:
            return "train.py must stay a regular file with the mode it had"
    return None


def broken_source(source: bytes, parent: bytes = b"", growth_bytes: int = GROWTH_BYTES) -> str | None:
    """Of train.py itself: bounded, a program, with what the scorer calls and what must not run then; and
    compared with `parent`, the one that it changes: with no seed of its own, and longer by `growth_bytes` at
    most, compressed."""
    if len(source) > TRAIN_BYTES:
        return f"train.py is over {TRAIN_BYTES // 1024} KB"
    if len(zlib.compress(source)) > len(zlib.compress(parent)) + growth_bytes:
        return f"train.py grew by over {growth_bytes:,} bytes, compressed: what was learned is no program"
    if b"\r" in source and b"\r" not in parent:  # git may turn them back in the checkout: never clean again
        return "train.py has carriage returns"
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"train.py is no program: {error.__class__.__name__}, line {getattr(error, 'lineno', '?')}"
    if not any(isinstance(node, ast.FunctionDef) and node.name == "load" for node in body):
        return "train.py defines no function load(checkpoint_dir, device)"
    if len(lines := seeds.own(source)) > len(seeds.own(parent)):
        return f"line {lines[0]} sets a seed of its own, not run.seed: good luck that is kept is no idea"
    if seeds.is_from_run(parent) and seeds.draws(source) and not seeds.is_from_run(source):
        return "nothing begins from run.seed any more: without it every run has the same luck"
    guarded = any(
        isinstance(node, ast.If)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        for node in body
    )
    return None if guarded else "train.py has no `if __name__ == '__main__':`, so importing it would train"


def broken_move(own_branch: str, ref: str, new: str) -> str | None:
    """Of a ref that an agent's git is about to move; `new` is all zeros where it is deleted."""
    if not ref.startswith("refs/"):
        return None  # HEAD and its like, of the agent's own worktree
    if ref != f"refs/heads/{own_branch}":
        return f"an agent may move {own_branch} only, not {ref}"
    return f"an experiment's branch is not deleted: {ref}" if not new.strip("0") else None
