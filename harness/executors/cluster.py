"""Workers on many hosts, whatever engine reaches them: hosts come and go, and the loop only sees workers.

The engine starts a `Host` on each node and carries calls to it, each once: it repeats nothing, since a
silent repeat is a draw that the gate doesn't know of. What was lost with a host is begun again by the loop;
what comes back of it later is dropped.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from harness.errors import HarnessError
from harness.executors import mirror
from harness.executors.hosts import About, Wanted, differs
from harness.executors.jobs import Worker
from harness.executors.remote import Pipe, Remote
from harness.store.decisions import Holdout, Opinion
from harness.store.records import Failure, RunRecord, Setting
from harness.worker.device import Device
from harness.worker.orders import Hears, Order
from harness.worker.run import Setup
from harness.worker.worker import RunHandle

WATCH_SECONDS = 2.0
RENEW_SECONDS = 30.0
HOLD_SECONDS = 30.0
REFUSED_SECONDS = 60.0  # until a host that was refused is asked again: a person may have mended it
FIRST_SECONDS = 120.0  # for the first host to answer
CLOCK_SECONDS = 60.0
CLOSING_SECONDS = 10.0
HEAD_SECONDS = 30.0  # without an answer of it; after 60 Ray itself kills who asks


class Gone(HarnessError):
    """A host doesn't answer any more."""


class HostHandle(Protocol):
    """To the `Host` of one node."""

    def call(self, method: str, *args: Any) -> Any:
        """Raises:
        Gone: there will be no answer."""

    def cast(self, method: str, *args: Any) -> None:
        """Without an answer; in order with other casts."""

    def close(self) -> None: ...


class Engine(Protocol):
    def nodes(self) -> list[str] | None:
        """Names of those that are there now; None where nobody says."""

    def host(self, node: str) -> HostHandle:
        """A new `Host` there."""

    def close(self) -> None: ...


class Distant(Remote):
    """A worker on another host. A run's folder there has one here, see `mirror`."""

    def __init__(
        self, place: int, device: Device, host: str, runs: Path, connect: Callable[[Remote], Pipe]
    ) -> None:
        self._runs = runs
        super().__init__(place, device, connect)
        self.host = host

    def has(self, folder: Path) -> bool:
        found = mirror.where(folder)
        return found is not None and found[0] == self.host

    def start(
        self, order: Order, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[tuple[RunRecord, Path]]":
        there, here = super().start(order, setup, handle, hears), Future[tuple[RunRecord, Path]]()

        def over(there: "Future[tuple[RunRecord, Path]]") -> None:
            try:
                run, folder = there.result()
                here.set_result((run, mirror.make(self._runs, self.host, folder, order.source, run)))
            except BaseException as failed:  # noqa: BLE001 - whoever waits for the run gets it
                here.set_exception(failed)

        there.add_done_callback(over)
        return here

    def score_holdout(
        self, folder: Path, value: float, setup: Setup, handle: RunHandle, hears: Hears
    ) -> "Future[Holdout | Failure]":
        return super().score_holdout(_there(folder), value, setup, handle, hears)

    def second_opinion(self, folder: Path, setup: Setup, hears: Hears) -> "Future[Opinion | Failure | None]":
        return super().second_opinion(_there(folder), setup, hears)


def _there(folder: Path) -> Path:
    found = mirror.where(folder)
    return found[1] if found is not None else folder


class HostPipe:
    """To one worker of a host."""

    def __init__(self, host: HostHandle, number: int, place: int) -> None:
        self._host, self._number = host, number
        host.cast("start", number, place)

    def send(self, line: bytes) -> None:
        self._host.cast("send", self._number, line)

    def close(self) -> None:
        """It ends with its host."""


class Link:
    """A host that is used: its workers, and the thread that listens to them."""

    def __init__(self, host: HostHandle, about: About, places: "itertools.count[int]", runs: Path):
        self.about, self._host, self._places, self._runs = about, host, places, runs
        self.is_alive, self._renewed = True, -math.inf
        self._remotes: dict[int, Remote] = {}
        self.workers = [self._started(device) for device in about.devices]
        threading.Thread(target=self._listen, daemon=True).start()

    def _started(self, device: Device) -> Distant:
        place = next(self._places)

        def connect(remote: Remote) -> Pipe:
            self._remotes[place] = remote  # before it says a word
            return HostPipe(self._host, place, device.place)

        return Distant(place, device, self.about.host, self._runs, connect)

    def renew(self) -> int:
        """Start a worker in the place of each that died though its host is there; how many."""
        dead = [at for at, worker in enumerate(self.workers) if not worker.is_alive and self.is_alive]
        if time.monotonic() < self._renewed + RENEW_SECONDS:
            return 0  # one that dies at once is not started all the time
        if dead:
            self._renewed = time.monotonic()
        for at in dead:
            self.workers[at] = self._started(self.about.devices[at])
        return len(dead)

    def _listen(self) -> None:
        after = 0
        try:
            while self.is_alive:
                for count, number, line in self._host.call("receive", after):
                    after, remote = count, self._remotes[number]
                    _hear(remote, line)
        except Gone:
            pass
        finally:
            self.lost()

    def lost(self) -> None:
        """It is gone, or not wanted any more."""
        self.is_alive = False
        for remote in self.workers:
            remote.lost()

    def hold(self, folders: list[Path]) -> None:
        self._host.cast("hold", folders)

    def close(self) -> None:
        self.is_alive = False
        self._host.close()


def _hear(remote: Remote, line: bytes | None) -> None:
    """Of one worker; what nobody understands is that worker's end, and no other one's."""
    try:
        remote.lost() if line is None else remote.hear(line)
    except ValueError:
        remote.lost()


class ClusterPool:
    """The workers of all hosts that can be used, as they come and go."""

    def __init__(
        self,
        engine: Engine,
        wanted: Callable[[], tuple[Wanted, Callable[[Device], Setting]]],
        runs: Path,
        tell: Callable[[str, str], None],
    ) -> None:
        """
        Args:
            wanted: what hosts are asked for now, and the setting that scores on a device must have.
            runs: where run folders are mirrored.
            tell: hears a kind of event and a line, from any thread.

        Raises:
            HarnessError: no host can be used.
        """
        self._engine, self._wanted, self._runs, self._tell = engine, wanted, runs, tell
        self._links: dict[str, Link] = {}
        self._asked: set[str] = set()  # nodes that are being asked what they are
        self._refused: dict[str, tuple[str, float]] = {}  # why, and when
        self._kind, self._is_processor = "", True  # of device: scores on others don't compare
        self._places, self._lock = itertools.count(), threading.Lock()
        self._heard = time.monotonic()  # of the head
        self._closed = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()
        self._wait_for_one()

    def workers(self) -> list[Worker]:
        """Raises:
        HarnessError: the cluster's head is gone."""
        if (silent := time.monotonic() - self._heard) > HEAD_SECONDS:
            raise HarnessError(
                f"the cluster's head has not answered for {silent:.0f} s; what ran there is measured again",
                "ray status, start Ray anew where it is down, then harness loop: see docs/clusters.md",
            )
        with self._lock:
            links = list(self._links.values())
        return [worker for link in links for worker in link.workers if worker.is_alive]

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        with self._lock:
            links = list(self._links.values())
        ending = [threading.Thread(target=link.close, daemon=True) for link in links]
        for each in ending:
            each.start()
        for each in ending:
            each.join(CLOSING_SECONDS)
        self._watching.join(CLOSING_SECONDS)
        self._engine.close()

    def refused(self) -> list[str]:
        """Why others are not."""
        with self._lock:
            return [why for why, _ in self._refused.values()]

    def _wait_for_one(self) -> None:
        deadline = time.monotonic() + FIRST_SECONDS
        while not self._links and time.monotonic() < deadline:
            with self._lock:
                if self._refused and not self._asked:
                    break
            self._closed.wait(0.1)
        if not self._links:
            why = "; ".join(self.refused()) or "none answered"
            self.close()
            raise HarnessError(f"no host of the cluster can be used: {why}", "harness cluster status")

    def _watch(self) -> None:
        held = time.monotonic()
        while not self._closed.is_set():
            if (nodes := self._engine.nodes()) is not None:
                self._heard = time.monotonic()
            with self._lock:
                known = [*self._links] if nodes is None else nodes
                gone = [node for node, link in self._links.items() if not link.is_alive or node not in known]
                lost = [self._links.pop(node) for node in gone]
                again = time.monotonic() - REFUSED_SECONDS
                old = {node for node, (_, when) in self._refused.items() if when > again}
                new = [node for node in known if node not in {*self._links, *self._asked, *old}]
                self._asked.update(new)
                renewed = [(link.about.host, link.renew()) for link in self._links.values()]
            for host, count in renewed:
                if count:
                    self._tell("trouble", f"     {count} workers of {host} died, and are started again")
            for link in lost if not self._closed.is_set() else []:
                link.lost()
                self._tell("trouble", f"     {link.about.host} is gone, with {len(link.workers)} workers")
            for node in new:
                threading.Thread(target=self._take_in, args=(node,), daemon=True).start()
            if time.monotonic() - held > HOLD_SECONDS:
                held = time.monotonic()
                for link in list(self._links.values()):
                    link.hold(list(mirror.of(self._runs, link.about.host)))
            self._closed.wait(WATCH_SECONDS)

    def _take_in(self, node: str) -> None:
        """Ask a host what it is, and use it if it is as it should be."""
        host: HostHandle | None = None
        try:
            host = self._engine.host(node)
            wanted, expected = self._wanted()
            about: About = host.call("about", wanted)
            with self._lock:
                why = self._differs(about, expected)
                if not why:
                    self._refused.pop(node, None)
                    self._links[node] = Link(host, about, self._places, self._runs)
        except Gone:
            about, why = About(f"node {node[:8]}", "", "", "", time.time()), "it was lost while it was asked"
        except Exception as failed:  # noqa: BLE001 - whatever it is, the others go on
            about, why = About(node, "", "", "", time.time()), f"it can't be asked: {failed}"
        if why:
            self._refuse(node, f"{about.host} is not used: {why}")
            if host is not None:
                host.close()
        else:
            count = len(about.devices)
            self._tell("note", f"{about.host} is used: {count} x {about.devices[0].name}")
            if abs(about.time - time.time()) > CLOCK_SECONDS:
                self._tell("trouble", f"{about.host} has another time; nothing here depends on that")
        with self._lock:
            self._asked.discard(node)

    def _differs(self, about: About, expected: Callable[[Device], Setting]) -> str:
        """Why scores of that host don't compare with those of others; empty if they do."""
        if why := differs(about, expected):
            return why
        assert about.setting is not None
        here = about.setting.device
        if self._kind not in ("", here) and not (about.devices[0].kind == "cuda" and self._is_processor):
            return f"scores on a {here} don't compare with those on a {self._kind}"
        if self._kind not in ("", here):  # a head without a GPU answered first
            for link in self._links.values():
                link.lost()
        self._kind, self._is_processor = here, about.devices[0].kind != "cuda"
        return ""

    def _refuse(self, node: str, why: str) -> None:
        with self._lock:
            is_new = self._refused.get(node, ("",))[0] != why
            self._refused[node] = why, time.monotonic()
        if is_new:
            self._tell("trouble", why)
