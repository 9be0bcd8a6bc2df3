"""The first process of a run: says that the sandbox stands, waits for a train.py, becomes its `__main__`.

What takes time and is the same for every train.py is done before: libraries, the compile cache. The last
thing before it is to have its calls to the kernel answered outside, see `seal`.
"""

import contextlib
import gc
import importlib
import os
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from harness.sandbox import compile_cache, limits, seal
from harness.sandbox.wire import Channel

SCRIPT = "train.py"
WAIT_SECONDS = 24 * 3600.0
LIBRARIES = (
    "torch", "torch._dynamo", "torch._inductor.compile_fx", "torch._inductor.codegen.triton",
    "torch.nn.attention.flex_attention", "triton", "safetensors.torch", "harness.trial.api",
    "harness.trial.torch_engine", "harness.tasks.lm.feed", "harness.tasks.items.feed",
)  # fmt: skip


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While libraries start: nothing of theirs is garbage, and to look for some takes a tenth of the time."""
    gc.disable()
    yield
    gc.enable()


def prepare() -> None:
    """What can be done before there is a train.py."""
    known = Path("compiled").absolute()
    if known.is_dir():
        compile_cache.unpack(known)
        os.environ["HARNESS_COMPILED"] = str(known)
    with uncollected():
        for name in LIBRARIES if "HARNESS_PRELOAD" in os.environ else ():
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001 - if train.py needs it, it will say so
                continue


def receive(channel: Channel) -> str | None:
    """The train.py that came, as a file; None if nobody wants one any more."""
    packet = channel.receive(WAIT_SECONDS)
    if packet is None:
        return None
    order, (descriptor,) = packet
    with os.fdopen(descriptor, "rb") as copy:
        copy.seek(0)
        script = os.open(SCRIPT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(script, "wb") as file:
            file.write(copy.read())
    os.environ["HARNESS_TRIAL"] = order["run"]
    return SCRIPT


def hand_out_seal(channel: Channel, gpu: bool, alone: bool = False, **message: str) -> None:
    """Have every further call to the kernel answered by whoever hears this."""
    listener = seal.install(gpu, alone)
    channel.send({**message, "sealed": listener is not None}, [listener] if listener is not None else [])
    if listener is not None:
        os.close(listener)


def become(script: str) -> None:
    """What `python train.py` does, without another interpreter's start."""
    sys.argv = [script]
    module = types.ModuleType("__main__")
    module.__file__ = script
    sys.modules["__main__"] = module
    exec(compile(Path(script).read_bytes(), str(Path(script).absolute()), "exec"), module.__dict__)


if __name__ == "__main__":
    limits.apply()
    channel = Channel(socket.socket(fileno=os.dup(int(os.environ["HARNESS_SOCKET"]))))
    channel.offer({"ask": "boot"})
    prepare()
    if (script := receive(channel)) is not None:
        hand_out_seal(channel, "HARNESS_PRELOAD" in os.environ, ask="seal")
        channel.socket.close()
        become(script)
