"""Where documents come from: the embedded Python sources, the hub, a local path.

A source is an iterable of `Document`s that can be walked more than once, always in the same order.
It says which split a document may go to; whether it goes there, a hash of its content decides.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from harness.config import DataConfig
from harness.errors import HarnessError
from harness.tasks import hub
from harness.tasks.folder import LISTED, MOST_UNREAD, Progress, refuse
from harness.tasks.lm import reading, records
from harness.tasks.lm.cutting import pieces
from harness.tasks.lm.files import Found, entries, find, splits
from harness.tasks.lm.interpreter import hidden_dirs, stdlib_dir, torch_dir

NAMED = ("python", "climbmix", "tinystories")
CHARS_PER_TOKEN = 2.2  # a low guess, so that most pieces fit into a row whole


@dataclass(frozen=True)
class Document:
    text: str
    may_go_to: str
    """`any`, or one of the other keys of `prepare.SHARES`."""


class Source(Protocol):
    pinned: bool
    """Whether some files are the validation split as they stand."""

    def documents(self) -> Iterator[Document]: ...


# ── the embedded default ──────────────────────────────────────────────────────────────────────


class PythonSource:
    """The standard library's and the installed torch's own `.py` files, in pieces. No network."""

    pinned = False

    def __init__(self, piece_chars: int) -> None:
        self.piece_chars = piece_chars

    def documents(self) -> Iterator[Document]:
        hidden = tuple(f"{directory}/" for directory in hidden_dirs())
        for root in filter(None, (stdlib_dir(), torch_dir())):
            skip = f"{root}/site-packages/"
            for path in sorted(p for p in root.rglob("*.py") if not str(p).startswith(skip)):
                try:
                    text = path.read_text(encoding="utf-8")
                except (UnicodeDecodeError, OSError):
                    continue  # the standard library tests odd encodings with odd files
                hint = "held-out" if str(path).startswith(hidden) else "train"
                for piece in pieces(text, self.piece_chars):
                    yield Document(piece, hint)


# ── files ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Report:
    """What was read in one walk through the files, and what not and why."""

    files: int = 0
    hidden: int = 0
    no_text: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    """Why, by file: all of it or its rest."""
    records: int = 0
    bad_records: dict[str, tuple[int, str]] = field(default_factory=dict)
    """How many, and why the first one, by file."""
    empty: int = 0
    val: list[str] = field(default_factory=list)
    """Files that are the validation split as they stand, as the next ones the holdout."""
    holdout: list[str] = field(default_factory=list)

    def refuse(self, source: str) -> None:
        """Raise if too much of it is bad."""
        refuse(source, self.bad, self.files, "files")
        bad = sum(count for count, _ in self.bad_records.values())
        if bad > MOST_UNREAD * self.records:
            listed = "; ".join(why for _, why in islice(self.bad_records.values(), LISTED))
            mend = "`column` in the config, or without that file"
            raise HarnessError(f"{source}: {bad:,} of {self.records:,} records have no text: {listed}", mend)


def _encodable(text: str) -> str:
    """Without halves of characters, which JSON can have."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()


class FileSource:
    """Local files of any kind that has text, see `reading` and `files`."""

    def __init__(
        self, found: Found, piece_chars: int, column: str = "", is_val: Callable[[str], bool] | None = None
    ) -> None:
        self.found, self.piece_chars, self.column = found, piece_chars, column
        self.report = Report()  # of the last walk
        self.revision, self.files_of = "", len(found.files)  # of a data set of the hub
        names = [entry.name for _, entry in entries(found.files) if isinstance(entry, reading.Entry)]
        if is_val is not None:
            self._splits = {name: "val" if is_val(name) else "holdout-or-train" for name in names}
        else:
            self._splits = splits(names)
        self.pinned = "val" in self._splits.values()

    def documents(self) -> Iterator[Document]:
        report = self.report = Report(hidden=self.found.hidden)
        for name, entry in entries(self.found.files):
            if isinstance(entry, records.Unreadable):
                report.files += 1
                report.bad[name] = str(entry)
                continue
            split = self._splits.get(entry.name, "any")
            read = False
            try:
                for text in reading.texts(entry, self.column, self.piece_chars, self._bad_record):
                    read = True
                    report.records += 1
                    if text.strip():
                        yield Document(_encodable(text), split)
                    else:
                        report.empty += 1
                report.empty += not read
            except records.NoText:
                report.no_text.append(entry.name)
                continue
            except records.Unreadable as why:
                report.bad[entry.name] = f"{why}, and what came before was read" if read else str(why)
            report.files += read or entry.name in report.bad
            if split in ("val", "holdout"):
                (report.val if split == "val" else report.holdout).append(entry.name)

    def _bad_record(self, name: str, why: str) -> None:
        count, first = self.report.bad_records.get(name, (0, why))
        self.report.bad_records[name] = count + 1, first
        self.report.records += 1


# ── by name ───────────────────────────────────────────────────────────────────────────────────


def open_source(config: DataConfig, progress: Progress) -> Source:
    """The source that a config names, its files downloaded first where it has any.

    Code and plain text have no documents of their own: they are cut into pieces of about a row.

    Raises:
        HarnessError: no such name or path, nothing in it, or the download failed.
    """
    name, shards = config.source, config.shards
    piece_chars = int(CHARS_PER_TOKEN * config.seq_len)
    if name == "python":
        return PythonSource(piece_chars)
    if name == "climbmix":
        paths = hub.download(hub.CLIMBMIX, hub.climbmix_files(shards), progress)
        return FileSource(_named(paths), piece_chars, is_val=lambda name: name == hub.CLIMBMIX_VAL)
    if name == "tinystories":
        return FileSource(_named(hub.download(hub.TINYSTORIES, None, progress)), piece_chars)
    if name.startswith(hub.PREFIX):
        chosen = hub.choose(name, shards)
        wanted = [file for file, _ in chosen.files]
        paths = hub.download(chosen.repository, wanted, progress, chosen.revision)
        found = Found(tuple((path, name) for path, (_, name) in zip(paths, chosen.files, strict=True)), 0)
        source = FileSource(found, piece_chars, config.column)
        source.revision, source.files_of = chosen.revision, chosen.of
        return source
    found = find(Path(name).expanduser())
    if not found.files:
        raise missing(name)
    return FileSource(found, piece_chars, config.column)


def missing(name: str) -> HarnessError:
    if set(name) & set("*?["):
        return HarnessError(f"no file matches {name!r}", "another pattern; ** is any folder")
    if Path(name).expanduser().exists():
        return HarnessError(f"{name} holds no file to read", "another file or folder")
    known = f"{', '.join(NAMED)}, hf:OWNER/NAME"
    on_hub = re.fullmatch(r"(?:https?://huggingface\.co/datasets/)?(\w[\w.-]*/[\w-][\w.-]*)/?", name)
    mend = f"hf:{on_hub[1]} for a data set of the hub, or " if on_hub else ""
    return HarnessError(
        f"no data source {name!r}: not {known}, and no such path",
        f"{mend}another `source` in .autoresearch/config.toml",
    )


def _named(paths: Sequence[Path]) -> Found:
    return Found(tuple((path, path.name) for path in paths), 0)
