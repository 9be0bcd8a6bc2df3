"""Untrusted text: bounded, and without anything that a terminal or a model could take as an order."""

import re

from harness.store.records import Kind

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)
LINE_CHARS = 500
NO_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)  # in the name of an exception, or what it says


def clean(raw: bytes | str) -> str:
    """Printable text: escape sequences, control and direction characters gone, long lines cut."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    text = CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return "\n".join(line[:LINE_CHARS] for line in text.split("\n"))


def one_line(raw: object, chars: int = 200) -> str:
    """A single clean line for a message."""
    return " ".join(clean(str(raw)[: chars * 4]).split())[:chars]


def kind_of(said: str) -> Kind:
    """Of the failure of a program that said so last."""
    return Kind.MEMORY if NO_MEMORY.search(said) else Kind.OTHER


class Tail:
    """The head and the tail of a stream, whatever its length; bounded memory."""

    def __init__(self, head_bytes: int = 16384, tail_bytes: int = 49152) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._head_bytes, self._tail_bytes = head_bytes, tail_bytes
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        room = self._head_bytes - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(0, room) :]
        if len(self._tail) > 2 * self._tail_bytes:
            self._trim()

    def _trim(self) -> None:
        extra = max(0, len(self._tail) - self._tail_bytes)
        self._dropped += extra
        del self._tail[:extra]

    def text(self) -> str:
        self._trim()
        gap = f"\n[{self._dropped} bytes left out]\n" if self._dropped else ""
        return clean(bytes(self._head)) + gap + clean(bytes(self._tail))
