"""From a source to a prepared corpus: learn the tokenizer, encode, split, pack, write.

Works in a folder beside the final one and renames it when everything is there, so a corpus exists
whole or not at all. An interrupted run resumes: downloads keep what is complete, a finished
tokenizer is used again (if its recipe is the same), encoding starts over.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import DataConfig
from harness.errors import HarnessError
from harness.paths import data_dir, write_atomically
from harness.tasks import folder as folders
from harness.tasks.folder import Progress
from harness.tasks.lm import store, tokenizer
from harness.tasks.lm.packing import distinct, in_order_forever, pack, shuffled_forever
from harness.tasks.lm.sources import NAMED, Document, Source, open_source

TOKENIZER_CHARS = 1_000_000_000  # of the training split, as in the reference project
TOKENIZER_DOCUMENT_CHARS = 10_000
BATCH_DOCUMENTS = 512
VERSION = 1

# Shares of a document's hash that go to val and to holdout, by what its source allows.
SHARES = {
    "any": (0.02, 0.02),
    "train": (0.0, 0.0),
    "held-out": (0.35, 0.35),
    "holdout-or-train": (0.0, 0.01),
    "val": (1.0, 0.0),
}


@dataclass
class Split:
    """Encoded documents of one split, growing."""

    tokens: list[np.ndarray]
    text_bytes: int = 0

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens (N,) uint16, and offsets (D + 1,) int64."""
        lengths = np.fromiter((len(t) for t in self.tokens), np.int64, len(self.tokens))
        joined = np.concatenate(self.tokens) if self.tokens else np.empty(0, np.uint16)
        return joined, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def prepare(config: DataConfig, progress: Progress, again: bool = False) -> store.Corpus:
    """Make the corpus that `config` asks for, or return it if it is there.

    Args:
        progress: told of every step that takes time.
        again: make it anew even if it is there.

    Raises:
        HarnessError: the source can't be read, holds too little text, or the disk is full.
    """
    folder = _folder(config)
    folders.make(folder, _recipe(config), again, lambda building: _build(config, building, progress))
    return store.open_corpus(folder)


def open_prepared(config: DataConfig) -> store.Corpus:
    """The corpus that `config` asks for, verified.

    Raises:
        HarnessError: it is not prepared, was prepared by another version, or was altered.
    """
    folder = _folder(config)
    command = f"harness prepare {config.source}"
    if config.source not in NAMED and not Path(config.source).exists() and not folder.exists():
        raise HarnessError(
            f"no data source {config.source!r}: not {', '.join(NAMED)}, and no such path",
            "another `source` in .autoresearch/config.toml",
        )
    if folders.is_there(folder) and not folders.is_of(folder, _recipe(config)):
        raise HarnessError(f"the data at {folder} was prepared by another version of this program", command)
    return store.open_corpus(folder, command)


def _folder(config: DataConfig) -> Path:
    """One for each recipe: repositories beside each other don't take it from one another."""
    shards = f"-s{config.shards}" if config.source == "climbmix" else ""
    recipe = f"v{config.vocab_size}-t{config.seq_len}-e{config.eval_tokens}{shards}"
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
        "shards": config.shards if config.source == "climbmix" else None,
    }


def _build(config: DataConfig, folder: Path, progress: Progress) -> None:
    source = open_source(config.source, config.shards, config.seq_len, progress)
    words = _tokenizer(source, config, folder, progress)
    splits = _encode(source, words, progress)
    row_length = config.seq_len + 1
    rows = config.eval_tokens // config.seq_len
    for name in ("train", "val", "holdout"):
        if not splits[name].tokens:
            raise HarnessError(
                f"{config.source}: no document fell into the {name} split; it needs more text",
                "more or longer documents there, or another source in .autoresearch/config.toml",
            )
    np.save(folder / "token_bytes.npy", words.byte_lengths())
    tokens, offsets = splits["train"].arrays()
    with (folder / "train.tokens").open("wb") as file:
        file.write(store.token_file_header(len(offsets) - 1, len(tokens)))
        file.write(offsets.tobytes())
        file.write(tokens.tobytes())
    for number, name in enumerate(("val", "holdout")):
        progress("pack", number, 2)
        tokens, offsets = splits[name].arrays()
        documents = len(offsets) - 1
        # What a person pinned is scored in its own order, like the reference; else any part of the
        # split should look like the whole.
        pinned = name == "val" and source.pinned
        order = in_order_forever(documents) if pinned else shuffled_forever(documents, seed=0)
        stream = pack(tokens, offsets, order, row_length)
        packed = list(islice(distinct(stream, rows), rows))
        np.save(folder / f"{name}.npy", np.stack(packed))
    progress("pack", 2, 2)
    facts = {
        "vocab_size": words.vocab_size,
        "bos": words.bos,
        "splits": {
            name: {
                "documents": len(split.tokens),
                "tokens": sum(map(len, split.tokens)),
                "text_bytes": split.text_bytes,
            }
            for name, split in splits.items()
        },
    }
    folders.seal(folder, _recipe(config), facts, store.FILES)


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


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def split_of(document: Document) -> str:
    """`train`, `val` or `holdout`: decided by the hash of the text alone, within its shares."""
    val, holdout = SHARES[document.may_go_to]
    at = int.from_bytes(_digest(document.text), "big") / 2**64
    return "val" if at < val else "holdout" if at < val + holdout else "train"


def _encode(source: Source, words: tokenizer.Tokenizer, progress: Progress) -> dict[str, Split]:
    """Encode every document once; an exact duplicate of an earlier or pinned one is dropped."""
    splits = {name: Split([]) for name in ("train", "val", "holdout")}
    threads = os.cpu_count() or 1
    done = 0
    documents = _distinct(source)
    batches = iter(lambda: list(islice(documents, BATCH_DOCUMENTS)), [])
    with ThreadPoolExecutor(threads) as pool:  # tiktoken lets go of the interpreter while encoding
        while window := list(islice(batches, threads)):
            encoded = pool.map(lambda batch: words.encode([d.text for d in batch]), window)
            for batch, ids in zip(window, encoded, strict=True):
                for document, tokens in zip(batch, ids, strict=True):
                    split = splits[split_of(document)]
                    split.tokens.append(tokens)
                    split.text_bytes += len(document.text.encode("utf-8", "surrogatepass"))
                done += len(batch)
                progress("encode", done, 0)
    return splits


def _distinct(source: Source) -> Iterator[Document]:
    """Documents without exact duplicates; a pinned validation split stays complete."""
    seen: set[bytes] = set()
    if source.pinned:
        seen = {_digest(d.text) for d in source.documents() if d.may_go_to == "val"}
    for document in source.documents():
        if document.may_go_to == "val":
            yield document
            continue
        digest = _digest(document.text)
        if digest not in seen:
            seen.add(digest)
            yield document
