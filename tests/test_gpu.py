"""The same trial on an NVIDIA GPU: logits through CUDA IPC, under the same sandbox."""

import contextlib
import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import edit, with_caps
from test_attacks import ABOUT, ATTACKS, program, says
from text import TEXT

from harness.store.decisions import Holdout
from harness.store.records import CRASH, ERROR, INVALID, OK, Failure, Score
from harness.tasks.lm.losses import losses
from harness.worker import device, scoring
from harness.worker.run import measure, measure_holdout
from harness.worker.worker import RunHandle, Worker

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

ON_GPU = edit(
    ("    model = Model(run.vocab_size)\n", "    model = Model(run.vocab_size).to(run.device)\n"), source=TEXT
)


@pytest.fixture(scope="module")
def gpu_setup(text_setup):
    return dataclasses.replace(
        with_caps(text_setup, {"device": "cuda", "load_seconds": 60.0}), device=device.resolve("cuda")
    )


@pytest.fixture
def scored(gpu_setup, tmp_path):
    size = gpu_setup.task.data.vocab_size
    table = np.random.default_rng(0).normal(0, 3, (size, size)).astype(np.float32)
    folder = tmp_path / "bigram"
    folder.mkdir()
    np.save(folder / "table.npy", table)

    small = dataclasses.replace(gpu_setup.device, memory_mb=128)  # so that there are several batches

    def run(answer):
        script = tmp_path / "train.py"
        script.write_text(BIGRAM.replace("ANSWER", answer))
        return scoring.score(
            script, folder, gpu_setup.task, "val", gpu_setup.config, small, gpu_setup.isolation,
            tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip

    run.table = table
    return run


def test_a_bigram_table_scores_its_exact_cross_entropy_through_cuda_ipc(scored, gpu_setup):
    rows = np.load(gpu_setup.task.data.rows_file("val")).astype(np.int64)
    lengths = np.load(gpu_setup.task.data.folder / "token_bytes.npy")
    exact = scored.table.astype(np.float64)
    nats = np.log(np.exp(exact).sum(1))[rows[:, :-1]] - exact[rows[:, :-1], rows[:, 1:]]
    counted = lengths[rows[:, 1:]]
    expected = nats[counted > 0].sum() / math.log(2) / counted.sum()
    result = scored("table[tokens]")
    assert isinstance(result, Score), result
    assert result.value == pytest.approx(expected, rel=1e-5)


def test_looking_ahead_is_invalid(scored):
    result = scored("table[torch.roll(tokens, -1, 1)]")
    assert isinstance(result, Failure)
    assert result.status == INVALID


def test_memory_without_end_is_a_crash(scored):
    result = scored("torch.zeros(1 << 42, device=tokens.device)")
    assert isinstance(result, Failure)
    assert result.status == CRASH
    assert "OutOfMemory" in result.detail


def test_a_whole_trial_on_the_gpu_whose_first_step_takes_a_third_of_it(gpu_setup, tmp_path):
    longer = with_caps(gpu_setup, {"budget_seconds": 4.0})
    slow = edit(("        spin(0.01)\n", "        time.sleep(0.01 if step else 1.4)\n"), source=ON_GPU)
    trial = measure(slow.encode(), "0" * 40, 1, longer, tmp_path / "run", lambda _: None, lambda _: None)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 4.0) < 0.5
    assert trial.training.reported.peak_vram_mb > 0
    assert trial.training.curve[-1].loss < trial.training.curve[0].loss
    assert "NVIDIA" in trial.device


BUSY = """
import torch
x = torch.ones(8192, 8192, device="cuda")
while True:
    x @ x
    torch.cuda.synchronize()
"""


def test_a_trial_beside_somebody_elses_work_is_an_error(gpu_setup, tmp_path):
    others = []

    def observe(progress):
        if progress.phase == "training" and not others:  # not a child of ours, which would be part of a trial
            command = ["sh", "-c", '"$0" -c "$1" >/dev/null 2>&1 & echo $!', sys.executable, BUSY]
            started = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            others.append(int(started.stdout))

    longer = with_caps(gpu_setup, {"budget_seconds": 25.0})
    try:
        folder = tmp_path / "run"
        trial = measure(ON_GPU.encode(), "0" * 40, 1, longer, folder, observe, lambda _: None)
    finally:
        for process in others:
            os.kill(process, signal.SIGKILL)
    assert trial.status == ERROR
    assert "shared with" in trial.detail


BURNING = edit(
    ("    run = trial.open()\n", """    run = trial.open()
    x, until = torch.ones(8192, 8192, device="cuda"), time.monotonic() + 20
    while time.monotonic() < until:
        x @ x
        torch.cuda.synchronize()
"""),
    source=ON_GPU,
)  # fmt: skip


@pytest.mark.parametrize("source", [ON_GPU, BURNING], ids=["honest", "burning"])
def test_a_trial_may_start_beside_another_if_it_leaves_it_the_gpu(gpu_setup, tmp_path, source):
    longer = with_caps(gpu_setup, {"budget_seconds": 25.0})
    worker, first, second = Worker(), RunHandle.alone(), RunHandle()
    early = []

    def observe(progress):
        if progress.phase == "training" and progress.elapsed_seconds > 1 and not early:
            early.append(pool.submit(run, "second", source, second, lambda _: None))

    def run(name, text, handle, observe):
        return measure(
            text.encode(),
            "0" * 40,
            1,
            longer,
            tmp_path / name,
            observe,
            lambda _: None,
            False,
            worker,
            handle,
        )

    with ThreadPoolExecutor() as pool, contextlib.closing(worker):
        one = run("first", ON_GPU, first, observe)
        second.release()
        two = early[0].result()
    assert one.status == OK, one.detail
    assert one.training.conditions.told_apart
    assert one.training.conditions.peak_memory_mb < 8_000
    if source == BURNING:
        assert two.status == CRASH
        assert "s of the GPU's time beside another run" in two.detail
    else:
        assert two.status == OK, two.detail
        assert two.training.held_seconds > 0


def test_a_holdout_is_scored_when_the_training_beside_it_is_over(gpu_setup, tmp_path):
    longer, worker, quiet = with_caps(gpu_setup, {"budget_seconds": 25.0}), Worker(), lambda _: None
    order, begun = [], []

    def run(name, observe):
        handle = RunHandle.alone()
        return measure(
            ON_GPU.encode(), "0" * 40, 1, longer, tmp_path / name, observe, quiet, True, worker, handle
        )

    def beside(progress):
        order.append(progress.phase)
        if progress.phase == "training" and not begun:
            begun.append(pool.submit(
                measure_holdout, tmp_path / "first", one.value, longer,
                lambda _: order.append("holdout"), quiet, worker, RunHandle(),
            ))  # fmt: skip

    with ThreadPoolExecutor() as pool, contextlib.closing(worker):
        one = run("first", quiet)
        two = run("second", beside)
        found = begun[0].result(60)
    assert two.status == OK, two.detail
    assert isinstance(found, Holdout), found
    assert order.index("holdout") > max(i for i, phase in enumerate(order) if phase == "scoring")


@pytest.mark.parametrize("width", [300, 8192, 16384])
def test_every_loss_of_the_kernel_is_right_to_a_ten_thousandth_of_a_nat_whatever_the_logits(width):
    """Against float64: random logits, and those that a hostile model would try."""
    generator = torch.Generator("cuda").manual_seed(0)
    normal = torch.randn(512, width, device="cuda", generator=generator)
    targets = torch.randint(width, (512,), device="cuda", generator=generator)
    tied = torch.full_like(normal, 1e4)
    tied[:, 1::2] -= 64
    excluded = normal.clone()
    excluded[:, ::3] = -torch.inf
    excluded[torch.arange(512), targets] = 1.0
    far = {"large": normal * 1e9, "constant": torch.full_like(normal, 1e9), "mixed": normal.sign() * 3e38}
    near = {"usual": normal * 3, "wide": (normal * 3e3).clamp(-1e4, 1e4), "tied": tied, "excluded": excluded}
    for name, logits in (near | far).items():
        found, is_near = losses(logits, targets)
        exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none").cpu()
        assert torch.isfinite(found).all(), name
        assert ((found - exact).abs() <= 1e-4 + 1e-7 * exact.abs()).all(), (name, (found - exact).abs().max())
        assert is_near == (name in near), name


ON_GPU_TOO = (
    "constant-logits", "looked-up-names", "keys", "write-hints", "tokens-as-checkpoint",
    "one-file-many-times",
    "rare-look-ahead", "int-logits", "learning-in-load", "learning-while-answering", "counters-kept-open",
)  # fmt: skip


@pytest.fixture(scope="module")
def honest_on_gpu():
    return []


@pytest.mark.parametrize("name", ON_GPU_TOO)
def test_an_attack_gains_nothing_on_a_gpu(gpu_setup, honest_on_gpu, tmp_path, name):
    def attempt(which, **caps):
        setup = with_caps(gpu_setup, {"audit_rows": 512, "scoring_seconds": 60.0, **caps})
        # A GPU's work is in no process's time, and what a load there may take is more.
        text = program(which, "lm").replace("process_time", "monotonic")
        text = re.sub(r"\+ [45]\.[05]", "+ 16.0", text).encode()
        return measure(
            text, "0" * 40, 1, setup, tmp_path / (which or "honest"), lambda _: None, lambda _: None
        )

    if not honest_on_gpu:
        honest = attempt("")
        assert honest.status == OK, honest.detail
        honest_on_gpu.append(honest.value)
    expected = tomllib.loads((ATTACKS / name / "expected.toml").read_text())
    trial = attempt(name, **{k: v for k, v in expected.items() if k not in ABOUT})
    told = f"{trial.status}: {trial.detail}\n{trial.training.log[-1500:]}"
    # There a backward pass starts a thread, which the seal refuses before a limit is reached.
    is_sealed_off = trial.status == CRASH and "it may only compute" in trial.detail
    assert is_sealed_off or (trial.status == expected["status"] and says(expected, trial.detail)), told
    assert trial.value is None or trial.value > honest_on_gpu[0] - 1e-3, told
