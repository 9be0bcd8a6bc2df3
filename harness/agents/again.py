"""Proposals that exist already: experiments whose change a person wants on today's incumbent."""

from harness.agents import Context
from harness.errors import HarnessError
from harness.store.decisions import Proposal


class Again:
    """See `harness.agents.Agent`: gives its proposals in order, then has nothing more to say."""

    def __init__(self, proposals: list[Proposal]) -> None:
        self._left = list(proposals)

    def propose(self, context: Context) -> Proposal:
        """The next one; it is applied to the incumbent by whoever asked.

        Raises:
            HarnessError: all were given, and the last could not be used.
        """
        if not self._left:
            raise HarnessError(
                context.trouble or "all of them were tried",
                "harness status; what does not apply: git cherry-pick, by hand",
            )
        return self._left.pop(0)
