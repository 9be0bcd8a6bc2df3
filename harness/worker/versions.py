"""The versions of what scores and of what a train.py trains on: scores of different ones never mix.

They are kept by hand: not every change of code changes a score. A test holds the sources named here to the
digests in tests/versions.toml, so that no change is made without thinking of it.
"""

from importlib import metadata

EVALUATOR_VERSION = 1
RUNTIME_VERSION = 1
EVALUATOR_SOURCES = (
    "worker/scorer.py", "worker/model_client.py", "worker/model_server.py", "worker/audit.py",
    "worker/buffers.py", "worker/losses.py", "worker/overtime.py",
)  # fmt: skip
RUNTIME_SOURCES = (
    "trial/api.py", "trial/loader.py", "tasks/lm/packing.py", "sandbox/isolation.py", "worker/boot.py",
    "worker/prestart.py", "worker/supervisor.py", "ops/__init__.py", "ops/plain.py", "ops/attention.py",
    "ops/loss.py", "ops/mlp.py", "ops/rope.py",
)  # fmt: skip


def evaluator() -> str:
    """What a score's `Evaluator` trailer says."""
    return str(EVALUATOR_VERSION)


def runtime() -> str:
    """What a score's `Runtime` trailer says; with torch, which decides how fast a train.py is."""
    return f"{RUNTIME_VERSION} torch {metadata.version('torch').partition('+')[0]}"
