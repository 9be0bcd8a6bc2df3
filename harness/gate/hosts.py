"""How much lower or higher scores come out on one device than on the others: of one model, GPUs differ by 8%
on average, and in a fixed time that is a score (https://arxiv.org/abs/2208.11035).

An offset for each, around 0, with a spread that is learned from them. Two things tell of it: scores of one
program on several devices, and all experiments on one commit, whose effects differ, but not by where they
ran: that isn't chosen by how promising they are. Scores are losses here.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from harness.gate.prior import Array
from harness.store.decisions import Measured

ROUNDS = 40
FARTHEST = 3.0  # spreads of a group: what is further off counts as if it were that far
NORMAL_MAD = 1.4826  # of a Gaussian's sd to the median of its absolute differences
LEAST_SIBLINGS = 4
ON_EACH = 2  # runs of `main` on a device that nothing is known of, before anything is judged there
EVERY = 5  # decisions, after which offsets are estimated anew


@dataclass(frozen=True)
class Group:
    """Scores of which only the device is known to differ."""

    scores: tuple[tuple[float, str], ...]
    """Each with its device."""
    is_program: bool
    """Of one program; else of experiments on one commit."""


def level(score: float, host: str, offsets: Mapping[str, float]) -> float:
    """A score as it would be on a device without an offset."""
    return score - offsets.get(host, 0.0)


def levelled(measured: Measured, offsets: Mapping[str, float]) -> Measured:
    """The same of all scores of a commit."""
    if not offsets or not measured.hosts:
        return measured
    scores = zip(measured.scores, measured.hosts, strict=True)
    return dataclasses.replace(measured, scores=tuple(level(*each, offsets) for each in scores))


def offsets_of(measured: Sequence[Measured]) -> dict[str, float]:
    """Of each device; none where scores came from one, or nothing tells them apart."""
    groups = list(_groups(measured))
    names = sorted({host for group in groups for _, host in group.scores})
    if len(names) < 2:
        return {}
    place = {name: number for number, name in enumerate(names)}
    scores = np.array([score for group in groups for score, _ in group.scores])
    hosts = np.array([place[host] for group in groups for _, host in group.scores])
    of = np.array([number for number, group in enumerate(groups) for _ in group.scores])
    counts = np.bincount(of)
    is_program = np.array([group.is_program for group in groups])
    offsets, values = np.zeros(len(names)), np.array([median(s for s, _ in g.scores) for g in groups])
    spread_of_offsets = np.inf
    for _ in range(ROUNDS):
        off = scores - offsets[hosts] - values[of]
        spreads = _spreads(off, of, is_program, len(names))
        if spreads is None:
            return {}
        held = np.clip(off, -FARTHEST * spreads[of], FARTHEST * spreads[of])
        values = values + np.bincount(of, held) / counts
        held = np.clip(scores - offsets[hosts] - values[of], -FARTHEST * spreads[of], FARTHEST * spreads[of])
        weights = spreads[of] ** -2 * (1 - 1 / counts[of])  # a group's own value is one of its scores' worth
        known = np.bincount(hosts, weights, len(names))
        told = np.bincount(hosts, weights * (held + offsets[hosts]), len(names))
        offsets = told / (known + spread_of_offsets**-2)
        offsets = offsets - offsets.mean()
        spread_of_offsets = float(np.sqrt(np.mean(offsets**2 + 1 / (known + spread_of_offsets**-2))))
    return {name: float(offsets[number]) for name, number in place.items()}


def _groups(measured: Sequence[Measured]) -> Iterable[Group]:
    on_one: dict[str, list[tuple[float, str]]] = {}
    for each in measured:
        known = [pair for pair in zip(each.scores, each.hosts, strict=False) if pair[1]]
        if len({host for _, host in known}) > 1:
            yield Group(tuple(known), True)
        elif known and len(each.scores) == 1:
            on_one.setdefault(each.parent, []).append(known[0])
    for scores in on_one.values():
        if len(scores) >= LEAST_SIBLINGS and len({host for _, host in scores}) > 1:
            yield Group(tuple(scores), False)


def _spreads(off: Array, of: Array, is_program: Array, devices: int) -> Array | None:
    """Of each group's scores around its value: of programs all together, of siblings each its own. By
    medians: a score that a machine spoilt is no noise. None where nothing tells the noise from offsets."""
    ours = is_program[of]
    free = int(ours.sum() - is_program.sum()) - (devices - 1)
    if free <= 0:
        return None
    noise = NORMAL_MAD * float(np.median(np.abs(off[ours]))) * (ours.sum() / free) ** 0.5
    own = [
        noise if program else max(noise, NORMAL_MAD * float(np.median(np.abs(part - np.median(part)))))
        for part, program in ((off[of == n], program) for n, program in enumerate(is_program))
    ]
    return np.array(own) if noise > 0 else None
