"""What believing costs: scoring beyond the model's own forward pass, and the way to the first step."""

import dataclasses
import importlib.util
import json
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_model

from harness import config as configs
from harness.records import OK, Score
from harness.trial import score as scoring
from harness.trial.measure import measure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cpu_bench(bench, cpu_corpus):
    """The cpu profile as it is, on its own corpus."""
    return dataclasses.replace(bench, config=configs.CPU, corpus=cpu_corpus[0])


@pytest.fixture(scope="module")
def starter():
    spec = importlib.util.spec_from_file_location("starter_cost", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["starter_cost"] = module
    spec.loader.exec_module(module)
    return module


def test_scoring_costs_less_than_a_fifth_beyond_the_forward_pass(cpu_bench, starter, tmp_path):
    """Against the same batches forwarded in a plain process: `python`, with glibc's own settings.

    With a model server's settings (`MALLOC_*` in `sandbox.environment`) the plain process is faster too;
    run this test under them for the ratio of like with like.
    """
    corpus = cpu_bench.corpus
    model = starter.GPT(starter.Config(vocab_size=corpus.vocab_size, seq_len=corpus.seq_len))
    model.initialize()
    model.prepare(torch.device("cpu"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_model(model, str(checkpoint / "model.safetensors"))
    (checkpoint / "config.json").write_text(json.dumps(dataclasses.asdict(model.config)))
    tokens = torch.from_numpy(np.load(corpus.rows_file("val"))[:, :-1].astype(np.int64))
    alone, scored = [], []
    for _ in range(2):
        started = time.perf_counter()
        with torch.no_grad():
            for batch in tokens.split(16):
                model(batch)
        alone.append(time.perf_counter() - started)
        result = scoring.score(
            ROOT / "train.py", checkpoint, corpus, "val", cpu_bench.config, cpu_bench.device,
            cpu_bench.isolation, tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip
        assert isinstance(result, Score), result
        scored.append(result.forward_seconds + result.own_seconds)
    print(
        f"forward alone {min(alone):.2f} s, scored {min(scored):.2f} s, ratio {min(scored) / min(alone):.3f}"
    )
    assert min(scored) < 1.2 * min(alone)


def test_the_first_step_comes_within_eight_seconds(cpu_bench, tmp_path):
    config = configs.with_budget(cpu_bench.config, 2.0)
    quick = dataclasses.replace(cpu_bench, config=config)
    source = (ROOT / "train.py").read_bytes()
    trial = measure(source, "0" * 40, 1, quick, tmp_path / "run", lambda _: None, lambda _: None)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert trial.training.startup_seconds < 8
