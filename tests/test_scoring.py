"""The score of an honest model is right: closed forms, bytes of known text, a private copy of the logits."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_failed, assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from text import (
    FORWARD,
    MIXING,
    TEXT,
    bits_per_byte,
    using_text,  # noqa: F401
)
from text import edit_text as edit

from harness.sandbox import processes
from harness.store.records import ERROR, Score
from harness.tasks.lm.exam import TextExam
from harness.tasks.lm.losses import losses
from harness.worker import model_server, scoring, versions
from harness.worker.device import Device
from harness.worker.scorer import items_of_batch


def test_uniform_logits_score_log2_of_the_vocabulary_per_token(scored, setup):
    uniform = edit((FORWARD, "        return torch.full((*tokens.shape, 320), 9e3)\n"))
    result = scored(uniform)
    assert isinstance(result, Score), result
    expected = bits_per_byte(setup.task.data, lambda *_: math.log(setup.task.data.vocab_size))
    assert result.value == pytest.approx(expected, rel=1e-4)


def test_scores_of_another_torch_are_of_another_runtime(setup, monkeypatch):
    now = setup.setting
    monkeypatch.setattr(versions, "torch_version", lambda: "1.0")
    assert setup.setting != now and setup.setting.runtime == "3 torch 1.0"


def test_a_bigram_table_scores_its_exact_cross_entropy(scored, setup, tmp_path):
    size = setup.task.data.vocab_size
    table = np.random.default_rng(0).normal(0, 3, (size, size)).astype(np.float32)
    folder = tmp_path / "bigram"
    folder.mkdir()
    np.save(folder / "table.npy", table)
    source = (
        "import numpy, torch\n"
        "def load(checkpoint_dir, device):\n"
        "    table = torch.from_numpy(numpy.load(checkpoint_dir / 'table.npy'))\n"
        "    return lambda tokens: table[tokens]\n"
    )
    result = scored(source, folder)
    assert isinstance(result, Score), result
    exact = table.astype(np.float64)
    log_probability = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
    expected = bits_per_byte(setup.task.data, lambda before, target: -log_probability[before, target])
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert result.audit.worst_nats < 1e-5


def test_the_bytes_scored_are_those_of_the_text(scored, setup, tmp_path):
    """A corpus of one known document per row: its UTF-8 bytes are what the score divides by."""
    from harness.config import DataConfig
    from harness.tasks.lm.prepare import prepare
    from harness.tasks.lm.tokenizer import Tokenizer

    folder = tmp_path / "texts"
    folder.mkdir()
    texts = [f"naïve café 你好 🙂 {i}" for i in range(400)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts * 2))
    (folder / "val.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts[:50]))
    made = prepare(DataConfig(str(folder), 64, 300, 50 * 64, 1), lambda *_: None)
    words = Tokenizer.from_json((made.folder / "tokenizer.json").read_text())
    names = {rank: token for token, rank in words.ranks.items()}
    rows = np.load(made.rows_file("val"))
    expected = sum(len(names[t]) for row in rows for t in row[1:].tolist() if t < words.bos)
    size = made.vocab_size
    uniform = f"import torch\ndef load(c, d):\n    return lambda t: torch.zeros((*t.shape, {size}))\n"
    result = scored(uniform, task=dataclasses.replace(setup.task, data=made))
    assert isinstance(result, Score), result
    assert result.text_bytes == expected
    text = b"".join(names[t] for t in rows[0].tolist() if t < words.bos).decode("utf-8", "ignore")
    assert all(part.strip("\ufffd") in "".join(texts) for part in text.split(" ")[:5])


def test_the_loss_comes_from_a_private_copy():
    """A server that goes on writing after its answer changes nothing that is already read."""

    logits, targets = torch.randn(64, 10), torch.randint(10, (64,))
    before = losses(logits, targets)[0]
    shared = logits.clone()
    original = torch.nn.functional.cross_entropy

    def write_meanwhile(own, goal, **options):
        shared.fill_(0.0)
        shared[torch.arange(64), targets] = 1e4
        return original(own, goal, **options)

    torch.nn.functional.cross_entropy = write_meanwhile
    try:
        assert torch.equal(losses(shared, targets)[0], before)
    finally:
        torch.nn.functional.cross_entropy = original


def test_a_causal_model_passes_the_audit(scored):
    result = scored(MIXING)
    assert isinstance(result, Score), result
    assert result.audit.worst_nats < 1e-3


def test_logits_too_large_to_tell_probabilities_apart_are_invalid(scored):
    result = scored(edit((FORWARD, "        return 1e5 * self.head(self.table(tokens))\n")))
    assert_failed(result, "invalid", "logits beyond 10000")


def test_minus_infinity_excludes_a_token():
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    found, near = losses(logits, torch.tensor([0]))
    assert near
    assert found.item() == pytest.approx(math.log(1 + math.e))


def test_the_holdout_is_scored_by_the_same_rule(setup, checkpoint, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TEXT)
    result = scoring.score(
        script, checkpoint, setup.task, "holdout", setup.config, setup.device, setup.isolation,
        tmp_path / "server.txt", lambda *_: None,
    )  # fmt: skip
    assert isinstance(result, Score)
    assert result.tokens == len(np.load(setup.task.data.rows_file("holdout"))) * 32 <= 1100 * 32


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_replies_of_no_floating_point_type_are_not_cast(dtype):
    with pytest.raises(TypeError, match=f"{dtype}, not of a floating-point type"):
        model_server.check(torch.zeros(2, 3, dtype=dtype), (2, 3), dtype.is_floating_point)


@settings(deadline=None)  # on a busy machine, too
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 600), st.sampled_from([1e-3, 1.0, 30.0, 1e3, 2e3, 1e9, 1e30])
)
def test_losses_are_right_to_a_ten_thousandth_of_a_nat_whatever_the_logits(seed, size, scale):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(300, size, generator=draw) * scale
    logits[::3] += scale * torch.randn(100, 1, generator=draw)  # a shift that no loss depends on
    logits[1::3] = logits[1::3].round() * 4  # ties
    targets = torch.randint(0, size, (300,), generator=draw)
    exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    found, near = losses(logits, targets)
    assert torch.allclose(found, exact, rtol=1e-12, atol=1e-4)
    assert near == bool(logits.abs().max() <= 1e4)


def test_shared_logits_are_copied_before_anything_is_looked_up_in_them():
    """Which places are read first would tell a server the targets, and it could still write."""
    seen = []

    class Shared(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function.__name__)
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **(kwargs or {}))
            sliced = function.__name__ == "__getitem__"
            return result.as_subclass(cls) if sliced else result

    logits, targets = torch.randn(700, 50), torch.randint(0, 50, (700,))
    assert torch.equal(losses(logits.as_subclass(Shared), targets)[0], losses(logits, targets)[0])
    assert set(seen) <= {"__get__", "__getitem__", "copy_"}, seen


def test_a_batch_of_logits_takes_a_twentieth_of_a_gpus_memory_within_bounds():
    large, small = (Device("cuda", "GPU", None, memory_mb=memory) for memory in (143_771, 8_000))

    def rows(device, seq_len, vocab_size):
        exam = object.__new__(TextExam)
        exam.inputs, exam.reply_shape = np.empty((10_000, seq_len)), (seq_len, vocab_size)
        return items_of_batch(exam, device)

    assert rows(large, 2048, 8192) > 64
    assert 4 * rows(large, 2048, 8192) * 2048 * 8192 <= large.memory_mb * 2**20 / 20
    assert rows(small, 4096, 200_000) == 1
    assert rows(large, 2048, 256) == 128


def test_a_scorer_that_is_killed_takes_its_servers_along_the_stopped_one_too(setup, checkpoint, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(edit((FORWARD, "        time.sleep(0.5)\n" + FORWARD)))
    begun = scoring.Scoring(
        script, checkpoint, setup.task, "val", setup.config, setup.device, setup.isolation, tmp_path / "log"
    )

    def states() -> dict[int, str]:
        found = {}
        for process in processes.tree(begun._process.pid):
            with contextlib.suppress(OSError):
                found[process] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return found

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(begun.result, lambda *_: None)
        deadline = time.monotonic() + 30
        while "T" not in (now := states()).values():
            assert time.monotonic() < deadline, now
            time.sleep(0.02)
        os.kill(begun._process.pid, signal.SIGKILL)
        assert_refused(result.result(20), ERROR, "the scorer died")
    while any(Path(f"/proc/{process}").exists() for process in now):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_server_is_warmed_up_with_says_nothing_of_what_the_audit_asks(setup):
    """Both were drawn from one seed of 32 bits, which a server could find by trying all of them."""
    request = scoring.request_for(
        Path("x"), Path("x"), setup.task, "val", setup.config, setup.device, setup.isolation, Path("x")
    )
    assert request["audit_seed"] > 2**128
    exam = TextExam(request)
    assert not np.array_equal(exam.noise(2), exam.noise(2))
