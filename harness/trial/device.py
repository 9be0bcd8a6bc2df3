"""What the trials run on, found without torch: kind, name, peak FLOPs, and its exclusive lock.

The name goes into a score's setting, so it comes from the driver and the kernel, never from
train.py.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import HarnessError
from harness.lock import held
from harness.paths import lock_file

# Dense bf16 tensor peak by a part of the device's name, vendors' datasheets, first match wins.
PEAK_TFLOPS = (
    ("GB200", 2250.0), ("B200", 2250.0), ("H200", 989.5), ("H100 PCIe", 756.5), ("H100", 989.5),
    ("H800", 989.5), ("A100", 312.0), ("A800", 312.0), ("L40S", 362.0), ("L4", 121.0),
    ("A6000", 154.8), ("A10", 125.0), ("RTX 5090", 209.5), ("RTX 4090", 165.2), ("RTX 3090", 71.0),
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    kind: str
    """`cuda`, `mps` or `cpu`, what torch calls it."""
    name: str
    peak_flops: float | None


def resolve(setting: str) -> Device:
    """The device that a config's `device` means on this machine.

    Raises:
        HarnessError: a GPU is asked for and there is none that the installed torch can use.
    """
    gpu = _nvidia_name()
    if setting == "cuda" and gpu is None:
        raise HarnessError("device is cuda, but no NVIDIA GPU is in sight", 'device = "auto" in the config')
    if gpu is not None and setting in ("auto", "cuda"):
        if not torch_is_cpu_build():
            peak = next((tflops for part, tflops in PEAK_TFLOPS if part in gpu), None)
            return Device("cuda", gpu, peak * 1e12 if peak else None)
        if setting == "cuda":
            raise HarnessError("device is cuda, but the installed torch is a CPU build")
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if setting == "mps" or (setting == "auto" and apple):
        if not apple:
            raise HarnessError("device is mps, but this is no Apple machine", 'device = "auto" in the config')
        return Device("mps", f"Apple {platform.machine()}", None)
    return Device("cpu", _cpu_name(), None)


def torch_is_cpu_build() -> bool:
    return metadata.version("torch").endswith("+cpu")


def _nvidia_name() -> str | None:
    """The first visible GPU's name, or None."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip().lstrip("-1"):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no driver, no library, no GPU: all mean none in sight
        return None
    try:
        if pynvml.nvmlDeviceGetCount() == 0:
            return None
        first = (visible or "0").split(",")[0].strip()
        index = int(first) if first.isdigit() else 0
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))
        return name if isinstance(name, str) else name.decode()
    finally:
        pynvml.nvmlShutdown()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} x{os.cpu_count()}"
    except OSError:
        pass
    return f"{platform.machine()} x{os.cpu_count()}"


@contextmanager
def exclusive(device: Device, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the device for one trial; a second one waits, after saying so through `on_wait`.

    The lock is the kernel's: it goes with the process that holds it, however that ends.
    """
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if device.kind == "cuda" else "0"

    def busy(process: str) -> None:
        on_wait(f"{device.name} is in use by process {process}; waiting for it")

    with held(lock_file(f"{device.kind}-{which.replace('/', '-')}"), busy):
        yield
