"""What a training on items gets: batches in an order of the seed's, each item once before any comes again."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.tasks.items import store

SHARE = 8  # on a GPU, what part of its memory the training items may take to lie there whole


class ItemsFeed:
    """See `harness.tasks.contract.Feed`. Batches are tensors, or arrays where the task is one for numpy."""

    def __init__(self, spec: dict[str, Any], device: Any) -> None:
        self._facts = {
            name: tuple(value) if isinstance(value, list) else value for name, value in spec["facts"].items()
        }
        self._device, self._by_numpy = device, spec["library"] == "numpy"
        self._input, self._target = np.dtype(spec["input_type"]), np.dtype(spec["target_type"])
        self._fed_shape: tuple[int, ...] = tuple(spec["fed_shape"])
        self._target_shape: tuple[int, ...] = tuple(spec["target_shape"])
        self._batches: Iterator[tuple[Any, Any]] | None = None
        self._first: tuple[np.ndarray, np.ndarray] | None = None

    def about(self) -> dict[str, Any]:
        return self._facts

    def dummy(self, count: int) -> tuple[Any, Any]:
        shape = (count, *self._fed_shape)
        inputs = (
            np.random.default_rng(0).standard_normal(shape) if self._input.kind == "f" else np.zeros(shape)
        )
        return self._put(inputs.astype(self._input)), self._put(
            np.zeros((count, *self._target_shape), self._target)
        )

    def open(self, descriptor: int, count: int, seed: int) -> None:
        inputs, targets = store.read(descriptor)
        self._first = inputs[: store.FIRST_ITEMS], targets[: store.FIRST_ITEMS]
        self._batches = self._dealt(inputs, targets, count, seed)

    def _dealt(
        self, inputs: np.ndarray, targets: np.ndarray, count: int, seed: int
    ) -> Iterator[tuple[Any, Any]]:
        order = _order(len(inputs), count, seed)
        if not self._by_numpy and self._device.type == "cuda" and self._is_small(inputs):
            import torch

            whole, goals = self._put(inputs), self._put(targets)
            for which in order:
                at = torch.from_numpy(which).to(self._device)
                yield whole[at], goals[at]
        for which in order:
            yield self._put(inputs[which]), self._put(targets[which])

    def _is_small(self, inputs: np.ndarray) -> bool:
        import torch

        return inputs.nbytes * SHARE <= torch.cuda.mem_get_info(self._device)[0]

    def _put(self, array: np.ndarray) -> Any:
        if self._by_numpy:
            return np.array(array)
        import torch

        return torch.from_numpy(np.array(array)).to(self._device)

    def next(self) -> tuple[Any, Any]:
        assert self._batches is not None
        return next(self._batches)

    def units(self, count: int) -> int:
        return count

    def first(self) -> tuple[Any, Any]:
        assert self._first is not None
        inputs, targets = self._first
        return self._put(inputs), self._put(targets)


def _order(items: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Which items a batch has, (count,) each, without end."""
    generator = np.random.default_rng(seed)
    left = np.empty(0, np.int64)
    while True:
        while len(left) < count:
            left = np.concatenate([left, generator.permutation(items)])
        which, left = left[:count], left[count:]
        yield which
