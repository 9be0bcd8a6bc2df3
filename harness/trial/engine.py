"""What a training computes with: numpy here, torch in `torch_engine`. It runs inside the sandbox.

The rest of `trial.open()` is the same for both, and loads neither.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

WEIGHTS = "model.safetensors"


class Noted(Protocol):
    """A loss that may still be on its way from a device."""

    def is_here(self) -> bool: ...

    def value(self) -> float: ...


class Engine(Protocol):
    """Attributes: `device`, that a train.py computes on; `dtype`, the name of its fastest one."""

    device: Any
    dtype: str

    def steps_ahead(self) -> int:
        """Of those that were handed out: how many are not done yet."""

    def step(self) -> None:
        """Another one was asked for; returns when at most one is on its way."""

    def synchronize(self) -> None:
        """Return when all is done."""

    def note(self, loss: Any) -> Noted:
        """A loss to be read later."""

    def fits(self, step: Callable[[int], object], rows: int) -> bool:
        """Whether memory takes a step of so many rows.

        Raises:
            MemoryError, torch.OutOfMemoryError: not even one.
        """

    def save(self, model: Any, folder: Path) -> None:
        """What `load` will need, as `model.safetensors`."""

    def figures(self, model: Any) -> dict[str, Any]:
        """Of a model that was trained: `num_params`, `peak_vram_mb`."""

    def loss_of(self, model: Any, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any) -> float:
        """As it is trained, but without dropout."""


class _Here:
    def __init__(self, loss: Any) -> None:
        self._loss = float(loss)

    def is_here(self) -> bool:
        return True

    def value(self) -> float:
        return self._loss


class NumpyEngine:
    """See `Engine`; a model is a mapping of names to arrays."""

    device = "cpu"
    dtype = "float32"

    def steps_ahead(self) -> int:
        return 0

    def step(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def note(self, loss: Any) -> Noted:
        return _Here(loss)

    def fits(self, step: Callable[[int], object], rows: int) -> bool:
        try:
            step(rows)
            return True
        except MemoryError:
            if rows == 1:
                raise
            return False

    def save(self, model: Mapping[str, Any], folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        if not isinstance(model, Mapping):
            raise TypeError(f"submit takes a dict of arrays, as {{'w': w}}, and not {type(model).__name__}")
        arrays = {name: np.ascontiguousarray(array) for name, array in model.items()}
        save_file(arrays, folder / WEIGHTS)

    def figures(self, model: Mapping[str, Any]) -> dict[str, Any]:
        return {"num_params": sum(int(array.size) for array in model.values()), "peak_vram_mb": None}

    def loss_of(self, model: Any, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any) -> float:
        return float(loss(inputs, targets))
