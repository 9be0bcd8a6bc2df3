"""The product on a GPU: what its train.py reaches, and what of the time is not training.

    python benchmarks/gpu.py ~/texts                                # 3 trials of 300 s after 2 of main
    python benchmarks/gpu.py ~/texts --seconds 60 --experiments 10
    python benchmarks/gpu.py ~/texts --seconds 60 --gpus 1,2        # one GPU, then two: trials an hour

In a new repository with the gpu profile and that corpus (a file or a folder of text), the real loop: runs
of `main` with a seed each, then experiments that change one learning rate. `--agent search` takes the
product's own instead. The figures come from the records of the trials, with n and spread; the table goes to
benchmarks/results/gpu-table.md.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.agents import Context
from harness.agents.search import Search
from harness.errors import HarnessError
from harness.executors import local
from harness.report import timing
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.decisions import Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.records import OK, RunRecord
from harness.worker.device import chosen, resolve

RESULTS = Path(__file__).parent / "results"
Trials = Sequence[RunRecord]


class Rates:
    """An agent that changes one learning rate: nothing has to be compiled anew."""

    def propose(self, context: Context) -> Proposal:
        new = f"MATRIX_LR = {0.03 * (1 + (context.number + 1) / 100):.4f}"
        begin = context.source.index(b"MATRIX_LR = ")
        end = context.source.index(b"\n", begin)
        source = context.source[:begin] + new.encode() + context.source[end:]
        return Proposal(new, "The rate is not at its best.", source, "benchmark/rates")


def repository(folder: Path, corpus: Path, seconds: float) -> None:
    """With the gpu profile, this corpus and budget; `main` is committed and the data is there."""

    def run(*command: str) -> None:
        subprocess.run([*command], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    harness = (sys.executable, "-m", "harness")
    run(*harness, "init", "--profile", "gpu", ".")
    path = folder / ".autoresearch" / "config.toml"
    text = path.read_text().replace('source = "climbmix"', f'source = "{corpus.resolve()}"')
    path.write_text(text.replace("budget_seconds = 300.0", f"budget_seconds = {seconds}"))
    run("git", "add", "-A")
    run("git", "commit", "-qm", "baseline")
    run(*harness, "prepare")


def session(folder: Path, limits: Limits, agent: Any, gpus: str | None) -> tuple[Trials, Trials, float]:
    """Trials of `main` and of the experiments, and the loop's seconds from its start to its end."""
    found = open_repository(folder)
    devices = chosen(resolve("cuda"), gpus) if gpus else None

    def tell(event: Any) -> None:
        print(f"{time.strftime('%H:%M:%S')} {event.text}", flush=True)

    watcher, pool = Watcher(tell, lambda *_: None), local.pool(found.paths, devices)
    seconds = Loop(found, agent, limits, 0, watcher, pool).run().seconds
    known = Experiments(found)
    baseline = next(commit for commit, parent in known.history if not parent)
    trials = [trial for e in known for trial in known.runs(e.commit)]
    return known.runs(baseline), trials, seconds


def figure(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f}, n {len(values)})"
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def part(trials: Trials, *names: str) -> list[float]:
    found = []
    for trial in trials:
        value: Any = trial
        for name in names:
            value = getattr(value, name, None)
        if value is not None:
            found.append(float(value))
    return found


def share(trials: Trials) -> str:
    found = timing.training_share(trials)
    return f"{100 * found[0]:.1f} (n {found[2]})" if found else "-"


def table(main: Trials, experiments: Trials, seconds: float, gpus: int) -> list[str]:
    every = [trial for trial in (*main, *experiments) if trial.status == OK]
    after = [trial for trial in every if trial.idle_seconds is not None]
    trained, idle = part(after, "training", "training_seconds"), part(after, "idle_seconds")
    whole = [sum(each) for each in zip(trained, idle, strict=True)]  # between the ends of two trainings
    by_gpu: dict[str, list[float]] = {}
    for trial in every:
        training = trial.training
        speed = (training.reported.total_tokens or 0) / (training.training_seconds or 1.0) / 1e6
        by_gpu.setdefault(training.conditions.uuid if training.conditions else "?", []).append(speed)
    all_trained = sum(part(every, "training", "training_seconds")) / gpus
    rows = {
        "val_bpb of main, by seed": figure(part(main, "value"), 4),
        **{f"M tokens/s of {uuid[:12]}": figure(by_gpu[uuid], 3) for uuid in sorted(by_gpu)},
        "seconds between two trainings": figure(idle),
        "training's share of the time between trainings' ends, %": share(after),
        "of it: of the experiments": share([trial for trial in experiments if trial in after]),
        "its share of the loop, first start and last score too, %": (
            f"{100 * all_trained / seconds:.1f} of {seconds:.0f} s"
        ),
        "trials an hour": f"{3600 * gpus * len(whole) / sum(whole):.1f}" if whole else "-",
        "seconds of scoring with audit": figure(part(every, "score", "total_seconds")),
        "of them: load": figure(part(every, "score", "load_seconds")),
        "the model's first batch": figure(part(every, "score", "first_seconds")),
        "all its batches": figure(part(every, "score", "forward_seconds")),
        "the scorer's own": figure(part(every, "score", "own_seconds")),
        "audit": figure(part(every, "score", "audit_seconds")),
        "seconds from start to being ready": figure(part(after, "training", "startup_seconds")),
        "seconds of saving": figure(part(every, "training", "save_seconds")),
        "peak MB of the GPU": figure(part(every, "training", "conditions", "peak_memory_mb"), 0),
        "median MHz": figure(part(every, "training", "conditions", "clock_mhz"), 0),
    }
    lines = ["| what | mean (least to most, n) |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    lines.append("")
    for trial in every:
        tokens = (trial.training.reported.total_tokens or 0) / 1e6
        idle_before = figure(part([trial], "idle_seconds")).partition(" ")[0]
        lines += [f"    {timing.line(trial)}; idle before {idle_before} s; {tokens:.1f} M tokens"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0, help="of one training")
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--hours", type=float, help="after which no experiment begins any more")
    parser.add_argument("--runs-of-main", type=int, default=2)
    parser.add_argument("--agent", choices=["rates", "search"], default="rates")
    parser.add_argument(
        "--gpus", default="", help="how many at a time, one measurement each: 1,2; experiments are for each"
    )
    options = parser.parse_args()
    standing_runs(options.runs_of_main)
    compiled = Path(tempfile.gettempdir()) / "harness-gpu-compiled"  # for the next repository
    compiled.mkdir(exist_ok=True)
    lines = [f"`python {' '.join(sys.argv)}`, {resolve('cuda').name}, {os.cpu_count()} cores", ""]
    for count in options.gpus.split(","):
        with tempfile.TemporaryDirectory() as folder:
            repository(Path(folder), options.corpus, options.seconds)
            kept = open_repository(Path(folder)).paths.compiled
            shutil.copytree(compiled, kept, dirs_exist_ok=True)
            agent = Search() if options.agent == "search" else Rates()
            gpus = ",".join(map(str, range(int(count)))) if count else None
            limits = Limits(experiments=options.experiments * int(count or 1), hours=options.hours)
            measured = session(Path(folder), limits, agent, gpus)
            lines += [f"{count or 1} GPU:", "", *table(*measured, int(count or 1)), ""]
            shutil.copytree(kept, compiled, dirs_exist_ok=True)
            git = ["git", "log", "--oneline", "--all", "--format=%h %(decorate)%s"]
            print(subprocess.run(git, cwd=folder, capture_output=True, text=True, check=False).stdout)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "gpu-table.md").write_text("\n".join(lines))  # now: another night may be cut short
    print("\n".join(lines))


def standing_runs(count: int) -> None:
    """So many runs of `main` before the first experiment."""
    import harness.session.runner

    vars(harness.session.runner)["CALIBRATION_RUNS"] = count


if __name__ == "__main__":
    try:
        main()
    except HarnessError as wrong:
        sys.exit(f"gpu.py: {wrong}")
