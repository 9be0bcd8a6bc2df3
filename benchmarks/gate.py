"""Policies side by side: campaigns of random hypotheses, in which the truth is known.

    python benchmarks/gate.py                  # 1,000 campaigns a row; half an hour on two cores
    python benchmarks/gate.py --campaigns 50   # a quick look
    python benchmarks/gate.py --only "design,all null"

A campaign is 126 trials of hypotheses whose effects are drawn from a distribution; every score is off by
noise. All policies of a row see the same hypotheses and the same noise, trial by trial. What counts is
the true value of `main` at the end, how far its claimed value is off, and how many of its fast-forwards
went to something truly better. Writes benchmarks/results/gate.md and gate.png.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.gate.hosts import EVERY, ON_EACH
from harness.gate.noise import Noise, pooled
from harness.gate.policy import CALIBRATION_RUNS
from harness.gate.posterior import posterior_of
from harness.gate.standing import Bayes, rebuilt
from harness.store.aliases import VAL_BPB
from harness.store.decisions import Measured
from harness.store.records import AGAIN, KEEP

TRIALS = 126
SD = 0.0009
SPOILT = 20.0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class World:
    """Where a campaign takes place; effects in val_bpb, exponential, below 0 helps."""

    help_share: float = 0.15
    mean_gain: float = 0.0012
    null_share: float = 0.35
    mean_loss: float = 0.002
    sd: float = SD
    assumed_sd: float | None = None
    """What an earlier calibration said; None: the truth."""
    freedom: float | None = None
    """Of Student's t, for the noise; None: Gaussian."""
    spoilt_share: float = 0.0
    """Of runs that are worse by `SPOILT` sd, as on a machine that was busy or a chip that was hot."""
    hosts: int = 1
    """That runs are on, each with an offset of its own; so many times the trials."""
    host_sd: float = 0.0
    """Of those offsets."""

    def effect(self, chooser: np.random.Generator) -> float:
        kind, size = chooser.random(), chooser.exponential()
        if kind < self.help_share:
            return -self.mean_gain * size
        return 0.0 if kind < self.help_share + self.null_share else self.mean_loss * size

    def noise(self, chooser: np.random.Generator) -> float:
        return self.sd * (chooser.normal() if self.freedom is None else chooser.standard_t(self.freedom))

    def spoilt(self, chooser: np.random.Generator) -> float:
        return SPOILT * self.sd if chooser.random() < self.spoilt_share else 0.0


WORLDS = {
    "design": World(),
    "all null": World(help_share=0.0, null_share=1.0),
    "all harmful": World(help_share=0.0, null_share=0.0),
    "rare and large": World(help_share=0.02, mean_gain=0.008),
    "noise x 3": World(sd=3 * SD),
    "believed noise x 1/2": World(assumed_sd=SD / 2),
    "believed noise x 2": World(assumed_sd=2 * SD),
    "Student's t (3)": World(freedom=3.0),
    "one of twenty spoilt": World(spoilt_share=0.05),
    "4 hosts that are alike": World(hosts=4),
    "4 hosts": World(hosts=4, host_sd=2 * SD),
}


class Campaign:
    """What a policy may do: try a hypothesis, measure, move `main`. It counts, and knows the truth."""

    def __init__(self, world: World, seed: int) -> None:
        # Streams of their own: a policy that measures twice still meets the same hypotheses.
        self._effects = np.random.default_rng([seed, 0])
        self._noise = np.random.default_rng([seed, 1])
        self._accidents = np.random.default_rng([seed, 2])
        self._places = np.random.default_rng([seed, 3])
        self._offsets = self._places.normal(0, world.host_sd, world.hosts)
        self.world, self.spent = world, 0
        self.main = 0.0
        self.moves = self.true_moves = 0
        self.history: list[float] = []

    @property
    def left(self) -> int:
        return TRIALS * self.world.hosts - self.spent

    def host(self, but: str = "") -> str:
        """Whichever is free."""
        return str(self._places.choice([n for n in map(str, range(self.world.hosts)) if n != but]))

    def hypothesis(self, parent: float) -> float:
        """The true value of a new experiment on one that has this; to be handed back, not looked at."""
        return parent + self.world.effect(self._effects)

    def measure(self, value: float, host: str | None = None) -> float:
        self.spent += 1
        self.history.append(self.main)
        value += self._offsets[int(host or self.host())]
        return value + self.world.noise(self._noise) + self.world.spoilt(self._accidents)

    def move_main(self, value: float) -> None:
        self.moves += 1
        self.true_moves += value < self.main - 1e-15
        self.main = value


def greedy(campaign: Campaign) -> float:
    """The reference project's: one run each, what is lower is kept."""
    best = first = campaign.measure(campaign.main)
    while campaign.left:
        value = campaign.hypothesis(campaign.main)
        score = campaign.measure(value)
        if score < best:
            best = score
            campaign.move_main(value)
    return best - first


def until_sure(campaign: Campaign) -> float:
    """Runs until a test at 5% is sure, up to four; the noise is pooled over every repeat so far."""
    first = best = [campaign.measure(campaign.main) for _ in range(2)]
    groups = [best]
    while campaign.left:
        value = campaign.hypothesis(campaign.main)
        scores: list[float] = []
        chance = 0.3
        while campaign.left and len(scores) < 4 and 0.05 < chance < 0.5:
            scores.append(campaign.measure(value))
            noise = pooled([*groups, scores])
            assert noise is not None
            error = noise.sd * math.sqrt(1 / len(scores) + 1 / len(best))
            chance = 0.5 * math.erfc(
                (statistics.fmean(best) - statistics.fmean(scores)) / error / math.sqrt(2)
            )
        groups.append(scores)
        if chance <= 0.05:
            best = scores
            campaign.move_main(value)
    return statistics.fmean(best) - statistics.fmean(first)


def ours(campaign: Campaign, calibrate: int = 0) -> float:
    """The gate. With `calibrate`, that many first runs of the baseline are all it knows of the noise; else
    there are two, as after a person's commit."""
    truth = {"main": campaign.main}
    scores = tuple(campaign.measure(campaign.main) for _ in range(calibrate or 2))
    known = Noise(campaign.world.assumed_sd or campaign.world.sd, 7)
    noise = pooled([scores]) if calibrate else None
    baseline = Measured("main", "", scores, kept=True)
    posterior = (
        posterior_of("main", [baseline], noise.sd)
        if noise
        else posterior_of("main", [baseline], known.sd, known)
    )
    standing = Bayes(posterior, VAL_BPB)
    first = standing.incumbent.value
    while campaign.left:
        parent, name = standing.incumbent.commit, str(campaign.spent)
        truth[name] = campaign.hypothesis(truth[parent])
        found: list[float] = []
        status = AGAIN
        while status == AGAIN and campaign.left:
            found.append(campaign.measure(truth[name]))
            status = standing.decide(parent, found, shorter=False).status
        standing = standing.after(Measured(name, parent, tuple(found), kept=status == KEEP))
        if (move := standing.move()) is not None:
            standing = standing.moved()
            campaign.move_main(truth[move.new])
    return standing.posterior.estimate(standing.posterior.main).mean - first


def on_hosts(campaign: Campaign, told: bool = True) -> float:
    """The gate on several hosts: `main` runs on each of them first, and a repeat goes to another one. Unless
    it is `told` what ran where, it thinks that they are alike."""
    hosts = [str(n) for n in range(campaign.world.hosts)]
    truth, where = {"main": campaign.main}, hosts * ON_EACH
    scores = tuple(campaign.measure(campaign.main, host) for host in where)
    every = {"main": Measured("main", "", scores, kept=True, hosts=tuple(where) if told else ())}
    main, since = "main", 0
    standing = rebuilt(main, list(every.values()), "belief", VAL_BPB)
    assert standing is not None
    first = standing.incumbent.value
    while campaign.left:
        parent, name = standing.incumbent.commit, str(campaign.spent)
        truth[name] = campaign.hypothesis(truth[parent])
        found: list[float] = []
        on: list[str] = []
        status = AGAIN
        while status == AGAIN and campaign.left:
            on.append(campaign.host(but=on[-1] if on else ""))
            found.append(campaign.measure(truth[name], on[-1]))
            status = standing.decide(parent, found, False, on if told else ()).status
        every[name] = Measured(name, parent, tuple(found), status == KEEP, hosts=tuple(on) if told else ())
        since += 1
        if since >= EVERY:
            standing, since = rebuilt(main, list(every.values()), "belief", VAL_BPB), 0
        else:
            standing = standing.after(every[name])
        assert standing is not None
        if (move := standing.move()) is not None:
            standing, main = standing.moved(), move.new
            campaign.move_main(truth[main])
    return standing.about(main).value - first


def on_hosts_untold(campaign: Campaign) -> float:
    """What comes of it where the hosts' offsets are ignored."""
    return on_hosts(campaign, told=False)


def ours_calibrating(campaign: Campaign) -> float:
    """The gate in a new setting: its first runs, of the baseline, are part of the campaign."""
    return ours(campaign, CALIBRATION_RUNS)


POLICIES: dict[str, Callable[[Campaign], float]] = {
    "greedy": greedy,
    "repeat until sure": until_sure,
    "ours": ours,
    "ours, calibrating first": ours_calibrating,
    "ours on hosts": on_hosts,
    "ours, hosts ignored": on_hosts_untold,
}


@dataclass
class Row:
    """A policy in a world, over all campaigns."""

    gains: list[float] = field(default_factory=list)
    off: list[float] = field(default_factory=list)
    moves: int = 0
    true_moves: int = 0
    moving: int = 0
    curve: list[float] = field(default_factory=list)


def one(task: tuple[str, str, int]) -> tuple[float, float, int, int, list[float]]:
    world, policy, seed = task
    campaign = Campaign(WORLDS[world], seed)
    claimed = POLICIES[policy](campaign)
    return campaign.main, claimed - campaign.main, campaign.moves, campaign.true_moves, campaign.history


def run(world: str, policy: str, campaigns: int, pool: ProcessPoolExecutor) -> Row:
    row = Row()
    curve = np.zeros(TRIALS * WORLDS[world].hosts)
    tasks = [(world, policy, seed) for seed in range(campaigns)]
    chunk = max(1, min(8, campaigns // 8))
    for main, off, moves, true_moves, history in pool.map(one, tasks, chunksize=chunk):
        row.gains.append(main)
        row.off.append(off)
        row.moves += moves
        row.true_moves += true_moves
        row.moving += moves > 0
        curve += history
    row.curve = list(curve / campaigns)
    return row


def line(world: str, policy: str, row: Row, reference: Row) -> str:
    count = len(row.gains)
    sd = WORLDS[world].sd
    gain, off = statistics.fmean(row.gains), statistics.fmean(row.off) / sd
    error, off_error = (statistics.stdev(x) / math.sqrt(count) for x in (row.gains, row.off))
    base = statistics.fmean(reference.gains)
    ratio = f"{gain / base:.2f}" if base < -SD / 2 else "-"
    spread = f"{_ratio_error(row.gains, reference.gains):.2f}" if ratio != "-" else "-"
    true = f"{100 * row.true_moves / row.moves:.1f}%" if row.moves else "-"
    return (
        f"| {world} | {policy} | {gain:+.5f} ± {error:.5f} | {ratio} ± {spread} "
        f"| {off:+.2f} ± {off_error / sd:.2f} | {row.moves / count:.2f} | {true} "
        f"| {100 * row.moving / count:.1f}% |"
    )


def _ratio_error(gains: list[float], reference: list[float]) -> float:
    """Standard error of the ratio of two means over the same campaigns."""
    ratio = statistics.fmean(gains) / statistics.fmean(reference)
    rest = [gain - ratio * other for gain, other in zip(gains, reference, strict=True)]
    return abs(statistics.stdev(rest) / math.sqrt(len(rest)) / statistics.fmean(reference))


HEADER = (
    "| world | policy | true gain of main | relative to greedy | claimed - true, in sd | moves of main "
    "| truly better | campaigns with a move |\n|---|---|---|---|---|---|---|---|"
)


def draw(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=130)
    for policy, curve in curves.items():
        axes.plot(range(1, TRIALS + 1), curve, label=policy)
    axes.set_xlabel("trials")
    axes.set_ylabel("true gain of main, val_bpb (mean)")
    axes.set_title("the design's effects, noise sd 0.0009", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=1000)
    parser.add_argument("--only", default=",".join(WORLDS), help="worlds, comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS / "gate.md")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(WORLDS):
        parser.error(f"no world is called {sorted(unknown)}; there are {list(WORLDS)}")
    lines, began = [HEADER], time.monotonic()
    print(HEADER, flush=True)
    with ProcessPoolExecutor() as pool:
        for world in options.only.split(","):
            rows = {}
            for policy in POLICIES:
                if policy == "ours, calibrating first" and WORLDS[world].assumed_sd:
                    continue  # it believes what it measures
                if ("hosts" in policy) != (WORLDS[world].hosts > 1) and policy != "greedy":
                    continue
                rows[policy] = run(world, policy, options.campaigns, pool)
                lines.append(line(world, policy, rows[policy], rows["greedy"]))
                print(lines[-1], flush=True)
            if world == "design":
                draw({policy: row.curve for policy, row in rows.items()}, RESULTS / "gate.png")
            minutes = (time.monotonic() - began) / 60
            head = (
                f"`python benchmarks/gate.py --campaigns {options.campaigns}`, {minutes:.0f} minutes on "
                f"{os.cpu_count()} cores; {options.campaigns} campaigns of {TRIALS} trials a row, ± is one "
                f"standard error. Noise sd {SD} unless said.\n\n"
            )
            options.out.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
