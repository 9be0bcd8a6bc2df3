"""`--agent mix`: `search` and a model or a coding agent in one session, each in its turn.

Who is next is decided by what each has earned so far for its time and money, see `harness.agents.earnings`.
The other one is told what the process of the constants knows; the process takes over the constants of what
the other one built.
"""

import dataclasses
import random

from harness.agents import Agent, Context, NoProposal
from harness.agents.earnings import earned
from harness.agents.search import Search, think, told
from harness.store.decisions import Proposal

OWN = "search/"


class Mix:
    """See `harness.agents.Agent`."""

    def __init__(self, search: Search, other: Agent) -> None:
        self._search, self._other = search, other

    @property
    def is_waiting(self) -> bool:
        """Whether the other one can't answer for now."""
        return bool(getattr(self._other, "is_waiting", False))

    def propose(self, context: Context) -> Proposal:
        """Of the one whose turn it is; a crash is mended by the other one.

        Raises:
            NoProposal: it has none.
        """
        unit = context.noise or 1.0
        chooser = random.Random(f"mix {context.seed} {context.number}")
        mine = [one for one in context.history if one.agent.startswith(OWN)]
        theirs = [one for one in context.history if one.agent and not one.agent.startswith(OWN)]
        own, others = (earned(some, unit, context.metric.sign) for some in (mine, theirs))
        is_others = others.draw(chooser) >= own.draw(chooser)
        mends = context.failed is not None and not context.failed.agent.startswith(OWN)
        if not (is_others or mends):
            try:
                return self._search.propose(context)
            except NoProposal:
                pass  # it is exhausted: then it is always the other one's turn
        thought, _ = think(context, chooser.randrange(2**31), 1, self._search.ask)
        return self._other.propose(dataclasses.replace(context, learned=told(context, thought)))
