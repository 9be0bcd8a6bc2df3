"""What a machine has for a trial: its cores and its memory, in a container too."""

import math
import os
from types import SimpleNamespace

import pytest

import harness.worker.device as device
from harness.errors import HarnessError
from harness.worker.device import Device

OWN = "5:memory:/user\n0::/slurm/job\n"  # what /proc/self/cgroup says


def test_the_cores_of_a_device_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert Device("cuda", "a GPU", None).core_count == 2
    assert Device("cuda", "a GPU", None, place=1, places=2).core_count == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"slurm/job/cpu.max": "50000 100000\n", "cpu.max": "150000 100000\n"}, 0.5),
        ({"slurm/cpu.max": "250000 100000\n", "slurm/job/cpu.max": "max 100000\n"}, 2.5),
        ({}, math.inf),
    ],
)
def test_a_container_that_sees_more_cores_than_it_may_use_has_no_more_of_them(
    tmp_path, monkeypatch, files, cores
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (own := tmp_path / "own").write_text(OWN)
    assert device.quota_cores(tmp_path, own) == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(device, "quota_cores", lambda: cores)
    assert Device("cuda", "a GPU", None).core_count == max(1, int(min(64, cores)))


@pytest.mark.parametrize(
    ("name", "text", "most"),
    [
        ("memory.max", "1000\n", 800),
        ("memory.max", "max\n", math.inf),
        ("memory/memory.limit_in_bytes", "1000\n", 800),
        ("slurm/job/memory.max", "1000\n", 800),
        ("slurm/memory.max", "1000\n", 800),
        ("memory/user/memory.limit_in_bytes", "1000\n", 800),
        ("memory/memory.limit_in_bytes", f"{2**63 - 4096}\n", math.inf),
        ("elsewhere", "1000\n", math.inf),
    ],
)
def test_a_trial_in_a_container_may_take_four_fifths_of_what_that_may(
    tmp_path, monkeypatch, name, text, most
):
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text(text)
    (own := tmp_path / "own").write_text(OWN)
    machine, quota = Device("cpu", "x", None).limits(0.0)["memory_bytes"], device.quota_bytes(tmp_path, own)
    monkeypatch.setattr(device, "quota_bytes", lambda: quota)
    assert Device("cpu", "x", None).limits(0.0)["memory_bytes"] == min(machine, most)
    assert Device("cpu", "x", None, places=2).limits(0.0)["memory_bytes"] == min(machine, most) // 2


@pytest.fixture
def driver(monkeypatch):
    """`driver(count, sick)`: so many GPUs, of which those numbers don't answer."""
    import pynvml

    def fake(count, sick):
        def handle(number):
            if number in sick:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            return number

        for name, made in {
            "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetCount": lambda: count,
            "nvmlDeviceGetHandleByIndex": handle, "nvmlDeviceGetName": lambda number: "a GPU",
            "nvmlDeviceGetUUID": lambda number: f"GPU-{number}",
            "nvmlDeviceGetMinorNumber": lambda number: number,
            "nvmlDeviceGetMemoryInfo": lambda number: SimpleNamespace(total=2**34),
        }.items():  # fmt: skip
            monkeypatch.setattr(pynvml, name, made)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(device, "torch_is_cpu_build", lambda: False)

    return fake


def test_one_gpu_that_does_not_answer_hides_no_other_and_moves_no_number(driver):
    driver(4, {1})
    assert [gpu.uuid for gpu in device.nvidia()] == ["GPU-0", "GPU-2", "GPU-3"]
    here = device.resolve("auto")
    assert [gpu.uuid for gpu in device.chosen(here, "2,3")] == ["GPU-2", "GPU-3"]
    assert len(device.chosen(here, "all")) == 3
    with pytest.raises(HarnessError, match="one of them doesn't answer"):
        device.chosen(here, "0,1")


def test_where_no_gpu_answers_nothing_is_trained_on_the_processor_instead(driver):
    driver(2, {0, 1})
    with pytest.raises(HarnessError, match="none of 2 NVIDIA GPUs answers"):
        device.resolve("auto")
    driver(0, ())
    assert device.resolve("auto").kind == "cpu"
