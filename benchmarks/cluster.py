"""Hosts that fail, and many at once: real Ray nodes in network namespaces of one Linux machine.

    sudo python benchmarks/cluster.py faults           # each fault, and what came of it; a quarter of an hour
    sudo python benchmarks/cluster.py faults --only "a node is killed while it trains"
    sudo python benchmarks/cluster.py speed --minutes 30 --sleep 30   # 12 workers against one
    python benchmarks/cluster.py coordinator           # 64 workers that run nothing

Each node has a hostname, an address, a cache and a Ray of its own; `ip` (iproute2) and `unshare` are needed.
The task is `toy`, whose runs sleep, so that two cores are enough for twelve of them.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import config as configs
from harness.agents import Context
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.decisions import Proposal
from harness.store.experiments import Experiments
from harness.store.opening import open_repository
from harness.store.records import OK, RunRecord, Training
from harness.worker.orders import Hears, Order
from harness.worker.run import Setup
from harness.worker.worker import RunHandle

HEAD, NET = "10.77.0.254", "10.77.0"
PORT = 6388
PROGRAM = '''"""A line through points that are made up; it sleeps while others compute."""

import time

import numpy as np
from safetensors.numpy import load_file

from harness import trial

START_SLEEP, STEP_SLEEP = {start}, {step}
{places}


def load(checkpoint_dir, device):
    weights = load_file(checkpoint_dir / "model.safetensors")["weights"]
    return lambda inputs: inputs @ weights


def main():
    run = trial.open()
    time.sleep(START_SLEEP)
    weights = np.random.default_rng(run.seed).normal(0, 0.1, run.input_shape).astype(np.float32)
    for inputs, targets in run.batches(8):
        errors = inputs @ weights - targets
        weights -= 0.05 * errors @ inputs / len(inputs)
        time.sleep(STEP_SLEEP)
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
    run.submit({{"weights": weights}})


if __name__ == "__main__":
    main()
'''


def run(*command: str, **env: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)
    return done.stdout + done.stderr


@dataclass
class Cluster:
    """A head here, and nodes in namespaces."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        home = {"HOME": str(self.folder), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
        return {**home, "HARNESS_CACHE": str(self.folder / "cache0"), "GIT_CONFIG_GLOBAL": os.devnull} | {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "A Person"), ("EMAIL", "person@example.org"))
        }

    def ray(self, *args: str, **env: str) -> str:
        return run(str(Path(sys.executable).parent / "ray"), *args, **{**self.env, **env})

    def __enter__(self) -> "Cluster":
        run("ip", "link", "add", "br77", "type", "bridge")
        run("ip", "addr", "add", f"{HEAD}/24", "dev", "br77")
        run("ip", "link", "set", "br77", "up")
        self.ray("get-auth-token", "--generate")
        self.start_head()
        return self

    def start_head(self) -> None:
        self.ray(
            "start", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=1",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={self.folder}/r",
        )  # fmt: skip

    def kill_head(self) -> None:
        """What Ray has there; the coordinator itself is let live."""
        names = (path.name for path in Path("/proc").iterdir())
        for process in map(int, filter(str.isdigit, names)):
            if str(self.folder) in (line := _line(process)) and ("gcs_server" in line or f"={HEAD}" in line):
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)

    def start_again(self) -> None:
        """All of it, as one does after the head was lost."""
        for number in (1, 2):
            self.leave(number)
        self.ray("stop", "--force")
        self.start_head()
        for number in (1, 2):
            self.join(number)
        self.wait_for(3)

    def __exit__(self, *_: object) -> None:
        for number in range(1, 9):
            self.leave(number)
            run("ip", "netns", "del", f"h77{number}")
        self.ray("stop", "--force")
        run("ip", "link", "del", "br77")

    def join(self, number: int) -> None:
        name, link = f"h77{number}", f"v77{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "master", "br77", "up")
        run("ip", "-n", name, "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        ray = Path(sys.executable).parent / "ray"
        start = (
            f"hostname host{number}; exec {ray} start --address={HEAD}:{PORT} --num-cpus=1 --block "
            f"--node-ip-address={NET}.{number} --disable-usage-stats"
        )
        subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "-u", "sh", "-c", start],
            env={**os.environ, **self.env, "HARNESS_CACHE": str(self.folder / f"cache{number}")},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def processes(self, number: int) -> list[int]:
        """Of a node, everything that runs in its namespace."""
        return [int(each) for each in run("ip", "netns", "pids", f"h77{number}").split() if each.isdigit()]

    def leave(self, number: int, which: str = "") -> None:
        """Killed: all of a node, or what of it has a word in its command line."""
        for process in self.processes(number):
            with contextlib.suppress(OSError):
                if which in Path(f"/proc/{process}/cmdline").read_text():
                    os.kill(process, signal.SIGKILL)

    def cable(self, number: int, is_in: bool) -> None:
        run("ip", "link", "set", f"v77{number}", "up" if is_in else "down")

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 180
        while self.ray("status", "--address", f"{HEAD}:{PORT}").count(" node_") < count:
            if time.monotonic() > deadline:
                raise SystemExit("the nodes didn't come up")
            for number in range(1, count):
                if not self.processes(number):  # on a busy machine Ray gives up its own start
                    self.join(number)


def research(cluster: Cluster, name: str, start: float, step: float) -> Path:
    """A repository of the toy task."""
    folder = cluster.folder / name
    (folder / ".autoresearch").mkdir(parents=True)
    base = configs.defaults("cpu", "toy")
    caps = dataclasses.replace(base.trial, budget_seconds=0.3, startup_seconds=60.0 + 2 * start, device="cpu")
    (folder / ".autoresearch" / "config.toml").write_text(configs.dump(dataclasses.replace(base, trial=caps)))
    places = "\n".join(f"PLACE_{n} = 0\n" for n in range(40))
    places += f"PLACES = [{', '.join(f'PLACE_{n}' for n in range(40))}]"
    (folder / "train.py").write_text(PROGRAM.format(start=start, step=step, places=places))
    (folder / ".gitignore").write_text("/.autoresearch/*\n!/.autoresearch/config.toml\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "baseline"]):
        run("git", "-C", str(folder), *command, **cluster.env)
    return folder


def harness(cluster: Cluster, folder: Path, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *args], cwd=folder, env={**os.environ, **cluster.env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def lines_of(process: subprocess.Popen) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


# ── faults ────────────────────────────────────────────────────────────────────────────────────


def when(folder: Path, phase: str) -> None:
    """Wait until an experiment is in a phase."""
    path, deadline = folder / ".autoresearch" / "events.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines()[-6:]:
                event = json.loads(line)
                is_it = event.get("kind") == "progress" and event.get("phase") == phase
                if is_it and str(event.get("run", "")).isdecimal():
                    return
        time.sleep(0.05)


def kill_in(phase: str, which: str = "") -> Callable[[Cluster, Path], None]:
    def fault(cluster: Cluster, folder: Path) -> None:
        when(folder, phase)
        for number in (1, 2):  # one of them is at it, and the head goes on
            cluster.leave(number, which)
        time.sleep(5)
        if not which:
            for number in (1, 2):
                cluster.join(number)

    return fault


def cut_for(seconds: float) -> Callable[[Cluster, Path], None]:
    def fault(cluster: Cluster, folder: Path) -> None:
        when(folder, "training")
        for number in (1, 2):
            cluster.cable(number, False)
        time.sleep(seconds)
        for number in (1, 2):
            cluster.cable(number, True)

    return fault


def come_and_go(cluster: Cluster, folder: Path) -> None:
    when(folder, "starting")
    for _ in range(3):
        cluster.leave(2)
        time.sleep(6)
        cluster.join(2)
        time.sleep(12)


FAULTS: dict[str, Callable[[Cluster, Path], None]] = {
    "two of three nodes are killed while a run starts": kill_in("starting"),
    "two of three nodes are killed while it trains": kill_in("training"),
    "two of three nodes are killed while it is scored": kill_in("scoring"),
    "the actors of two nodes are killed": kill_in("training", "ray::Host"),
    "the workers of two nodes are killed": kill_in("training", "harness.worker"),
    "a cable is cut for 30 s": cut_for(30),
    "a cable is cut for ten minutes": cut_for(600),
    "a node leaves and joins three times": come_and_go,
}
COORDINATOR = "the coordinator is killed, and started again"
HEADLESS = "the cluster's head is killed, and all is started again"


def seen(folder: Path) -> str:
    """What git has: experiments, decided, their runs; and seeds that stand there twice."""
    known = Experiments(open_repository(folder))
    every = list(known)
    decided = [each for each in every if each.status not in (None, "error")]
    runs = [run for each in every for run in known.runs(each.commit)]
    twice = len(runs) - len({(run.commit, run.seed) for run in runs})
    lost = sum(run.status != OK for run in runs)
    return f"{len(every)} | {len(decided)} | {len(runs)} | {lost} | {twice}"


def faults(options: argparse.Namespace) -> None:
    print("| fault | seconds | ended | experiments | decided | runs | without a score | twice |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    chosen = [name for name in (*FAULTS, COORDINATOR, HEADLESS) if options.only in ("", name)]
    for number, name in enumerate(chosen):
        with tempfile.TemporaryDirectory(prefix="hc") as made, Cluster(Path(made)) as cluster:
            for node in (1, 2):
                cluster.join(node)
            cluster.wait_for(3)
            folder = research(cluster, f"r{number}", 1.0, 0.1)
            for line in lines_of(harness(cluster, folder, "prepare", "--cluster", "auto")):
                if "data" not in line:
                    print(line, end="")
            began = time.monotonic()
            session = (
                "loop",
                "--cluster",
                "auto",
                "--workers",
                "1",
                "--experiments",
                str(options.experiments),
            )
            process = harness(cluster, folder, *session)
            if name == COORDINATOR:
                when(folder, "training")
                process.kill()
                time.sleep(5)
                left = [n for n in (1, 2) for p in cluster.processes(n) if "harness.worker" in _line(p)]
                print(f"left on hosts 5 s after: {len(left)}", flush=True)
                process = harness(cluster, folder, *session)
            elif name == HEADLESS:
                when(folder, "training")
                cluster.kill_head()
                lost, said = time.monotonic(), list(lines_of(process))
                print(
                    f"ended {time.monotonic() - lost:.0f} s later with {process.wait()}: {said[-1].strip()}"
                )
                cluster.start_again()
                process = harness(cluster, folder, *session)
            else:
                threading.Thread(target=FAULTS[name], args=(cluster, folder), daemon=True).start()
            said = list(lines_of(process))
            code = process.wait()
            took = time.monotonic() - began
            ended = "to its end" if code == 0 else f"with {code}: {said[-1].strip()[:100]}"
            print(f"| {name} | {took:.0f} | {ended} | {seen(folder)} |", flush=True)
            if options.verbose:
                print("".join(said))


def _line(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


# ── speed ─────────────────────────────────────────────────────────────────────────────────────


def speed(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="hc") as made, Cluster(Path(made)) as cluster:
        for node in (1, 2):
            cluster.join(node)
        cluster.wait_for(3)
        counts = []
        for name, each, alone in (("many", 4, False), ("one", 1, True)):
            folder = research(cluster, name, options.sleep, 0.0)
            list(lines_of(harness(cluster, folder, "prepare", "--cluster", "auto")))
            if alone:
                for node in (1, 2):
                    cluster.leave(node)
                time.sleep(10)
            process = harness(
                cluster, folder, "loop", "--cluster", "auto", "--workers", str(each),
                "--hours", f"{options.minutes / 60:.4f}",
            )  # fmt: skip
            list(lines_of(process))
            known = Experiments(open_repository(folder))
            runs = len(known.runs(known.main)) + sum(len(known.runs(e.commit)) for e in known)
            counts.append(runs)
            print(f"{name}: {runs} runs in {options.minutes:g} minutes; {seen(folder)}", flush=True)
        print(f"{counts[0] / counts[1]:.2f} times the runs of one worker")


# ── the coordinator alone ─────────────────────────────────────────────────────────────────────


class StandIn:
    """A worker that answers after a while, and runs nothing."""

    may_start, has_room, is_alive, device, host = False, False, True, None, "here"

    def __init__(self, place: int, seconds: float) -> None:
        self.place, self._seconds = place, seconds
        self.begun: list[float] = []

    def has(self, folder: Path) -> bool:
        return False

    def start(self, order: Order, setup: Setup, handle: RunHandle, hears: Hears) -> Any:
        future: Future[tuple[RunRecord, Path]] = Future()
        self.begun.append(time.monotonic())
        setting, value = setup.setting, random.Random(order.seed).gauss(2.0, 0.01)
        training = Training(OK, "", 1.0, setting.budget_seconds, 0.0)
        record = RunRecord(
            order.commit, order.seed, OK, "", value, training, None, self._seconds, setting.device, None,
            setting.data, setting.evaluator, "bwrap", setting.budget_seconds, runtime=setting.runtime,
            metric=setting.metric, host=self.host,
        )  # fmt: skip

        def over() -> None:
            handle.has_trained()
            if not handle.cancelled.is_set():
                future.set_result((record, Path("/nowhere")))

        timer = threading.Timer(self._seconds, over)
        timer.daemon = True
        timer.start()
        return future

    def score_holdout(self, *_: Any) -> Any:
        raise AssertionError("there is no checkpoint")

    second_opinion = score_holdout

    def close(self) -> None:
        pass


class Numbers:
    """An agent that changes one constant after the other."""

    def __init__(self) -> None:
        self.count = 0

    def propose(self, context: Context) -> Proposal:
        self.count += 1
        source = context.source.replace(b"PLACE_0 = ", b"PLACE_0 = %d  # was " % self.count)
        return Proposal(f"Set PLACE_0 to {self.count}", "a number", source, "numbers")


def share_busy(starts: list[float], options: argparse.Namespace) -> float:
    """Of the workers' time, from when all had one, after the baseline, until there is no more to begin."""
    first, last = starts[min(options.workers + 4, len(starts) - 1)], starts[-1]
    inside = sum(max(0.0, min(at + options.seconds, last) - max(at, first)) for at in starts)
    return inside / (last - first) / options.workers


def coordinator(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="hc") as made:
        cluster = Cluster(Path(made))
        folder = research(cluster, "alone", 0.0, 0.0)
        for line in lines_of(harness(cluster, folder, "prepare")):
            print(line, end="")
        os.environ.update(cluster.env)
        workers = [StandIn(place, options.seconds) for place in range(options.workers)]
        pool = SimpleNamespace(workers=lambda: workers, close=lambda: None)
        found = open_repository(folder)
        watcher = Watcher(lambda event: None, lambda *_: None)
        loop = Loop(found, Numbers(), Limits(experiments=options.experiments), 0, watcher, pool)
        began, used = time.monotonic(), time.process_time()
        loop.run()
        seconds, cpu = time.monotonic() - began, time.process_time() - used
        starts = sorted(at for worker in workers for at in worker.begun)
        runs = len(starts)
        share = share_busy(starts, options)
        print(f"{runs} runs in {seconds:.1f} s on {options.workers} workers: {share:.1%} busy")
        print(f"{1000 * cpu / runs:.1f} ms of the processor a run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("faults")
    one.add_argument("--only", default="")
    one.add_argument("--experiments", type=int, default=6)
    one.add_argument("--verbose", action="store_true")
    one.set_defaults(work=faults)
    other = kinds.add_parser("speed")
    other.add_argument("--minutes", type=float, default=30.0)
    other.add_argument("--sleep", type=float, default=30.0)
    other.set_defaults(work=speed)
    alone = kinds.add_parser("coordinator")
    alone.add_argument("--workers", type=int, default=64)
    alone.add_argument("--seconds", type=float, default=5.0)
    alone.add_argument("--experiments", type=int, default=1000)
    alone.set_defaults(work=coordinator)
    options = parser.parse_args()
    if options.work is coordinator:
        return coordinator(options)
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise SystemExit("needs root and iproute2")
    options.work(options)


if __name__ == "__main__":
    main()
