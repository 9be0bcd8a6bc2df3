"""GELU in torch, by blocks that stay in the processor's cache; their size is tried in the budget."""

import json
import math
import time

import torch

from harness import trial

BLOCKS = (1, 4, 16, 64, 256)  # rows that are tried


def gelu(x):
    """By tanh, as the task's reference."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def kernel(x, block, out):
    """(..., R, C) -> the same, written to `out`."""
    for part, goal in zip(x.split(block, -2), out.split(block, -2), strict=True):
        goal.copy_(gelu(part))
    return out


def load(checkpoint_dir, device):
    """(1, R, C) float32 -> GELU of each number, (1, R, C) float32."""
    block, out = json.loads((checkpoint_dir / "block.json").read_text()), None

    def forward(x):
        nonlocal out
        out = torch.empty_like(x) if out is None else out
        return kernel(x, block, out)

    return forward


def main():
    run = trial.open()
    x = torch.randn(1, *run.input_shape, device=run.device)
    out, seconds = torch.empty_like(x), {block: float("inf") for block in BLOCKS}
    for step, _ in enumerate(run.batches(1)):
        block = BLOCKS[step % len(BLOCKS)]
        began = time.perf_counter()
        kernel(x, block, out)
        seconds[block] = min(seconds[block], time.perf_counter() - began)
        run.log(step, 1e3 * min(each for each in seconds.values() if each))
    (run.checkpoint_dir / "block.json").write_text(json.dumps(min(seconds, key=seconds.get)))
    run.submit(torch.nn.Linear(1, 1))  # a kernel has no weights


if __name__ == "__main__":
    main()
