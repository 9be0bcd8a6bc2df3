"""The same trial on an NVIDIA GPU: logits through CUDA IPC, under the same sandbox."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import HONEST, edit, with_caps

from harness.records import CRASH, INVALID, OK, Failure, Score
from harness.trial import device
from harness.trial import score as scoring
from harness.trial.measure import measure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

BIGRAM = """
import numpy, torch
def load(checkpoint_dir, device):
    table = torch.from_numpy(numpy.load(checkpoint_dir / "table.npy")).to(device)
    return lambda tokens: ANSWER
"""


@pytest.fixture(scope="module")
def gpu_bench(bench):
    return dataclasses.replace(
        with_caps(bench, {"device": "cuda", "load_seconds": 60.0}), device=device.resolve("cuda")
    )


@pytest.fixture
def scored(gpu_bench, tmp_path):
    size = gpu_bench.corpus.vocab_size
    table = np.random.default_rng(0).normal(0, 3, (size, size)).astype(np.float32)
    folder = tmp_path / "bigram"
    folder.mkdir()
    np.save(folder / "table.npy", table)

    def run(answer):
        script = tmp_path / "train.py"
        script.write_text(BIGRAM.replace("ANSWER", answer))
        return scoring.score(
            script, folder, gpu_bench.corpus, "val", gpu_bench.config, gpu_bench.device, gpu_bench.isolation,
            tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip

    run.table = table
    return run


def test_a_bigram_table_scores_its_exact_cross_entropy_through_cuda_ipc(scored, gpu_bench):
    rows = np.load(gpu_bench.corpus.rows_file("val")).astype(np.int64)
    lengths = np.load(gpu_bench.corpus.folder / "token_bytes.npy")
    exact = scored.table.astype(np.float64)
    nats = np.log(np.exp(exact).sum(1))[rows[:, :-1]] - exact[rows[:, :-1], rows[:, 1:]]
    counted = lengths[rows[:, 1:]]
    expected = nats[counted > 0].sum() / math.log(2) / counted.sum()
    result = scored("table[tokens]")
    assert isinstance(result, Score), result
    assert result.val_bpb == pytest.approx(expected, rel=1e-5)


def test_looking_ahead_is_invalid(scored):
    result = scored("table[torch.roll(tokens, -1, 1)]")
    assert isinstance(result, Failure)
    assert result.status == INVALID


def test_memory_without_end_is_a_crash(scored):
    result = scored("torch.zeros(1 << 42, device=tokens.device)")
    assert isinstance(result, Failure)
    assert result.status == CRASH
    assert "OutOfMemory" in result.detail


def test_a_whole_trial_on_the_gpu(gpu_bench, tmp_path):
    source = edit(
        ("    model = Model(run.vocab_size)\n", "    model = Model(run.vocab_size).to(run.device)\n"),
        source=HONEST,
    )
    trial = measure(source.encode(), "0" * 40, 1, gpu_bench, tmp_path / "run", lambda _: None, lambda _: None)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 1.0) < 0.5
    assert trial.training.reported.peak_vram_mb > 0
    assert trial.training.curve[-1].loss < trial.training.curve[0].loss
    assert "NVIDIA" in trial.device
