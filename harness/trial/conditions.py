"""Fair conditions on a GPU: who else uses it, its clocks, temperature and memory, while a trial trains.

Read through NVML by our own process, never from train.py. A trial beside somebody else's work, or on a
chip that is too hot to hold its clocks, says nothing of an idea: it is an `error` and is repeated. That
a chip is at its power limit is how it works under full load, and is no contamination.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.records import Conditions
from harness.trial.device import Device

EVERY_SECONDS = 2.0
THROTTLED_SHARE = 0.05  # of the samples, above which a trial doesn't count
FOREIGN_SAMPLES = 2  # in which somebody else was at work
SLOWED = ("HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown")


@dataclass(frozen=True)
class Sample:
    clock_mhz: int
    temperature_c: int
    slowed: bool
    memory_mb: int
    foreign: str
    """Who else computes, `name (process)`; empty for nobody."""


class Watch:
    """Samples of one device. Where there is no NVIDIA GPU, or it doesn't answer, there are none."""

    def __init__(self, device: Device) -> None:
        self._samples: list[Sample] = []
        self._next = 0.0
        self._seen_at = 0
        self._handle: Any = None
        if device.kind == "cuda":
            with suppress(Exception):
                import pynvml

                self._nvml = pynvml
                pynvml.nvmlInit()
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)

    def look(self) -> None:
        """Take a sample, if it is time for one."""
        now = time.monotonic()
        if self._handle is None or now < self._next:
            return
        self._next = now + EVERY_SECONDS
        with suppress(Exception):
            self._samples.append(self._sample())

    def foreign(self) -> str:
        """Who else computes on it now; empty for nobody."""
        if self._handle is None:
            return ""
        with suppress(Exception):
            return self._foreign()
        return ""

    def _sample(self) -> Sample:
        nvml, handle = self._nvml, self._handle
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        slowed = sum(getattr(nvml, f"nvmlClocksThrottleReason{name}", 0) for name in SLOWED)
        return Sample(
            nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            bool(reasons & slowed),
            nvml.nvmlDeviceGetMemoryInfo(handle).used // 2**20,
            self._foreign(),
        )

    def _foreign(self) -> str:
        """By what the driver says of the last seconds; a process that only holds memory disturbs nobody."""
        nvml = self._nvml
        try:
            found = nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_at)
        except nvml.NVMLError:
            return ""  # nobody was at work since, or it isn't told
        self._seen_at = max((each.timeStamp for each in found), default=self._seen_at)
        others = {each.pid for each in found if each.smUtil > 0 and not _is_ours(each.pid)}
        return ", ".join(f"{_name(nvml, pid)} ({pid})" for pid in sorted(others))

    @property
    def peak_memory_mb(self) -> int:
        """Of the whole device, so far."""
        return max((sample.memory_mb for sample in self._samples), default=0)

    def conditions(self) -> Conditions | None:
        """What was seen since the last call."""
        peak, samples, self._samples = self.peak_memory_mb, self._samples, []
        if not samples:
            return None
        return Conditions(
            samples=len(samples),
            clock_mhz=round(median(sample.clock_mhz for sample in samples)),
            temperature_c=max(sample.temperature_c for sample in samples),
            slowed_share=sum(sample.slowed for sample in samples) / len(samples),
            peak_memory_mb=peak,
            foreign=tuple(sample.foreign for sample in samples if sample.foreign),
        )


def spoilt(seen: Conditions | None) -> str:
    """Why a trial under these conditions doesn't count; empty if it does."""
    if seen is None:
        return ""
    if len(seen.foreign) >= FOREIGN_SAMPLES:
        return f"the GPU was shared with {seen.foreign[-1]}"
    if seen.slowed_share > THROTTLED_SHARE:
        return f"the GPU was slowed down by heat or power {seen.slowed_share:.0%} of the time"
    return ""


def _is_ours(process: int) -> bool:
    """Whether it descends from this process. One that is not to be seen here, as a container shows only its
    own, can't be told from ours."""
    while process > 1:
        if process == os.getpid():
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return True
    return False


def _name(nvml: Any, pid: int) -> str:
    with suppress(Exception):
        name = nvml.nvmlSystemGetProcessName(pid)
        return (name if isinstance(name, str) else name.decode()).rpartition("/")[2]
    return "a process"
