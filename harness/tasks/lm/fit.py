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
    "DROPOUT": 0.5, "NGRAM_ROWS": 2**20,
}  # fmt: skip
SMALL: dict[str, int | float] = {
    "DEPTH": 3, "WIDTH": 64, "HEAD_DIM": 32, "TOTAL_BATCH_SIZE": 2**11, "DEVICE_BATCH_SIZE": 8,
    "DROPOUT": 0.0, "NGRAM_ROWS": 0, "EMBEDDING_LR": 0.3, "WARMDOWN_RATIO": 0.5, "FINAL_LR_FRAC": 0.0,
}  # fmt: skip
# Of the starter with 8 layers of 512 channels, by an H200's driver: MB a row of 2048 tokens, and the rest.
# Where a plain formula stands for a kernel it is more, which `fit_rows` finds.
ROW_MB, REST_MB = 295, 1700
NGRAM_KB = 7  # a row of both tables, with its gradient and what Adam keeps of it
NGRAM_SHARE = 0.15  # of the memory that those may take
FLOAT32_ROW_MB = (
    800  # without bfloat16, as on Turing: twice as wide, and logits that no kernel takes; reckoned
)
SHARE = 0.9  # of the memory; a context and a desktop take some, and pieces never lie side by side
ROWS = 128
# In 62 s of an H200, batches of 2**19, 2**17 (with 6 layers) and 2**16 tokens gave 0.487, 0.445 and 0.446
# bits per byte of Python code, in 241, 1219 and 1829 steps: steps count, as long as they are not noise.
STEPS = 900
MOST_TOKENS, LEAST_BATCH_TOKENS = 2**18, 2**14
TRAINING_FLOPS_A_TOKEN = 315e6  # the starter's: on an H200 2.07 M tokens/s at 650 TFLOP/s
SCORING_SECONDS = 20
LEAST_TOKENS = 2**20  # of validation text: the fewer, the more of a difference is which ones
SCORING_FLOPS_A_TOKEN = 185e6  # three times the starter's: on an H200 8.1 s at 650 TFLOP/s


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


def constants(machine: Machine, budget_seconds: float) -> dict[str, int | float]:
    """Values of train.py's first constants."""
    if machine.kind == "cpu":
        return SMALL
    batch = batch_tokens(machine.tflops, budget_seconds)
    rows, ngrams = min(ROWS, batch // 2048), int(STARTER["NGRAM_ROWS"])
    if machine.memory_mb:
        while ngrams > 2**14 and ngrams * NGRAM_KB / 1024 > NGRAM_SHARE * machine.memory_mb:
            ngrams //= 2
        most = SHARE * machine.memory_mb
        while rows > 1 and memory_mb(rows, ngrams, machine.has_bfloat16) > most:
            rows //= 2
    return STARTER | {"TOTAL_BATCH_SIZE": batch, "DEVICE_BATCH_SIZE": rows, "NGRAM_ROWS": ngrams}


def batch_tokens(tflops: float, budget_seconds: float) -> int:
    """Of an optimizer step: the most, a power of two, with which there are enough steps."""
    if not tflops:
        return MOST_TOKENS
    tokens = tflops * 1e12 / TRAINING_FLOPS_A_TOKEN * budget_seconds
    return min(MOST_TOKENS, max(LEAST_BATCH_TOKENS, 2 ** int(math.log2(max(1.0, tokens / STEPS)))))


def memory_mb(rows: int, ngrams: int, has_bfloat16: bool = True) -> int:
    """What the starter takes of a GPU, with so many rows in a forward and backward pass and in its tables."""
    return rows * (ROW_MB if has_bfloat16 else FLOAT32_ROW_MB) + ngrams * NGRAM_KB // 1024 + REST_MB


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
    return SCORING_FLOPS_A_TOKEN * (config.text.eval_tokens + audited) / (machine.tflops * 1e12)
