"""Records in files: each with where it stands, and its text."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, cast

COLUMNS = ("text", "content", "document", "story", "code")  # which one is the text, where nobody says
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
MOST_JSON_BYTES = 2**31  # of a file that must be read whole
LOOKED_AT = 50  # rows of a table, for which columns have words


class Unreadable(Exception):
    """Why a file, or a record of it, gives no text; one line."""


class NoText(Unreadable):
    """It is none: a picture, a program."""


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
        raise Unreadable(
            f"no column {wanted!r}, which the config asks for, only {', '.join(map(repr, names)) or 'none'}"
        )
    small = {name.lower(): name for name in reversed(strings)}
    found = [small[name] for name in COLUMNS if name in small] or list(strings)
    if len(found) == 1 or (found and found[0].lower() in COLUMNS):
        return found[0]
    if not found:
        raise Unreadable(f"no column of text, only {', '.join(map(repr, names)) or 'none'}")
    raise Unreadable(
        f"which column is the text, {', '.join(map(repr, found))}? [data] column = {found[0]!r} says it"
    )


def text_of(record: Any, column: str) -> str:
    """Empty where it has none: what is missing in one record must not make another column the text."""
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise Unreadable("neither text nor a JSON object")
    strings = [
        name
        for name, value in record.items()
        if isinstance(value, str) or (value is None and name.lower() in COLUMNS)
    ]
    found = record[choose(list(record), strings, column)]
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Unreadable(f"{type(found).__name__} where text is wanted")
    return found


def encoding_of(start: bytes) -> str:
    return next((encoding for mark, encoding in BOMS if start.startswith(mark)), "utf-8")


def _lines(stream: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    buffered = io.BufferedReader(cast(Any, stream)) if not hasattr(stream, "peek") else cast(Any, stream)
    return io.TextIOWrapper(buffered, encoding=encoding_of(buffered.peek(4)), newline=newline)


# ── records: each with where it stands ────────────────────────────────────────────────────────


def json_lines(stream: BinaryIO, suffix: str, column: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(stream), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("not JSON")


def json_file(stream: BinaryIO, suffix: str, column: str) -> Iterator[tuple[int, Any]]:
    data = stream.read(MOST_JSON_BYTES)
    if len(data) == MOST_JSON_BYTES:
        raise Unreadable("too large to be read whole; as .jsonl, an object a line, any size will do")
    try:
        found = json.loads(data.decode(encoding_of(data)))
    except (json.JSONDecodeError, RecursionError):
        if isinstance(
            _parsed(data.lstrip().partition(b"\n")[0].decode(encoding_of(data), "replace")), Unreadable
        ):
            raise NoText("neither JSON nor lines of it") from None  # with comments, say
        yield from json_lines(cast(BinaryIO, io.BytesIO(data)), suffix, column)
        return
    yield from enumerate(_records(found, column), 1)


def _records(found: Any, column: str) -> list[Any]:
    """Of what a JSON file holds: a list, a record, or settings with a list of records among them."""
    if not isinstance(found, dict):
        return found if isinstance(found, list) else [found]
    named = [value for name, value in found.items() if name == column or name.lower() in COLUMNS]
    lists = [value for value in found.values() if isinstance(value, list)]
    if len(lists) == 1 and not any(isinstance(value, str) for value in named):
        of_records = all(isinstance(each, dict) for each in lists[0])  # of words it may be tags, or files
        if of_records or lists[0] in named or len(found) == 1:
            return lists[0]
    if not named:
        raise NoText("settings, no records")
    return [found]


def csv_file(stream: BinaryIO, suffix: str, column: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    lines = _lines(stream, newline="")
    head = lines.readline()
    between = "\t" if suffix == ".tsv" else max(",;\t|", key=head.count)
    rows = csv.reader(chain([head], lines), delimiter=between)
    try:
        names, numbered = next(rows, []), ((rows.line_num, row) for row in rows)
        first = list(islice(numbered, LOOKED_AT))
        words = [
            name
            for at, name in enumerate(names)
            if not all(map(_is_number, seen := [row[at] for _, row in first if len(row) > at]))
            or (name.lower() in COLUMNS and not any(seen))
        ]
        at = names.index(choose(names, words if first else names, column))
        for number, row in chain(first, numbered):
            if row:
                short = Unreadable(f"{len(row)} fields in place of {len(names)}")
                yield number, row[at] if len(row) > at else short
    except csv.Error as error:
        raise Unreadable(f"line {rows.line_num}: {error}") from None


def _is_number(value: str) -> bool:
    try:
        return float(value) is not None
    except ValueError:
        return not value


def parquet_file(stream: BinaryIO, suffix: str, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(_seekable(stream))
    name = _arrow_column(file.schema_arrow, column)
    batches = file.iter_batches(batch_size=256, columns=[name])
    yield from _rows(batch.column(0) for batch in batches)


def arrow_file(stream: BinaryIO, suffix: str, column: str) -> Iterator[tuple[int, Any]]:
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


READERS = {
    ".jsonl": json_lines, ".json": json_file, ".csv": csv_file, ".tsv": csv_file,
    ".parquet": parquet_file, ".arrow": arrow_file, ".feather": arrow_file,
}  # fmt: skip
