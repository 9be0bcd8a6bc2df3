"""A prepared corpus on disk: token files to map, a manifest with the sha256 of each, its id.

    manifest.json       recipe, counts, sha256 and size of every other file
    tokenizer.json      merges
    token_bytes.npy     (V,) int32, raw bytes of each token, 0 for reserved ones
    train.tokens        one file: magic, counts, offsets (D + 1,) int64, tokens (N,) uint16
    val.npy holdout.npy packed scoring rows, (R, seq_len + 1) uint16

The manifest's digest, but for where the source lay, is the data's id: the same text in another folder or on
another machine is the same data. A file is hashed again only when its inode, size or times
changed since it was last found right.
"""

import hashlib
import json
import mmap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.paths import write_atomically

MAGIC = b"harness1"
HEADER_BYTES = 24
FIRST_ROWS = 4
FILES = ("tokenizer.json", "token_bytes.npy", "train.tokens", "val.npy", "holdout.npy")


@dataclass(frozen=True)
class Corpus:
    """A verified corpus."""

    folder: Path
    id: str
    """`name@digest`, what a score's `Data:` trailer says."""
    vocab_size: int
    seq_len: int
    eval_tokens: int
    bos: int

    @property
    def train_tokens(self) -> int:
        """Of the training split, before packing."""
        with self.train_file.open("rb") as file:
            return int.from_bytes(file.read(len(MAGIC) + 16)[-8:], "little")

    @property
    def train_file(self) -> Path:
        return self.folder / "train.tokens"

    def rows_file(self, split: str) -> Path:
        return self.folder / f"{split}.npy"


def open_corpus(folder: Path, prepare: str = "harness prepare") -> Corpus:
    """Verify a prepared corpus and return what runs need to know of it.

    Raises:
        HarnessError: it is missing, incomplete, or a file's digest differs from its manifest's.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files, recipe = manifest["files"], manifest["recipe"]
        anywhere = json.dumps({**manifest, "recipe": recipe | {"source": recipe["name"]}}, indent=1)
        corpus = Corpus(
            folder,
            f"{recipe['name']}@{hashlib.sha256(anywhere.encode()).hexdigest()[:7]}",
            manifest["vocab_size"], recipe["seq_len"], recipe["eval_tokens"], manifest["bos"],
        )  # fmt: skip
    except FileNotFoundError:
        raise HarnessError(f"no prepared data at {folder}", prepare) from None
    except (ValueError, KeyError, TypeError):
        raise HarnessError(f"{path} is not a manifest", f"{prepare} --again") from None
    _verify(folder, files, prepare)
    return corpus


def _verify(folder: Path, files: dict[str, Any], prepare: str) -> None:
    seen_path = folder / "verified.json"
    try:
        seen = json.loads(seen_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        seen = {}
    found = {}
    for name in FILES:
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            raise HarnessError(f"{folder / name} is missing", f"{prepare} --again") from None
        wanted = files[name]["sha256"]
        mark = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, wanted]
        if seen.get(name) != mark and sha256(folder / name) != wanted:
            raise HarnessError(
                f"{folder / name} was altered: its sha256 differs from the manifest's", f"{prepare} --again"
            )
        found[name] = mark
    if found != seen:
        with suppress(OSError):  # a full or read-only disk: then it is hashed again next time
            write_atomically(seen_path, json.dumps(found).encode())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_file_header(documents: int, tokens: int) -> bytes:
    return MAGIC + documents.to_bytes(8, "little") + tokens.to_bytes(8, "little")


def first_rows(tokens: np.ndarray | Path, seq_len: int) -> np.ndarray:
    """The first few rows of training text, (R, T + 1), R from 0 to FIRST_ROWS: what a model that was trained
    is asked for by who trained it, and by who scores it."""
    if isinstance(tokens, Path):
        with tokens.open("rb") as file:
            tokens = map_tokens(file.fileno())[0]
    count = min(FIRST_ROWS, len(tokens) // (seq_len + 1))
    return tokens[: count * (seq_len + 1)].reshape(count, seq_len + 1)


def map_tokens(descriptor: int) -> tuple[np.ndarray, np.ndarray]:
    """Map a token file by its descriptor: tokens (N,) uint16, offsets (D + 1,) int64; no copy."""
    data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    if data[:8] != MAGIC:
        raise ValueError("not a token file")
    documents = int.from_bytes(data[8:16], "little")
    count = int.from_bytes(data[16:24], "little")
    offsets = np.frombuffer(data, np.int64, documents + 1, HEADER_BYTES)
    tokens = np.frombuffer(data, np.uint16, count, HEADER_BYTES + offsets.nbytes)
    return tokens, offsets
