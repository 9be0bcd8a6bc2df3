"""val_bpb of one commit on a processor, alone and beside programs that compute all the time, in turns.

    cd REPOSITORY && python ~/harness/benchmarks/busy.py            # prepared, with the cpu profile
    python benchmarks/busy.py --processes 4 --each 6 --budget 10

Prints each run, then for both: mean and spread of val_bpb, steps, and the seconds that a run took in all.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

BUSY = "while True: pass"


def run(seed: int, budget: float | None, others: int) -> dict[str, Any]:
    """One `harness run` beside so many others."""
    command = [sys.executable, "-m", "harness", "run", "--json", "--seed", str(seed)]
    command += ["--budget", str(budget)] if budget else []
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    finally:
        for process in busy:
            process.kill()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="beside which")
    parser.add_argument("--each", type=int, default=6, help="runs")
    parser.add_argument("--budget", type=float, help="seconds; default: the config's")
    options = parser.parse_args()
    seen: dict[int, list[dict[str, Any]]] = {0: [], options.processes: []}
    for seed in range(1, options.each + 1):
        for others, found in seen.items():
            found.append(run(seed, options.budget, others))
            last = found[-1]
            print(f"beside {others}, seed {seed}: {last['val_bpb']} {last['status']}", flush=True)
    print("| beside | val_bpb, mean (sd, n) | steps | seconds in all |\n|---|---|---|---|")
    for others, found in seen.items():
        scores = [one["val_bpb"] for one in found if one["val_bpb"] is not None]
        steps = statistics.mean(one["num_steps"] or 0 for one in found)
        seconds = statistics.mean(one["total_seconds"] for one in found)
        print(
            f"| {others} processes | {statistics.mean(scores):.3f} ({statistics.stdev(scores):.3f}, "
            f"{len(scores)}) | {steps:.0f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
