"""`harness doctor`: what a trial needs, and the command that mends it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, harness, without_bwrap

from harness import config as configs
from harness.cli import doctor
from harness.sandbox import isolation
from harness.store.opening import open_repository
from harness.tasks.lm import fit
from harness.worker import device


def test_doctor_names_what_is_wrong_and_what_mends_it(repository, tmp_path):
    done = harness("doctor", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stdout
    levels = {finding["name"]: finding["level"] for finding in json.loads(done.stdout)}
    assert {levels[name] for name in ("git", "config", "device", "torch", "sandbox", "data")} == {"ok"}
    broken = harness(
        "doctor", "--json", cwd=repository.folder, PATH=without_bwrap(tmp_path), HARNESS_CACHE=str(tmp_path)
    )
    findings = {finding["name"]: finding for finding in json.loads(broken.stdout)}
    assert broken.returncode == 1
    assert findings["sandbox"]["level"] == "warn"
    assert findings["data"]["level"] == "fail"
    assert findings["data"]["fix"].startswith("harness prepare")


def test_hooks_that_do_not_run_are_named_with_what_mends_them(tmp_path, monkeypatch):
    def hooks():
        return doctor._hooks(open_repository(tmp_path))

    assert harness("init", cwd=tmp_path).returncode == 0
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hooks().level == "ok"
    (tmp_path / "hooks" / "commit-msg").chmod(0o644)
    assert (hooks().level, hooks().fix) == ("warn", "chmod +x hooks/*")
    subprocess.run(["git", "config", "--unset", "core.hooksPath"], cwd=tmp_path, check=True)
    assert hooks().fix == "harness init"
    assert harness("init", cwd=tmp_path).returncode == 0
    (tmp_path / "hooks" / "commit-msg").chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "harness is not on PATH" in hooks().detail


def test_doctor_says_nothing_of_data_without_a_config_and_each_thing_once(tmp_path):
    assert harness("init", cwd=tmp_path).returncode == 0
    (tmp_path / ".autoresearch" / "config.toml").write_text("a = [")
    nobody = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "")
    own = {"OPENAI_API_BASE": "http://localhost:8000/v1"}  # a server's of one's own, which needs no key
    findings = json.loads(harness("doctor", "--json", cwd=tmp_path, **nobody, **own).stdout)
    assert findings[-1] == {"name": "key", "level": "ok", "detail": "OPENAI_API_BASE", "fix": ""}
    failed = [each["name"] for each in findings if each["level"] == "fail"]
    assert failed == ["git", "git", "config"] and "data" not in {each["name"] for each in findings}
    assert "has no commit yet" in findings[0]["detail"] and "who you are" in findings[1]["detail"]


def test_a_gpu_that_the_installed_torch_cannot_use_is_a_failure_where_the_device_is_left_to_us(monkeypatch):
    gpu = device.Device("cuda", "NVIDIA GeForce RTX 4090", None, "GPU-0", "/dev/nvidia0", 24_564)
    monkeypatch.setattr(device, "nvidia", lambda: [gpu])
    monkeypatch.setattr(device, "torch_is_cpu_build", lambda: True)
    found = doctor._device(configs.CPU)
    assert found.level == "fail" and "RTX 4090 is here" in found.detail and found.fix
    chosen = dataclasses.replace(configs.CPU, trial=dataclasses.replace(configs.CPU.trial, device="cpu"))
    assert doctor._device(chosen).level == "ok"


@pytest.mark.parametrize("rows", [32, 128])
def test_it_says_what_train_py_takes_of_the_card_and_what_a_score_will(git, rows):
    card = fit.Machine("cuda", 24_000, 150.0)
    sizes = fit.constants(card, 300.0) | {"DEVICE_BATCH_SIZE": rows}
    (git.folder / "train.py").write_text(fit.fitted((ROOT / "train.py").read_text(), sizes))
    found = doctor._fit(configs.GPU, open_repository(git.folder), card)
    assert found.level == ("ok" if rows == 32 else "warn")
    assert "of 23 GB" in found.detail and "a score takes about 27 s" in found.detail


def test_a_starter_whose_sizes_are_another_card_s_is_told_of_too(git):
    (git.folder / "train.py").write_text((ROOT / "train.py").read_text())
    found = doctor._fit(configs.GPU, open_repository(git.folder), fit.Machine("cuda", 24_000, 150.0))
    assert found.level == "warn" and "DEPTH = 6" in found.fix and "takes about 46 of 23 GB" in found.detail


def test_under_wsl_a_run_sees_the_file_that_stands_for_all_gpus(tmp_path):
    for name in ("dxg", "nvidia0", "null"):
        (tmp_path / name).touch()
    assert isolation._gpu_files("", tmp_path) == [tmp_path / "nvidia0", tmp_path / "dxg"]
    assert isolation._gpu_files(None, tmp_path) == []
