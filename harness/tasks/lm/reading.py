"""Text in files: what format a file has, and its documents.

What a file is, its name says; of any other name its first bytes. Compression and archives are looked through.
A place that can't be read ends its file with `Unreadable`; what came before it stays.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from harness.tasks.lm.cutting import pieces

COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".ndjson": ".jsonl"}
RECORDS = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"}
COLUMNS = ("text", "content", "document", "story", "code")  # which one is the text, where nobody says
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
BLOCK_BYTES = 2**23
MOST_JSON_BYTES = 2**31  # of a file that must be read whole
END_OF_TEXT = "<|endoftext|>"
BROKEN = (
    OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, ValueError,
    RuntimeError, MemoryError,
)  # fmt: skip


class Unreadable(Exception):
    """Why a file, or a record of it, gives no text; one line."""


class NoText(Unreadable):
    """It is none: a picture, a program."""


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
    readers: dict[str, Callable[..., Iterator[Any]]] = {
        ".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv,
        ".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow,
    }  # fmt: skip
    try:
        with closing(entry.open()) as stream:
            if entry.suffix not in RECORDS:
                yield from _plain_text(stream, entry, piece_chars)
                return
            for where, record in readers[entry.suffix](stream, entry, column):
                try:
                    if isinstance(record, Unreadable):
                        raise record
                    yield _text_of(record, column)
                except Unreadable as why:
                    bad_record(entry.name, f"{entry.name}:{where}: {why}")
    except UnicodeDecodeError as error:
        raise Unreadable(_other_encoding(entry, error)) from None
    except BROKEN as error:
        raise Unreadable(_why(error)) from None


def _other_encoding(entry: Entry, error: UnicodeDecodeError) -> str:
    wide = b"\0" in error.object[:1000]
    encoding = "UTF-16" if wide else "LATIN1"
    name = entry.name
    return (
        f"not UTF-8 ({error.reason}); if it is {encoding}: iconv -f {encoding} -t UTF-8 {name} > new-{name}"
    )


def choose(names: Sequence[str], strings: Sequence[str], wanted: str) -> str:
    """The column that is the text.

    Args:
        names: of all columns.
        strings: of those that are text.

    Raises:
        Unreadable: there is none, or several could be.
    """
    if wanted:
        if wanted in names:
            return wanted
        raise Unreadable(f"no column {wanted!r}, only {', '.join(map(repr, names)) or 'none'}")
    small = {name.lower(): name for name in reversed(strings)}
    found = [small[name] for name in COLUMNS if name in small] or list(strings)
    if len(found) == 1 or (found and found[0].lower() in COLUMNS):
        return found[0]
    if not found:
        raise Unreadable(f"no column of text, only {', '.join(map(repr, names)) or 'none'}")
    raise Unreadable(
        f"which column is the text, {', '.join(map(repr, found))}? column = {found[0]!r} says it"
    )


def _text_of(record: Any, column: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise Unreadable("neither text nor a JSON object")
    found = record[choose(list(record), [name for name in record if isinstance(record[name], str)], column)]
    if not isinstance(found, str):
        raise Unreadable(f"{type(found).__name__} where text is wanted")
    return found


# ── plain text ────────────────────────────────────────────────────────────────────────────────


def _plain_text(stream: BinaryIO, entry: Entry, piece_chars: int) -> Iterator[str]:
    for block in _blocks(stream, entry):
        for document in block.split(END_OF_TEXT):
            yield from pieces(document.strip(), piece_chars)


def _blocks(stream: BinaryIO, entry: Entry) -> Iterator[str]:
    """The text, cut behind a line where it is long."""
    data = _read(stream)
    encoding = _encoding(data)
    if encoding == "utf-8" and b"\0" in data[:BLOCK_BYTES]:
        if entry.suffix == ".txt":
            raise Unreadable(f"zero bytes in it; if it is UTF-16: iconv -f UTF-16 -t UTF-8 {entry.name}")
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


def _encoding(start: bytes) -> str:
    return next((encoding for mark, encoding in BOMS if start.startswith(mark)), "utf-8")


def _lines(stream: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    buffered = io.BufferedReader(cast(Any, stream)) if not hasattr(stream, "peek") else cast(Any, stream)
    return io.TextIOWrapper(buffered, encoding=_encoding(buffered.peek(4)), newline=newline)


# ── records: each with where it stands ────────────────────────────────────────────────────────


def _json_lines(stream: BinaryIO, entry: Entry, column: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(stream), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("not JSON")


def _json(stream: BinaryIO, entry: Entry, column: str) -> Iterator[tuple[int, Any]]:
    data = stream.read(MOST_JSON_BYTES)
    if len(data) == MOST_JSON_BYTES:
        raise Unreadable("too large to be read whole; as .jsonl, an object a line, any size will do")
    try:
        found = json.loads(data.decode(_encoding(data)))
    except (json.JSONDecodeError, RecursionError):
        if isinstance(
            _parsed(data.lstrip().partition(b"\n")[0].decode(_encoding(data), "replace")), Unreadable
        ):
            raise NoText("neither JSON nor lines of it") from None  # with comments, say
        yield from _json_lines(cast(BinaryIO, io.BytesIO(data)), entry, column)
        return
    lists = [value for value in found.values() if isinstance(value, list)] if isinstance(found, dict) else []
    if isinstance(found, dict) and len(lists) != 1 and not {*COLUMNS, column} & set(found):
        raise NoText("settings, no records")
    yield from enumerate(lists[0] if len(lists) == 1 else found if isinstance(found, list) else [found], 1)


def _csv(stream: BinaryIO, entry: Entry, column: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    lines = _lines(stream, newline="")
    head = lines.readline()
    between = "\t" if entry.suffix == ".tsv" else max(",;\t|", key=head.count)
    rows = csv.reader(chain([head], lines), delimiter=between)
    try:
        names, first = next(rows, []), next(rows, [])
        words = [name for name, value in zip(names, first, strict=False) if not _is_number(value)]
        at = names.index(choose(names, words if first else names, column))
        for row in chain([first], rows):
            if row:
                short = Unreadable(f"{len(row)} fields in place of {len(names)}")
                yield rows.line_num, row[at] if len(row) > at else short
    except csv.Error as error:
        raise Unreadable(f"line {rows.line_num}: {error}") from None


def _is_number(value: str) -> bool:
    try:
        return float(value) is not None
    except ValueError:
        return not value


def _parquet(stream: BinaryIO, entry: Entry, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(_seekable(stream))
    name = _arrow_column(file.schema_arrow, column)
    batches = file.iter_batches(batch_size=256, columns=[name])
    yield from _rows(batch.column(0) for batch in batches)


def _arrow(stream: BinaryIO, entry: Entry, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import ipc

    source = _seekable(stream)
    try:
        file = ipc.open_file(source)
        batches = (file.get_batch(n) for n in range(file.num_record_batches))
    except pyarrow.ArrowInvalid:  # the form without an index, as `datasets` keeps it
        source.seek(0)
        file = batches = ipc.open_stream(source)
    name = _arrow_column(file.schema, column)

    def checked(batch: Any) -> Any:
        values = batch.column(batch.schema.names.index(name))
        values.validate(full=True)  # what says where text begins may be a lie
        return values

    yield from _rows(map(checked, batches))


def _arrow_column(schema: Any, column: str) -> str:
    import pyarrow.types as types

    strings = [f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)]
    return choose(schema.names, strings, column)


def _rows(columns: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    number = 0
    for values in columns:
        for value in values.to_pylist():
            number += 1
            if value is not None:
                yield number, value


def _seekable(stream: BinaryIO) -> Any:
    return (
        stream if isinstance(stream, io.BufferedReader) and stream.seekable() else io.BytesIO(stream.read())
    )
