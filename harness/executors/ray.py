"""Ray as the engine of a cluster: an actor on each node, which is never restarted and repeats no call.

The only module that imports ray, and only a command that names a cluster imports it.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Both are read by its import: no late call may start a cluster, and a token is always asked for.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import HarnessError
from harness.executors.cluster import Gone, HostHandle
from harness.executors.hosts import Host

# Casts stay in order, in a thread of their own, while a call waits for lines and another one prepares data.
CLOSING_SECONDS = 10.0
ANSWER_SECONDS = 5.0
# What Ray hears of its processes it prints to stdout, where events belong; who is gone we say ourselves.
ray._private.worker.print_to_stdstream = lambda *_, **__: None
GROUPS = {"casts": 1, "lines": 1}
CASTS, LINES = ("start", "send", "hold", "close"), ("receive",)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what Ray's own libraries write to stderr, whatever comes of a call: the error says it."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class RayHandle:
    """To the actor of one node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(self._method(method).remote(*args))
        except Exception as failed:  # noqa: BLE001 - a plain Exception, too, is how Ray says that it is gone
            raise Gone(" ".join(str(failed).split())[:200]) from None

    def cast(self, method: str, *args: Any) -> None:
        with suppress(Exception):  # who listens hears of it
            self._method(method).remote(*args)

    def _method(self, name: str) -> Any:
        group = "casts" if name in CASTS else "lines" if name in LINES else None
        method = getattr(self._actor, name)
        return method.options(concurrency_group=group) if group else method

    def close(self) -> None:
        with suppress(Exception):  # it is gone
            ray.get(self._method("close").remote(), timeout=CLOSING_SECONDS)
            ray.kill(self._actor)


class RayEngine:
    """A cluster that is there already, see docs/clusters.md."""

    def __init__(self, address: str) -> None:
        """`address`: of its head, HOST:PORT, or `auto` for the one that this host is in.

        Raises:
            HarnessError: nothing answers there, or it wants another token or version.
        """
        if os.environ["RAY_AUTH_MODE"] == "disabled":
            raise HarnessError(
                "RAY_AUTH_MODE is disabled: whoever reaches its ports could run anything as you",
                "RAY_AUTH_MODE=token, see docs/clusters.md",
            )
        try:
            if address != "auto":
                host, _, port = address.rpartition(":")
                socket.create_connection(
                    (host, int(port)), ANSWER_SECONDS
                ).close()  # Ray would wait for minutes
            with _silent():
                ray.init(
                    address, namespace="harness", log_to_driver=False, configure_logging=False,
                    logging_level=logging.CRITICAL,
                )  # fmt: skip
        except (OSError, ValueError, RuntimeError, RayError) as failed:
            why = " ".join(str(failed).split())[:300]
            raise HarnessError(
                f"no cluster at {address}: {why}", "ray status; see docs/clusters.md"
            ) from None

    def nodes(self) -> list[str] | None:
        try:
            return [each["NodeID"] for each in ray.nodes() if each["Alive"]]
        except Exception:  # noqa: BLE001 - its head may be gone; those whose hosts don't answer hear of it
            return None

    def host(self, node: str) -> HostHandle:
        actor = ray.remote(concurrency_groups=GROUPS)(Host).options(
            num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )  # fmt: skip
        return RayHandle(actor.remote())

    def close(self) -> None:
        ray.shutdown()
