"""What believing costs: scoring beyond the model's own forward pass, and the way to the first step."""

import dataclasses
import json
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT
from safetensors.torch import save_model

from harness import config as configs
from harness.records import OK, Score
from harness.trial import score as scoring
from harness.trial.measure import measure
from harness.trial.sandbox import environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cpu_bench(bench, cpu_corpus):
    """The cpu profile as it is, on its own corpus."""
    return dataclasses.replace(bench, config=configs.CPU, corpus=cpu_corpus[0])


FORWARD_ALONE = """
import sys, time, numpy, torch, pathlib
sys.path.insert(0, sys.argv[1])
import train
model = train.load(pathlib.Path(sys.argv[2]), torch.device("cpu"))
tokens = torch.from_numpy(numpy.load(sys.argv[3])[:, :-1].astype(numpy.int64))
with torch.no_grad():
    started = time.perf_counter()
    for batch in tokens.split(16):
        model(batch)
    print(time.perf_counter() - started)
"""
ROUNDS = 9


def test_scoring_costs_less_than_a_fifth_beyond_the_forward_pass(cpu_bench, starter, tmp_path):
    """Like with like: the same batches, forwarded alone under a model server's own environment.

    Single runs differ by a quarter on a shared machine, so runs of both alternate, and the median counts.
    """
    corpus = cpu_bench.corpus
    model = starter.GPT(starter.Config(vocab_size=corpus.vocab_size, seq_len=corpus.seq_len))
    model.initialize()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_model(model, str(checkpoint / "model.safetensors"))
    (checkpoint / "config.json").write_text(json.dumps(dataclasses.asdict(model.config)))
    trial = dataclasses.replace(cpu_bench.config.trial, audit_rows=16)
    config = dataclasses.replace(cpu_bench.config, trial=trial)
    ratios = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", FORWARD_ALONE, ROOT, checkpoint, corpus.rows_file("val")],
            env=environment({"PYTHONPATH": str(ROOT)}), capture_output=True, text=True, check=True,
        )  # fmt: skip
        result = scoring.score(
            ROOT / "train.py", checkpoint, corpus, "val", config, cpu_bench.device,
            cpu_bench.isolation, tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip
        assert isinstance(result, Score), result
        ratios.append((result.forward_seconds + result.own_seconds) / float(done.stdout))
    error = statistics.stdev(ratios) / ROUNDS**0.5
    median = statistics.median(ratios)
    print(f"scored / forward alone: median {median:.3f}, standard error {error:.3f}, n {ROUNDS}")
    assert median < 1.2


def test_the_first_step_comes_within_eight_seconds(cpu_bench, tmp_path):
    config = configs.with_budget(cpu_bench.config, 2.0)
    quick = dataclasses.replace(cpu_bench, config=config)
    source = (ROOT / "train.py").read_bytes()
    trial = measure(source, "0" * 40, 1, quick, tmp_path / "run", lambda _: None, lambda _: None)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert trial.training.startup_seconds < 8
