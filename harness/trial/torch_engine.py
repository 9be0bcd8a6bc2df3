"""Training with torch, see `engine`: nothing waits for the GPU that needn't."""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.trial.engine import WEIGHTS, Noted

CONTEXT_MB = 1300  # of a GPU that a process takes beside its tensors; over 808 seen where kernels were tuned
ROOM = (
    0.05  # of the memory: what a step may take later beyond what a first one does, as pieces lie worse then
)


class _OnItsWay:
    """A loss, copied from a GPU meanwhile."""

    def __init__(self, loss: Any) -> None:
        self._loss = torch.as_tensor(loss).detach()
        self._event = None
        if self._loss.is_cuda:
            self._loss = self._loss.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def is_here(self) -> bool:
        return self._event is None or self._event.query()

    def value(self) -> float:
        return float(self._loss)


class TorchEngine:
    """See `Engine`; a model is an `nn.Module`."""

    def __init__(self, device: str, gpu_memory_mb: int) -> None:
        """`gpu_memory_mb`: what may be taken of a GPU; 0 for all of it."""
        self.device = torch.device(device)
        halves = self._is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = "bfloat16" if halves else "float32"
        self._queued: deque[Any] = deque()
        self._most = 1.0  # of a GPU's memory
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
            if gpu_memory_mb:  # more is a crash: here it can still be found too much
                total = torch.cuda.mem_get_info()[1] / 2**20
                self._most = min(1.0, max(0.0, gpu_memory_mb - CONTEXT_MB) / total)
                torch.cuda.set_per_process_memory_fraction(self._most)

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def steps_ahead(self) -> int:
        return len(self._queued)

    def step(self) -> None:
        if self._is_cuda:
            event = torch.cuda.Event()
            event.record()
            self._queued.append(event)
            if len(self._queued) > 1:
                self._queued.popleft().synchronize()
        else:
            self.synchronize()

    def synchronize(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def note(self, loss: Any) -> Noted:
        return _OnItsWay(loss)

    def fits(self, step: Callable[[int], object], rows: int) -> bool:
        try:
            with self._less_memory():
                step(rows)
                if self._is_cuda:
                    step(rows)  # the optimizer's state lies beside it now
            return True
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        gc.collect()  # out here: the exception held on to what didn't fit
        if self._is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return False

    @contextmanager
    def _less_memory(self) -> Iterator[None]:
        """What fits into it will fit for as long as it trains."""
        if self._is_cuda:
            free, total = torch.cuda.mem_get_info()
            here = (free + torch.cuda.memory_reserved()) / total
            torch.cuda.set_per_process_memory_fraction((1 - ROOM) * min(self._most, here))
        try:
            yield
        finally:
            if self._is_cuda:
                torch.cuda.set_per_process_memory_fraction(self._most)

    def save(self, model: nn.Module, folder: Path) -> None:
        from harness.trial.saving import save

        if not isinstance(model, nn.Module):
            raise TypeError(f"submit takes a torch.nn.Module, and not {type(model).__name__}")
        save(_plain(model), folder / WEIGHTS)

    def figures(self, model: nn.Module) -> dict[str, Any]:
        return {
            "num_params": sum(p.numel() for p in _plain(model).parameters()),
            "peak_vram_mb": torch.cuda.max_memory_allocated() / 2**20 if self._is_cuda else None,
        }

    def loss_of(self, model: nn.Module, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any) -> float:
        """With gradients."""
        torch.backends.cudnn.benchmark = False  # asked once: to try every kernel first takes seconds
        _plain(model).eval()
        return float(loss(inputs, targets).detach())


def _plain(model: nn.Module) -> nn.Module:
    """The module that was compiled, if it was."""
    return getattr(model, "_orig_mod", model)
