"""Whether torch works on a device, and how fast it multiplies: `python -m harness.worker.probe`.

Prints one JSON object, see `Probe`. It is run by itself, inside of the sandbox too: an import of torch that
fails, or a driver that hangs, is a finding and no end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace

from harness.config import RunConfig
from harness.sandbox.isolation import Isolation, Process
from harness.sandbox.text import one_line
from harness.worker.device import Device

ASKED = "HARNESS_PROBE"  # which device
SIZE = {"cuda": 8192, "mps": 2048, "cpu": 1024}
SECONDS = 0.3
CONTEXT_MB = 500
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Probe:
    torch: str = ""
    """Its version; empty if it can't be imported."""
    cuda: str = ""
    """The CUDA or ROCm that it was built for."""
    capability: str = ""
    """Of a GPU, as 8.9."""
    dtype: str = ""
    """What was multiplied."""
    memory_mb: int = 0
    """Of a GPU, what others left."""
    tflops: float = 0.0
    trouble: str = ""
    """Why there is no figure; one line."""


def probe(kind: str) -> Probe:
    """Of the machine as it is, in a process of its own."""
    command = [sys.executable, "-m", "harness.worker.probe"]
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_SECONDS, env={**os.environ, ASKED: kind}
        )
    except subprocess.TimeoutExpired:
        return Probe(trouble=f"no answer within {LIMIT_SECONDS:g} s")
    return _said(tried.stdout, tried.stderr)


def probe_inside(isolation: Isolation, device: Device, config: RunConfig) -> Probe:
    """The same in a run's sandbox, with a run's limits."""
    with tempfile.TemporaryFile() as output:
        process = Process(
            isolation, "harness.worker.probe", files={}, descriptors={},
            limits=device.limits(config.memory_gb), variables={**device.variables, ASKED: device.kind},
            disk_mb=config.disk_mb, output=output, gpu=device.node,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None:
                if time.monotonic() > deadline:
                    return Probe(trouble=f"no answer within {LIMIT_SECONDS:g} s")
                time.sleep(0.05)
        finally:
            process.kill()
        output.seek(0)
        said = output.read().decode(errors="replace")
    return _said(said, said)


def _said(output: str, complaint: str) -> Probe:
    try:
        return Probe(**json.loads(output.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return Probe(trouble=one_line((complaint.strip().splitlines() or ["it ended without a word"])[-1]))


def measured(kind: str) -> Probe:
    """What this process finds."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        return Probe(trouble=f"torch can't be imported: {_why(error)}")
    said = Probe(torch=torch.__version__, cuda=torch.version.cuda or torch.version.hip or "")
    try:
        dtype = torch.float32
        if kind == "cuda":
            about = torch.cuda.get_device_properties(0)
            free = torch.cuda.mem_get_info()[0] // 2**20  # its own context, too, is in the others' part
            capability = f"{about.major}.{about.minor}"
            said = replace(said, capability=capability, memory_mb=free + CONTEXT_MB)
            if torch.cuda.is_bf16_supported(including_emulation=False):
                dtype = torch.bfloat16
        torch.set_float32_matmul_precision("high")
        x = torch.randn(SIZE[kind], SIZE[kind], device=kind).to(dtype)
        float((x @ x)[0, 0])  # what is made once
        products, began = 0, time.monotonic()
        while time.monotonic() - began < SECONDS:
            float((x @ x)[0, 0])  # a number of it: waits for the device
            products += 1
        rate = 2 * SIZE[kind] ** 3 * products / (time.monotonic() - began) / 1e12
    except Exception as error:  # noqa: BLE001 - whatever a driver says
        return replace(said, trouble=_why(error))
    return replace(said, dtype=str(dtype).removeprefix("torch."), tflops=round(rate, 3))


def _why(error: Exception) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def main() -> None:
    sys.stdout.write(json.dumps(asdict(measured(os.environ[ASKED]))) + "\n")


if __name__ == "__main__":
    main()
