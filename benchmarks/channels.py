"""What the first model server can still tell the second one: bits a score, by programs made for it.

    python benchmarks/channels.py                            # this machine's processor
    python benchmarks/channels.py --device cuda --repeats 6  # and what is a GPU's own

Both servers are loaded, warmed up and sealed by the scorer's own code, and the second one stands still. The
first is asked to write a secret of random bits, then killed; the second goes on and is asked to read it.
Which bits are right says what the channel carries; the first one's own reading, before it ends, that the
programs work. Needs a C compiler, and x86-64 for `lines`. The table goes to
benchmarks/results/channels-DEVICE.md.

    lines    the processor's caches: which of 4096 lines of a common file are in there
    clock    how fast the processor runs (or the GPU, `gpu clock`) after a second of work, or of rest: one bit
    gpu memory  what lies in memory of the GPU that a process has just been given
"""

import argparse
import dataclasses
import math
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.sandbox.holdings import Touched
from harness.sandbox.isolation import choose
from harness.worker import device, scorer
from harness.worker.model_client import Server

RESULTS = Path(__file__).parent / "results"
WRITE, READ = 2, 3  # the first token of a row; the others are the secret's bits
TEXT_BYTES = {"cpu": 1_000_000, "cuda": 82_203_314}  # what those bits are to be set against
BALLAST_BYTES = 64 * 2**20

C_SOURCE = """
#include <stdint.h>
#include <x86intrin.h>
void flush(char *base, const int64_t *at, int n) {
    for (int i = 0; i < n; i++) _mm_clflush(base + at[i]);
    _mm_mfence();
}
void hold(char *base, const int64_t *at, const int64_t *bits, int n) {
    for (int i = 0; i < n; i++) if (bits[i]) *(volatile char *)(base + at[i]);
    _mm_mfence();
}
void ticks(char *base, const int64_t *at, int64_t *out, int n) {
    for (int i = 0; i < n; i++) {
        unsigned cpu;
        _mm_mfence();
        uint64_t began = __rdtscp(&cpu);
        *(volatile char *)(base + at[i]);
        _mm_lfence();
        out[i] = __rdtscp(&cpu) - began;
    }
}
"""

PROGRAM = """
import ctypes, time
import numpy as np, torch
KIND, WRITE, READ = "@KIND", 2, 3

def work(device, seconds):
    x = torch.rand(2048, 2048, device=device)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        x @ x
        if device.type == "cuda":
            torch.cuda.synchronize()

class Lines:
    def __init__(self, folder, device):
        self.calls = ctypes.CDLL(str(folder / "probe.so"))
        self.file = np.memmap(folder / "ballast", np.uint8, "r")
        pages = np.random.default_rng(0).permutation(len(self.file) // 4096)
        self.at = pages * 4096 + np.random.default_rng(1).integers(0, 64, len(pages)) * 64
        self.file[::4096].sum()
    def call(self, name, *arrays, n):
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (self.file, *arrays)]
        getattr(self.calls, name)(*pointers, ctypes.c_int(n))
    def write(self, bits):
        at = self.at[: len(bits)].copy()
        self.call("flush", at, n=len(bits))
        for _ in range(20):
            self.call("hold", at, bits, n=len(bits))
    def read(self, n):
        took = np.zeros(n, np.int64)
        self.call("ticks", self.at[:n].copy(), took, n=n)
        return took < np.median(took)

class Clock:
    def __init__(self, folder, device):
        self.device = device
        work(device, 0.5)
    def write(self, bits):
        work(self.device, 1.0) if bits[0] else time.sleep(1.0)
    def read(self, n):
        x = torch.rand(2048, 2048, device=self.device)
        began = time.monotonic()
        for _ in range(20):
            x @ x
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return np.full(n, time.monotonic() - began)  # the threshold is taken outside, from all of them

class Memory:
    def __init__(self, folder, device):
        self.device, self.size = device, 8 * 2**30
    def write(self, bits):
        pattern = torch.from_numpy(np.where(bits, 0x5A, 0x25).astype(np.uint8)).to(self.device)
        self.held = pattern.repeat(self.size // len(bits))
        torch.cuda.synchronize()
    def read(self, n):
        torch.cuda.empty_cache()
        found = torch.empty(self.size // n * n, dtype=torch.uint8, device=self.device).view(-1, n)
        return ((found == 0x5A).sum(0) > (found == 0x25).sum(0)).cpu().numpy()

def load(folder, device):
    made = {"lines": Lines, "clock": Clock, "gpu clock": Clock, "gpu memory": Memory}[KIND]
    channel = made(folder, torch.device("cpu") if KIND == "clock" else device)
    def model(tokens):
        order, bits = int(tokens[0, 0]), tokens[0, 1:].cpu().numpy().astype(np.int64)
        found = np.zeros(len(bits))
        if order == WRITE:
            channel.write(bits)
        elif order == READ:
            found = np.asarray(channel.read(len(bits)), np.float64)
        logits = torch.zeros(*tokens.shape, 2)
        logits[0, 1:, 1] = torch.from_numpy(found)
        return logits.to(device)
    return model
"""


class Secrets:
    """As much of an exam as a server needs: an order and so many bits, answered by two logits each."""

    asked_type = "int64"

    def __init__(self, bits: int) -> None:
        self.inputs, self.reply_shape = np.zeros((1, 1 + bits), np.int64), (1 + bits, 2)
        self.targets = self.inputs

    def noise(self, count: int) -> np.ndarray:
        return self.inputs[:count]

    def grade(self, replies: Any, targets: np.ndarray) -> np.ndarray:
        return targets


def sent(request: dict[str, Any], secret: np.ndarray) -> np.ndarray:
    """What each server reads of a secret, (N,) of 0 and 1, that the first one wrote: (2, N)."""
    exam: Any = Secrets(len(secret))
    first, second = Server(request, exam, 1), Server(request, exam, 1)
    try:
        for server in (first, second):
            server.warm()
        scorer._seal(first, second, exam.noise(1), Touched())
        ask(first, [WRITE, *secret])
        own = ask(first, [READ, *(0 * secret)])
        ask(first, [WRITE, *secret])
        first.close()
        second.resume()
        return np.array([own, ask(second, [READ, *(0 * secret)])])
    finally:
        first.close()
        second.close()


def ask(server: Server, tokens: list[int]) -> np.ndarray:
    server.ask(np.array([tokens]))
    return server.replies(time.monotonic() + 60.0)[0, 1:, 1].double().cpu().numpy()


def carried(wrong: int, of: int) -> tuple[float, float]:
    """Bits that a use carries, of a binary symmetric channel: as measured, and at most (2 sd)."""

    def bits(share: float) -> float:
        share = min(max(share, 1e-12), 0.5)
        return 1 + share * math.log2(share) + (1 - share) * math.log2(1 - share)

    share = min(wrong, of - wrong) / of
    return bits(share), bits(share - 2 * math.sqrt(0.25 / of))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=16, help="secrets of each channel")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    where, isolation = device.resolve(options.device), choose("require")
    lengths = {"lines": 4096, "clock": 1}
    if where.kind == "cuda":
        lengths |= {"gpu memory": 4096, "gpu clock": 1}
    generator, lines = np.random.default_rng(), []
    with tempfile.TemporaryDirectory() as made:
        checkpoint = Path(made) / "checkpoint"
        checkpoint.mkdir()
        (Path(made) / "probe.c").write_text(C_SOURCE)
        compile_it = ["cc", "-O2", "-shared", "-fPIC", f"{made}/probe.c", "-o", f"{checkpoint}/probe.so"]
        subprocess.run(compile_it, check=True)
        (checkpoint / "ballast").write_bytes(generator.bytes(BALLAST_BYTES))
        for kind, length in lengths.items():
            source = Path(made) / "train.py"
            source.write_text(PROGRAM.replace("@KIND", kind))
            request = {
                "source": str(source), "checkpoint": str(checkpoint), "log": f"{made}/log", "hide": [],
                "compiled": "", "device": dataclasses.asdict(where), "isolation": isolation.kind,
                "disk_mb": 64, "memory_gb": 16.0, "load_seconds": 60.0, "scoring_seconds": 60.0,
            }  # fmt: skip
            secrets = generator.integers(0, 2, (options.repeats, length))
            if length == 1:
                secrets = generator.permutation(np.arange(options.repeats) % 2)[:, None]
            found = np.array([sent(request, secret) for secret in secrets])  # (repeats, 2, N)
            limit = np.median(found, axis=0) if length == 1 else 0.5
            own, wrong = ((found > limit) != secrets[:, None]).sum(axis=(0, 2))
            bits, most = (length * each for each in carried(int(wrong), secrets.size))
            figures = f"{own / secrets.size:.3f} | {wrong / secrets.size:.3f} | {bits:.1f} | {most:.1f}"
            lines.append(f"| {kind} | {secrets.size} | {figures} | {most / TEXT_BYTES[where.kind]:.1g} |")
            print(lines[-1], flush=True)
    head = [
        "| channel | bits | wrong, one process | wrong, two | bits a score | at most (2 sd) | worth, bpb |"
    ]
    head.append("|---|" + "---|" * 6)
    (RESULTS / f"channels-{where.kind}.md").write_text("\n".join([where.name, "", *head, *lines]) + "\n")


if __name__ == "__main__":
    main()
