"""Seconds of an optimizer step of train.py files, on one GPU, in turns.

    python benchmarks/step.py train.py                            # here, as it stands
    python benchmarks/step.py train.py 3dbb60f:train.py           # against that of a commit
    python benchmarks/step.py train.py train.py@DEVICE_BATCH_SIZE=64 --rounds 3
    python benchmarks/step.py train.py --memory-gb 22             # with so much of the GPU's memory

Each program is run in a process of its own under a stand-in for the harness: random tokens, no score, so many
steps after three. In each round all programs have their turn. The median of the last two thirds of the steps
counts; the table goes to standard output.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = """
import json, runpy, sys, time
import torch
from harness import trial
from harness.trial import api

spec = json.loads(sys.argv[2])
times = []


class Stand(api.Run):
    def batches(self, rows):
        batch = self.dummy_batch(rows)
        for _ in range(spec["steps"]):
            torch.cuda.synchronize()
            times.append(time.perf_counter())
            yield batch
        torch.cuda.synchronize()
        times.append(time.perf_counter())

    def log(self, step, loss):
        self.loss = loss

    def submit(self, *_, **__):
        steps = [b - a for a, b in zip(times, times[1:])][spec["steps"] // 3 :]
        print("STEP", json.dumps({
            "ms": 1e3 * sorted(steps)[len(steps) // 2], "start": times[0] - began, "loss": float(self.loss),
            "mb": torch.cuda.max_memory_allocated() / 2**20, "rows": self._reported.get("device_batch_size"),
            "mhz": mhz(),
        }))
        raise SystemExit


class Host:
    pass


def mhz():
    try:
        return torch.cuda.clock_rate()
    except Exception:  # without nvidia-ml-py
        return 0


import tempfile, pathlib
began = time.perf_counter()
run = Stand(Host(), spec, pathlib.Path(tempfile.mkdtemp()))
trial.open = lambda: run
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def source(name: str) -> str:
    """Of a path or `commit:path`, with `@NAME=value` constants put in."""
    place, *changes = name.split("@")
    if ":" in place:
        text = subprocess.run(["git", "show", place], capture_output=True, text=True, check=True).stdout
    else:
        text = Path(place).read_text()
    for change in changes:
        key, value = change.split("=")
        text, count = re.subn(rf"(?m)^(\s*{key} = )[^#\n]*?(?=  #|$)", rf"\g<1>{value}", text)
        if not count:
            raise SystemExit(f"{place} has no {key}")
    return text


def step(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One process."""
    spec = {
        "seed": 1, "device": "cuda", "budget_seconds": 300.0, "vocab_size": 8192, "seq_len": 2048, "bos": 0,
        "train_tokens": options.train_tokens, "steps": options.steps,
        "gpu_memory_mb": int(1024 * options.memory_gb),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(source(name))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(script), json.dumps(spec)], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{os.environ.get('PYTHONPATH', '')}"},
        )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("STEP ")]
    if not found:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}", flush=True)
        return {}
    said: dict[str, Any] = json.loads(found[0][5:])
    print(name, said, flush=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--memory-gb", type=float, default=0.0, help="0: all")
    parser.add_argument("--train-tokens", type=int, default=10**9, help="few have the starter use dropout")
    options = parser.parse_args()
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in options.programs}
    for _ in range(options.rounds):
        for name in options.programs:
            if said := step(name, options):
                seen[name].append(said)
    print(
        "| train.py | ms a step (least to most, n) | start, s | MB | rows | MHz |\n|---|---|---|---|---|---|"
    )
    for name, each in seen.items():
        if not each:
            print(f"| {name} | failed | | | | |")
            continue
        ms = [one["ms"] for one in each]
        mhz = statistics.median(one["mhz"] for one in each)
        print(
            f"| {name} | {statistics.mean(ms):.1f} ({min(ms):.1f} to {max(ms):.1f}, n {len(ms)}) "
            f"| {each[-1]['start']:.1f} | {each[-1]['mb']:.0f} | {each[-1]['rows']} | {mhz:.0f} |"
        )


if __name__ == "__main__":
    main()
