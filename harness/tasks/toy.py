"""A line through points with noise: a run takes a second, and what can be reached is known.

It serves to try the harness itself: the loop, git, the clock, the sandbox. Numpy is all it needs.
"""

import numpy as np

from harness.config import ItemsConfig
from harness.tasks.folder import Progress
from harness.tasks.items.measures import squared_error
from harness.tasks.items.salt import generator
from harness.tasks.items.task import Examples, Task

ITEMS, WIDTH = 20_000, 8
NOISE = 0.5  # of each target, so that no reply has a smaller mean squared error than its square
OPTIMUM = NOISE**2


def _examples(config: ItemsConfig, progress: Progress) -> Examples:
    drawn = generator("toy")
    inputs = drawn.standard_normal((ITEMS, WIDTH)).astype(np.float32)
    targets = inputs @ drawn.standard_normal(WIDTH) + NOISE * drawn.standard_normal(ITEMS)
    return Examples(inputs, targets.astype(np.float32), reply_shape=())


TASK = Task(squared_error(), _examples, library="numpy")
