"""Control: swing a pendulum up and hold it there. The environment is gymnasium's and steps in the scorer.

A policy answers each observation by itself: cosine, sine and speed of the angle -> a torque from -2 to 2.
What training gets are seeds of episodes; those that score are others, and nobody knows them.
"""

import gymnasium
import numpy as np

from harness.store.metric import Metric
from harness.tasks.items.game import Ask, Game

ENVIRONMENT = "Pendulum-v1"
STEPS = 200


def play(seeds: np.ndarray, ask: Ask) -> np.ndarray:
    """The return of an episode for each of the seeds, (N,); 0 is the most."""
    environments = [gymnasium.make(ENVIRONMENT) for _ in seeds]
    starts = [each.reset(seed=int(seed % 2**31)) for each, seed in zip(environments, seeds, strict=True)]
    observations = np.stack([observation for observation, _ in starts])
    returns = np.zeros(len(seeds))
    for _ in range(STEPS):
        torques, _ = ask(observations)
        for at, each in enumerate(environments):
            observations[at], reward, *_ = each.step(torques[at].astype(np.float32))
            returns[at] += reward
    return returns


TASK = Game(
    Metric("return", goal="max", decimals=1, low=-4000.0, high=0.1), play,
    asked_shape=(3,), reply_shape=(1,), used=lambda torques: np.clip(torques, -2, 2), at_once=64,
    facts={"environment": ENVIRONMENT, "steps": STEPS}, library="numpy",
)  # fmt: skip
