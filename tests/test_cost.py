"""What believing costs: scoring beyond the model's own forward pass, and the way to the first step."""

import dataclasses
import json
import statistics

import numpy as np
import pytest
from conftest import STARTER
from safetensors.torch import save_model
from text import using_text  # noqa: F401

from harness import config as configs
from harness.store.records import OK, Score
from harness.tasks.lm.exam import BATCH_TOKENS
from harness.worker import scoring
from harness.worker.run import measure

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def cpu_bench(setup, cpu_corpus):
    """The cpu profile as it is, on its own corpus."""
    return dataclasses.replace(setup, config=configs.CPU, task=cpu_corpus[0])


# The starter's model, timing its own forward passes: those it is asked for, and others of the same
# shape with nobody asking, before.
TIMED = """
_load = load
def load(checkpoint_dir, device):
    import time
    model, calls = _load(checkpoint_dir, device), []
    def alone(batch):
        started = time.perf_counter()
        for _ in range(CALLS):
            model(batch)
        return time.perf_counter() - started
    def asked(batch):
        if not calls:
            calls.append(alone(batch))
        started = time.perf_counter()
        logits = model(batch)
        calls.append(time.perf_counter() - started)
        if len(calls) == 1 + CALLS:
            print("TIMED", sum(calls[1:]), calls[0], flush=True)
        return logits
    return asked
"""
ROUNDS = 3


def test_scoring_costs_less_than_a_fifth_beyond_the_forward_pass(cpu_bench, starter, tmp_path):
    """A ratio in one run: all that scoring takes, by the model's own part of it.

    The same passes with nobody asking show that the part is not slower for being asked.
    """
    corpus = cpu_bench.task.data
    model = starter.GPT(starter.Config(corpus.vocab_size, corpus.seq_len, "float32"))
    model.initialize()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_model(model, str(checkpoint / "model.safetensors"))
    (checkpoint / "config.json").write_text(json.dumps(dataclasses.asdict(model.config)))
    rows = len(np.load(corpus.rows_file("val"), mmap_mode="r"))
    calls = -(-rows * corpus.seq_len // BATCH_TOKENS)
    script, log = tmp_path / "train.py", tmp_path / "server.txt"
    script.write_text(STARTER + TIMED.replace("CALLS", str(calls)))
    # A long budget: passes that nobody asks for count as work beyond answering.
    trial = dataclasses.replace(cpu_bench.config.trial, audit_rows=16, budget_seconds=600.0)
    config = dataclasses.replace(cpu_bench.config, trial=trial)
    ratios, against_alone = [], []
    for _ in range(ROUNDS):
        log.unlink(missing_ok=True)
        result = scoring.score(
            script, checkpoint, cpu_bench.task, "val", config, cpu_bench.device, cpu_bench.isolation, log,
            lambda *_: None,
        )  # fmt: skip
        assert isinstance(result, Score), result
        line = next(line for line in log.read_text().splitlines() if line.startswith("TIMED"))
        asked, alone = map(float, line.split()[1:])
        whole = result.forward_seconds - alone + result.own_seconds
        ratios.append(whole / asked)
        against_alone.append(whole / alone)
    for name, each in (("its own forward pass", ratios), ("the same passes alone", against_alone)):
        spread = f"{min(each):.3f} to {max(each):.3f}"
        print(f"scoring / {name}: median {statistics.median(each):.3f}, {spread}, n {ROUNDS}")
    assert statistics.median(ratios) < 1.2


def test_the_first_step_comes_within_eight_seconds(cpu_bench, tmp_path):
    config = configs.with_budget(cpu_bench.config, 2.0)
    quick = dataclasses.replace(cpu_bench, config=config)
    source = STARTER.encode()
    trial = measure(source, "0" * 40, 1, quick, tmp_path / "run", lambda _: None, lambda _: None)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert trial.training.startup_seconds < 8
