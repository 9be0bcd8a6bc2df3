"""Where documents come from: the embedded Python sources, the hub, a local path.

A source is an iterable of `Document`s that can be walked more than once, always in the same order.
It says which split a document may go to; whether it goes there, a hash of its content decides.
"""

import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError
from harness.tasks import hub
from harness.tasks.folder import Progress

NAMED = ("python", "climbmix", "tinystories")
LOCAL_SUFFIXES = (".txt", ".jsonl", ".parquet")
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

# Directories that no run needs. The sandbox hides them, and only they are held out: a train.py
# could otherwise read the validation text, these being files of the Python that runs it.
HIDDEN_STDLIB = (
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "unittest/test", "ctypes/test",
    "sqlite3/test",
)  # fmt: skip
HIDDEN_TORCH = ("testing/_internal/opinfo", "testing/_internal/test_module")


def stdlib_dir() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def torch_dir() -> Path | None:
    """The installed torch, found without importing it."""
    spec = util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def hidden_dirs() -> list[Path]:
    """Directories of this interpreter that hold validation text, in every copy that is in sight."""
    stdlibs = {stdlib_dir()}
    for prefix in (Path("/usr/lib"), Path("/usr/local/lib"), Path(sys.base_prefix) / "lib"):
        stdlibs.update(prefix.glob("python3*"))
    found = [lib / name for lib in sorted(stdlibs) for name in HIDDEN_STDLIB]
    if torch := torch_dir():
        found += [torch / name for name in HIDDEN_TORCH]
    return [path for path in found if path.is_dir()]


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


class FileSource:
    """Local files. A file named `val*` is the validation split as it stands, and in its order."""

    def __init__(
        self, files: list[Path], piece_chars: int, is_val: Callable[[Path], bool] | None = None
    ) -> None:
        self.files = files
        self.piece_chars = piece_chars
        self.is_val = is_val or (lambda path: path.name.lower().startswith("val"))
        self.pinned = any(map(self.is_val, files))

    def documents(self) -> Iterator[Document]:
        for path in self.files:
            hint = "val" if self.is_val(path) else "holdout-or-train" if self.pinned else "any"
            for text in _texts(path, self.piece_chars):
                if text:
                    yield Document(text, hint)


def _texts(path: Path, piece_chars: int) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_texts(path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _json_text(line, path, number)
        else:
            for document in path.read_text(encoding="utf-8").split("<|endoftext|>"):
                yield from pieces(document.strip(), piece_chars)
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path} is not UTF-8 text: {error}") from None


def _json_text(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, TypeError, KeyError):
        text = None
    if not isinstance(text, str):
        raise HarnessError(f'{path}:{number} is not a JSON object with a string "text"')
    return text


def _parquet_texts(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise HarnessError(f"{path} has no column 'text', only {file.schema_arrow.names}")
        for group in range(file.num_row_groups):
            yield from filter(None, file.read_row_group(group, columns=["text"])["text"].to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise HarnessError(f"{path} is not a readable parquet file: {error}") from None


def pieces(text: str, limit: int) -> Iterator[str]:
    """Cut text into documents of about `limit` characters: at blank lines, else at line ends.

    The pieces of a text joined are the text again.
    """
    piece = ""
    *paragraphs, last = text.split("\n\n")
    for paragraph in [*(p + "\n\n" for p in paragraphs), last]:
        whole = len(paragraph) <= limit
        for unit in [paragraph] if whole else paragraph.splitlines(keepends=True):
            if piece and len(piece) + len(unit) > limit:
                yield piece
                piece = ""
            piece += unit
    if piece:
        yield piece


# ── by name ───────────────────────────────────────────────────────────────────────────────────


def open_source(name: str, shards: int, seq_len: int, progress: Progress) -> Source:
    """The source called `name`, its files downloaded first where it has any.

    Code and plain text have no documents of their own: they are cut into pieces of about a row,
    because packing would train on nothing but the heads of longer ones.

    Raises:
        HarnessError: no such name or path, nothing readable in it, or the download failed.
    """
    piece_chars = int(CHARS_PER_TOKEN * seq_len)
    if name == "python":
        return PythonSource(piece_chars)
    if name == "climbmix":
        files = hub.download(hub.CLIMBMIX, hub.climbmix_files(shards), progress)
        return FileSource(files, piece_chars, is_val=lambda path: path.name == hub.CLIMBMIX_VAL)
    if name == "tinystories":
        return FileSource(hub.download(hub.TINYSTORIES, None, progress), piece_chars)
    path = Path(name).expanduser()
    if not path.exists():
        raise HarnessError(
            f"no data source {name!r}: not {', '.join(NAMED)}, and no such path", "harness prepare python"
        )
    files = [path] if path.is_file() else _files_in(path)
    if not files or any(file.suffix not in LOCAL_SUFFIXES for file in files):
        raise HarnessError(f"{path} holds no {', '.join(LOCAL_SUFFIXES)} file", "another file or folder")
    return FileSource(files, piece_chars)


def _files_in(folder: Path) -> list[Path]:
    found: Iterable[Path] = folder.rglob("*")
    return sorted(p for p in found if p.suffix in LOCAL_SUFFIXES and p.is_file())
