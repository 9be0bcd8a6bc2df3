"""Messages and descriptors between our processes and the sandboxed ones.

One packet is one JSON object, with the descriptors that belong to it (SCM_RIGHTS). Both ends use
this; the trusted end trusts nothing it reads: sizes are bounded, what isn't an object is a
`ProtocolError`, descriptors nobody asked for are closed.
"""

import array
import json
import os
import select
import socket
import stat
import sys
import threading
import time
from typing import Any

PACKET_BYTES = 65536
DESCRIPTORS = 32
KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM


class ProtocolError(Exception):
    """The other end sent what no honest one would."""


def pair() -> tuple["Channel", "Channel"]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, KIND)
    return Channel(ours), Channel(theirs)


class Channel:
    """One end of a packet socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        """Closes what was sent and not received, too, so like `close_all` it never waits."""
        threading.Thread(target=self.socket.close, daemon=True).start()

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send one object; blocks until there is room.

        Raises:
            OSError: the other end is gone.
        """
        data = json.dumps(message).encode()
        rights = array.array("i", descriptors or [])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        self.socket.sendmsg([data], ancillary)

    def say(self, message: dict[str, Any]) -> None:
        """Send one object without descriptors.

        Raises:
            OSError: the other end is gone.
        """
        self.socket.send(json.dumps(message).encode())

    def offer(self, message: dict[str, Any], descriptors: list[int] | None = None) -> bool:
        """Send without waiting; False if there was no room or nobody to hear it.

        For progress, which must never hold up training, and for whoever talks to untrusted ears.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors or []))]
        try:
            self.socket.sendmsg(
                [json.dumps(message).encode()], rights if descriptors else [], socket.MSG_DONTWAIT
            )
        except OSError:
            return False
        return True

    def receive(self, timeout_seconds: float) -> tuple[dict[str, Any], list[int]] | None:
        """The next object and its descriptors; None if the other end closed.

        Raises:
            TimeoutError: nothing came in time.
            ProtocolError: it is not one bounded JSON object.
        """
        deadline = time.monotonic() + timeout_seconds
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        while not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if time.monotonic() >= deadline:
                raise TimeoutError
        size = array.array("i").itemsize * DESCRIPTORS
        wanted = PACKET_BYTES, socket.CMSG_SPACE(size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(*wanted)
        except ConnectionError:  # told first, where the other end left something unread; then what it said
            try:
                now = wanted[2] | socket.MSG_DONTWAIT
                data, ancillary, flags, _ = self.socket.recvmsg(*wanted[:2], now)
            except OSError:  # on a datagram socket an end is no packet: nothing may be there
                return None
        descriptors: list[int] = []
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(rights) - len(rights) % 4
                descriptors += array.array("i", rights[:whole]).tolist()
        if not data:
            close_all(descriptors)
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError("a packet too large")
            message = json.loads(data, parse_constant=_no_constant)
            if not isinstance(message, dict):
                raise ProtocolError("not an object")
        except (ValueError, RecursionError):
            close_all(descriptors)
            raise ProtocolError("not JSON") from None
        except ProtocolError:
            close_all(descriptors)
            raise
        return message, descriptors


def _no_constant(name: str) -> None:
    return None  # NaN and Infinity are absent figures


def close_all(descriptors: list[int]) -> None:
    """Close what was sent; never waits, which closing a stranger's socket can do (SO_LINGER)."""
    strange = []
    for descriptor in descriptors:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
        else:
            strange.append(descriptor)
    for each in strange:
        threading.Thread(target=os.close, args=(each,), daemon=True).start()
