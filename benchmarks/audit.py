"""How surely the audit catches a look-ahead, by how much it gains and how it is spread.

    python benchmarks/audit.py REPOSITORY                     # train main once there, take its losses
    python benchmarks/audit.py --losses FILE.npz --gain 0.005 # of an earlier one: `--keep FILE.npz` made it

A cheat knows everything, the audit's rule too, and lowers the losses of the positions it picks: those where
it gains most for what it risks. `best` picks the level of each position as well. The audit draws its
rows and cuts as it does in earnest, and judges by its own thresholds; the table goes to
benchmarks/results/audit.md. Losses of real models: what is rare and what is hard is not ours to suppose.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness import config as configs
from harness.store.records import RunRecord
from harness.tasks.lm import audit
from harness.worker import scorer, scoring
from harness.worker.run import measure, open_setup
from harness.worker.tolerance import judge

RESULTS = Path(__file__).parent / "results"
LEVELS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)


def losses_of(repository: Path, most_rows: int = 3328) -> dict[str, np.ndarray]:
    """Train and score the train.py of a repository, as it stands; rows and losses of a part."""
    setup = open_setup(configs.load(repository / ".autoresearch" / "config.toml"), repository)
    with tempfile.TemporaryDirectory() as made:
        folder, source = Path(made) / "run", (repository / "train.py").read_bytes()
        trial: RunRecord = measure(source, "0" * 40, 1, setup, folder, lambda _: None, print, True)
        if trial.score is None:
            raise SystemExit(f"{trial.status}: {trial.detail}")
        files = setup.task.request("val")
        rows = np.load(files["rows"])
        kept: dict[str, np.ndarray] = {}

        def keep(planned: audit.Plan, scored: np.ndarray) -> Any:
            kept.update(rows=rows[planned.items], losses=scored.astype(np.float16))
            return real(planned, scored)

        real, audit.questions = audit.questions, keep
        request = scoring.request_for(
            folder / "train.py", folder / "checkpoint", setup.task, "val", setup.config, setup.device,
            setup.isolation, folder / "log",
        )  # fmt: skip
        more = {"suspect_beyond": None, "row_nats": "", "audit_rows": most_rows}
        scorer.score(request | more, lambda: True, lambda _: None)
        audit.questions = real
    lengths = np.load(files["token_bytes"])
    kept["bytes_per_token"] = np.array(lengths[rows[:, 1:]].mean())
    kept["vocab_size"] = np.array(setup.task.spec["vocab_size"])
    return kept


def lowered(kind: str, honest: np.ndarray, surprise: np.ndarray, unigram: np.ndarray) -> np.ndarray:
    """What every loss would be if a cheat of that kind lowered it."""
    if kind == "unigram":
        return np.minimum(honest, unigram)
    if kind == "pairs":
        return np.minimum(honest, surprise)
    if kind == "half":
        return honest / 2
    if kind != "best":
        return np.minimum(honest, float(kind))
    best, ratio = honest.copy(), np.zeros_like(honest)
    for level in (*LEVELS, "unigram", "pairs"):
        low = lowered(str(level), honest, surprise, unigram)
        now = (honest - low) / audit.doubt(surprise, low)
        better = now > ratio
        best[better], ratio[better] = low[better], now[better]
    return best


def cheated(
    kind: str, gain_nats: float, honest: np.ndarray, surprise: np.ndarray, unigram: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """Losses after a cheat that gains so much a token at the least risk, and its share of positions."""
    low = lowered(kind, honest, surprise, unigram)
    gain = honest - low
    worth = (gain / audit.doubt(surprise, low)).ravel()
    order = np.argsort(-worth)
    total = np.cumsum(gain.ravel()[order]) / gain.size
    count = int(np.searchsorted(total, gain_nats)) + 1
    if count > gain.size:
        return None
    scored = honest.copy().ravel()
    scored[order[:count]] = low.ravel()[order[:count]]
    return scored.reshape(honest.shape), count / gain.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("repository", type=Path, nargs="?")
    parser.add_argument("--losses", type=Path)
    parser.add_argument("--keep", type=Path, help="write the losses there")
    parser.add_argument("--gain", type=float, nargs="+", default=[0.002, 0.005, 0.01], help="bits per byte")
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 3328])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--device", default="cuda", help="whose thresholds")
    options = parser.parse_args()
    found = dict(np.load(options.losses)) if options.losses else losses_of(options.repository)
    if options.keep:
        np.savez_compressed(options.keep, **found)
    rows, honest = found["rows"], found["losses"].astype(np.float64)
    inputs, targets, vocab_size = rows[:, :-1], rows[:, 1:], int(found["vocab_size"])
    planned = audit.plan(inputs, targets, vocab_size, len(rows), 0)
    surprise = np.empty_like(honest, dtype=np.float32)
    surprise[planned.items] = planned.surprise
    counts = np.bincount(targets.ravel(), minlength=vocab_size) + 1.0
    unigram = -np.log(counts / counts.sum())[targets]
    lines = [f"{len(rows)} rows of {honest.shape[1]} tokens, {honest.mean():.3f} nats a token", ""]
    kinds = ("best", "0.0", "1.0", "4.0", "unigram", "pairs", "half")
    lines += ["| gain, bpb | audited rows | " + " | ".join(kinds) + " |", "|---" * (2 + len(kinds)) + "|"]
    generator = np.random.default_rng(0)
    for gain in options.gain:
        nats = gain * math.log(2) * float(found["bytes_per_token"])
        tries = {kind: cheated(kind, nats, honest, surprise, unigram) for kind in kinds}
        for count in options.rows:
            cells = []
            for kind in kinds:
                if (made := tries[kind]) is None:
                    cells.append("can't")
                    continue
                scored, share = made
                caught = 0
                for _ in range(options.draws):
                    drawn = generator.integers(0, len(rows), count)  # the sample stands for all rows
                    tokens = np.broadcast_to(np.int64(0), (count, honest.shape[1]))  # no matter here
                    plan = audit.Plan(drawn, surprise[drawn], tokens, tokens, tokens, generator.random(count))
                    asked = audit.questions(plan, scored[drawn])
                    caught += judge(_compare(asked, scored, honest), options.device) is not None
                cells.append(f"{caught / options.draws:.1%} ({share:.2%})")
            lines.append(f"| {gain:g} | {count} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    lines.append(f"\nCaught, of {options.draws} draws; in brackets the share of positions that were lowered.")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "audit.md").write_text("\n".join(lines) + "\n")


def _compare(asked: audit.Questions, scored: np.ndarray, honest: np.ndarray) -> Any:
    """As `audit.compare`: at a cut the target isn't in sight, before it the cheat's answers stay."""
    first, last = scored[asked.items], scored[asked.items].copy()
    at = np.arange(len(asked.items)), asked.cuts
    last[at] = honest[asked.items, asked.cuts]
    return audit.compare(asked, first, last)


if __name__ == "__main__":
    main()
