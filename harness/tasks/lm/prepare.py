"""From a source to a prepared corpus: learn the tokenizer, encode, split, pack, write.

Works in a folder beside the final one and renames it when everything is there, so a corpus exists
whole or not at all. An interrupted run resumes: downloads keep what is complete, a finished
tokenizer is used again (if its recipe is the same), encoding starts over.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import DataConfig
from harness.errors import HarnessError
from harness.paths import data_dir, write_atomically
from harness.tasks import folder as folders
from harness.tasks import hub
from harness.tasks.folder import LISTED, Progress
from harness.tasks.lm import fingerprints, store, tokenizer
from harness.tasks.lm.files import find
from harness.tasks.lm.packing import distinct, in_order_forever, pack, shuffled_forever
from harness.tasks.lm.sources import NAMED, Document, FileSource, Report, Source, missing, open_source

TOKENIZER_CHARS = 1_000_000_000  # of the training split, as in the reference project
TOKENIZER_DOCUMENT_CHARS = 10_000
BATCH_DOCUMENTS, BATCH_CHARS = 512, 4_000_000
COPY_BYTES = 2**24
VERSION = 2

# Shares of a document's hash that go to val and to holdout, by what its source allows.
SHARES = {
    "any": (0.02, 0.02),
    "train": (0.0, 0.0),
    "held-out": (0.35, 0.35),
    "holdout-or-train": (0.0, 0.01),
    "val": (1.0, 0.0),
    "holdout": (0.0, 1.0),
}


class Split:
    """Encoded documents of one split, on disk: there may be more than memory holds."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self._lengths = array("q")
        self.text_bytes = self.tokens = 0

    @property
    def documents(self) -> int:
        return len(self._lengths)

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """A document, (N,) uint16."""
        self._file.write(tokens.tobytes())
        self._lengths.append(len(tokens))
        self.tokens += len(tokens)
        self.text_bytes += text_bytes

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens (N,) uint16, mapped, and offsets (D + 1,) int64."""
        self._file.flush()
        lengths = np.frombuffer(self._lengths, np.int64) if self._lengths else np.empty(0, np.int64)
        joined = np.memmap(self._path, np.uint16, "r") if self.tokens else np.empty(0, np.uint16)
        return joined, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def close(self) -> None:
        self._file.close()
        self._path.unlink()


class Seen:
    """Which documents came already, by 8 bytes of their hash: a table that is at most two thirds full."""

    def __init__(self) -> None:
        self._table, self._count = np.zeros(2**16, np.uint64), 0

    def add(self, digest: int) -> bool:
        """Whether it is new."""
        digest = digest or 1  # 0 is a free place
        at = self._place(self._table, digest)
        if self._table[at]:
            return False
        self._table[at] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            old, self._table = self._table, np.zeros(4 * len(self._table), np.uint64)
            for known in old[old > 0].tolist():
                self._table[self._place(self._table, known)] = known
        return True

    @staticmethod
    def _place(table: np.ndarray, digest: int) -> int:
        at = digest & (len(table) - 1)
        while (there := int(table[at])) and there != digest:
            at = (at + 1) & (len(table) - 1)
        return at


def prepare(config: DataConfig, progress: Progress, again: bool = False) -> store.Corpus:
    """Make the corpus that `config` asks for, or return it if it is there.

    Args:
        progress: told of every step that takes time.
        again: make it anew even if it is there.

    Raises:
        HarnessError: the source can't be read, holds too little text, or the disk is full.
    """
    folder = _folder(config)
    again = again or bool(changed(config))
    folders.make(folder, _recipe(config), again, lambda building: _build(config, building, progress))
    return store.open_corpus(folder)


def changed(config: DataConfig) -> str:
    """How a person's own files differ from those that were prepared; empty if they don't."""
    if _is_named(config.source) or not folders.is_of(_folder(config), _recipe(config)):
        return ""
    return fingerprints.differs(_folder(config), find(config.source).files)


def open_prepared(config: DataConfig) -> store.Corpus:
    """The corpus that `config` asks for, verified.

    Raises:
        HarnessError: it is not prepared, was prepared by another version, or was altered.
    """
    folder = _folder(config)
    command = f"harness prepare {config.source}"
    if not folder.exists() and not _is_named(config.source) and not find(config.source).files:
        raise missing(config.source)
    if folders.is_there(folder) and not folders.is_of(folder, _recipe(config)):
        raise HarnessError(f"the data at {folder} was prepared by another version of this program", command)
    return store.open_corpus(folder, command)


def _folder(config: DataConfig) -> Path:
    """One for each recipe: repositories beside each other don't take it from one another."""
    shards = f"-s{config.shards}" if _is_sharded(config.source) else ""
    column = f"-c{hashlib.sha256(config.column.encode()).hexdigest()[:6]}" if config.column else ""
    recipe = f"v{config.vocab_size}-t{config.seq_len}-e{config.eval_tokens}{shards}{column}"
    return data_dir(config.source, recipe)


def _recipe(config: DataConfig) -> dict[str, Any]:
    name = Path(config.source).name if "/" in config.source else config.source
    return {
        "version": VERSION,
        "name": name,
        "source": config.source,
        "seq_len": config.seq_len,
        "vocab_size": config.vocab_size,
        "eval_tokens": config.eval_tokens,
        "shards": config.shards if _is_sharded(config.source) else None,
        "column": config.column,
    }


def _is_sharded(source: str) -> bool:
    return source == "climbmix" or source.startswith(hub.PREFIX)


def _is_named(source: str) -> bool:
    return source in NAMED or source.startswith(hub.PREFIX)


def _build(config: DataConfig, folder: Path, progress: Progress) -> None:
    source = open_source(config, progress)
    words = _tokenizer(source, config, folder, progress)
    splits = {name: Split(folder / f"{name}.part") for name in ("train", "val", "holdout")}
    twice = _encode(source, words, splits, progress)
    report = source.report if isinstance(source, FileSource) else Report()
    report.refuse(config.source)
    row_length = config.seq_len + 1
    rows = config.eval_tokens // config.seq_len
    if not report.records and report.no_text:
        what = ", ".join(report.no_text[:LISTED])
        raise HarnessError(f"{config.source} holds no text ({what})", "another file or folder")
    for name, split in splits.items():
        if not split.documents:
            raise HarnessError(
                f"{config.source}: no document fell into the {name} split; it needs more text",
                "more or longer documents there, or another source in .autoresearch/config.toml",
            )
    np.save(folder / "token_bytes.npy", words.byte_lengths())
    tokens, offsets = splits["train"].arrays()
    with (folder / "train.tokens").open("wb") as file:
        file.write(store.token_file_header(len(offsets) - 1, len(tokens)))
        file.write(offsets.tobytes())
        with (folder / "train.part").open("rb") as part:
            shutil.copyfileobj(part, file, COPY_BYTES)
    for number, name in enumerate(("val", "holdout")):
        progress("pack", number, 2)
        tokens, offsets = splits[name].arrays()
        documents = len(offsets) - 1
        # What a person pinned is scored in its own order, like the reference; else any part of the
        # split should look like the whole.
        pinned = name == "val" and source.pinned
        order = in_order_forever(documents) if pinned else shuffled_forever(documents, seed=0)
        stream = pack(tokens, offsets, order, row_length, drop_rests=pinned)
        packed = list(islice(distinct(stream, rows), rows))
        np.save(folder / f"{name}.npy", np.stack(packed))
    progress("pack", 2, 2)
    if isinstance(source, FileSource):
        fingerprints.write(folder, source.found.files, progress)
    facts = {
        "vocab_size": words.vocab_size,
        "bos": words.bos,
        "splits": {
            name: {"documents": split.documents, "tokens": split.tokens, "text_bytes": split.text_bytes}
            for name, split in splits.items()
        },
        "read": _read(source, report, twice),
    }
    for split in splits.values():
        split.close()
    folders.seal(folder, _recipe(config), facts, store.FILES)


def _read(source: Source, report: Report, twice: int) -> dict[str, Any]:
    """What a person is shown of it; names of files, but no place on this machine."""
    if not isinstance(source, FileSource):
        return {"repeats": twice}
    return {
        "files": report.files, "of_files": source.files_of, "revision": source.revision,
        "records": report.records, "hidden": report.hidden, "no_text": len(report.no_text),
        "no_text_names": report.no_text[:LISTED], "bad": len(report.bad),
        "bad_names": dict(islice(report.bad.items(), LISTED)),
        "bad_records": dict(islice(report.bad_records.items(), LISTED)), "empty": report.empty,
        "repeats": twice, "val": report.val[:LISTED], "val_files": len(report.val),
        "holdout": report.holdout[:LISTED], "holdout_files": len(report.holdout),
    }  # fmt: skip


def _tokenizer(source: Source, config: DataConfig, folder: Path, progress: Progress) -> tokenizer.Tokenizer:
    path, mark = folder / "tokenizer.json", folder / "tokenizer.recipe"
    recipe = json.dumps(_recipe(config))
    if path.exists() and mark.exists() and mark.read_text() == recipe:
        return tokenizer.Tokenizer.from_json(path.read_text(encoding="utf-8"))
    progress("tokenizer", 0, 1)

    def texts() -> Iterator[str]:
        left = TOKENIZER_CHARS
        for document in source.documents():
            if split_of(document) == "train":
                text = document.text[:TOKENIZER_DOCUMENT_CHARS]
                yield text
                left -= len(text)
                if left <= 0:
                    return

    words = tokenizer.train(texts(), config.vocab_size)
    write_atomically(path, words.to_json().encode())
    write_atomically(mark, recipe.encode())
    progress("tokenizer", 1, 1)
    return words


def _digest(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def split_of(document: Document) -> str:
    """`train`, `val` or `holdout`: decided by the hash of the text alone, within its shares."""
    val, holdout = SHARES[document.may_go_to]
    at = _digest(document.text) / 2**64
    return "val" if at < val else "holdout" if at < val + holdout else "train"


def _encode(source: Source, words: tokenizer.Tokenizer, splits: dict[str, Split], progress: Progress) -> int:
    """Encode every document once; how many were dropped, exact repeats of an earlier or pinned one."""
    threads = os.cpu_count() or 1
    done = twice = 0

    def once() -> Iterator[Document]:
        nonlocal twice
        for document, is_new in _distinct(source):
            twice += not is_new
            if is_new:
                yield document

    batches = _batches(once())
    with ThreadPoolExecutor(threads) as pool:  # tiktoken lets go of the interpreter while encoding
        while window := list(islice(batches, threads)):
            encoded = pool.map(lambda batch: words.encode([d.text for d in batch]), window)
            for batch, ids in zip(window, encoded, strict=True):
                for document, tokens in zip(batch, ids, strict=True):
                    text_bytes = len(document.text.encode("utf-8", "surrogatepass"))
                    splits[split_of(document)].add(tokens, text_bytes)
                done += len(batch)
                progress("encode", done, 0)
    return twice


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """So many at a time that they aren't long together."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or chars > BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _distinct(source: Source) -> Iterator[tuple[Document, bool]]:
    """Each document, and whether it is no exact repeat; a pinned validation split stays complete."""
    seen = Seen()
    if source.pinned:
        for document in source.documents():
            if document.may_go_to == "val":
                seen.add(_digest(document.text))
    for document in source.documents():
        yield document, document.may_go_to == "val" or seen.add(_digest(document.text))
