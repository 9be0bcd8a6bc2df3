"""A sandboxed model server, from the scorer's side: start it, load, warm up, seal, ask, end it.

Everything that it sends may be a lie: what isn't what was asked for refuses the score.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.sandbox import holdings, processes
from harness.sandbox.isolation import Isolation, Process
from harness.sandbox.seal import MOST_CALLS, Seal
from harness.sandbox.text import Tail, kind_of, one_line
from harness.sandbox.wire import ProtocolError, close_all, pair
from harness.store.records import CRASH, INVALID, Failure, Kind
from harness.tasks.contract import Exam, Ungraded
from harness.worker.buffers import CudaBuffer, SharedArray
from harness.worker.device import Device, has_own_limit

START_SECONDS = 120.0
STOP_SECONDS = 5.0
LAST_WORDS = 8  # messages that are read from a server that can't be talked to


class Refused(Ungraded):
    """A server can't be asked, or did what it may not."""

    def __init__(self, status: str, detail: str, kind: Kind = Kind.OTHER) -> None:
        super().__init__(Failure(status, detail, kind))


class WorkClock:
    """What a server may have worked: its processors' seconds, on a GPU all that pass.

    Attributes:
        worked_seconds: from being told to load on, but for when it stood still.
        processes: the only ones that can be, once it is sealed.
    """

    def __init__(self, process: int, device_kind: str) -> None:
        self._process, self._device_kind = process, device_kind
        self.processes: list[int] = []
        self._counted_to = self.worked_seconds = 0.0

    def now(self) -> float:
        """In seconds, of which only differences say something."""
        if self._device_kind != "cpu":
            return time.monotonic()
        if self.processes:
            return processes.cpu_seconds_of(self.processes)
        return processes.cpu_seconds(self._process)

    def exact(self) -> float:
        """As `now`, to the nanosecond, of processes that are there."""
        if self._device_kind != "cpu":
            return time.monotonic()
        every = map(processes.own_seconds_of, self.processes or processes.tree(self._process))
        return sum(seconds for seconds in every if seconds is not None)

    def stop(self) -> None:
        """Add what it worked since it went on, or since this was called."""
        now = self.now()
        self.worked_seconds += now - self._counted_to
        self._counted_to = now

    def go_on(self) -> None:
        """Count from now on: it stood still, or is told to load."""
        self._counted_to = self.now()


def still_there(touched: holdings.Touched) -> holdings.Touched:
    """What was touched, or nothing if memory may have been taken from it since: by the kernel, that is. What
    runs in a sandbox can't ask it to (see `sandbox.seal`)."""
    return touched if touched.is_all_there() and not has_own_limit() else holdings.Touched()


class Server:
    """A sandboxed model server, from our side. Attributes: `clock`, of what it worked."""

    def __init__(self, request: dict[str, Any], exam: Exam, batch: int) -> None:
        """`batch`: how many items it is asked at a time."""
        self._request, self._exam = request, exam
        self._asked_shape, self._shape = (batch, *exam.inputs.shape[1:]), (batch, *exam.reply_shape)
        self._device = Device(**request["device"])
        self._channel, theirs = pair()
        self._replies: CudaBuffer | SharedArray | None = None
        self._inputs: SharedArray | None = None
        self._seal: Seal | None = None
        self._sealed_processes: list[int] = []  # none can follow them
        self._touched = holdings.Touched()
        self._tail = Tail()
        self._ending: threading.Thread | None = None
        reading, writing = os.pipe()  # of its own: a shared log would be a way to talk to the next one
        self._drain = threading.Thread(target=self._read_log, args=(reading,), daemon=True)
        self._isolation = Isolation(request["isolation"], "", tuple(map(Path, request["hide"])))
        seen = {"train.py": request["source"], "checkpoint": request["checkpoint"]}
        if request["compiled"]:
            seen["compiled"] = request["compiled"]
        self._process = Process(
            self._isolation,
            "harness.worker.model_server",
            files={name: Path(path) for name, path in seen.items()},
            descriptors={"HARNESS_SOCKET": theirs.fileno()},
            limits=self._device.limits(request["memory_gb"]),
            # Threads that wait for each other at work would be counted, and more so on a busy machine.
            variables=self._device.variables
            | {"HARNESS_LIBRARY": request["library"]}
            | ({"HARNESS_PRELOAD": "1"} if self.is_on_gpu else {"OMP_WAIT_POLICY": "PASSIVE"}),
            disk_mb=request["disk_mb"],
            output=writing,
            gpu=self._device.node,
        )
        os.close(writing)
        theirs.close()
        self._drain.start()
        self.clock = WorkClock(self._process.pid, self._device.kind)

    @property
    def is_on_gpu(self) -> bool:
        return self._device.kind == "cuda"

    def warm(self) -> None:
        """Have it make its GPU context, without waiting for that."""
        if self.is_on_gpu:
            self._say({"device": "cuda"})

    def touch(self, touched: holdings.Touched) -> None:
        """Bring into memory what it holds while nothing untrusted is in it: later there is less to do."""
        holdings.touch(processes.tree(self._process.pid), touched)

    def begin_load(self) -> None:
        """The first half of it: something else can be done meanwhile."""
        self._hear(START_SECONDS, "ready", f"start within {START_SECONDS:g} s")
        self._own_processes = processes.tree(self._process.pid)  # nothing untrusted ran yet
        self._inputs = SharedArray.create(self._asked_shape, self._exam.asked_type)
        descriptors = [self._inputs.descriptor]
        handle = ""
        if self.is_on_gpu:
            self._replies = CudaBuffer(self._shape)
            zeros = np.zeros_like(self._exam.targets, shape=(self._shape[0], *self._exam.targets.shape[1:]))
            self._exam.grade(self._replies.tensor, zeros)  # takes its memory before the model can
            handle = self._replies.handle()
        else:
            self._replies = SharedArray.create(self._shape, "float32")
            descriptors.append(self._replies.descriptor)
        order = {
            "device": self._device.kind, "asked_shape": self._asked_shape,
            "asked_type": self._exam.asked_type, "shape": self._shape, "handle": handle,
            "checkpoint": "checkpoint",
        }  # fmt: skip
        self._load_began = time.monotonic()
        self.clock.go_on()
        self._say(order, descriptors)

    def take_seal(self) -> None:
        """What answers its calls to the kernel from here on; it sends that before train.py is imported."""
        try:
            packet = self._channel.receive(START_SECONDS)
        except (TimeoutError, ProtocolError):
            packet = None
        if packet is None or "sealed" not in packet[0]:
            raise Refused(CRASH, "the model server died: it did not start")
        self.is_sealed = bool(packet[1])
        if self.is_sealed:
            self._seal = Seal(packet[1][0])
            self._seal.limit(MOST_CALLS)

    def begin_warm_up(self, inputs: np.ndarray) -> None:
        """Have it answer items that don't count, (B, ...): what it needs for the first time it may still
        fetch, and it gives back the memory that it keeps for more."""
        self._warm_began = time.monotonic()
        self.ask(inputs, rest=True)

    def end_warm_up(self, touched: holdings.Touched) -> None:
        """Wait for it, and seal the server. `touched`: what is in memory already; added to."""
        self.replies(self._warm_began + self._request["scoring_seconds"])
        self.warm_seconds = time.monotonic() - self._warm_began
        if self._seal is None:
            return
        if self.refused_calls:
            raise Refused(INVALID, f"loading it asked the kernel for over {MOST_CALLS:,} names and files")
        self._seal.limit(0)
        self.pause()  # while it is looked at
        self._leave_alone()
        self._bring_in(touched)
        self.clock.go_on()
        self._process.signal(signal.SIGCONT)

    def _bring_in(self, touched: holdings.Touched) -> None:
        self._touched = touched
        if why := holdings.touch(self._sealed_processes, touched):
            raise Refused(INVALID, f"the model server can't be sealed: {why}")

    def _leave_alone(self) -> None:
        """End what it started: nothing can follow, it is sealed. Others could wake it, or work uncounted."""
        deadline = time.monotonic() + STOP_SECONDS
        ours = set(self._own_processes)
        while others := [*filter(processes.is_alive, set(processes.tree(self._process.pid)) - ours)]:
            for process in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Refused(INVALID, "the model server can't be sealed: what it started doesn't end")
            time.sleep(0.002)
        self._sealed_processes = self.clock.processes = self._own_processes
        outside = [self._process.pid] if self._isolation.kind == "bwrap" else []
        if not all(map(processes.is_filtered, ours - set(outside))):
            raise Refused(INVALID, "the model server can't be sealed: a process in it has no filter")

    @property
    def refused_calls(self) -> int:
        """How often it asked the kernel for more than computing, since it was sealed."""
        return sum(self._seal.refused.values()) if self._seal is not None else 0

    def pause(self) -> None:
        """Freeze it: it sees nothing of what happens meanwhile."""
        self._process.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_SECONDS
        while not processes.stand_still(processes.tree(self._process.pid)):
            if time.monotonic() > deadline:
                raise Refused(INVALID, "the model server doesn't stand still")
            time.sleep(0.002)
        self.clock.stop()

    def resume(self) -> None:
        """Let it go on; what it holds and another one pushed out of memory meanwhile is there again."""
        there = still_there(self._touched)
        if self._seal is not None and there is not self._touched:
            self._bring_in(there)
        self.clock.go_on()
        self._process.signal(signal.SIGCONT)

    def end_load(self) -> float:
        """Waits for it; returns its seconds."""
        within = f"load the checkpoint within load_seconds ({self._request['load_seconds']:g} s)"
        left = self._load_began + self._request["load_seconds"] - time.monotonic()
        self._hear(max(0.0, left), "loaded", within)
        return time.monotonic() - self._load_began

    def ask(self, inputs: np.ndarray, rest: bool = False) -> None:
        """Have it work on items, (B, ...); it may not write yet. `rest`: another server's turn is next."""
        assert self._inputs is not None
        self._inputs.array[:] = inputs
        self._say({"forward": True, "rest": rest})

    def replies(self, deadline: float) -> Any:
        """The (B, ...) buffer, with the answer in it, for the caller until the next call: an array, or on a
        GPU a tensor."""
        assert self._replies is not None
        self._say({"write": True})
        spent = f"answer all rows within scoring_seconds ({self._request['scoring_seconds']:g} s)"
        self._hear(max(0.0, deadline - time.monotonic()), "done", spent)
        if isinstance(self._replies, CudaBuffer):
            return self._replies.tensor
        return self._replies.array

    def _read_log(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as log:
            while data := log.read(65536):
                self._tail.feed(data)

    def _say(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        if not self._channel.offer(message, descriptors):
            for _ in range(LAST_WORDS):  # what it said last may be why
                self._hear(0.0, None, "listen")
            raise Refused(INVALID, "the model server spoke out of turn")

    def _hear(self, timeout_seconds: float, wanted: str | None, what: str) -> None:
        try:
            packet = self._channel.receive(timeout_seconds)
        except TimeoutError:
            raise Refused(CRASH, f"the model server did not {what}") from None
        except ProtocolError as error:
            raise Refused(INVALID, f"the model server sent {error}") from None
        if packet is None:
            raise Refused(CRASH, f"the model server died: it did not {what}")
        close_all(packet[1])  # nobody asked for any
        if "error" in packet[0]:
            but = " (once it has answered a batch it may only compute)" if self.refused_calls else ""
            said = one_line(packet[0]["error"])
            raise Refused(CRASH, f"the model server failed: {said}{but}", kind_of(said))
        if wanted is not None and wanted not in packet[0]:
            raise Refused(INVALID, "the model server spoke out of turn")

    def end(self, wait: bool) -> None:
        """It does nothing from here on; `wait` for its end, and the memory, which takes a moment on a GPU."""
        self.pause()
        self._ending = threading.Thread(target=self.close)
        self._ending.start()
        if wait:
            self._ending.join()

    def close(self) -> None:
        """Kill the server and free the buffers; a second call does nothing."""
        if self._ending not in (None, threading.current_thread()):
            self._ending.join()
        self._process.kill()
        if self._seal is not None:
            self._seal.close()
            self._seal = None
        self._channel.close()
        if self._drain.is_alive() or self._tail.text():
            self._drain.join(timeout=5)
            with Path(self._request["log"]).open("a", encoding="utf-8") as file:
                file.write(self._tail.text())
            self._tail = Tail()
        for buffer in (self._inputs, self._replies):
            if buffer is not None:
                buffer.close()
        self._inputs = self._replies = None
