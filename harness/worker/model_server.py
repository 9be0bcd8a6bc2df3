"""The model server: the sandboxed process that imports train.py, loads its checkpoint and answers.

It sees inputs and writes replies; it never sees a target. It imports torch, if the task is one for it, and on
a GPU makes its context, before it is told to load, so that it can be started early. Everything from `load` on
is untrusted, this process included: the scorer trusts only what it reads from its own buffer, and decides
what this process may still ask of the kernel.
"""

import contextlib
import importlib
import importlib.util
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from harness.sandbox import limits
from harness.sandbox.text import one_line
from harness.sandbox.wire import Channel
from harness.worker import boot

WAIT_SECONDS = 24 * 3600.0


def serve(channel: Channel) -> None:
    boot.prepare()
    by_numpy = os.environ["HARNESS_LIBRARY"] == "numpy"
    with boot.uncollected():
        importlib.import_module("numpy" if by_numpy else "torch")
    channel.send({"ready": True})
    while (packet := channel.receive(WAIT_SECONDS)) is not None:
        order, descriptors = packet
        if "shape" in order:
            break
        warm_up(order["device"])
    else:
        return
    (_serve_numpy if by_numpy else _serve_torch)(channel, order, descriptors)


def _seal(channel: Channel, on_gpu: bool) -> None:
    """What it asks of the kernel is decided outside from here on; without a GPU it needs no other process."""
    boot.hand_out_seal(channel, gpu=on_gpu, alone=not on_gpu)


def _serve_torch(channel: Channel, order: dict[str, Any], descriptors: list[int]) -> None:
    import torch

    from harness.worker.buffers import SharedArray, open_cuda

    device, shape = torch.device(order["device"]), tuple(order["shape"])
    inputs = SharedArray.map(descriptors[0], tuple(order["asked_shape"]), order["asked_type"])
    if order["handle"]:
        replies_out = open_cuda(order["handle"], shape)
    else:
        replies_out = torch.from_numpy(SharedArray.map(descriptors[1], shape, "float32"))
    _seal(channel, device.type == "cuda")
    # ── from here on untrusted code runs in this process, and what it asks of the kernel is decided outside
    model = _load(Path(order["checkpoint"]), device)
    channel.say({"loaded": True})
    while (asked := channel.receive(WAIT_SECONDS)) is not None:
        with torch.no_grad():
            batch = torch.from_numpy(inputs.copy()).to(device)  # (B, ...)
            replies = model(batch)
            check(replies, shape, getattr(getattr(replies, "dtype", None), "is_floating_point", False))
            if channel.receive(WAIT_SECONDS) is None:  # what is in the buffer was read
                return
            replies_out.copy_(replies)
        del replies  # so that the next batch's take the same, cached memory
        if device.type == "cuda":
            torch.cuda.synchronize()
            if asked[0].get("rest"):  # another server is scored meanwhile, with what memory there is
                torch.cuda.empty_cache()
        channel.say({"done": True})


def _serve_numpy(channel: Channel, order: dict[str, Any], descriptors: list[int]) -> None:
    from harness.worker.buffers import SharedArray

    shape = tuple(order["shape"])
    inputs = SharedArray.map(descriptors[0], tuple(order["asked_shape"]), order["asked_type"])
    replies_out = SharedArray.map(descriptors[1], shape, "float32")
    _seal(channel, on_gpu=False)
    # ── from here on untrusted code runs in this process, as above
    model = _load(Path(order["checkpoint"]), order["device"])
    channel.say({"loaded": True})
    while channel.receive(WAIT_SECONDS) is not None:
        replies = model(inputs.copy())
        check(replies, shape, getattr(getattr(replies, "dtype", None), "kind", "") == "f")
        if channel.receive(WAIT_SECONDS) is None:  # what is in the buffer was read
            return
        replies_out[:] = replies
        channel.say({"done": True})


def check(replies: Any, shape: tuple[int, ...], is_floating: bool) -> None:
    """Raise unless the answer is floating-point numbers of that shape: nothing else is cast to them."""
    if getattr(replies, "shape", None) != shape:
        got = tuple(getattr(replies, "shape", ())) or type(replies).__name__
        raise ValueError(f"the model gave {got}, not replies of {shape}")
    if not is_floating:
        raise TypeError(f"the model gave replies of {replies.dtype}, not of a floating-point type")


def warm_up(device: str) -> None:
    """Make the GPU's context and load the libraries that models use: seconds, spent while nobody waits."""
    import torch
    import torch.nn.functional as F

    import harness.ops  # noqa: F401
    from harness.tasks.lm.losses import losses

    with contextlib.suppress(Exception), torch.no_grad():  # whatever the model needs and can't have, it says
        x = torch.ones(256, 256, device=device, dtype=torch.bfloat16)
        F.rms_norm((x @ x).float(), (256,))
        q = torch.ones(1, 4, 256, 128, device=device, dtype=torch.bfloat16)
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
        losses(x.float(), torch.zeros(256, dtype=torch.int64, device=device))
        q = q.transpose(1, 2)
        torch.ops.aten._flash_attention_forward(q, q, q, None, None, 256, 256, 0.0, True, False)
        torch.cuda.synchronize()
    torch.cuda.empty_cache()


def _load(checkpoint: Path, device: Any) -> Any:
    spec = importlib.util.spec_from_file_location("train", "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    model = module.load(checkpoint, device)
    if hasattr(model, "eval"):
        model.eval()
    return model


def main() -> None:
    limits.apply()
    channel = Channel(socket.socket(fileno=int(os.environ["HARNESS_SOCKET"])))
    try:
        serve(channel)
    except BaseException as error:  # noqa: BLE001 - whatever train.py raised, the scorer is told
        traceback.print_exc()  # for the person's log; the scorer is told one line
        channel.say({"error": f"{type(error).__name__}: {one_line(error, 150)}"})


if __name__ == "__main__":
    main()
