"""Whatever text people have is read, or named with what mends it; what comes from anywhere breaks nothing."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import make_text
from test_prepare import config_for, folder_of_texts, opened, quiet

from harness.errors import HarnessError
from harness.tasks.lm import files, sources
from harness.tasks.lm import prepare as making
from harness.tasks.lm import records as rows

__all__ = ["folder_of_texts"]  # a fixture


def records(texts, column="text"):
    return [{"id": n, column: text} for n, text in enumerate(texts)]


def lines(texts, column="text"):
    return "\n".join(map(json.dumps, records(texts, column))).encode()


def table(texts, column="text"):
    rows = records(texts, column)
    return pa.table({name: [row[name] for row in rows] for name in rows[0]})


def feather(texts, path, stream=False):
    made = table(texts)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, made.schema) as writer:
        writer.write_table(made)


def csv_of(texts, delimiter):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["n", "content"])
    writer.writerows(enumerate(texts))
    return file.getvalue().encode()


def tar_of(members, mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def odd(tmp_path):
    """A folder of files of some thirty kinds, and the texts that are in them."""
    folder = tmp_path / "odd"
    texts, at = make_text(400, seed=11), iter(range(0, 400, 10))
    expected = []

    def some():
        begin = next(at)
        expected.extend(texts[begin : begin + 10])
        return texts[begin : begin + 10]

    def plain():
        return sources.reading.END_OF_TEXT.join(some())

    files = {
        "a.txt": plain().encode(), "A.TXT": plain().encode(), "b.md": plain().encode(),
        "c.py": plain().encode(), "no-suffix": plain().encode(), "notes/deep/er.rst": plain().encode(),
        "bom.txt": plain().encode("utf-8-sig"), "wide.txt": plain().encode("utf-16"),
        "wider.txt": plain().encode("utf-32"), "dos.txt": plain().replace("\n", "\r\n").encode(),
        "d.jsonl": lines(some()), "bom.jsonl": b"\xef\xbb\xbf" + lines(some()), "D.JSONL": lines(some()),
        "d.ndjson": lines(some(), "story"), "list.json": json.dumps(records(some())).encode(),
        "inside.json": json.dumps({"version": 1, "data": records(some(), "code")}).encode(),
        "lines.json": lines(some(), "document"), "e.csv": csv_of(some(), ","), "e.tsv": csv_of(some(), "\t"),
        "semicolons.csv": csv_of(some(), ";"), "settings.json": b'{"name": "x", "version": 1}',
        "package.json": b'{"name": "x", "files": ["dist"]}',
        "tsconfig.json": b"{\n  // a comment\n}",
        "d.jsonl.gz": gzip.compress(lines(some())), "d.jsonl.bz2": bz2.compress(lines(some())),
        "d.jsonl.xz": lzma.compress(lines(some())), "d.jsonl.zst": zstd(lines(some())),
        "f.txt.gz": gzip.compress(plain().encode()),
        "g.zip": zip_of({"x.txt": plain().encode(), "sub/y.jsonl": lines(some()), "__MACOSX/._x.txt": b"\0"}),
        "h.tar": tar_of({"x.txt": plain().encode(), "y.jsonl.gz": gzip.compress(lines(some()))}, "w"),
        "h.tar.gz": tar_of({"x.csv": csv_of(some(), ",")}, "w:gz"),
        "h.tgz": tar_of({"x.jsonl": lines(some())}, "w:gz"),
        "h.tar.xz": tar_of({"x.jsonl": lines(some())}, "w:xz"),
        "h.tar.zst": zstd(tar_of({"x.jsonl": lines(some())}, "w")),
        "._a.txt": b"\0\5\x16\7", ".git/config": b"[core]", ".ipynb_checkpoints/a.txt": b"twice",
        "picture.png": b"\x89PNG\r\n\x1a\n\0", "program": b"\x7fELF\0\0", "empty.txt": b"",
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    parquet.write_table(table(some()), folder / "i.parquet")
    feather(some(), folder / "j.arrow")
    feather(some(), folder / "k.arrow", stream=True)
    return folder, expected


def test_forty_files_of_odd_kinds_are_read_or_said_not_to_be(odd):
    folder, expected = odd
    source = opened(folder, seq_len=4096)
    assert sorted(d.text for d in source.documents()) == sorted(expected)
    report = source.report
    assert report.bad == report.bad_records == {}
    assert report.hidden == 3, "a file and two folders"
    assert sorted(report.no_text) == [
        "package.json", "picture.png", "program", "settings.json", "tsconfig.json"
    ]  # fmt: skip
    said = "\n".join(making.prepare(config_for(folder), quiet).about())
    assert f"read: {report.files} files, " in said
    assert "3 hidden files and folders, 5 files that are no text (package.json, picture.png, " in said


def test_bad_files_are_left_out_if_they_are_few_and_named(odd):
    folder, _ = odd
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "cut.tar.gz").write_bytes((folder / "h.tar.gz").read_bytes()[:100])
    with pytest.raises(
        HarnessError, match=r"2 of \d+ files can't be read \(1% may be\): cut.tar.gz: .*; latin.txt: .*iconv"
    ):
        making.prepare(config_for(folder), quiet)
    (folder / "cut.tar.gz").unlink()  # a single one among twenty or more is no mistake in the source's name
    assert "unread: latin.txt" in "\n".join(making.prepare(config_for(folder), quiet).about())
    (folder / "cut.tar.gz").write_bytes((folder / "h.tar.gz").read_bytes()[:100])
    for number in range(200):
        (folder / f"more-{number}.txt").write_text(f"the {number}th text of a long row of them")
    said = "\n".join(making.prepare(config_for(folder), quiet).about())
    assert "unread: latin.txt: not UTF-8" in said and "unread: cut.tar.gz: it is broken" in said


def lying_arrow(path):
    """Whose text would begin far behind its end."""
    lies = [None, pa.py_buffer(struct.pack("<iii", 0, 2_000_000_000, 4)), pa.py_buffer(b"abcdabcd")]
    batch = pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.string(), 2, lies)], ["text"])
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)


def test_what_comes_from_anywhere_ends_in_one_line(tmp_path):
    lying_arrow(tmp_path / "lies.arrow")
    (tmp_path / "odd\n\x1b[31mname.jsonl").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "kernel.txt").symlink_to("/proc/kmsg")
    os.mkfifo(tmp_path / "fifo.txt")
    with zipfile.ZipFile(tmp_path / "strange.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    data = bytearray((tmp_path / "strange.zip").read_bytes())
    data[data.index(b"PK\1\2") + 10] = data[8] = 99  # a method that nobody has
    (tmp_path / "strange.zip").write_bytes(data)
    with pytest.raises(HarnessError) as refused:
        making.prepare(config_for(tmp_path), quiet)
    said = str(refused.value)
    assert said.isprintable() and str(tmp_path) not in said.split(": ", 1)[1]
    assert "lies.arrow" in said and "strange.zip" in said and "3 of 3 files" in said


def test_half_a_character_in_json_ends_nothing(folder_of_texts):
    with (folder_of_texts / "a.jsonl").open("a") as file:
        file.write('\n{"text": "half \\ud83d of one"}')
    assert making.prepare(config_for(folder_of_texts), quiet)


def test_a_record_without_text_is_left_out_if_they_are_few(folder_of_texts):
    with (folder_of_texts / "a.jsonl").open("a") as file:
        file.write('\n{"text": 7}\nnot json')
    said = "\n".join(making.prepare(config_for(folder_of_texts), quiet).about())
    assert "2 records of a.jsonl (a.jsonl:1501: no column of text" in said


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "这是一个没有空格的句子。" * 9000, "var a=1;" * 20_000, "ประโยคที่ไม่มีช่องว่าง" * 5000]
)
def test_text_without_a_line_break_is_cut_where_it_pauses(tmp_path, text):
    (tmp_path / "one.txt").write_text(text)
    found = [d.text for d in opened(tmp_path / "one.txt", seq_len=256).documents()]
    assert "".join(found) == text
    assert max(map(len, found)) <= 563


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("valkyrie.txt", ""), ("validation/x.txt", "val"), ("val-00000.parquet", "val"), ("dev.jsonl", "val"),
        ("x_valid.csv.gz", "val"), ("test.txt", "test"), ("src/test/a.py", ""), ("test.py", ""),
        ("contest.txt", ""), ("Validation.JSONL", "val"), ("a.zip/valid/x.py", "val"), ("latest.md", ""),
        ("Test results 2024.md", ""), ("test-28.md", "test"), ("notes/dev_set.txt", "val"),
        ("val/a note.md", "val"), ("val.txt.gz", "val"),
        ("ptb.valid.txt", "val"), ("TinyStories-valid.txt", "val"),
    ],
)  # fmt: skip
def test_validation_is_what_a_whole_word_says(name, split):
    assert files.kind_of(name) == split


def test_with_a_validation_file_what_is_called_test_is_the_holdout(folder_of_texts):
    for name in ("val", "test"):
        (folder_of_texts / f"{name}.jsonl").write_bytes(lines(make_text(200, seed=len(name))))
    made = making.prepare(config_for(folder_of_texts), quiet)
    assert [made.about()[-2], made.about()[-1]] == [
        "val: val.jsonl, as it stands (by its name)",
        "holdout: test.jsonl, as it stands (by its name)",
    ]
    splits = json.loads((made.folder / "manifest.json").read_text())["splits"]
    assert splits["val"]["documents"] == splits["holdout"]["documents"] == 200


def test_files_that_changed_are_noticed_by_their_content(folder_of_texts):
    config = config_for(folder_of_texts)
    first = making.prepare(config, quiet)
    os.utime(folder_of_texts / "a.jsonl", (1, 1))
    assert making.changed(config) == "", "only its time"
    (folder_of_texts / "b.txt").write_text("a new one")
    assert making.changed(config) == "1 more"
    with (folder_of_texts / "a.jsonl").open("a") as file:
        file.write("\n")
    assert making.changed(config) == "1 more, 1 of other content"
    assert making.prepare(config, quiet).id != first.id
    assert making.changed(config) == ""


def test_a_pattern_takes_what_matches_it(folder_of_texts):
    (folder_of_texts / "notes").mkdir()
    (folder_of_texts / "notes" / "a.md").write_text("a note")
    found = opened(f"{folder_of_texts}/**/*.md")
    assert [d.text for d in found.documents()] == ["a note"]
    with pytest.raises(HarnessError, match="no file matches"):
        opened(f"{folder_of_texts}/**/*.rst")


@pytest.mark.parametrize(
    ("name", "content", "column", "texts"),
    [
        ("one.json", '{"title": "T", "text": "Body", "tags": ["red", "blue"]}', "", ["Body"]),
        ("one.json", '{"title": "T", "body": "Body", "tags": ["red", "blue"]}', "body", ["Body"]),
        ("words.json", '{"documents": ["One", "two"]}', "", ["One", "two"]),
        ("nulls.jsonl", '{"id": "1", "text": null}\n{"id": "2", "text": "Hello"}', "", ["", "Hello"]),
        ("empty.csv", "id,text,label\n1,,pos\n2,Hello world,neg\n", "", ["", "Hello world"]),
        ("empty.csv", "id,body\n1,\n2,Hello world\n", "", ["", "Hello world"]),
        ("codes.csv", "code,description\n1234,Hello\n77,world\n", "", ["Hello", "world"]),
        (
            "rated.jsonl",
            '{"review": "Good", "rating": 5}\n{"review": "Bad", "rating": null}',
            "",
            ["Good", "Bad"],
        ),
        ("year.csv", "id,story,label\n1,2012,pos\n2,Hello world,neg\n", "", ["2012", "Hello world"]),
    ],
)
def test_what_a_record_lacks_makes_no_other_column_the_text(name, content, column, texts):
    read = rows.READERS["." + name.partition(".")[2]](io.BytesIO(content.encode()), name, column)
    assert [rows.text_of(record, column) for _, record in read] == texts


def test_where_two_columns_could_be_the_text_none_is_taken():
    for record in ({"id": "1", "body": "x"}, {"id": "2", "body": "Hello"}):
        with pytest.raises(rows.Unreadable, match=r"which column is the text, 'id', 'body'\?"):
            rows.text_of(record, "")
