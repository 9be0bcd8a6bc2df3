"""Text in files: what format a file has, and its documents.

What a file is, its name says; of any other name its first bytes. Compression and archives are looked through.
A place that can't be read ends its file with `Unreadable`; what came before it stays.
"""

import bz2
import codecs
import gzip
import io
import lzma
import shlex
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from harness.tasks.lm.cutting import pieces
from harness.tasks.lm.records import READERS, NoText, Unreadable, encoding_of, text_of

COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".ndjson": ".jsonl"}
RECORDS = set(READERS)
BLOCK_BYTES = 2**23
END_OF_TEXT = "<|endoftext|>"
BROKEN = (
    OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, ValueError,
    RuntimeError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A file, or a member of an archive."""

    name: str
    """Within its source."""
    open: Callable[[], BinaryIO]

    @property
    def suffix(self) -> str:
        """What it is below its compression, in small letters: `.jsonl`."""
        return ([""] + [s for s in suffixes(self.name) if s not in COMPRESSED])[-1]


def suffixes(name: str) -> list[str]:
    """`.tar` and `.gz`, also of a `.tgz`."""
    found = PurePosixPath(name).suffixes[-2:]
    return [part for suffix in found for part in PurePosixPath("x" + _long(suffix)).suffixes]


def _long(suffix: str) -> str:
    return SHORT.get(suffix.lower(), suffix.lower())


def entries(path: Path, name: str) -> Iterator[Entry]:
    """What is in a file: itself, or an archive's members, each to be read before the next one is asked for.

    Raises:
        Unreadable: an archive is broken.
    """
    kinds = suffixes(name)
    try:
        if kinds[-1:] == [".zip"]:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        yield _entry(f"{name}/{info.filename}", partial(archive.open, info))
        elif ".tar" in kinds:
            with _plain(path.open("rb"), name) as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
                for member in tar:
                    if member.isfile():
                        yield _entry(f"{name}/{member.name}", partial(_forward, tar, member))
        else:
            yield _entry(name, partial(path.open, "rb"))
    except BROKEN as error:
        raise Unreadable(_why(error)) from None


def _why(error: Exception) -> str:
    """In one line, without a place on this machine."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"it is broken: {shown((said or type(error).__name__).splitlines()[0])}"


def shown(name: str) -> str:
    """Fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _entry(name: str, opened: Callable[[], Any]) -> Entry:
    return Entry(shown(name), lambda: _plain(opened(), name))


class _Member(io.RawIOBase):
    """A member of an archive, read once and in order: the one of tarfile can't say that it doesn't seek."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _forward(archive: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    return io.BufferedReader(_Member(archive.extractfile(member)), BLOCK_BYTES // 8)


def _plain(stream: Any, name: str) -> BinaryIO:
    """Without its compression."""
    kind = suffixes(name)[-1:]
    if kind == [".gz"]:
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if kind == [".bz2"]:
        return cast(BinaryIO, bz2.BZ2File(stream))
    if kind == [".xz"]:
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if kind in ([".zst"], [".lz4"]):
        import pyarrow

        codec = "zstd" if kind == [".zst"] else "lz4"
        return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(stream, codec)))
    return cast(BinaryIO, stream)


def texts(
    entry: Entry, column: str, piece_chars: int, bad_record: Callable[[str, str], None]
) -> Iterator[str]:
    """Its documents; what is no record is cut into pieces.

    Args:
        column: which one is the text; empty to find out.
        bad_record: told of a record that has none, which is left out: its file, and where and why.

    Raises:
        Unreadable: the rest of it can't be read, or none of it.
    """
    try:
        with closing(entry.open()) as stream:
            if entry.suffix not in RECORDS:
                yield from _plain_text(stream, entry, piece_chars)
                return
            for where, record in READERS[entry.suffix](stream, entry.suffix, column):
                try:
                    if isinstance(record, Unreadable):
                        raise record
                    yield text_of(record, column)
                except Unreadable as why:
                    bad_record(entry.name, f"{entry.name}:{where}: {why}")
    except UnicodeDecodeError as error:
        raise Unreadable(_other_encoding(entry, error)) from None
    except BROKEN as error:
        raise Unreadable(_why(error)) from None


def _other_encoding(entry: Entry, error: UnicodeDecodeError) -> str:
    wide = b"\0" in error.object[:1000]
    encoding = "UTF-16" if wide else "LATIN1"
    return f"not UTF-8 ({error.reason}); if it is {encoding}: {_converting(entry, encoding)}"


def _converting(entry: Entry, encoding: str) -> str:
    """The command for it."""
    packed = {*COMPRESSED, ".zip", ".tar"}
    if any(not packed.isdisjoint(suffixes(part)) for part in PurePosixPath(entry.name).parts):
        return "convert it before it is packed"
    name, made = shlex.quote(entry.name), shlex.quote(f"{entry.name}.utf8")
    return f"iconv -f {encoding} -t UTF-8 {name} > {made} && mv {made} {name}"


# ── plain text ────────────────────────────────────────────────────────────────────────────────


def _plain_text(stream: BinaryIO, entry: Entry, piece_chars: int) -> Iterator[str]:
    for block in _blocks(stream, entry):
        for document in block.split(END_OF_TEXT):
            yield from pieces(document.strip(), piece_chars)


def _blocks(stream: BinaryIO, entry: Entry) -> Iterator[str]:
    """The text, cut behind a line where it is long."""
    data = _read(stream)
    encoding = encoding_of(data)
    if encoding == "utf-8" and b"\0" in data[:BLOCK_BYTES]:
        if entry.suffix == ".txt":
            raise Unreadable(f"zero bytes in it; if it is UTF-16: {_converting(entry, 'UTF-16')}")
        raise NoText("no text")
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    kept = ""
    while data:
        try:
            kept += decoder.decode(data)
        except UnicodeDecodeError:
            if entry.suffix not in (".txt", ".md", "") and not kept:
                raise NoText("no text") from None
            raise
        if "\0" in kept:
            raise Unreadable("zero bytes in it")
        end = kept.rfind("\n") + 1 or len(kept)
        yield kept[:end]
        kept, data = kept[end:], _read(stream)
    yield kept + decoder.decode(b"", final=True)


def _read(stream: BinaryIO) -> bytes:
    """BLOCK_BYTES, or what is left: a compressed stream gives less at a time."""
    parts, left = [], BLOCK_BYTES
    while left > 0 and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
