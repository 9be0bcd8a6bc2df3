"""A corpus is whole and verified or not there at all; splits depend on content alone."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import make_text
from hypothesis import given
from hypothesis import strategies as st

from harness.config import DataConfig
from harness.errors import HarnessError
from harness.tasks.lm import cutting, interpreter, sources, store
from harness.tasks.lm import prepare as making
from harness.tasks.lm.sources import Document


def quiet(*_):
    pass


def opened(path, **changes):
    return sources.open_source(config_for(path, **changes), quiet)


def config_for(path, **changes) -> DataConfig:
    return dataclasses.replace(DataConfig(str(path), 32, 320, 64 * 32, 1), **changes)


@pytest.fixture
def folder_of_texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": text}) for text in make_text(1500, seed=3)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder


# ── sources ───────────────────────────────────────────────────────────────────────────────────


@given(st.text(alphabet="ab .。\n", max_size=400), st.integers(1, 60))
def test_pieces_of_a_text_are_the_text(text, limit):
    assert "".join(cutting.pieces(text, limit)) == text
    assert all(len(piece) <= limit for piece in cutting.pieces(text, limit))


def test_parquet_jsonl_and_text_give_the_same_documents(tmp_path):
    texts = make_text(50)
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    (tmp_path / "c.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    found = [
        [d.text for d in opened(tmp_path / name, seq_len=4096).documents()]
        for name in ("a.parquet", "b.jsonl", "c.txt")
    ]
    assert found[0] == found[1] == found[2] == texts


def test_embedded_documents_are_held_out_only_from_hidden_directories():
    hidden = tuple(f"{path}/" for path in interpreter.hidden_dirs())
    assert hidden
    assert any(path.endswith("/test/") for path in hidden)
    kinds = {d.may_go_to for d in sources.PythonSource(500).documents()}
    assert kinds == {"train", "held-out"}
    assert making.SHARES["train"] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", b'{"no text": 1}', "no column of text, only 'no text'"),
        ("x.jsonl", b"not json", "x.jsonl:1"),
        ("x.txt", b"caf\xe9 au lait", "iconv -f LATIN1"),
        ("x.txt", b"a\0b\0c\0", "iconv -f UTF-16"),
        ("x.parquet", b"PAR0", "broken"),
        ("x.zip", b"", "broken"),
        ("x.txt.gz", b"\x1f\x8b\x08\0cut", "broken"),
        ("x.csv", b"a,b,n\nx,y,1\n", "which column is the text, 'a', 'b'"),
        ("x.csv", b"a;b\n1;2\n", "no column of text, only 'a', 'b'"),
        ("x.png", b"\x89PNG\0", "holds no text .x.png"),
    ],
)
def test_a_file_that_is_no_corpus_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HarnessError, match=words) as caught:
        making.prepare(config_for(tmp_path / name), quiet)
    assert "\n" not in str(caught.value)


def test_a_table_without_a_column_of_text_says_what_it_has(tmp_path):
    parquet.write_table(pa.table({"body": [1], "date": [2]}), tmp_path / "x.parquet")
    with pytest.raises(HarnessError, match=r"no column of text, only 'body', 'date'"):
        making.prepare(config_for(tmp_path / "x.parquet"), quiet)
    with pytest.raises(HarnessError, match=r"no column 'x', which the config asks for, only 'body', 'date'"):
        making.prepare(config_for(tmp_path / "x.parquet", column="x"), quiet)


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(HarnessError, match=r"climbmix, tinystories"):
        opened("no-such-thing")


@given(st.lists(st.integers(0, 2**64 - 1), max_size=300))
def test_what_came_already_is_known(digests):
    seen, known = making.Seen(), set()
    for digest in [*digests, *digests]:
        assert seen.add(digest) == ((digest or 1) not in known)
        known.add(digest or 1)


# ── splits ────────────────────────────────────────────────────────────────────────────────────


@given(st.text(min_size=1))
def test_a_document_always_falls_into_the_same_split(text):
    first = making.split_of(Document(text, "any"))
    assert first == making.split_of(Document(text, "any"))
    assert making.split_of(Document(text, "val")) == "val"
    assert making.split_of(Document(text, "train")) == "train"


def test_exact_duplicates_are_dropped_and_a_pinned_validation_split_stays_whole():
    class Listed:
        pinned = True

        def documents(self):
            yield Document("a", "holdout-or-train")
            yield Document("a", "holdout-or-train")
            yield Document("in val too", "holdout-or-train")
            yield Document("in val too", "val")
            yield Document("in val too", "val")

    kept = [(d.text, d.may_go_to) for d, is_new in making._distinct(Listed()) if is_new]
    assert kept == [("a", "holdout-or-train"), ("in val too", "val"), ("in val too", "val")]


def test_a_file_named_val_is_the_validation_split_in_its_order(folder_of_texts):
    texts = [f"validation {i} " + "word " * (i % 7) for i in range(40)]
    (folder_of_texts / "val.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    made = making.prepare(config_for(folder_of_texts), quiet)
    splits = json.loads((made.folder / "manifest.json").read_text())["splits"]
    assert splits["val"]["documents"] == 40
    assert splits["val"]["text_bytes"] == sum(len(t.encode()) for t in texts)


# ── the store ─────────────────────────────────────────────────────────────────────────────────


def test_the_same_text_gives_the_same_id(folder_of_texts):
    first = making.prepare(config_for(folder_of_texts), quiet)
    again = making.prepare(config_for(folder_of_texts), quiet, again=True)
    assert first.id == again.id
    (folder_of_texts / "b.txt").write_text("something else, and long enough to count")
    assert making.prepare(config_for(folder_of_texts), quiet, again=True).id != first.id


def test_the_same_text_in_another_folder_is_the_same_data(folder_of_texts, tmp_path):
    first = making.prepare(config_for(folder_of_texts), quiet)
    moved = tmp_path / "elsewhere" / folder_of_texts.name
    shutil.copytree(folder_of_texts, moved)
    there = making.prepare(config_for(moved), quiet)
    assert there.folder != first.folder
    assert there.id == first.id


def test_token_files_map_back_to_the_documents(folder_of_texts):
    made = making.prepare(config_for(folder_of_texts), quiet)
    descriptor = os.open(made.train_file, os.O_RDONLY)
    tokens, offsets = store.map_tokens(descriptor)
    os.close(descriptor)
    assert (tokens[offsets[:-1]] == made.bos).all()
    assert (tokens == made.bos).sum() == len(offsets) - 1
    rows = np.load(made.rows_file("val"))
    assert rows.shape[0] <= 64 and rows.shape[1] == 33
    assert len({row.tobytes() for row in rows}) == len(rows), "no row is scored twice"
    assert (rows[:, 0] == made.bos).all()


@pytest.mark.parametrize("name", store.FILES)
def test_an_altered_file_is_found_and_named(folder_of_texts, name):
    made = making.prepare(config_for(folder_of_texts), quiet)
    path = made.folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(HarnessError, match=rf"{name} was altered.*--again"):
        making.open_prepared(config_for(folder_of_texts))
    making.prepare(config_for(folder_of_texts), quiet, again=True)
    assert making.open_prepared(config_for(folder_of_texts)).id == made.id


def test_a_missing_file_or_corpus_names_the_command(folder_of_texts, tmp_path):
    with pytest.raises(HarnessError, match=r"no prepared data.*harness prepare"):
        making.open_prepared(config_for(tmp_path))
    with pytest.raises(HarnessError, match=r"no data source 'pyhton'.*config.toml"):
        making.open_prepared(config_for("pyhton"))
    made = making.prepare(config_for(folder_of_texts), quiet)
    made.train_file.unlink()
    with pytest.raises(HarnessError, match=r"train.tokens is missing.*--again"):
        making.open_prepared(config_for(folder_of_texts))


def test_two_evaluation_sizes_of_one_source_are_prepared_beside_each_other(folder_of_texts):
    one = making.prepare(config_for(folder_of_texts), quiet)
    with pytest.raises(HarnessError, match="harness prepare"):
        making.open_prepared(config_for(folder_of_texts, eval_tokens=32 * 32))
    other = making.prepare(config_for(folder_of_texts, eval_tokens=32 * 32), quiet)
    assert one.folder != other.folder
    assert making.open_prepared(config_for(folder_of_texts)).folder == one.folder


def test_what_another_version_prepared_is_prepared_anew(folder_of_texts, monkeypatch):
    made = making.prepare(config_for(folder_of_texts), quiet)
    monkeypatch.setattr(making, "VERSION", making.VERSION + 1)
    with pytest.raises(HarnessError, match=r"another version.*harness prepare"):
        making.open_prepared(config_for(folder_of_texts))
    assert making.prepare(config_for(folder_of_texts), quiet).folder == made.folder


def test_too_little_text_is_said_so(tmp_path):
    (tmp_path / "tiny.txt").write_text("hello")
    with pytest.raises(HarnessError, match="more text"):
        making.prepare(config_for(tmp_path / "tiny.txt"), quiet)


# ── interruptions ─────────────────────────────────────────────────────────────────────────────

PREPARE = """
import sys
from harness.config import DataConfig
from harness.tasks.lm.prepare import prepare
prepare(DataConfig(sys.argv[1], 32, 320, 64 * 32, 1), lambda what, done, of: print(what, flush=True))
"""


def test_a_killed_prepare_leaves_no_half_corpus_and_resumes_behind_the_tokenizer(folder_of_texts):
    (folder_of_texts / "more.jsonl").write_text(
        "\n".join(json.dumps({"text": t}) for t in make_text(60000, seed=9))
    )
    command = [sys.executable, "-c", PREPARE, str(folder_of_texts)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("encode"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    with pytest.raises(HarnessError, match="no prepared data"):
        making.open_prepared(config_for(folder_of_texts))
    steps = []
    made = making.prepare(config_for(folder_of_texts), lambda what, *_: steps.append(what))
    assert "tokenizer" not in steps
    assert making.open_prepared(config_for(folder_of_texts)).id == made.id


def test_two_at_once_prepare_once(folder_of_texts):
    command = [sys.executable, "-c", PREPARE, str(folder_of_texts)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("encode" in output for output in outputs) == [False, True]


def test_a_full_disk_is_one_line_and_leaves_nothing_broken(folder_of_texts, tmp_path):
    """On a real file system of 1 MB, in a mount namespace of its own."""
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap for a small file system")
    small = tmp_path / "small"
    small.mkdir()
    (folder_of_texts / "more.jsonl").write_text(
        "\n".join(json.dumps({"text": t}) for t in make_text(30000, seed=5))
    )
    view = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--size", str(1 << 20), "--tmpfs", str(small)]
    env = {**os.environ, "HARNESS_CACHE": str(small)}
    done = subprocess.run(
        [*view, sys.executable, "-c", PREPARE, str(folder_of_texts)], env=env, capture_output=True, text=True
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "the disk is full" in last
    assert "HARNESS_CACHE" in last


@pytest.mark.alone  # its corpus is one for tests of costs, too: it is made once
def test_the_embedded_corpus_takes_under_a_minute_of_processor_time(cpu_corpus):
    task, seconds = cpu_corpus
    made = task.data
    assert seconds < 60
    assert made.vocab_size == 512
    assert made.rows_file("holdout").exists()
