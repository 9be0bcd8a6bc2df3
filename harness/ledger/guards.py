"""What a commit on an experiment's branch may be: the change of one regular file, train.py.

Pure checks, called by the hooks and by whoever trusts a commit that it did not see being made.
"""

from harness.ledger.repo import Change

EXPERIMENTS = "exp/"
REGULAR_MODES = (0o100644, 0o100755)


def broken_rule(branch: str, changes: list[Change]) -> str | None:
    """One line naming the first rule that a commit would break, or None.

    Only branches of experiments are held to it; a person's own branches are theirs.
    """
    if not branch.startswith(EXPERIMENTS):
        return None
    for change in changes:
        if change.path != "train.py":
            return f"an experiment may change train.py only, not {change.path}"
        if change.new_mode not in REGULAR_MODES or change.new_mode != change.old_mode:
            return "train.py must stay a regular file with the mode it had"
    return None
