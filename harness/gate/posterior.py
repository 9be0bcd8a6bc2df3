"""What all scores so far say of every commit: probabilities on a grid, exact up to its step.

Unknown is the true loss of a commit, the mean over endless seeds; a score of it is off by the noise.
A commit's true value is its parent's plus the effect of its change. What effects there are (how many
help, and by how much), and how large the noise is, is not known either: several suppositions of both
stand side by side, and scores shift the weight between them. All the rest is Bayes' rule on the tree
of commits (belief propagation, exact on a tree: J. Pearl, 1982):

- an experiment that is left aside still says something of its parent: if everything tried on top of a
  commit looks bad, then that commit's own score was luck;
- the frontier's head, on which the next experiment builds, is the kept commit with the lowest estimate. Where
  later scores speak against it, the head is another commit by that alone;
- `main` and the head are known *together*: what both have in common counts once.

Scores are losses here: lower is better. The order in which they came doesn't matter. Lengths are in units of
the estimated noise, so the numbers here hold for any setting.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np

from harness.gate.noise import Noise
from harness.gate.prior import POINTS, SPREAD_SHARES, SPREADS, STEP, SUPPOSED, Array, log_density, transitions
from harness.store.decisions import Measured

EDGE = 4  # points at each end that no score is placed on
NEAR = 16  # points: a commit shares its parent's grid if its scores are no further off than that
UNLIKELY = 1e-3  # suppositions with less weight are left out of what costs time
BACK = 64  # links below `main` that still say something of it
NEWEST = 200  # experiments left aside on one commit that are looked at; more say nothing new
TIE = 0.25  # units of noise: what a program with fewer lines may seem to cost
FAR = 12.0  # units; what is lower by more is a jump
FARTHEST = 1e15  # points: further off than that makes no difference any more
TINY = np.float32(1e-30)
# Under heavy tails a score looks ever more like an accident the lower it is. What is lower must not look
# worse, so a deep score is also judged as if it were less deep, by steps of so many units.
DEEP = 4.0


@dataclass(frozen=True)
class Estimate:
    mean: float
    sd: float


@dataclass(frozen=True)
class Judgement:
    """What the scores of one experiment say, before anything is decided."""

    effect: Estimate
    """Of its change on its parent, in the metric's units; below 0 is better."""
    p_better: float
    """The probability that the effect is below 0."""
    worth_of_a_run: float
    """By how much one more run would better the decision, on average, in the metric's units."""
    jump: bool = False
    """Whether a single score looks so much better that an accident would explain it as well."""


@dataclass(frozen=True, eq=False)
class Node:
    """A commit in the tree. Arrays are logarithms over (spreads, suppositions, POINTS)."""

    of: Measured
    center: int
    """Of its grid, in steps from the posterior's origin."""
    evidence: Array
    """Of its value: its own scores, and all that is above it."""
    message: Array
    """Of its parent's value, on the parent's grid: all that it and what is above it say."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Of all commits of one setting, at one moment. Adding to it makes another one."""

    unit: float
    """Loss of one unit: the estimated noise."""
    origin: float
    """Loss that centers count from."""
    prior: Array
    """(S, H): logarithms of the suppositions' weights before anything was seen."""
    nodes: Mapping[str, Node]
    main: str

    # ── what is asked of it ───────────────────────────────────────────────────────────────────

    @functools.cached_property
    def head(self) -> str:
        """`main`, or the kept commit on it with the lowest estimate; a shorter one may seem a bit worse."""
        allowed = TIE * self.noise

        def seems(commit: str) -> float:
            shorter = self.nodes[commit].of.shorter and commit != self.main
            return self.estimate(commit).mean - (allowed if shorter else 0.0)

        return min(self._kept_from(self.main), key=seems)

    @property
    def chain(self) -> tuple[str, ...]:
        """Commits from `main` to the frontier's head."""
        line = [self.head]
        while line[0] != self.main:
            line.insert(0, self.nodes[line[0]].of.parent)
        return tuple(line)

    def estimate(self, commit: str) -> Estimate:
        """A commit's true value, in the metric's units."""
        return self._placed(self.nodes[commit].center, self._posterior(commit).sum((0, 1)))

    @functools.cached_property
    def noise(self) -> float:
        """The sd of a score, in the metric's units, as it is estimated now."""
        return float(self._weights.sum(1) @ SPREADS) * self.unit

    @functools.cached_property
    def head_is_better(self) -> float:
        """The probability that the head's true value is below main's; equal is not below."""
        keep = self._weights > UNLIKELY
        supposed = np.nonzero(keep)[1]
        first, *above = (self.nodes[commit] for commit in self.chain)
        seen = self._above(self.main)[keep] + first.evidence[keep]
        below = first
        joint: Array = np.ones((len(supposed), POINTS, 1), np.float32)  # (N, main's value, the head's)
        for node in above:
            if below is first:  # main's own value, without what the head's side says of it
                step = _from_log(seen - node.message[keep])[..., None]
            else:
                step = _from_log(below.evidence[keep] - node.message[keep])[:, None]
            links = transitions(node.center - below.center)[supposed]
            joint = step * links if below is first else (joint * step) @ links
            joint /= joint.sum((1, 2), keepdims=True)
            below = node
        joint = joint * _from_log(below.evidence[keep])[:, None]
        joint /= joint.sum((1, 2), keepdims=True)
        places = np.arange(POINTS)
        better = places[None, :] + below.center < places[:, None] + first.center
        weights = self._weights[keep] / self._weights[keep].sum()
        return min(1.0, float(weights @ (joint * better).sum((1, 2)))) if above else 0.0

    def judge(self, parent: str, scores: Sequence[float]) -> Judgement:
        """An experiment on top of `parent` that has these scores."""
        value = self.estimate(parent).mean
        floors = [value - DEEP * self.unit * step for step in range(1, 1 + round(FAR / DEEP))]
        capped = [[max(score, floor) for score in scores] for floor in floors if min(scores) < floor]
        best = min(
            (self._judge(parent, each) for each in (scores, *capped)), key=lambda found: found.effect.mean
        )
        return replace(best, jump=sum(score < value - FAR * self.unit for score in scores) == 1)

    def _judge(self, parent: str, scores: Sequence[float]) -> Judgement:
        """The suppositions are weighed as before these scores: else the very score that one of them
        explains would give it weight, and a lower score could look worse."""
        center = self._center(parent, scores)
        away, likelihood = center - self.nodes[parent].center, self._seen(center, scores)
        keep = self._weights > UNLIKELY
        spread, supposed = np.nonzero(keep)
        value = self._posterior(parent)[keep].astype(np.float32)  # (N, POINTS)
        seen = _from_log(likelihood)[spread]
        total = (value * (transitions(away)[supposed] @ seen[..., None])[..., 0]).sum(-1, keepdims=True)
        parents = self._weights[keep][:, None] * value / (total + TINY)
        pair = np.zeros((POINTS, POINTS))
        for number, transition in enumerate(transitions(away)):
            of = supposed == number
            pair += (parents[of].T @ seen[of]) * transition
        pair /= pair.sum()
        effects = (np.arange(POINTS)[None, :] - np.arange(POINTS)[:, None] + away) * STEP
        mean = float((pair * effects).sum())
        sd = float((pair * (effects - mean) ** 2).sum()) ** 0.5
        worth = _worth(mean, sd, self.noise / self.unit)
        return Judgement(
            Estimate(mean * self.unit, sd * self.unit), float(pair[effects < 0].sum()), worth * self.unit
        )

    # ── how it grows ──────────────────────────────────────────────────────────────────────────

    def with_one(self, experiment: Measured) -> "Posterior":
        """After one more experiment, on a commit that is known here."""
        node = self._node(experiment, self._center(experiment.parent, experiment.scores), ())
        nodes, still = {**self.nodes, node.of.commit: node}, {}
        at, change = node.of.parent, node.message  # what is said anew to the parent, and to all below it
        while at in nodes:
            if at in self._known:  # nothing new is said from that side
                still[at] = self._known[at]
            old = nodes[at]
            evidence = old.evidence + change
            parent = nodes.get(old.of.parent)
            message = _message(evidence, old.center - parent.center) if parent else old.message
            nodes[at] = replace(old, evidence=evidence, message=message)
            at, change = old.of.parent, message - old.message
        grown = replace(self, nodes=nodes)
        grown._known.update(still)
        return grown

    def moved(self) -> "Posterior":
        """`main` is where the head is."""
        return replace(self, main=self.head)

    def _node(self, of: Measured, center: int, above: Iterable[Node], root: bool = False) -> Node:
        evidence = self._seen(center, of.scores)[:, None]  # the same under every supposition, and said once
        for child in above:
            evidence = evidence + child.message
        full = np.broadcast_to(evidence, (len(SPREADS), len(SUPPOSED), POINTS))
        if root:
            return Node(of, center, full, np.zeros_like(full))
        return Node(of, center, full, _message(evidence, center - self.nodes[of.parent].center))

    def _center(self, parent: str, scores: Sequence[float]) -> int:
        """Of a grid for these scores of a child of `parent`."""
        places = [min(max(place, -FARTHEST), FARTHEST) for place in self._places(sorted(scores))]
        start = self.nodes[parent].center if parent in self.nodes else 0
        off = places[(len(places) - 1) // 2] - start  # of two the lower: a machine makes scores only worse
        # Where scores are too far apart for one grid, one is an accident: the parent's decides which.
        apart = places[-1] - places[0] > POINTS - 2 * EDGE
        return start if apart or abs(off) <= NEAR else start + round(off)

    def _seen(self, center: int, scores: Sequence[float]) -> Array:
        """(S, POINTS): what scores say of a value. Beyond the grid they say no more than at its edge."""
        last = float(POINTS // 2 - EDGE)
        places = np.array([min(max(place - center, -last), last) for place in self._places(scores)])
        return log_density((places[:, None, None] - (np.arange(POINTS) - POINTS // 2)) * STEP).sum(0)

    def _places(self, scores: Iterable[float]) -> list[float]:
        """In points from the origin. No array: there are one to four scores, and a thousand commits."""
        return [(score - self.origin) / self.unit / STEP for score in scores]

    # ── what it says inside ───────────────────────────────────────────────────────────────────

    def _kept_from(self, commit: str) -> Iterator[str]:
        """A commit, and what was kept above it without a gap."""
        above: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.of.kept:
                above.setdefault(node.of.parent, []).append(node.of.commit)
        waiting = [commit]
        while waiting:
            yield (found := waiting.pop())
            waiting += above.get(found, [])

    def _above(self, commit: str) -> Array:
        """The logarithm of what everything but a commit's own side of the tree says of its value."""
        if commit not in self._known:
            node = self.nodes[commit]
            parent = self.nodes.get(node.of.parent)
            if parent is None:
                self._known[commit] = np.repeat(self.prior[..., None], POINTS, 2)
            else:
                others = self._above(node.of.parent) + parent.evidence - node.message
                self._known[commit] = _message(others, parent.center - node.center, downwards=True)
        return self._known[commit]

    @functools.cached_property
    def _known(self) -> dict[str, Array]:
        """What `_above` found already."""
        return {}

    def _posterior(self, commit: str) -> Array:
        """(S, H, POINTS), of sum 1."""
        return _normal(self._above(commit) + self.nodes[commit].evidence)

    @functools.cached_property
    def _weights(self) -> Array:
        """(S, H): the suppositions' weights now; the same seen from any commit."""
        return self._posterior(self.main).sum(-1)

    def _placed(self, center: int, marginal: Array) -> Estimate:
        values = (np.arange(POINTS) - POINTS // 2 + center) * STEP
        mean = float(marginal @ values)
        sd = float(marginal @ (values - mean) ** 2) ** 0.5
        return Estimate(self.origin + mean * self.unit, sd * self.unit)


def posterior_of(
    main: str, measured: Iterable[Measured], unit: float, elsewhere: Noise | None = None
) -> Posterior:
    """What these experiments say together.

    Args:
        main: one of them.
        measured: of one setting, each commit once, oldest first. Those that don't hang together with
            `main` don't count.
        unit: an estimate of the noise, in the metric's units; these scores may be part of it.
        elsewhere: what repeats of programs that are not in this tree said of the noise.
    """
    every = {each.commit: each for each in measured}
    line = [main]
    while every[line[-1]].parent in every and len(line) <= BACK:
        line.append(every[line[-1]].parent)
    root = line[-1]
    above: dict[str, list[str]] = {}
    aside: dict[str, list[str]] = {}
    for each in every.values():
        of = above if each.kept or each.commit in line else aside
        of.setdefault(each.parent, []).append(each.commit)
    for parent, commits in aside.items():
        above.setdefault(parent, []).extend(commits[-NEWEST:])
    order = [root]  # parents first
    for commit in order:
        order += above.get(commit, [])
    prior = np.log(SPREAD_SHARES)[:, None] + np.log([share for _, share in SUPPOSED])
    if elsewhere is not None:
        ratio = elsewhere.sd / unit / SPREADS
        prior = prior + (elsewhere.freedom * (np.log(ratio) - ratio**2 / 2))[:, None]
    nodes: dict[str, Node] = {}
    posterior = Posterior(unit, median_low(every[root].scores), prior, nodes, main)
    for commit in order:  # centers first, which only parents decide; then what is above, from the leaves on
        center = posterior._center(every[commit].parent, every[commit].scores)
        nodes[commit] = Node(every[commit], center, np.empty(0), np.empty(0))
    for commit in reversed(order):
        children = (nodes[child] for child in above.get(commit, []))
        nodes[commit] = posterior._node(every[commit], nodes[commit].center, children, root=commit == root)
    return posterior


def _message(log: Array, away: int, downwards: bool = False) -> Array:
    """What is known of one end of a link, said of the other end; logarithms over (S, H, POINTS).

    Args:
        log: (S, 1, POINTS) where it is the same for all H.
        away: points from the center of the other end's grid to this one's.
    """
    top = log.max(-1, keepdims=True)
    here = np.exp((log - top).astype(np.float32)).swapaxes(0, 1)  # (H, S, POINTS)
    there = here @ (transitions(-away) if downwards else transitions(away).swapaxes(-1, -2))
    return np.log(there.swapaxes(0, 1) + TINY) + top


def _from_log(log: Array) -> Array:
    """Up to a factor for each row."""
    return np.exp((log - log.max(-1, keepdims=True)).astype(np.float32))


def _normal(log: Array) -> Array:
    found = np.exp(log - log.max())
    return found / found.sum()


def _worth(mean: float, sd: float, noise: float) -> float:
    """The value of one more run: how often, and by how much, it would turn a decision at 0 around."""
    spread = sd**2 / math.hypot(sd, noise) if sd > 0 else 0.0
    if spread <= 0:
        return 0.0
    z = abs(mean) / spread
    tail = 0.5 * math.erfc(z / math.sqrt(2))
    return spread * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * tail)
