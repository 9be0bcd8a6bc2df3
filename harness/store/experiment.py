"""One experiment: a hypothesis and what became of it, as its commit says."""

import math
from dataclasses import dataclass
from functools import cache, cached_property

from harness.store.aliases import VAL_BPB
from harness.store.message import AGENT, COST, ORIGIN, Message
from harness.store.metric import Metric, read_metric
from harness.store.records import ERROR, KEEP, Setting
from harness.store.refs import Name


@dataclass(frozen=True)
class Experiment:
    """A hypothesis and what became of it, as its commit says."""

    name: Name
    commit: str
    parent: str
    seconds: int
    """Since 1970, when its commit was made or completed."""
    author: str
    message: Message

    @property
    def status(self) -> str | None:
        """`keep`, `discard`, `crash`, `invalid`, `error`; None while it is not measured."""
        return self.message.trailers.get("Status")

    @property
    def state(self) -> str:
        """Its status; without one `begun`, or `by hand` if the loop didn't make it and leaves it as it is."""
        return self.status or ("begun" if self.program else "by hand")

    @property
    def is_due(self) -> bool:
        """Whether a loop measures it before anything new: begun, or lost to an error of the machine."""
        return bool(self.program) and self.status in (None, ERROR)

    @cached_property
    def value(self) -> float | None:
        """Of its metric, the mean of its runs."""
        return _figure(self.message.value)

    @cached_property
    def runs(self) -> list[float]:
        """The scores that `value` is the mean of, where there are several."""
        figures = map(_figure, self.message.values.split())
        return [figure for figure in figures if figure is not None]

    @property
    def delta(self) -> float | None:
        """The estimated effect of its change, or what one run showed where nothing more is known."""
        effect = self.message.trailers.get("Effect", "").split()
        return _figure(effect[0] if effect else self.message.trailers.get("Delta"))

    @property
    def effect_sd(self) -> float | None:
        """Of `delta`, where it is an estimate."""
        effect = self.message.trailers.get("Effect", "").split()
        return _figure(effect[1]) if len(effect) > 1 else None

    @property
    def estimate(self) -> float | None:
        """Its true value as estimated when it was decided; its score, where nothing else is known."""
        effect = _figure((self.message.trailers.get("Effect", "").split() or [""])[0])
        return self.value if effect is None or self.incumbent is None else self.incumbent[1] + effect

    @cached_property
    def incumbent(self) -> tuple[str, float] | None:
        """Beginning of the commit that it was judged against, and its value as it was estimated then."""
        commit, _, said = self.message.trailers.get("Incumbent", "").partition(" ")
        figure = _figure(said)
        return None if figure is None else (commit, figure)

    @cached_property
    def setting(self) -> Setting | None:
        """In which it was measured; None where its message doesn't say."""
        said, budget = self.message.trailers, _figure(self.message.trailers.get("Budget-Seconds"))
        if budget is None:
            return None
        names = (said.get(name, "") for name in ("Device", "Data", "Evaluator", "Runtime", "Metric"))
        return _setting(budget, *names)

    @property
    def metric(self) -> Metric:
        return self.setting.metric if self.setting else VAL_BPB

    @property
    def origin(self) -> str:
        """The commit that it is once more, on another parent; mostly empty."""
        return self.message.trailers.get(ORIGIN, "")

    def is_once_more(self, other: "Experiment | None") -> bool:
        """Whether it has the runs of that one and no others: the same program, put on another commit."""
        seeds = self.message.trailers.get("Seeds")
        return other is not None and seeds is not None and seeds == other.message.trailers.get("Seeds")

    @property
    def agent(self) -> str:
        """Who proposed it; empty where nobody did."""
        return self.message.trailers.get(AGENT, "")

    @property
    def cost_usd(self) -> float | None:
        """Of its proposal; None where nothing was paid, or it isn't known."""
        return _figure(self.message.trailers.get(COST))

    @property
    def program(self) -> str:
        """Digest of its syntax tree: what was tried before is not trained again."""
        return self.message.trailers.get("Program", "")


def comparable(experiments: list[Experiment]) -> list[Experiment]:
    """Those of the setting that the last scored one has, or the last one where none has a score; and those
    that say none."""
    known = [e for e in experiments if e.setting is not None]
    now = next(
        (e.setting for e in reversed(known) if e.value is not None), known[-1].setting if known else None
    )
    return [e for e in experiments if e.setting in (None, now)]


def last_kept(experiments: list[Experiment]) -> Experiment | None:
    """The last kept one of the setting that was measured last."""
    return next((e for e in reversed(comparable(experiments)) if e.status == KEEP), None)


@cache
def _setting(
    budget_seconds: float, device: str, data: str, evaluator: str, runtime: str, metric: str
) -> Setting:
    """There are few, and thousands of experiments are compared by them."""
    known = read_metric(metric)
    return Setting(
        device, data, evaluator, budget_seconds, runtime, VAL_BPB if known in (None, VAL_BPB) else known
    )


def _figure(text: str | None) -> float | None:
    try:
        figure = float(text) if text else math.nan
    except ValueError:
        return None
    return figure if math.isfinite(figure) else None
