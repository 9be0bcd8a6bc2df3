"""The starter's sizes, by a machine's memory and by how fast it multiplies.

Plain constants of train.py and of a config, which a person sees and may change. What a run finds too large
for its memory it halves, see `trial.Run.fit_rows`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.config import Config

STARTER: dict[str, int | float] = {
    "DEPTH": 8, "WIDTH": 512, "HEAD_DIM": 128, "TOTAL_BATCH_SIZE": 2**18, "DEVICE_BATCH_SIZE": 128,
    "DROPOUT": 0.5, "NGRAM_ROWS": 2**20, "TOKENS_A_SECOND": 1_900_000,
}  # fmt: skip
SMALL: dict[str, int | float] = {
    "DEPTH": 3, "WIDTH": 64, "HEAD_DIM": 32, "TOTAL_BATCH_SIZE": 2**11, "DEVICE_BATCH_SIZE": 8,
    "DROPOUT": 0.0, "NGRAM_ROWS": 0, "TOKENS_A_SECOND": 24_000,
    "EMBEDDING_LR": 0.3, "WARMDOWN_RATIO": 0.5, "FINAL_LR_FRAC": 0.0,
}  # fmt: skip
FASTEST_TFLOPS = 650  # of an H200, on which all of this was measured: benchmarks/results/fresh.md


@dataclass(frozen=True)
class Shape:
    """Of the starter, with its n-gram tables."""

    until_seconds: float
    """Of an H200, up to which it is the one: between two budgets that were tried, 30, 60, 150 and 300 s."""
    depth: int
    width: int
    batch_tokens: int
    """Of an optimizer step, at most: a half was worse, with all that each step costs."""
    tokens_a_second: int
    """In training, on an H200."""
    scoring_flops_a_token: float
    """Of each that is scored or audited: an H200's seconds for it, at `FASTEST_TFLOPS`."""


SHAPES = (
    Shape(40, 4, 256, 2**17, 6_200_000, 105e6),
    Shape(200, 6, 384, 2**17, 3_100_000, 147e6),
    Shape(math.inf, 8, 512, 2**18, 1_900_000, 211e6),
)
# MB by an H200's driver with 8 layers of 512 channels; of others by tensors, 9.5 and 16.3 GB with 64 rows.
# Where a plain formula stands for a kernel it is more, which `fit_rows` finds.
ROW_MB, ROW_MB_A_CHANNEL, REST_MB = 33, 0.064, 1700  # of 2048 tokens: its logits; a channel of a layer
NGRAM_BYTES_A_CHANNEL = 14  # of a row of both tables, with its gradient and what Adam keeps of it
NGRAM_SHARE = 0.15  # of the memory that those may take
FLOAT32_ROWS = 2.7  # times as much without bfloat16, as on Turing: no kernel takes its logits; reckoned
SHARE = 0.9  # of the memory; a context and a desktop take some, and pieces never lie side by side
ROWS = 128
# In 62 s of an H200, batches of 2**19, 2**17 (with 6 layers) and 2**16 tokens gave 0.487, 0.445 and 0.446
# bits per byte of Python code, in 241, 1219 and 1829 steps: steps count, as long as they are not noise.
STEPS = 900
LEAST_BATCH_TOKENS = 2**14
SCORING_SECONDS = 20
LEAST_TOKENS = 2**20  # of validation text: the fewer, the more of a difference is which ones


@dataclass(frozen=True)
class Machine:
    """What runs train on; see `harness.worker.probe`."""

    kind: str
    """`cuda`; or `cpu`, also for Apple's."""
    memory_mb: int = 0
    """Of a GPU; 0 where there is none, and the starter stays as large as it is."""
    tflops: float = 0.0
    """Of a large product of bfloat16 matrices, or of float32 without that; 0 where not measured."""
    has_bfloat16: bool = True


def shape(machine: Machine, budget_seconds: float) -> Shape:
    """The starter's, for what this machine computes in the time; the largest where it wasn't measured."""
    seconds = machine.tflops / FASTEST_TFLOPS * budget_seconds if machine.tflops else math.inf
    return next(each for each in SHAPES if seconds <= each.until_seconds)


def constants(machine: Machine, budget_seconds: float) -> dict[str, int | float]:
    """Values of train.py's first constants."""
    if machine.kind == "cpu":
        return SMALL
    chosen = shape(machine, budget_seconds)
    batch = batch_tokens(chosen, machine.tflops, budget_seconds)
    values = STARTER | {
        "DEPTH": chosen.depth, "WIDTH": chosen.width, "TOTAL_BATCH_SIZE": batch,
        "DEVICE_BATCH_SIZE": min(ROWS, batch // 2048),
        "TOKENS_A_SECOND": round(chosen.tokens_a_second * (machine.tflops / FASTEST_TFLOPS or 1)),
    }  # fmt: skip
    if machine.memory_mb:
        while values["NGRAM_ROWS"] > 2**14 and ngrams_mb(values) > NGRAM_SHARE * machine.memory_mb:
            values["NGRAM_ROWS"] //= 2
        most = SHARE * machine.memory_mb
        while values["DEVICE_BATCH_SIZE"] > 1 and memory_mb(values, machine.has_bfloat16) > most:
            values["DEVICE_BATCH_SIZE"] //= 2
    return values


def batch_tokens(chosen: Shape, tflops: float, budget_seconds: float) -> int:
    """Of an optimizer step: the most, a power of two, with which there are enough steps."""
    if not tflops:
        return chosen.batch_tokens
    tokens = tflops / FASTEST_TFLOPS * chosen.tokens_a_second * budget_seconds
    return min(chosen.batch_tokens, max(LEAST_BATCH_TOKENS, 2 ** int(math.log2(max(1.0, tokens / STEPS)))))


def memory_mb(values: Mapping[str, int | float], has_bfloat16: bool = True) -> float:
    """What the starter takes of a GPU with these constants."""
    row = (ROW_MB + ROW_MB_A_CHANNEL * values["DEPTH"] * values["WIDTH"]) * (
        1 if has_bfloat16 else FLOAT32_ROWS
    )
    return values["DEVICE_BATCH_SIZE"] * row + ngrams_mb(values) + REST_MB


def ngrams_mb(values: Mapping[str, int | float]) -> float:
    """What its tables take of that."""
    return values["NGRAM_ROWS"] * values["WIDTH"] * NGRAM_BYTES_A_CHANNEL / 2**20


def is_starter(source: str) -> bool:
    """Whether its sizes are still those that it was given out with."""
    return fitted(source, STARTER) == source and all(f"\n{name} = " in source for name in STARTER)


def fitted(source: str, values: Mapping[str, int | float]) -> str:
    """A train.py with these constants; one that it doesn't have is left out."""
    for name, value in values.items():
        source = re.sub(
            rf"^{name} = [^#\n]*?(?=  #|$)", f"{name} = {value!r}", source, count=1, flags=re.MULTILINE
        )
    return source


def config(profile: Config, machine: Machine, gpu_memory_gb: float) -> Config:
    """With fewer validation tokens where scoring all of them would take long."""
    trial = replace(profile.trial, gpu_memory_gb=gpu_memory_gb)
    found = replace(profile, trial=trial)
    while scoring_seconds(found, machine) > SCORING_SECONDS and found.text.eval_tokens > LEAST_TOKENS:
        data = replace(found.text, eval_tokens=found.text.eval_tokens // 2)
        found = replace(found, data=data)
    return found


def scoring_seconds(config: Config, machine: Machine) -> float:
    """About what a score of the starter takes, its audit too; 0 where the machine wasn't measured."""
    if not machine.tflops:
        return 0.0
    audited = min(config.trial.audit_rows * config.text.seq_len, config.text.eval_tokens)
    flops = shape(machine, config.trial.budget_seconds).scoring_flops_a_token
    return flops * (config.text.eval_tokens + audited) / (machine.tflops * 1e12)
