"""The versions of what scores and of what a train.py trains on: scores of different ones never mix.

They are kept by hand: not every change of code changes a score. A test holds the sources named here to the
digests in tests/versions.toml, so that no change is made without thinking of it.
"""

from harness.tasks.registry import Opened
from harness.worker.device import Device, torch_version

EVALUATOR_VERSION = 1
RUNTIME_VERSION, PROCESSOR_RUNTIME_VERSION = 2, 3  # the latter where a budget is a processor's time
EVALUATOR_SOURCES = (
    "worker/scorer.py", "worker/model_client.py", "worker/model_server.py", "worker/tolerance.py",
    "worker/buffers.py", "worker/overtime.py", "tasks/lm/exam.py", "tasks/lm/audit.py", "tasks/lm/losses.py",
    "tasks/items/exam.py", "tasks/items/measures.py", "tasks/items/task.py",
)  # fmt: skip
RUNTIME_SOURCES = (
    "trial/api.py", "trial/engine.py", "trial/torch_engine.py", "tasks/feeds.py", "tasks/lm/feed.py",
    "tasks/lm/loader.py", "tasks/lm/packing.py", "tasks/items/feed.py",
    "sandbox/isolation.py", "worker/boot.py", "worker/prestart.py", "worker/supervisor.py",
    "worker/clock.py", "ops/__init__.py", "ops/plain.py", "ops/attention.py", "ops/loss.py", "ops/mlp.py",
    "ops/rope.py",
)  # fmt: skip


def evaluator(task: Opened) -> str:
    """What a score's `Evaluator` trailer says; a person's own task is a part of it."""
    if task.name == "lm":
        return str(EVALUATOR_VERSION)  # as release 0.1.0, which had no other task
    return f"{EVALUATOR_VERSION} {task.name} {task.source}".rstrip()


def runtime(device: Device) -> str:
    """What a score's `Runtime` trailer says; with torch, which decides how fast a train.py is."""
    version = PROCESSOR_RUNTIME_VERSION if device.is_processor else RUNTIME_VERSION
    return f"{version} torch {torch_version().partition('+')[0]}"
