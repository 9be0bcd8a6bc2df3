"""Batches for training, packed in a thread of their own and copied ahead of time.

Nothing here runs on the training thread but taking a finished batch from a queue. The order of the
documents depends on the seed alone.
"""

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch

from harness.tasks.lm.packing import pack, shuffled_forever
from harness.tasks.lm.store import map_tokens

AHEAD = 4
Batch = tuple[torch.Tensor, torch.Tensor]


class Loader:
    """An endless supply of (batch_size, seq_len + 1) rows on a device."""

    def __init__(
        self, descriptor: int, batch_size: int, seq_len: int, seed: int, device: torch.device
    ) -> None:
        tokens, offsets = map_tokens(descriptor)
        self.tokens = tokens
        """Of all training text, (N,) uint16."""
        order = shuffled_forever(len(offsets) - 1, seed)
        self._rows = pack(tokens, offsets, order, seq_len + 1)
        self._batch_size, self._device = batch_size, device
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD)
        threading.Thread(target=self._fill, name="loader", daemon=True).start()

    def _fill(self) -> None:
        try:
            for batch in self._batches():
                self._ready.put(batch)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is read
            self._ready.put(error)

    def _batches(self) -> Iterator[Batch]:
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        while True:
            rows = np.stack([next(self._rows) for _ in range(self._batch_size)])  # (B, T + 1)
            if stream is None:
                inputs, targets = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
                yield torch.from_numpy(inputs).to(self._device), torch.from_numpy(targets).to(self._device)
                continue
            packed = torch.from_numpy(rows.astype(np.int32)).pin_memory()
            with torch.cuda.stream(stream):
                whole = packed.to(self._device, non_blocking=True).long()
                batch = whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
            stream.synchronize()  # in this thread: the batch is whole before anyone sees it
            yield batch

    def next(self) -> Batch:
        """Inputs and targets, (B, T) int64 each, on the device."""
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            raise batch
        if self._device.type == "cuda":
            for part in batch:
                part.record_stream(torch.cuda.current_stream())
        return batch
