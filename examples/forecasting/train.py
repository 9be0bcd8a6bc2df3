"""A forecast that is linear in the past, and in what a layer of random features makes of it."""

import numpy as np
from safetensors.numpy import load_file

from harness import trial

FEATURES = 64
LEARNING_RATE = 0.02
BATCH_SIZE = 64
MOMENTUM = 0.9


def features(past, projection):
    """(B, 48) -> (B, 48 + F + 1)"""
    hidden = np.maximum(past @ projection, 0)
    return np.concatenate([past, hidden, np.ones((len(past), 1), past.dtype)], axis=1)


def load(checkpoint_dir, device):
    """What was trained: the past (B, 48) float32 -> the future (B, 12) float32."""
    found = load_file(checkpoint_dir / "model.safetensors")
    return lambda past: features(past, found["projection"]) @ found["weights"]


def main():
    run = trial.open()
    (past,), (future,) = run.input_shape, run.reply_shape
    generator = np.random.default_rng(run.seed)
    projection = (generator.standard_normal((past, FEATURES)) / past**0.5).astype(np.float32)
    weights = np.zeros((past + FEATURES + 1, future), np.float32)
    speed = np.zeros_like(weights)
    for step, (inputs, targets) in enumerate(run.batches(BATCH_SIZE)):
        x = features(inputs, projection)
        errors = x @ weights - targets  # (B, 12)
        speed = MOMENTUM * speed - LEARNING_RATE * (1 - run.progress) * x.T @ errors / BATCH_SIZE
        weights += speed / x.shape[1] ** 0.5
        run.log(step, float(np.square(errors).mean()))
    run.submit({"projection": projection, "weights": weights})


if __name__ == "__main__":
    main()
