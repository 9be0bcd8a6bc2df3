"""Is any honest model called invalid? Kinds of models with random weights, scored and audited for real.

    python benchmarks/honest.py                 # 11 kinds, 16 of each, on this machine's device, cpu profile
    python benchmarks/honest.py --each 2 --device cuda --workers 4

No training: an audit asks whether answers depend on what they must not, whatever the weights are. The table
goes to benchmarks/results/honest-DEVICE.md.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import config as configs
from harness.sandbox.isolation import choose
from harness.store.records import Score
from harness.tasks.registry import prepare
from harness.worker import device
from harness.worker.scoring import score

RESULTS = Path(__file__).parent / "results"
PROGRAM = """
import json, torch
from torch import nn
import torch.nn.functional as F
WIDTH = 128

class Attention(nn.Module):
    def __init__(self, heads, window=None):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.heads, self.window = heads, window
    def forward(self, x, mask=None):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return x + self.out(y.transpose(1, 2).reshape(B, T, C))

class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
    def forward(self, x):
        best = self.gate(x).argmax(-1, keepdim=True)
        return x + sum((best == n) * torch.tanh(e(x)) for n, e in enumerate(self.experts))

class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 4)
    def forward(self, x):
        return x + torch.tanh(self.conv(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2))

class StateSpace(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.decay = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.rand(WIDTH))
    def forward(self, x):
        u, decay = torch.tanh(self.into(x)), torch.sigmoid(self.decay + 2)
        state, states = torch.zeros_like(u[:, 0]), []
        for t in range(u.shape[1]):
            state = decay * state + (1 - decay) * u[:, t]
            states.append(state)
        return x + torch.stack(states, 1)

class Model(nn.Module):
    def __init__(self, name, size, bos):
        super().__init__()
        self.name, self.bos, self.size = name, bos, size
        self.table = nn.Embedding(size, WIDTH)
        heads = WIDTH // 64 if name == "heads_of_64" else 4
        layer = {"mixture": Mixture, "convolution": Convolution, "state_space": StateSpace}.get(name)
        self.layers = nn.ModuleList(layer() if layer else Attention(heads) for _ in range(2))
        self.drop, self.norm = nn.Dropout(0.3), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, size)
        if name == "ngrams":
            self.pairs = nn.Embedding(4096, size)
    def forward(self, tokens):
        x, mask = self.table(tokens), None
        if self.name == "document_mask":
            document = (tokens == self.bos).cumsum(1)
            mask = (document[:, :, None] == document[:, None, :]).tril()[:, None]
        for layer in self.layers:
            x = self.drop(layer(x, mask) if mask is not None else layer(x))
        x = self.norm(x)
        if self.name == "bf16_all":
            return self.head(x)
        if self.name == "bf16_head":
            return F.linear(x.bfloat16(), self.head.weight.bfloat16(), self.head.bias.bfloat16())
        if self.name == "fp8_head":
            low = torch.float8_e4m3fn
            return F.linear(x.to(low).float(), self.head.weight.to(low).float(), self.head.bias)
        logits = self.head(x)
        if self.name == "ngrams":
            before = F.pad(tokens, (1, 0))[:, :-1]
            logits = logits + self.pairs((before * 31 + tokens) % 4096)
        return logits

def load(checkpoint_dir, device):
    about = json.loads((checkpoint_dir / "about.json").read_text())
    torch.manual_seed(about["seed"])
    model = Model(about["kind"], about["size"], about["bos"]).to(device)
    if about["kind"] == "bf16_all":
        model = model.bfloat16()
    return model.eval()
"""
KINDS = (
    "attention", "heads_of_64", "bf16_head", "bf16_all", "fp8_head", "mixture", "convolution", "state_space",
    "dropout", "ngrams", "document_mask",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--each", type=int, default=16, help="models of each kind")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="scored beside each other")
    options = parser.parse_args()
    config = configs.CPU
    task, isolation = prepare(config, Path("/"), lambda *_: None), choose("auto")
    # As much memory as gives several batches with so little text.
    where = device.resolve(options.device)
    if where.kind == "cuda":
        where = dataclasses.replace(where, memory_mb=2048)

    def one(name: str, seed: int) -> tuple[str, float, float, str]:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            (folder / "checkpoint").mkdir()
            about = {
                "kind": name,
                "seed": seed,
                "size": task.data.facts["vocab_size"],
                "bos": task.data.facts["bos"],
            }
            (folder / "checkpoint" / "about.json").write_text(json.dumps(about))
            (folder / "train.py").write_text(PROGRAM)
            found = score(
                folder / "train.py", folder / "checkpoint", task, "val", config, where, isolation,
                folder / "log", lambda *_: None,
            )  # fmt: skip
        if isinstance(found, Score):
            return name, found.audit.worst_nats, found.audit.spread_nats, ""
        return name, 0.0, 0.0, f"{found.status}: {found.detail}"

    began = time.monotonic()
    every = [(name, seed) for seed in range(options.each) for name in KINDS]
    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(lambda each: one(*each), every))
    lines = ["| kind | n | refused | worst nats | largest mean nats |", "|---|---|---|---|---|"]
    for name in KINDS:
        mine = [each for each in found if each[0] == name]
        refused = [each[3] for each in mine if each[3]]
        worst, spread = max(each[1] for each in mine), max(each[2] for each in mine)
        lines.append(f"| {name} | {len(mine)} | {len(refused)} | {worst:.2g} | {spread:.2g} |")
        for why in sorted(set(refused)):
            print(f"{name}: {why}")
    refused_of_all = sum(bool(each[3]) for each in found)
    lines.append(
        f"\n{where.name}: {refused_of_all} of {len(found)} refused, {time.monotonic() - began:.0f} s"
    )
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"honest-{where.kind}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
