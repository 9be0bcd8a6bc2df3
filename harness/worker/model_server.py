"""The model server: the sandboxed process that imports train.py, loads its checkpoint and answers.

It sees token ids and writes logits; it never sees a target. It imports torch, and on a GPU makes its
context, before it is told to load, so that it can be started early. Everything from `load` on is
untrusted, this process included: the scorer trusts only what it reads from its own buffer, and decides
what this process may still ask of the kernel.
"""

import contextlib
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
    import torch

    from harness.worker.buffers import SharedArray, open_cuda

    boot.prepare()
    channel.send({"ready": True})
    while (packet := channel.receive(WAIT_SECONDS)) is not None:
        order, descriptors = packet
        device = torch.device(order["device"])
        if "shape" in order:
            break
        warm_up(device)
    else:
        return
    shape = tuple(order["shape"])
    inputs = SharedArray.map(descriptors[0], tuple(order["asked_shape"]), order["asked_type"])
    if order["handle"]:
        replies_out = open_cuda(order["handle"], shape)
    else:
        replies_out = torch.from_numpy(SharedArray.map(descriptors[1], shape, "float32"))
    boot.hand_out_seal(channel, gpu=device.type == "cuda", alone=device.type != "cuda")
    # ── from here on untrusted code runs in this process, and what it asks of the kernel is decided outside
    model = _load(Path(order["checkpoint"]), device)
    channel.say({"loaded": True})
    while (asked := channel.receive(WAIT_SECONDS)) is not None:
        with torch.no_grad():
            batch = torch.from_numpy(inputs.copy()).to(device)  # (B, ...)
            logits = model(batch)
            _check(logits, shape)
            if channel.receive(WAIT_SECONDS) is None:  # what is in the buffer was read
                return
            replies_out.copy_(logits)
        del logits  # so that the next batch's take the same, cached memory
        if device.type == "cuda":
            torch.cuda.synchronize()
            if asked[0].get("rest"):  # another server is scored meanwhile, with what memory there is
                torch.cuda.empty_cache()
        channel.say({"done": True})


def _check(logits: Any, shape: tuple[int, ...]) -> None:
    """Raise unless the answer is floating-point logits of that shape: nothing else is cast to them."""
    if getattr(logits, "shape", None) != shape:
        got = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise ValueError(f"the model gave {got}, not logits of {shape}")
    if not logits.is_floating_point():
        raise TypeError(f"the model gave logits of {logits.dtype}, not of a floating-point type")


def warm_up(device: Any) -> None:
    """Make the GPU's context and load the libraries that models use: seconds, spent while nobody waits."""
    import torch
    import torch.nn.functional as F

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
