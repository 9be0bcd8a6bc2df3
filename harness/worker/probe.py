"""`python -m harness.worker.probe KIND`: whether torch works on a device, and how fast it multiplies.

Prints one JSON object, see `Probe`. It is run by itself, inside of the sandbox too: an import of torch that
fails, or a driver that hangs, is a finding and no end.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

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
    name: str = ""
    capability: str = ""
    """Of a GPU, as 8.9."""
    dtype: str = ""
    """What was multiplied."""
    memory_mb: int = 0
    """Of a GPU, what others left."""
    tflops: float = 0.0
    trouble: str = ""
    """Why there is no figure; one line."""


def probe(kind: str, command: list[str] | None = None) -> Probe:
    """Of the machine as it is; `command`: what to put before the program, as a sandbox."""
    run = [*(command or []), sys.executable, "-m", "harness.worker.probe", kind]
    try:
        tried = subprocess.run(run, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return Probe(trouble=f"no answer within {LIMIT_SECONDS:g} s")
    try:
        return Probe(**json.loads(tried.stdout.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return Probe(trouble=(tried.stderr.strip().splitlines() or ["it ended without a word"])[-1])


def measured(kind: str) -> Probe:
    """What this process finds."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        return Probe(trouble=f"torch can't be imported: {_first_line(error)}")
    said = Probe(torch=torch.__version__, cuda=torch.version.cuda or torch.version.hip or "")
    try:
        dtype = torch.float32
        if kind == "cuda":
            about = torch.cuda.get_device_properties(0)
            free = torch.cuda.mem_get_info()[0] // 2**20  # its own context, too, is in the others' part
            capability = f"{about.major}.{about.minor}"
            said = replace(said, name=about.name, capability=capability, memory_mb=free + CONTEXT_MB)
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
        return replace(said, trouble=_first_line(error))
    return replace(said, dtype=str(dtype).removeprefix("torch."), tflops=round(rate, 3))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> None:
    sys.stdout.write(json.dumps(asdict(measured(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
