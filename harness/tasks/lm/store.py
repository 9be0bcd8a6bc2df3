"""A prepared corpus on disk: token files to map, a manifest with the sha256 of each, its id.

    manifest.json       recipe, counts, sha256 and size of every other file
    tokenizer.json      merges
    token_bytes.npy     (V,) int32, raw bytes of each token, 0 for reserved ones
    train.tokens        one file: magic, counts, offsets (D + 1,) int64, tokens (N,) uint16
    val.npy holdout.npy packed scoring rows, (R, seq_len + 1) uint16

See `harness.tasks.folder` for the manifest.
"""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.tasks import folder as folders

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

    @property
    def facts(self) -> dict[str, Any]:
        """What a training is told, see `harness.tasks.lm.feed`."""
        return {
            "vocab_size": self.vocab_size, "seq_len": self.seq_len, "bos": self.bos,
            "train_tokens": self.train_tokens,
        }  # fmt: skip

    def rows_file(self, split: str) -> Path:
        return self.folder / f"{split}.npy"

    def files(self, split: str) -> dict[str, str]:
        """What an exam is made of, see `harness.tasks.lm.exam`."""
        return {
            "rows": str(self.rows_file(split)), "train": str(self.train_file),
            "token_bytes": str(self.folder / "token_bytes.npy"),
        }  # fmt: skip

    def about(self) -> list[str]:
        """What was made of what, in lines."""
        read = self._manifest()["read"]
        return [f"vocabulary {self.vocab_size:,}, rows of {self.seq_len:,} tokens", *_read_lines(read)]

    def _manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / folders.MANIFEST).read_text(encoding="utf-8"))
        return found

    def warning(self) -> str:
        """That the text is too little for what is scored, see `harness.tasks.registry.Prepared`."""
        splits = self._manifest()["splits"]
        val = splits["val"]["tokens"]
        scored = np.load(self.rows_file("val"), mmap_mode="r").shape[0] * self.seq_len
        if min(val, scored) >= self.eval_tokens // self.seq_len * self.seq_len:
            return ""
        fits = min(val, scored, splits["holdout"]["tokens"]) // self.seq_len * self.seq_len
        why = f"{self.eval_tokens:,} tokens are to be scored, val has {val:,}: text is scored more than once"
        return f"{why}. More text mends it" + (
            f", or eval_tokens = {fits} and harness prepare" if fits else "; this is too little"
        )


def open_corpus(folder: Path, prepare: str = "harness prepare") -> Corpus:
    """Verify a prepared corpus and return what runs need to know of it.

    Raises:
        HarnessError: it is missing, incomplete, or a file's digest differs from its manifest's.
    """
    found, manifest = folders.read(folder, prepare, FILES)
    try:
        recipe = manifest["recipe"]
        return Corpus(
            folder, found, manifest["vocab_size"], recipe["seq_len"], recipe["eval_tokens"], manifest["bos"]
        )
    except (KeyError, TypeError):
        raise HarnessError(f"{folder / folders.MANIFEST} is not a manifest", f"{prepare} --again") from None


def _read_lines(read: dict[str, Any]) -> list[str]:
    """What of a source was read, what not and why, and what validates."""
    repeats = f"{read['repeats']:,} exact repeats"
    if "files" not in read:
        return [f"left out: {repeats}"]
    of = f" of {read['of_files']:,}" if read["of_files"] > read["files"] + read["no_text"] else ""
    revision = f", revision {read['revision']}" if read["revision"] else ""
    lines = [f"read: {read['files']:,}{of} files, {read['records']:,} documents{revision}"]
    left_out = [repeats]
    left_out += [f"{read['empty']:,} empty"] if read["empty"] else []
    left_out += [f"{read['hidden']:,} hidden files and folders"] if read["hidden"] else []
    if read["no_text"]:
        left_out.append(
            f"{read['no_text']:,} files that are no text ({_some(read['no_text_names'], read['no_text'])})"
        )
    for name, (count, why) in read["bad_records"].items():
        left_out.append(f"{count:,} records of {name} ({why})")
    lines.append(f"left out: {', '.join(left_out)}")
    lines += [f"unread: {name}: {why}" for name, why in read["bad_names"].items()]
    for split in ("val", "holdout"):
        if count := read[f"{split}_files"]:
            whole = "as they stand (by their names)" if count > 1 else "as it stands (by its name)"
            lines.append(f"{split}: {_some(read[split], count)}, {whole}")
    return lines


def _some(names: list[str], count: int) -> str:
    return ", ".join(names) + (f" and {count - len(names):,} more" if count > len(names) else "")


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
