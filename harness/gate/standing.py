"""Where the research stands: the kept commits from `main` to the frontier's head, and their estimates.

Two rules, one interface. `Bayes` is the gate: winners stack on the frontier, and `main` follows once its
head is almost surely better. `Greedy` is the reference project's: what scored lower once is better.
Both are rebuilt from what git has, in any order, and go on step by step from there. Values here are the
metric's own; the posterior is asked in losses, of which lower is better.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.gate.hosts import levelled, offsets_of
from harness.gate.noise import Noise, pooled
from harness.gate.policy import SURE, main_may_move, verdict
from harness.gate.posterior import Posterior, posterior_of
from harness.store.decisions import Decision, Incumbent, Measured, Move
from harness.store.metric import Metric
from harness.store.records import AGAIN, DISCARD, KEEP

LEAST_NOISE = 1e-3  # of what is assumed else: below that, repeats were equal but for rounding
SUSPECT_JUMP = 8.0  # units of noise, in one step
UNKNOWN_NOISE = 1e-3  # of a score: repeats that were equal to the last digit say nothing of the noise


class Standing(Protocol):
    """What is known after so many experiments. All methods are pure."""

    @property
    def chain(self) -> tuple[str, ...]:
        """Commits from `main` to the frontier's head."""

    @property
    def incumbent(self) -> Incumbent:
        """The frontier's head: the commit to beat."""

    @property
    def suspect_beyond(self) -> float:
        """What is better is too good to be taken without a larger audit."""

    @property
    def offsets(self) -> Mapping[str, float]:
        """Of what scores are measured on, in losses, as they were estimated when it was rebuilt."""

    def about(self, commit: str) -> Incumbent:
        """A commit of the chain, its true value as it is estimated now."""

    def knows(self, parent: str) -> bool:
        """Whether an experiment on this commit can be decided; else it is compared with the head."""

    def decide(
        self, parent: str, scores: Sequence[float], shorter: bool, hosts: Sequence[str] = ()
    ) -> Decision:
        """Of an experiment on `parent` that had these scores so far; `hosts`: what each was measured on."""

    def after(self, experiment: Measured) -> "Standing":
        """An experiment on a commit that is known was decided; the head may change, to one below it too."""

    def move(self) -> Move | None:
        """What `main` may do now."""

    def moved(self) -> "Standing":
        """`main` is where the head is."""


def as_loss(measured: Measured, metric: Metric) -> Measured:
    return replace(measured, scores=tuple(metric.sign * score for score in measured.scores))


@dataclass(frozen=True)
class Bayes:
    posterior: Posterior
    """Of levelled losses."""
    metric: Metric
    offsets: Mapping[str, float] = field(default_factory=dict)
    """Of what scores are measured on, in losses; empty where that is one device."""

    @property
    def chain(self) -> tuple[str, ...]:
        return self.posterior.chain

    @property
    def incumbent(self) -> Incumbent:
        return self.about(self.posterior.head)

    def about(self, commit: str) -> Incumbent:
        loss = self.posterior.estimate(commit)
        return Incumbent(commit, self.metric.sign * loss.mean, loss.sd)

    @property
    def suspect_beyond(self) -> float:
        return self.incumbent.value - self.metric.sign * SUSPECT_JUMP * self.posterior.noise

    def knows(self, parent: str) -> bool:
        return parent in self.posterior.nodes

    def decide(
        self, parent: str, scores: Sequence[float], shorter: bool, hosts: Sequence[str] = ()
    ) -> Decision:
        incumbent = self.about(parent if self.knows(parent) else self.posterior.head)
        metric, noise = self.metric, self.posterior.noise
        it = Measured("it", parent, tuple(scores), kept=True, hosts=tuple(hosts))
        losses = levelled(as_loss(it, metric), self.offsets).scores
        judged = self.posterior.judge(incumbent.commit, losses)
        mean, change = statistics.fmean(scores), metric.sign * judged.effect.mean
        status = verdict(judged, noise, len(scores), shorter)
        if status == KEEP and len(scores) == 1 and judged.p_better >= SURE and self._would_move(it):
            status = AGAIN  # main never moves for one lucky score
        tie = status == KEEP and judged.effect.mean >= 0
        runs = f" over {len(scores)} runs" if len(scores) > 1 else ""
        if abs(shift := metric.sign * statistics.fmean(losses) - mean) > noise / 10:
            runs += f" ({metric.text(mean + shift)} without its hosts' offset)"
        words = {AGAIN: "; one more run", DISCARD: "", KEEP: "; shorter at no cost" if tie else ""}
        reason = (
            f"{metric.text(mean)}{runs} vs {metric.text(incumbent.value)}; estimated effect "
            f"{metric.change(change)} ± {metric.text(judged.effect.sd)}, P(better) {judged.p_better:.0%}"
            f"{words[status]}"
        )
        return Decision(
            status, reason, incumbent, mean, mean - incumbent.value, change, judged.effect.sd,
            judged.p_better, noise, shorter,
        )  # fmt: skip

    def _would_move(self, it: Measured) -> bool:
        """Whether an experiment on `main` itself would move it by its scores alone."""
        if not it.parent == self.posterior.main == self.posterior.head:
            return False
        return self.after(it).move() is not None

    def after(self, experiment: Measured) -> "Bayes":
        loss = levelled(as_loss(experiment, self.metric), self.offsets)
        return replace(self, posterior=self.posterior.with_one(loss))

    def move(self) -> Move | None:
        posterior = self.posterior
        if posterior.head == posterior.main or not main_may_move(posterior):
            return None
        gain = posterior.estimate(posterior.head).mean - posterior.estimate(posterior.main).mean
        return Move(posterior.main, posterior.head, posterior.head_is_better, self.metric.sign * gain)

    def moved(self) -> "Bayes":
        return replace(self, posterior=self.posterior.moved())


@dataclass(frozen=True)
class Greedy:
    """One run each, and what is better is kept. Its claims are too good: the best of many is luck."""

    chain: tuple[str, ...]
    scores: tuple[float, ...]
    """Of the chain's commits."""
    metric: Metric

    @property
    def offsets(self) -> Mapping[str, float]:
        return {}

    @property
    def incumbent(self) -> Incumbent:
        return Incumbent(self.chain[-1], self.scores[-1])

    @property
    def suspect_beyond(self) -> float:
        return self.scores[-1] - self.metric.sign * SUSPECT_JUMP * _usual_noise(self.scores[-1])

    def about(self, commit: str) -> Incumbent:
        return Incumbent(commit, self.scores[self.chain.index(commit)])

    def knows(self, parent: str) -> bool:
        return parent == self.chain[-1]

    def decide(
        self, parent: str, scores: Sequence[float], shorter: bool, hosts: Sequence[str] = ()
    ) -> Decision:
        mean, incumbent = statistics.fmean(scores), self.incumbent
        is_better, text = self.metric.is_better(mean, incumbent.value), self.metric.text
        reason = f"{text(mean)} is {'better' if is_better else 'not better'} than {text(incumbent.value)}"
        status, delta = KEEP if is_better else DISCARD, mean - incumbent.value
        return Decision(status, reason, incumbent, mean, delta, shorter=shorter)

    def after(self, experiment: Measured) -> "Greedy":
        if not experiment.kept:
            return self
        score = statistics.fmean(experiment.scores)
        return Greedy((*self.chain, experiment.commit), (*self.scores, score), self.metric)

    def move(self) -> Move | None:
        gain = self.scores[-1] - self.scores[0]
        return Move(self.chain[0], self.chain[-1], None, gain) if len(self.chain) > 1 else None

    def moved(self) -> "Greedy":
        return Greedy(self.chain[-1:], self.scores[-1:], self.metric)


def greedy(main: str, measured: Iterable[Measured], metric: Metric) -> Greedy:
    """What a repository's experiments say: the best of what was kept, link after link."""
    nodes = {each.commit: each for each in measured}
    found = Greedy((main,), (statistics.fmean(nodes[main].scores),), metric)
    while True:
        above = [node for node in nodes.values() if node.kept and node.parent == found.chain[-1]]
        best = min(above, key=lambda node: metric.sign * statistics.fmean(node.scores), default=None)
        if best is None or not metric.is_better(statistics.fmean(best.scores), found.scores[-1]):
            return found
        found = found.after(best)


def revised(before: Standing | None, now: Standing) -> list[str]:
    """What later scores changed in the frontier, in words: its head fell back to a commit below, or one that
    was dropped is on it again."""
    if before is None:
        return []
    lost = before.chain[len(now.chain) :] if set(now.chain) < set(before.chain) else ()
    back = [commit for commit in now.chain if commit not in before.chain and before.knows(commit)]
    return [
        *(f"{commit[:7]} dropped from the frontier: later results make it look worse" for commit in lost),
        *(f"{commit[:7]} back on the frontier: later results make it look better" for commit in back),
    ]


def rebuilt(main: str, measured: list[Measured], policy: str, metric: Metric) -> Standing | None:
    """From all that git has in a setting; None if `main` has no score there."""
    of_main = next((each for each in measured if each.commit == main), None)
    if of_main is None:
        return None
    if policy == "greedy":
        return greedy(main, measured, metric)
    raw, usual = [as_loss(each, metric) for each in measured], _usual_noise(of_main.scores[0])
    offsets = offsets_of(raw)
    losses = [levelled(each, offsets) for each in raw]
    noise = pooled(each.scores for each in losses)
    level = noise.sd if noise and noise.sd > LEAST_NOISE * usual else usual
    return Bayes(posterior_of(main, losses, level, _elsewhere(main, losses)), metric, offsets)


def _usual_noise(score: float) -> float:
    return UNKNOWN_NOISE * (abs(score) or 1.0)


def noise_of(measured: Iterable[Measured], metric: Metric) -> Noise | None:
    """Of a score, by all repeats; None where there are none."""
    losses = [as_loss(each, metric) for each in measured]
    offsets = offsets_of(losses)
    return pooled(levelled(each, offsets).scores for each in losses)


def _elsewhere(main: str, measured: list[Measured]) -> Noise | None:
    """The noise that repeats of commits show which don't hang together with `main`."""
    every, roots = {each.commit: each for each in measured}, dict[str, str]()

    def root(commit: str) -> str:
        above = [commit]
        while commit not in roots and every[commit].parent in every:
            above.append(commit := every[commit].parent)
        found = roots.get(commit, commit)
        roots.update(dict.fromkeys(above, found))  # a line of a thousand is not walked for each that is on it
        return found

    own = root(main)
    return pooled(each.scores for each in measured if len(each.scores) > 1 and root(each.commit) != own)
