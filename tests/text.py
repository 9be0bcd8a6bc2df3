"""What is about text, or torch: a module that imports `using_text` has the language model as its task."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from conftest import CAPS, edit, setup_of, with_caps

from harness import config as configs
from harness.worker import scoring
from harness.worker.run import Setup

# What `conftest.HONEST` is for the toy task.
TEXT = """
import os, sys, time
import torch
from torch import nn
from safetensors.torch import load_model
from harness import trial

def spin(seconds):
    until = time.process_time() + seconds  # a budget on a processor is its time
    while time.process_time() < until: pass

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, 16)
        self.head = nn.Linear(16, vocab_size)
    def forward(self, tokens):
        return self.head(self.table(tokens))

def load(checkpoint_dir, device):
    vocab_size = int((checkpoint_dir / "vocab_size").read_text())
    model = Model(vocab_size).to(device)
    load_model(model, str(checkpoint_dir / "model.safetensors"))
    return model

def main():
    run = trial.open()
    torch.manual_seed(run.seed)
    model = Model(run.vocab_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step, (tokens, targets) in enumerate(run.batches(8)):
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log(step, loss)
        spin(0.01)
    (run.checkpoint_dir / "vocab_size").write_text(str(run.vocab_size))
    run.submit(model)

if __name__ == "__main__":
    main()
"""


def edit_text(*changes: tuple[str, str]) -> str:
    return edit(*changes, source=TEXT)


@pytest.fixture(scope="session")
def text_config(text_file) -> configs.Config:
    """The cpu profile, small: 32-token rows, a second of training, a score of three batches."""
    data = configs.DataConfig(str(text_file), seq_len=32, vocab_size=320, eval_tokens=1100 * 32, shards=1)
    trial = dataclasses.replace(configs.CPU.trial, **CAPS, budget_seconds=1.0, audit_rows=32)
    return configs.Config("cpu", data, trial)


@pytest.fixture(scope="session")
def text_setup(text_config) -> Setup:
    return setup_of(text_config)


@pytest.fixture(scope="session", name="setup")
def using_text(text_setup) -> Setup:
    return text_setup


RETURN = "    return model\n"
FORWARD = "        return self.head(self.table(tokens))\n"

# A model that mixes over the sequence: causal as it stands, so that a test can break just that.
MIXING = edit_text(
    (
        FORWARD,
        "        x = self.table(tokens)\n"
        "        x = x + 0.5 * torch.roll(x, 1, 1) * (torch.arange(x.shape[1]) > 0)[None, :, None]\n"
        "        return self.head(x)\n",
    )
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, text_setup):
    """Weights of TEXT's model that predict something: seeded noise is enough to tell answers apart."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    size = text_setup.task.data.vocab_size
    tensors = {
        "table.weight": torch.randn(size, 16),
        "head.weight": torch.randn(size, 16),
        "head.bias": torch.zeros(size),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "vocab_size").write_text(str(size))
    return folder


@pytest.fixture
def scored(setup, checkpoint, tmp_path):
    """`scored(source, **caps)` -> Score or Failure."""

    def run(source: str, folder=checkpoint, task=None, **caps):
        script = tmp_path / "train.py"
        script.write_text(source)
        changed = with_caps(setup, caps)
        return scoring.score(
            script, folder, task or setup.task, "val", changed.config, setup.device, setup.isolation,
            tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip

    return run


def bits_per_byte(corpus, nats_of):
    """By the definition, in float64, from the rows on disk: the independent side of the comparison."""
    rows = np.load(corpus.rows_file("val")).astype(np.int64)
    lengths = np.load(corpus.folder / "token_bytes.npy")
    nats = count = 0.0
    for row in rows:
        for before, target in pairwise(row):
            if lengths[target] > 0:
                nats += nats_of(before, target)
                count += lengths[target]
    return nats / math.log(2) / count
