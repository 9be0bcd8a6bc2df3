"""Where the research stands: the kept commits from `main` to the frontier's head, and their estimates.

Two rules, one interface. `Bayes` is the gate: winners stack on the frontier, and `main` follows once its
head is almost surely better. `Greedy` is the reference project's: what scored lower once is better.
Both are rebuilt from what git has, in any order, and go on step by step from there.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.gate.noise import Noise, pooled
from harness.gate.policy import SURE, main_may_move, verdict
from harness.gate.posterior import Posterior, posterior_of
from harness.store.decisions import Decision, Incumbent, Measured, Move
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
    def suspect_below(self) -> float:
        """A val_bpb that is too good to be taken without a larger audit."""

    def estimate(self, commit: str) -> float:
        """The true val_bpb of a commit of the chain, as it is estimated now."""

    def knows(self, parent: str) -> bool:
        """Whether an experiment on this commit can be decided; else it is compared with the head."""

    def decide(self, parent: str, scores: Sequence[float], shorter: bool) -> Decision:
        """Of an experiment on `parent` that had these scores so far."""

    def after(self, experiment: Measured) -> "Standing":
        """An experiment on a commit that is known was decided; the head may change, to one below it too."""

    def move(self) -> Move | None:
        """What `main` may do now."""

    def moved(self) -> "Standing":
        """`main` is where the head is."""


@dataclass(frozen=True)
class Bayes:
    posterior: Posterior

    @property
    def chain(self) -> tuple[str, ...]:
        return self.posterior.chain

    @property
    def incumbent(self) -> Incumbent:
        return self._incumbent(self.posterior.head)

    def _incumbent(self, commit: str) -> Incumbent:
        value = self.posterior.estimate(commit)
        return Incumbent(commit, value.mean, value.sd)

    @property
    def suspect_below(self) -> float:
        return self.incumbent.val_bpb - SUSPECT_JUMP * self.posterior.noise

    def estimate(self, commit: str) -> float:
        return self._incumbent(commit).val_bpb

    def knows(self, parent: str) -> bool:
        return parent in self.posterior.nodes

    def decide(self, parent: str, scores: Sequence[float], shorter: bool) -> Decision:
        incumbent = self._incumbent(parent if self.knows(parent) else self.posterior.head)
        judged, noise = self.posterior.judge(incumbent.commit, scores), self.posterior.noise
        mean, effect = statistics.fmean(scores), judged.effect
        status = verdict(judged, noise, len(scores), shorter)
        if (
            status == KEEP
            and len(scores) == 1
            and judged.p_better >= SURE
            and self._would_move(parent, scores)
        ):
            status = AGAIN  # main never moves for one lucky score
        tie = status == KEEP and effect.mean >= 0
        runs = f" over {len(scores)} runs" if len(scores) > 1 else ""
        words = {AGAIN: "; one more run", DISCARD: "", KEEP: "; shorter at no cost" if tie else ""}
        reason = (
            f"{mean:.4f}{runs} vs {incumbent.val_bpb:.4f}; estimated effect {effect.mean:+.4f} ± "
            f"{effect.sd:.4f}, P(better) {judged.p_better:.0%}{words[status]}"
        )
        return Decision(
            status, reason, incumbent, mean, mean - incumbent.val_bpb, effect.mean, effect.sd,
            judged.p_better, noise, shorter,
        )  # fmt: skip

    def _would_move(self, parent: str, scores: Sequence[float]) -> bool:
        """Whether an experiment on `main` itself would move it by these scores alone."""
        if not parent == self.posterior.main == self.posterior.head:
            return False
        return self.after(Measured("it", parent, tuple(scores), kept=True)).move() is not None

    def after(self, experiment: Measured) -> "Bayes":
        return Bayes(self.posterior.with_one(experiment))

    def move(self) -> Move | None:
        posterior = self.posterior
        if posterior.head == posterior.main or not main_may_move(posterior):
            return None
        gain = posterior.estimate(posterior.head).mean - posterior.estimate(posterior.main).mean
        return Move(posterior.main, posterior.head, posterior.head_is_better, gain)

    def moved(self) -> "Bayes":
        return Bayes(self.posterior.moved())


@dataclass(frozen=True)
class Greedy:
    """One run each, and what is lower is kept. Its claims are too good: the best of many is luck."""

    chain: tuple[str, ...]
    scores: tuple[float, ...]
    """Of the chain's commits."""

    @property
    def incumbent(self) -> Incumbent:
        return Incumbent(self.chain[-1], self.scores[-1])

    @property
    def suspect_below(self) -> float:
        return self.scores[-1] * (1 - SUSPECT_JUMP * UNKNOWN_NOISE)

    def estimate(self, commit: str) -> float:
        return self.scores[self.chain.index(commit)]

    def knows(self, parent: str) -> bool:
        return parent == self.chain[-1]

    def decide(self, parent: str, scores: Sequence[float], shorter: bool) -> Decision:
        mean, incumbent = statistics.fmean(scores), self.incumbent
        delta = mean - incumbent.val_bpb
        word = "lower" if delta < 0 else "not lower"
        reason = f"{mean:.4f} is {word} than {incumbent.val_bpb:.4f}"
        return Decision(KEEP if delta < 0 else DISCARD, reason, incumbent, mean, delta, shorter=shorter)

    def after(self, experiment: Measured) -> "Greedy":
        if not experiment.kept:
            return self
        score = statistics.fmean(experiment.scores)
        return Greedy((*self.chain, experiment.commit), (*self.scores, score))

    def move(self) -> Move | None:
        gain = self.scores[-1] - self.scores[0]
        return Move(self.chain[0], self.chain[-1], None, gain) if len(self.chain) > 1 else None

    def moved(self) -> "Greedy":
        return Greedy(self.chain[-1:], self.scores[-1:])


def greedy(main: str, measured: Iterable[Measured]) -> Greedy:
    """What a repository's experiments say: the lowest of what was kept, link after link, while it falls."""
    nodes = {each.commit: each for each in measured}
    found = Greedy((main,), (statistics.fmean(nodes[main].scores),))
    while True:
        above = [node for node in nodes.values() if node.kept and node.parent == found.chain[-1]]
        best = min(above, key=lambda node: statistics.fmean(node.scores), default=None)
        if best is None or statistics.fmean(best.scores) >= found.scores[-1]:
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


def rebuilt(main: str, measured: list[Measured], policy: str) -> Standing | None:
    """From all that git has in a setting; None if `main` has no score there."""
    of_main = next((each for each in measured if each.commit == main), None)
    if of_main is None:
        return None
    if policy == "greedy":
        return greedy(main, measured)
    noise, usual = pooled(each.scores for each in measured), UNKNOWN_NOISE * of_main.scores[0]
    level = noise.sd if noise and noise.sd > LEAST_NOISE * usual else usual
    return Bayes(posterior_of(main, measured, level, _elsewhere(main, measured)))


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
