"""What `trial.open()` gives to train.py. It runs inside the sandbox, next to untrusted code.

So nothing here is trusted by anyone: the supervisor keeps the clock, the scorer keeps the score.
What it does is to make the honest thing the easy one: batches that end with the budget, a loss curve
without waiting for the GPU, a checkpoint handed over in one call.
"""

import json
import math
import os
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from harness.sandbox import compile_cache
from harness.sandbox.processes import OwnClock
from harness.sandbox.wire import DESCRIPTORS, Channel
from harness.tasks.feeds import feed_for
from harness.trial.engine import Engine, Noted, NumpyEngine

WAIT_SECONDS = 24 * 3600.0
Batch = tuple[Any, Any]


class Host(Protocol):
    """Who runs this training: the supervisor, or a person."""

    def training_tokens(self) -> int:
        """The descriptor of the training tokens; the clock starts now."""

    def log(self, message: dict[str, Any]) -> None: ...

    def training_ended(self) -> None: ...

    def submit(self, folder: Path, reported: dict[str, Any]) -> None: ...


class Supervised:
    """The supervisor at the other end of an inherited socket."""

    def __init__(self, descriptor: int) -> None:
        self._channel = Channel(socket.socket(fileno=descriptor))

    def opened(self) -> None:
        self._channel.send({"ask": "open"})

    def training_tokens(self) -> int:
        known = os.environ.get("HARNESS_COMPILED")
        archive = [compile_cache.pack(Path(known))] if known else []
        self._channel.send({"ask": "data"}, archive)
        for descriptor in archive:
            os.close(descriptor)
        answer = self._channel.receive(WAIT_SECONDS)  # another trial may train, or be being scored
        if answer is None or not answer[1]:
            raise RuntimeError("the supervisor gave no training data")
        return answer[1][0]

    def log(self, message: dict[str, Any]) -> None:
        self._channel.offer({"ask": "log", **message})

    def training_ended(self) -> None:
        self._channel.send({"ask": "saving"})

    def submit(self, folder: Path, reported: dict[str, Any]) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if len(files) > DESCRIPTORS:
            raise ValueError(f"a checkpoint has at most {DESCRIPTORS} files, not {len(files)}")
        descriptors = [os.open(path, os.O_RDONLY) for path in files]
        names = [path.name for path in files]
        self._channel.send({"ask": "submit", "names": names, **reported}, descriptors)
        while True:  # the supervisor ends this process as soon as it has the descriptors
            time.sleep(1)


class Run:
    """One training.

    Attributes:
        seed: initialisation and data order should depend on it alone.
        device: torch.device to train on; "cpu" where the task is one for numpy.
        dtype: what it multiplies fastest, as a name: "bfloat16" on GPUs that have it, else "float32".
        budget_seconds: from the first batch to the end of the last step; on a processor its time, not what
            passes: of this process and of those that it started.
        checkpoint_dir: a folder for whatever `load` will need; at most 32 files, no folders.

    And what the task adds: of text `vocab_size`, `seq_len` and `bos` of the tokenizer and the rows, and
    `train_tokens` in all documents, beyond which what is trained on was seen before; see `Task` for others.
    """

    def __init__(self, host: Host, spec: dict[str, Any], checkpoint_dir: Path) -> None:
        self.seed: int = spec["seed"]
        self._order_seed = self.seed  # a train.py that sets another one gets no other order of the data
        self._engine = _engine(spec)
        self.device, self.dtype = self._engine.device, self._engine.dtype
        self.budget_seconds: float = spec["budget_seconds"]
        self._feed = feed_for(spec, self.device)
        for name, value in self._feed.about().items():
            setattr(self, name, value)
        self.checkpoint_dir = checkpoint_dir
        checkpoint_dir.mkdir(exist_ok=True)
        self._host = host
        self._by_processor: bool = spec.get("by_processor", False)
        self._now: Callable[[], float] = time.monotonic
        self._started_at: float | None = None
        self._waiting_losses: deque[tuple[int, Noted]] = deque()
        self._reported: dict[str, Any] = {"num_steps": 0, "total_tokens": 0}

    @property
    def elapsed_seconds(self) -> float:
        """Of the budget, since the first batch; 0 before it."""
        return self._now() - self._started_at if self._started_at is not None else 0.0

    @property
    def progress(self) -> float:
        """The part of the budget that is spent, 0 to 1: what schedules go by."""
        return min(1.0, self.elapsed_seconds / self.budget_seconds)

    def dummy_batch(self, batch_size: int) -> Batch:
        """Random inputs and targets like those of `batches`, to warm up before the clock starts."""
        return self._feed.dummy(batch_size)

    def fit_rows(self, most: int, step: Callable[[int], object]) -> int:
        """How many rows of a forward and backward pass the device's memory takes: `most`, a half of it, ...

        Args:
            most: what is tried first.
            step: a whole optimizer step, so many rows at a time; it compiles and warms up, too.

        Raises:
            MemoryError, torch.OutOfMemoryError: one row doesn't fit.
        """
        rows = most
        while not self._engine.fits(step, rows):
            rows //= 2
        self._reported["device_batch_size"] = rows
        return rows

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield (inputs, targets) until no further step fits into the budget; of text (B, T) int64 each.

        The clock starts here. One optimizer step per batch is assumed, whatever it is split into.
        On a GPU at most one step is in flight when the next batch is asked for.
        """
        if self._started_at is not None:
            raise RuntimeError("batches() can be asked for once")
        if self._by_processor:
            self._now = OwnClock()  # before: no process is started from here on
        descriptor = self._host.training_tokens()
        self._started_at = self._now()
        self._feed.open(descriptor, batch_size, self._order_seed)
        ends: deque[float] = deque([self._now()], maxlen=17)
        while True:
            steps = [later - earlier for earlier, later in pairwise(ends)]
            # One slow step in the beginning must not decide that no other fits: it compiled, and on a GPU the
            # time until the second one is asked for says nothing of what is still queued.
            step_seconds = (statistics.median(steps) if len(steps) > 2 else min(steps)) if steps else 0.0
            ahead = 1 + self._engine.steps_ahead() if len(steps) > 1 else 1
            if self.elapsed_seconds + step_seconds * ahead > self.budget_seconds:
                break
            yield self._feed.next()
            self._reported["num_steps"] += 1
            self._reported["total_tokens"] += self._feed.units(batch_size)
            self._engine.step()
            ends.append(self._now())
            self._send_losses()
        self._engine.synchronize()

    def log(self, step: int, loss: Any) -> None:
        """Note a step's loss for the curve. A tensor may still be on its way; nothing waits for it.

        Raises:
            FloatingPointError: a loss noted earlier turned out to be NaN or infinite.
        """
        self._waiting_losses.append((step, self._engine.note(loss)))

    def _send_losses(self) -> None:
        while self._waiting_losses:
            step, noted = self._waiting_losses[0]
            if not noted.is_here():
                return
            self._waiting_losses.popleft()
            loss = noted.value()
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}")
            self._host.log({"step": step, "loss": loss, "tokens": self._reported["total_tokens"]})

    def submit(
        self, model: Any, flops_per_token: float | None = None, loss: Callable[[Any, Any], Any] | None = None
    ) -> None:
        """Save the weights as `model.safetensors` and hand the checkpoint folder over.

        Under the harness the process ends here: what stands after it does not run.

        Args:
            model: its state is saved under the names of the module that was compiled, if it was; where the
                task is one for numpy a mapping of names to arrays.
            flops_per_token: of training, forward and backward; for the summary's MFU.
            loss: what was trained, (inputs, targets) -> mean loss. It is asked for a few items that were
                trained on; where `load` gives a model with another loss there, the record says so. It is part
                of saving: what it needs for the first time should be there before the first batch.
        """
        self._engine.synchronize()
        self._host.training_ended()
        self._send_losses()
        self._engine.save(model, self.checkpoint_dir)
        began = time.monotonic()
        self._reported["trained_nats"] = self._trained_nats(model, loss) if loss else None
        self._reported["loss_seconds"] = time.monotonic() - began
        self._reported |= {"flops_per_token": flops_per_token, **self._engine.figures(model)}
        self._host.submit(self.checkpoint_dir, self._reported)

    def _trained_nats(self, model: Any, loss: Callable[[Any, Any], Any]) -> float | None:
        try:
            return self._engine.loss_of(model, loss, *self._feed.first())
        except Exception as error:  # noqa: BLE001 - it is asked for nothing else, and decides nothing
            sys.stderr.write(f"submit's loss failed: {error}\n")
            return None


def _engine(spec: dict[str, Any]) -> Engine:
    if spec["library"] == "numpy":
        return NumpyEngine()
    from harness.trial.torch_engine import TorchEngine

    return TorchEngine(spec["device"], spec.get("gpu_memory_mb", 0))


def supervised() -> Run:
    """The run that a supervisor at the other end of an inherited socket watches."""
    spec = json.loads(os.environ["HARNESS_TRIAL"])
    host = Supervised(int(os.environ["HARNESS_SOCKET"]))
    host.opened()
    return Run(host, spec, Path("checkpoint").absolute())
