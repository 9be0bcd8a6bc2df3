"""Devices, found without torch: kind, name, peak FLOPs, and its exclusive lock.

The name goes into a score's setting, so it comes from the driver and the kernel, never from
train.py.
"""

import contextlib
import dataclasses
import functools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.lock import held
from harness.paths import lock_file

# Dense bf16 tensor peak by a part of the device's name, vendors' datasheets, first match wins.
PEAK_TFLOPS = (
    ("GB200", 2250.0), ("B200", 2250.0), ("H200", 989.5), ("H100 PCIe", 756.5), ("H100", 989.5),
    ("H800", 989.5), ("A100", 312.0), ("A800", 312.0), ("L40S", 362.0), ("L4", 121.0),
    ("A6000", 154.8), ("A10", 125.0), ("RTX 5090", 209.5), ("RTX 4090", 165.2), ("RTX 3090", 71.0),
)  # fmt: skip

ROOMY_MB = 40_000
RUN_BYTES = 2 * 2**30  # of the machine's memory, for each run on a processor: torch in three processes


CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Device:
    kind: str
    """`cuda`, `mps` or `cpu`, what torch calls it."""
    name: str
    peak_flops: float | None
    uuid: str = ""
    """Of an NVIDIA GPU."""
    node: str | None = None
    """The file in /dev of the only GPU that a run on it gets to see: empty for all, None for no GPU."""
    memory_mb: int = 0
    """Of an NVIDIA GPU, what may be used."""
    place: int = 0
    """Its number among those that this loop uses."""
    places: int = 1
    """How many those are: each has its part of the processor and of the memory."""

    @property
    def has_room(self) -> bool:
        """Whether a few GPU contexts more, at half a GB each, take nothing from a run."""
        return self.memory_mb >= ROOMY_MB

    def with_at_most(self, memory_mb: int) -> "Device":
        """The same of which no more memory is used."""
        return dataclasses.replace(self, memory_mb=min(self.memory_mb, memory_mb))

    def at(self, place: int, places: int) -> "Device":
        """The same as one of several that are used."""
        return dataclasses.replace(self, place=place, places=places)

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to find this one and no GPU else."""
        return {"CUDA_VISIBLE_DEVICES": self.uuid}

    @property
    def cores(self) -> list[int]:
        """Its part of the processor's cores; empty for all of them."""
        if self.places == 1 or not hasattr(os, "sched_getaffinity"):
            return []
        every = sorted(os.sched_getaffinity(0))
        return every[self.place :: self.places]

    @property
    def is_processor(self) -> bool:
        """Whether a budget is a processor's time, which no other program shortens, on one core."""
        return self.kind == "cpu" and sys.platform == "linux"

    @property
    def training_cores(self) -> list[int]:
        """Of a training: on a processor one, since threads that wait for each other work for nothing."""
        if not self.is_processor:
            return self.cores
        every = self.cores or sorted(os.sched_getaffinity(0))
        return [every[os.getpid() % len(every)]]  # two harnesses needn't take the same one

    @property
    def most_at_a_time(self) -> int:
        """How many runs: on a processor one for each core, if memory has room for them."""
        if not self.is_processor:
            return 1
        return max(1, min(self.core_count, int(memory_bytes() / RUN_BYTES)))

    @property
    def core_count(self) -> int:
        """Cores that a run on it may use, or as many as a container's time is worth."""
        every = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return max(1, int(min(len(self.cores or every), quota_cores() / self.places)))

    def limits(self, memory_gb: float, training: bool = False) -> dict[str, Any]:
        """Of a process on it, for `harness.sandbox.limits`.

        Args:
            training: whether it has the cores of one.
            memory_gb: a config's; 0 means four fifths of the machine or container, shared by all places.
        """
        memory = memory_gb * 2**30 or 0.8 * memory_bytes() / self.places
        return {"memory_bytes": int(memory), "cores": self.training_cores if training else self.cores}


def memory_bytes() -> float:
    """Of the machine or the container."""
    return min(_machine_bytes(), quota_bytes())


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_own_limit() -> bool:
    """Whether memory ends for us before it does for the machine."""
    return quota_bytes() < _machine_bytes()


def resolve(setting: str, gpu_memory_gb: float = 0.0) -> Device:
    """The device that a config's `device` means on this machine.

    Args:
        gpu_memory_gb: a config's, how much of a GPU's memory it is for; 0 means all of it.

    Raises:
        HarnessError: a GPU is asked for and there is none that the installed torch can use.
    """
    gpus = nvidia()
    if setting == "cuda" and not gpus:
        raise HarnessError("device is cuda, but no NVIDIA GPU is in sight", 'device = "auto" in the config')
    if gpus and setting in ("auto", "cuda"):
        if not torch_is_cpu_build():
            return gpus[0].with_at_most(int(1024 * gpu_memory_gb) or gpus[0].memory_mb)
        if setting == "cuda":
            raise HarnessError("device is cuda, but the installed torch is a CPU build")
    elif setting == "auto" and (silent := len(_numbered())) and not torch_is_cpu_build():
        raise HarnessError(
            f"none of {silent} NVIDIA GPUs answers", 'nvidia-smi; device = "cpu" in the config'
        )
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if setting == "mps" or (setting == "auto" and apple):
        if not apple:
            raise HarnessError("device is mps, but this is no Apple machine", 'device = "auto" in the config')
        return Device("mps", f"Apple {platform.machine()}", None)
    return Device("cpu", _cpu_name(), None)


def chosen(device: Device, gpus: str) -> list[Device]:
    """The devices that `--gpus` names: `all`, or numbers as nvidia-smi has them.

    Args:
        device: what the config means; it must be a GPU.

    Raises:
        HarnessError: there is no such GPU, or they are of different kinds.
    """
    if device.kind != "cuda":
        raise HarnessError(
            f"--gpus is for NVIDIA GPUs, and this config trains on {device.name}", "without --gpus"
        )
    there = _numbered()
    numbers = [number for number, gpu in enumerate(there) if gpu]
    try:
        numbers = numbers if gpus == "all" else [int(part) for part in gpus.split(",")]
        named = [there[number] for number in dict.fromkeys(numbers) if number >= 0]
    except (ValueError, IndexError):
        named = []
    found = [gpu for gpu in named if gpu is not None]
    if len(found) < len(named):
        raise HarnessError(f"--gpus {gpus}: one of them doesn't answer", "nvidia-smi; --gpus all")
    if not found:
        raise HarnessError(f"--gpus {gpus}: there are {len(there)}, numbered from 0", "--gpus all")
    if len({each.name for each in found}) > 1:
        names = ", ".join(sorted({each.name for each in found}))
        raise HarnessError(f"--gpus {gpus} are of different kinds ({names}): their scores don't compare")
    places = len(found)
    every = (each.with_at_most(device.memory_mb) for each in found)
    return [each.at(n, places) for n, each in enumerate(every)]


@functools.cache
def torch_version() -> str:
    """Of the installed one, by its package: to import it takes seconds, to look it up 5 ms."""
    return metadata.version("torch")


def torch_is_cpu_build() -> bool:
    return torch_version().endswith("+cpu")


def nvidia() -> list[Device]:
    """The GPUs that this process may use, in nvidia-smi's order; none without a driver."""
    return [gpu for gpu in _numbered() if gpu is not None]


def _numbered() -> list[Device | None]:
    """Those, each at its number; None for one that doesn't answer."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no driver, no library, no GPU: all mean none in sight
        return []
    found: list[Device | None] = []
    try:
        for number in range(pynvml.nvmlDeviceGetCount()):
            found.append(None)
            with contextlib.suppress(pynvml.NVMLError):  # the others are as they were
                found[number] = _gpu(pynvml, number)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
    if visible is None:
        return found
    wanted = [part.strip() for part in visible.split(",")]
    return [
        gpu
        for part in wanted
        for number, gpu in enumerate(found)
        if part == str(number) or (gpu and part.startswith("GPU-") and gpu.uuid.startswith(part))
    ]


def _gpu(nvml: Any, number: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    name, uuid = (
        text if isinstance(text, str) else text.decode()
        for text in (nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle))
    )
    try:
        node = f"/dev/nvidia{nvml.nvmlDeviceGetMinorNumber(handle)}"
    except nvml.NVMLError:
        node = ""
    peak = next((tflops for part, tflops in PEAK_TFLOPS if part in name), None)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20
    return Device("cuda", name, peak * 1e12 if peak else None, uuid, node, memory)


def driver() -> str:
    """NVIDIA's driver's version; empty without one."""
    try:
        import pynvml

        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except Exception:  # noqa: BLE001 - no driver, no library
        return ""
    return said if isinstance(said, str) else said.decode()


def quota_cores(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """How many cores' time we may take, of those that we see; infinite without such a limit."""
    least = math.inf
    for folder in _cgroups("cpu", root, own):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # version 2, and 1
            with contextlib.suppress(OSError, ValueError):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if float(quota) > 0:
                    least = min(least, float(quota) / float(period))
    return least


def quota_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """How much memory we may take; infinite without such a limit."""
    least = math.inf
    for folder in _cgroups("memory", root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, and 1
            with contextlib.suppress(OSError, ValueError):
                least = min(least, float((folder / name).read_text().replace("max", "inf")))
    return least


def _cgroups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """Our control group's folders, up to the root: in a container that is ours, in a Slurm job or a slice of
    systemd the limits stand further below."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    for number, names, path in [*filter(lambda line: len(line) == 3, lines), ("0", "", "/")]:
        if number == "0" or controller in names.split(","):
            below = [part for part in path.split("/") if part not in ("", "..")]
            for count in range(len(below), -1, -1):
                for top in (root, root / names, root / controller):
                    yield top.joinpath(*below[:count])


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} x{os.cpu_count()}"
    except OSError:
        pass
    return f"{platform.machine()} x{os.cpu_count()}"


@contextmanager
def exclusive(
    device: Device, on_wait: Callable[[str], None], waits: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold the device for one run; a second one waits, after saying so through `on_wait`, and calls `waits`
    meanwhile, which may raise.

    The lock is the kernel's: it goes with the process that holds it, however that ends.
    """

    def busy(process: str) -> None:
        who = f"process {process}" if process != "?" else "another process"  # which has yet to say so
        on_wait(f"{device.name} is in use by {who}; waiting for it")

    which = device.uuid or str(device.place)
    with held(lock_file(f"{device.kind}-{which}"), busy, waits):
        yield
