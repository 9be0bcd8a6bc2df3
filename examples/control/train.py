"""A small network, found by the cross-entropy method: try policies, and go on around the best of them."""

import gymnasium
import numpy as np
from safetensors.numpy import load_file

from harness import trial

HIDDEN = 16
POLICIES = 24  # that are tried in a step
BEST = 6  # of them that the next step goes on from
SPREAD = 1.0  # of the weights, to begin with
LEAST_SPREAD = 0.05
EPISODES = 2  # of each policy in a step, the same for all


def shapes(observed, acted):
    return [(observed, HIDDEN), (HIDDEN,), (HIDDEN, acted), (acted,)]


def torques(weights, observations):
    """(B, 3) -> (B, 1), from -2 to 2."""
    first, bias, second, last = weights
    scaled = observations * np.array([1, 1, 0.25], np.float32)  # speeds go up to 8
    return 2 * np.tanh(np.tanh(scaled @ first + bias) @ second + last)


def unpacked(flat, all_shapes):
    parts, at = [], 0
    for shape in all_shapes:
        size = int(np.prod(shape))
        parts.append(flat[at : at + size].reshape(shape))
        at += size
    return parts


def load(checkpoint_dir, device):
    """What was found: observations (B, 3) float32 -> torques (B, 1) float32."""
    found = load_file(checkpoint_dir / "model.safetensors")
    weights = [found[str(at)] for at in range(4)]
    return lambda observations: torques(weights, observations).astype(np.float32)


def main():
    run = trial.open()
    environment = gymnasium.make(run.environment)
    generator = np.random.default_rng(run.seed)
    all_shapes = shapes(run.input_shape[0], run.reply_shape[0])
    size = sum(int(np.prod(shape)) for shape in all_shapes)
    center, spread = np.zeros(size), np.full(size, SPREAD)

    def worth(flat, seeds):
        weights, total = unpacked(flat, all_shapes), 0.0
        for seed in seeds:
            observation, _ = environment.reset(seed=int(seed % 2**31))
            for _ in range(run.steps):
                observation, reward, *_ = environment.step(torques(weights, observation[None])[0])
                total += reward
        return total / len(seeds)

    for step, (seeds, _) in enumerate(run.batches(EPISODES)):
        tried = center + spread * generator.standard_normal((POLICIES, size))
        returns = np.array([worth(flat, seeds) for flat in tried])
        best = tried[np.argsort(-returns)[:BEST]]
        center, spread = best.mean(axis=0), np.maximum(best.std(axis=0), LEAST_SPREAD)
        run.log(step, -float(np.sort(returns)[-BEST:].mean()))
    parts = unpacked(center.astype(np.float32), all_shapes)
    run.submit({str(at): part for at, part in enumerate(parts)})


if __name__ == "__main__":
    main()
