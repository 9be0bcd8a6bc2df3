"""Fair conditions: who else uses a GPU, its clocks, temperature and memory, while a run trains.

Read through NVML by our own process, never from train.py. A run beside somebody
else's work, or on a chip that is too hot to hold its clocks, says nothing of an idea: it is an `error` and
is repeated. That a chip is at its power limit is how it works under full load, and is no contamination.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.sandbox.processes import cpu_seconds, descends
from harness.sandbox.text import one_line
from harness.store.records import Conditions
from harness.worker.device import Device

EVERY_SECONDS = 2.0
EVERY_AHEAD_SECONDS = 1.0
AHEAD_GPU_SECONDS = 5.0  # the most that a start may take from another run that trains
AHEAD_MEMORY = 0.4  # of the GPU's
AHEAD_CPU_SECONDS = 60.0  # when it has started, and only waits
START_CPU_SECONDS = 15.0  # of every core, until then: a cold start of the model here takes 60 s in all
THROTTLED_SHARE = 0.05  # of the samples, above which a run doesn't count
FOREIGN_SAMPLES = 2  # in which somebody else was at work
SLOWED = ("HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown")


@dataclass(frozen=True)
class Sample:
    clock_mhz: int
    temperature_c: int
    slowed: bool
    memory_mb: int
    told_apart: bool
    foreign: str
    """Who else computes, `name (process)`; empty for nobody."""
    desktop_share: float
    """Of the GPU's time since the sample before: what only draws, a desktop or a browser."""


def _unanswered(error: Exception) -> str:
    return f"the GPU doesn't answer any more ({one_line(str(error))})"


class Monitor:
    """Samples of one device. Where there is no NVIDIA GPU, or it doesn't answer, there are none."""

    def __init__(self, device: Device, process: int = 0) -> None:
        """`process`: the first one of those that are watched."""
        self._process, self._uuid = process, device.uuid
        self._samples: list[Sample] = []
        self._next = 0.0
        self._worked = False
        self._strained_at = time.monotonic()
        self._gpu_seconds = 0.0
        self._most_cpu_seconds = START_CPU_SECONDS * device.core_count
        self._idle_from: float | None = None
        self._seen_at = 0
        self._handle: Any = None
        self._refused = ""
        if device.kind == "cuda":
            with suppress(Exception):
                import pynvml

                self._nvml = pynvml
                pynvml.nvmlInit()
                try:
                    self._handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)
                except pynvml.NVMLError as error:  # lost while nothing ran there
                    self._refused = _unanswered(error)

    def look(self) -> None:
        """Take a sample, if it is time for one."""
        now = time.monotonic()
        if self._handle is None or now < self._next:
            return
        self._next = now + EVERY_SECONDS
        with suppress(Exception):
            self._samples.append(self._sample())

    def foreign(self) -> str:
        """Who else computes on it now; empty for nobody, and for what only draws."""
        if self._handle is None:
            return ""
        with suppress(Exception):
            return self._foreign()[0]
        return ""

    def lost(self) -> str:
        """What the driver says of a GPU that doesn't answer any more; empty if it does."""
        if self._handle is None:
            return self._refused
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError as error:
            return _unanswered(error)
        return ""

    def strain(self, waits: bool) -> str:
        """What the watched processes, which only start, took from another run that trains, if that is too
        much; to be called a few times a second.

        Args:
            waits: whether they have nothing to do any more.
        """
        now = time.monotonic()
        if self._handle is None or now < self._next:
            return ""
        elapsed, self._next = now - self._strained_at, now + EVERY_AHEAD_SECONDS
        self._strained_at = now
        with suppress(Exception):
            shares = [share for pid, share in self._at_work() if descends(pid, self._process)]
            self._gpu_seconds += min(1.0, sum(shares)) * elapsed
            whole = self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total
            if (self._own_memory() or 0) > AHEAD_MEMORY * whole:
                return f"over {AHEAD_MEMORY:.0%} of the GPU's memory"
        if (spent := cpu_seconds(self._process)) > self._most_cpu_seconds and not waits:
            return f"over {self._most_cpu_seconds:g} s of the processor's time"
        if waits:
            self._idle_from = spent if self._idle_from is None else self._idle_from
            if spent - self._idle_from > AHEAD_CPU_SECONDS:
                return f"over {AHEAD_CPU_SECONDS:g} s of the processor's time while it waited"
        return (
            f"over {AHEAD_GPU_SECONDS:g} s of the GPU's time" if self._gpu_seconds > AHEAD_GPU_SECONDS else ""
        )

    def _sample(self) -> Sample:
        nvml, handle = self._nvml, self._handle
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        slowed = sum(getattr(nvml, f"nvmlClocksThrottleReason{name}", 0) for name in SLOWED)
        foreign, desktop_share = self._foreign()
        memory = self._own_memory()
        return Sample(
            nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            bool(reasons & slowed),
            (nvml.nvmlDeviceGetMemoryInfo(handle).used if memory is None else memory) // 2**20,
            memory is not None and self._worked,
            foreign,
            desktop_share,
        )

    def _own_memory(self) -> int | None:
        """Bytes; None where the driver doesn't tell whose memory it is, or not by numbers known here."""
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        own = [each.usedGpuMemory for each in running if descends(each.pid, self._process)]
        return sum(own) if own and None not in own else None

    def _foreign(self) -> tuple[str, float]:
        """Who computes beside us, and what of the GPU's time went to what only draws. By what the driver says
        of the last seconds; a process that only holds memory disturbs nobody."""
        working = [(pid, share) for pid, share in self._at_work() if share > 0]
        self._worked = self._worked or any(descends(pid, self._process) for pid, _ in working)
        others = [(pid, share) for pid, share in working if descends(pid, os.getpid()) is False]
        drawing = self._drawing() if others else set()
        strangers = sorted({pid for pid, _ in others} - drawing)
        names = ", ".join(f"{_name(self._nvml, pid)} ({pid})" for pid in strangers)
        return names, min(1.0, sum(share for pid, share in others if pid in drawing))

    def _drawing(self) -> set[int]:
        """Processes that have a graphics context and none for computing; a game is one of them, too."""
        nvml = self._nvml
        try:
            graphics = {each.pid for each in nvml.nvmlDeviceGetGraphicsRunningProcesses(self._handle)}
            return graphics - {each.pid for each in nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except nvml.NVMLError:
            return set()

    def _at_work(self) -> list[tuple[int, float]]:
        """Processes, and the part of the time since the last call that each had the GPU."""
        nvml = self._nvml
        try:
            found = nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_at)
        except nvml.NVMLError:
            return []  # nobody was at work since, or it isn't told
        self._seen_at = max((each.timeStamp for each in found), default=self._seen_at)
        return [(each.pid, each.smUtil / 100) for each in found]

    @property
    def told_apart(self) -> bool:
        """Whether the driver tells the watched processes' memory and work from those of others."""
        return any(sample.told_apart for sample in self._samples[-1:])

    @property
    def peak_memory_mb(self) -> int:
        """So far."""
        return max((sample.memory_mb for sample in self._samples), default=0)

    def conditions(self) -> Conditions | None:
        """What was seen since the last call."""
        peak, apart = self.peak_memory_mb, self.told_apart
        samples, self._samples = self._samples, []
        if not samples:
            return None
        return Conditions(
            samples=len(samples),
            clock_mhz=round(median(sample.clock_mhz for sample in samples)),
            temperature_c=max(sample.temperature_c for sample in samples),
            slowed_share=sum(sample.slowed for sample in samples) / len(samples),
            peak_memory_mb=peak,
            foreign=tuple(sample.foreign for sample in samples if sample.foreign),
            uuid=self._uuid,
            told_apart=apart,
            desktop_share=sum(sample.desktop_share for sample in samples) / len(samples),
        )


def contaminated(seen: Conditions | None, desktop_percent: float) -> str:
    """Why a run under these conditions doesn't count; empty if it does. `desktop_percent`: a config's."""
    if seen is None:
        return ""
    if len(seen.foreign) >= FOREIGN_SAMPLES:
        return f"the GPU was shared with {seen.foreign[-1]}"
    if 100 * seen.desktop_share > desktop_percent:
        return (
            f"a desktop took {seen.desktop_share:.0%} of the GPU's time, over desktop_percent "
            f"({desktop_percent:g})"
        )
    if seen.slowed_share > THROTTLED_SHARE:
        return f"the GPU was slowed down by heat or power {seen.slowed_share:.0%} of the time"
    return ""


def _name(nvml: Any, pid: int) -> str:
    with suppress(Exception):
        name = nvml.nvmlSystemGetProcessName(pid)
        return (name if isinstance(name, str) else name.decode()).rpartition("/")[2]
    return "a process"
