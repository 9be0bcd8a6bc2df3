"""The starter fits the machine: by constants that a person sees, and by what is found to fit."""

import pytest
import torch
from conftest import ROOT

from harness import config as configs
from harness.tasks.lm import fit
from harness.trial.api import Run
from harness.worker import device, probe

TEXT = (ROOT / "train.py").read_text()
CARDS = {  # MB and measured TFLOP/s, roughly; faked: none but the first was tried
    "H200": (143_000, 650), "80 GB": (81_000, 600), "48 GB": (48_500, 300), "40 GB": (40_300, 250),
    "24 GB": (24_000, 150), "16 GB": (15_800, 80), "12 GB": (11_800, 40), "8 GB": (7_800, 20),
}  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_what_the_starter_takes_is_less_than_the_card_has(card):
    memory_mb, tflops = CARDS[card]
    values = fit.constants(fit.Machine("cuda", memory_mb, tflops), 300.0)
    assert fit.memory_mb(values) < memory_mb
    assert values["TOTAL_BATCH_SIZE"] % (2048 * values["DEVICE_BATCH_SIZE"]) == 0
    assert values["WIDTH"] % values["HEAD_DIM"] == 0


def test_a_slower_card_is_scored_on_fewer_tokens_and_makes_smaller_steps():
    fast, slow = fit.Machine("cuda", 80_000, 600), fit.Machine("cuda", 24_000, 100)
    assert fit.config(configs.GPU, fast, 0.0) == configs.GPU
    assert fit.config(configs.GPU, slow, 0.0).data.eval_tokens < configs.GPU.data.eval_tokens
    assert fit.constants(slow, 300.0)["TOTAL_BATCH_SIZE"] < fit.constants(fast, 300.0)["TOTAL_BATCH_SIZE"]


def test_a_short_budget_has_a_smaller_model_and_smaller_steps_and_not_fewer_of_them():
    def sizes(tflops, seconds):
        values = fit.constants(fit.Machine("cuda", 22_000, tflops), seconds)
        return values["DEPTH"], values["WIDTH"], values["TOTAL_BATCH_SIZE"]

    assert sizes(650, 300.0) == (8, 512, 2**18)
    assert sizes(650, 62.0) == sizes(650 / 5, 310.0) == (6, 384, 2**17), "a slower card is a shorter budget"
    assert sizes(650, 30.0) == (4, 256, 2**17)
    assert sizes(650, 2.0) == (4, 256, 2**14)
    assert sizes(0.0, 62.0) == (8, 512, 2**18), "not measured"


def test_sizes_are_plain_constants_and_nothing_else_changes():
    values = fit.constants(fit.Machine("cuda", 24_000, 150), 300.0)
    made = fit.fitted(TEXT, values)
    before, after = TEXT.splitlines(), made.splitlines()
    changed = [line for old, line in zip(before, after, strict=True) if old != line]
    assert [line.partition(" = ")[0] for line in changed] == [
        "DEPTH", "WIDTH", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "NGRAM_ROWS",
        "TOKENS_A_SECOND",
    ]  # fmt: skip
    assert fit.is_starter(TEXT) and not fit.is_starter(made)
    assert fit.fitted(made, fit.STARTER) == TEXT


@pytest.fixture
def card(monkeypatch):
    """`card(name)`: that GPU and no other is here."""

    def fake(name):
        memory_mb, tflops = CARDS[name]
        gpu = device.Device("cuda", name, None, "GPU-0", "/dev/nvidia0", memory_mb)
        monkeypatch.setattr(device, "nvidia", lambda: [gpu])
        monkeypatch.setattr(device, "torch_is_cpu_build", lambda: False)
        found = probe.Probe("2.13", "13.0", "8.9", "bfloat16", memory_mb - 700, tflops)
        monkeypatch.setattr("harness.cli.init.probe", lambda kind: found)

    return fake


def init(folder, *options):
    from click.testing import CliRunner

    from harness.cli.init import init as command

    done = CliRunner().invoke(command, [str(folder), *options])
    assert done.exit_code == 0, done.output
    return (folder / "train.py").read_text(), configs.load(folder / ".autoresearch" / "config.toml"), done


@pytest.mark.parametrize("name", ["H200", "24 GB", "8 GB"])
def test_init_writes_the_starter_of_the_card_that_is_there(card, tmp_path, name):
    card(name)
    text, config, _ = init(tmp_path / "here")
    values = fit.constants(fit.Machine("cuda", CARDS[name][0] - 700, CARDS[name][1]), 300.0)
    assert text == fit.fitted(TEXT, values)
    assert config.profile == "gpu"


def test_init_leaves_room_that_it_is_told_to_leave(card, tmp_path):
    card("H200")
    text, config, _ = init(tmp_path / "here", "--gpu-memory-gb", "22")
    assert "\nDEVICE_BATCH_SIZE = 32 " in text
    assert config.trial.gpu_memory_gb == 22
    assert "set gpu_memory_gb in it" in init(tmp_path / "here", "--gpu-memory-gb", "20")[2].output
    (tmp_path / "here" / "train.py").unlink()
    assert init(tmp_path / "here")[0] == text, "a config that is there says what runs may use"


def test_a_clone_s_starter_is_fitted_once_and_a_changed_one_never(git, tmp_path):
    path = git.folder / "train.py"
    path.write_text(TEXT)
    git("add", "-A")
    git("commit", "-qm", "baseline")
    init(git.folder, "--profile", "cpu")
    assert path.read_text() == fit.fitted(TEXT, fit.SMALL)
    path.write_text(TEXT)
    init(git.folder)
    assert path.read_text() == TEXT, "its config is there: sizes are somebody's choice by now"
    (git.folder / ".autoresearch" / "config.toml").unlink()
    path.write_text(mine := TEXT.replace("\nDEPTH = 8", "\nDEPTH = 9"))
    init(git.folder, "--profile", "cpu")
    assert path.read_text() == mine


class Host:
    def training_tokens(self): ...
    def log(self, message): ...
    def training_ended(self): ...


@pytest.fixture
def run(tmp_path):
    spec = {"seed": 1, "device": "cpu", "budget_seconds": 1.0, "vocab_size": 8, "seq_len": 4, "bos": 0}
    return Run(
        Host(), {**spec, "train_tokens": 100, "feed": "text", "library": "torch"}, tmp_path / "checkpoint"
    )


def test_rows_are_halved_until_a_step_fits(run):
    tried = []

    def step(rows):
        tried.append(rows)
        if rows > 30:
            raise torch.OutOfMemoryError("no")

    assert run.fit_rows(128, step) == 16
    assert tried == [128, 64, 32, 16]


def test_where_one_row_does_not_fit_it_says_so(run):
    def step(rows):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        run.fit_rows(4, step)


def test_the_probe_multiplies_and_says_what_stops_it():
    found = probe.probe("cpu")
    assert found.tflops > 0 and found.torch and not found.trouble
    broken = probe.probe("cuda")
    assert broken.trouble and "\n" not in broken.trouble and broken.tflops == 0
