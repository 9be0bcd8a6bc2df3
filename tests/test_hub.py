"""Downloads against a loopback server that behaves like the hub: parallel, resumed, verified."""

import dataclasses
import hashlib
import http.server
import threading
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import make_text

from harness import config as configs
from harness import paths
from harness.errors import HarnessError
from harness.tasks import hub
from harness.tasks.lm import sources

COMMIT = "c" * 40


class Hub:
    """A dataset host: files with a sha256 as their ETag, ranges, and faults on request."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.lie_about: set[str] = set()
        self.card: dict = {}
        self.lacks = ""  # what of a data set, by the hub's name for it
        self.break_after: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer.answer(self, body=False)

            def do_GET(self):
                outer.answer(self, body=True)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request, body):
        with self.lock:
            self.requests.append((request.command, request.path, request.headers.get("Range")))
        if request.path.startswith("/api/datasets/"):
            return self.list_files(request)
        name = urllib.parse.unquote(request.path.partition("/resolve/")[2].partition("/")[2])
        if name not in self.files:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        data = self.files[name]
        digest = hashlib.sha256(data).hexdigest()
        if name in self.lie_about:
            digest = "0" * 64
        start = 0
        if wanted := request.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("ETag", f'"{digest}"')
        request.send_header("X-Linked-Etag", f'"{digest}"')
        request.send_header("X-Linked-Size", str(len(data)))
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if body:
            with self.lock:
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            part = data[start:]
            if name in self.break_after:
                part = part[: self.break_after.pop(name)]
                request.close_connection = True
            threading.Event().wait(0.1)
            request.wfile.write(part)
            with self.lock:
                self.at_once -= 1

    def list_files(self, request):
        import json

        if self.lacks:
            request.send_response(404)
            request.send_header("X-Error-Code", self.lacks)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        siblings = [{"rfilename": name} for name in self.files]
        entries = [
            {"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in self.files.items()
        ]
        listing = "/tree/" in request.path
        info = {
            "id": "x/y",
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
            "cardData": self.card,
        }
        body = json.dumps(entries if listing else info).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def opened(source, shards, **changes):
    data = dataclasses.replace(configs.GPU.text, source=source, shards=shards, **changes)
    return sources.open_source(data, lambda *_: None)


def point_at(monkeypatch, url):
    """Have huggingface_hub, which reads its environment once, talk to `url`."""
    import huggingface_hub.constants as constants

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def server(monkeypatch, tmp_path):
    made = Hub()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    point_at(monkeypatch, made.url)
    yield made
    made.server.shutdown()


def shard(texts, tmp_path):
    path = tmp_path / "shard.parquet"
    parquet.write_table(pa.table({"text": texts}), path)
    return path.read_bytes()


@pytest.fixture
def climbmix(server, tmp_path):
    for number, name in enumerate(hub.climbmix_files(4)):
        server.files[name] = shard(make_text(200, seed=number), tmp_path)
    return server


def fetches(server):
    return [path.rsplit("/", 1)[-1] for method, path, _ in server.requests if method == "GET"]


def test_shards_come_in_parallel_and_are_not_fetched_twice(climbmix):
    told = []
    paths = hub.download(hub.CLIMBMIX, hub.climbmix_files(4), lambda *step: told.append(step))
    assert [p.read_bytes() for p in paths] == [climbmix.files[p.name] for p in paths]
    assert climbmix.most_at_once > 1
    assert told[-1] == ("download", 5, 5)
    climbmix.requests.clear()
    hub.download(hub.CLIMBMIX, hub.climbmix_files(4), lambda *_: None)
    assert climbmix.requests == []


def test_the_last_shard_is_the_validation_split(climbmix):
    documents = list(opened("climbmix", 4).documents())
    pinned = [d.text for d in documents if d.may_go_to == "val"]
    assert pinned == make_text(200, seed=4)
    assert {d.may_go_to for d in documents} == {"val", "holdout-or-train"}


def test_a_broken_download_goes_on_where_it_stopped(climbmix):
    name = "shard_00001.parquet"
    climbmix.files[name] = bytes(range(256)) * 120_000
    climbmix.break_after[name] = 25_000_000  # it keeps pieces of 10 MB
    try:
        hub.download(hub.CLIMBMIX, [name], lambda *_: None)
    except HarnessError as error:
        assert "resumes" in str(error)
        hub.download(hub.CLIMBMIX, [name], lambda *_: None)
    ranges = [r for method, _, r in climbmix.requests if method == "GET" and r]
    assert any(int(r.removeprefix("bytes=").rstrip("-")) > 0 for r in ranges), climbmix.requests
    (path,) = hub.download(hub.CLIMBMIX, [name], lambda *_: None)
    assert path.read_bytes() == climbmix.files[name]


def test_a_file_whose_content_is_not_what_the_hub_says_is_removed(climbmix):
    climbmix.lie_about.add("shard_00002.parquet")
    with pytest.raises(HarnessError, match=r"shard_00002.parquet: sha256 .* removed"):
        hub.download(hub.CLIMBMIX, hub.climbmix_files(4), lambda *_: None)
    climbmix.lie_about.clear()
    paths = hub.download(hub.CLIMBMIX, hub.climbmix_files(4), lambda *_: None)
    assert all(p.exists() for p in paths)


def test_a_missing_file_is_one_line(climbmix):
    with pytest.raises(HarnessError, match="could not download") as caught:
        hub.download(hub.CLIMBMIX, ["shard_09999.parquet"], lambda *_: None)
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_one_line(server, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9")
    for names in (["shard_00003.parquet"], None):
        with pytest.raises(HarnessError, match="could not download") as caught:
            hub.download(hub.CLIMBMIX, names, lambda *_: None)
        assert "\n" not in str(caught.value)


def test_tinystories_takes_whatever_parquet_its_repository_holds(server, tmp_path):
    server.files = {
        "README.md": b"hello",
        "data-b.parquet": shard(make_text(20, seed=1), tmp_path),
        "data-a.parquet": shard(make_text(20, seed=2), tmp_path),
    }
    documents = list(opened("tinystories", 1).documents())
    assert [d.text for d in documents] == make_text(20, seed=2) + make_text(20, seed=1)
    assert "README.md" not in fetches(server)


@pytest.mark.parametrize("shards", [0, 6543])
def test_a_shard_count_out_of_range_is_refused(shards):
    with pytest.raises(HarnessError, match="1 to 6542"):
        hub.climbmix_files(shards)


# ── any data set ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def dataset(server, tmp_path):
    """Two configurations, one of them with splits that no file's name says."""
    server.files = {
        "README.md": b"---",
        "en/train-0.parquet": shard(make_text(30, seed=1), tmp_path),
        "en/train-1.parquet": shard(make_text(30, seed=2), tmp_path),
        "en/x/held.parquet": shard(make_text(30, seed=3), tmp_path),
        "de/part.jsonl": b"\n".join(b'{"story": "es war einmal %d"}' % n for n in range(40)),
    }
    english = [
        {"split": "train", "path": "en/train-*"}, {"split": "validation", "path": ["en/**/held.parquet"]},
    ]  # fmt: skip
    server.card = {
        "configs": [
            {"config_name": "en", "data_files": english, "default": True},
            {"config_name": "de", "data_files": "de/*.jsonl"},
        ]
    }
    return server


def test_a_data_set_of_the_hub_has_the_splits_that_its_card_says(dataset):
    source = opened("hf:some/stories", 10)
    by_split = {}
    for document in source.documents():
        by_split.setdefault(document.may_go_to, []).append(document.text)
    assert by_split["val"] == make_text(30, seed=3)
    assert by_split["holdout-or-train"] == make_text(30, seed=1) + make_text(30, seed=2)
    assert source.revision == COMMIT
    assert "de/part.jsonl" not in str(dataset.requests)


def test_of_its_training_files_as_many_are_taken_as_the_config_says(dataset):
    source = opened("hf:some/stories", 1)
    assert [name for _, name in source.found.files] == [
        "train/en/train-0.parquet",
        "validation/en/x/held.parquet",
    ]
    assert source.files_of == 3


def test_another_configuration_is_named_behind_its_name_and_its_column_is_found(dataset):
    texts = [d.text for d in opened("hf:some/stories/de", 1).documents()]
    assert texts == [f"es war einmal {n}" for n in range(40)]


def test_without_a_default_one_must_be_named(dataset):
    del dataset.card["configs"][0]["default"]
    with pytest.raises(HarnessError, match=r"configurations en, de. Try: source = .hf:some/stories/en"):
        opened("hf:some/stories", 1)
    with pytest.raises(HarnessError, match="configurations en, de"):
        opened("hf:some/stories/fr", 1)


def test_a_revision_that_was_taken_once_needs_no_hub_any_more(dataset, monkeypatch):
    source = f"hf:some/stories@{COMMIT}"
    before = [d.text for d in opened(source, 1).documents()]
    (kept,) = (paths.downloads_dir() / "some--stories").glob("*.json")
    kept.write_text("[")  # as a full disk leaves it
    assert [d.text for d in opened(source, 1).documents()] == before
    dataset.requests.clear()
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert [d.text for d in opened(source, 1).documents()] == before and dataset.requests == []
    with pytest.raises(HarnessError, match="could not download some/stories"):
        opened("hf:some/stories", 1)


def test_what_the_hub_does_not_have_and_one_that_may_not_be_asked_are_a_line_each(dataset, monkeypatch):
    dataset.lacks = "RevisionNotFound"
    with pytest.raises(HarnessError, match=r"no revision 'nope'.*all 40 digits"):
        opened("hf:some/stories@nope", 1)
    dataset.lacks = "RepoNotFound"
    with pytest.raises(HarnessError, match="the hub has no data set some/stories"):
        opened("hf:some/stories", 1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("hf:some/stories", "climbmix"):
        with pytest.raises(HarnessError, match="HF_HUB_OFFLINE is set"):
            opened(name, 1)


@pytest.mark.parametrize("name", ["some/stories", "https://huggingface.co/datasets/some/stories"])
def test_a_data_set_that_is_named_as_on_the_hub_s_pages_is_told_of_its_prefix(name):
    with pytest.raises(HarnessError, match=r"Try: hf:some/stories for a data set of the hub, or another"):
        opened(name, 1)
    with pytest.raises(HarnessError, match=r"Try: another `source`"):
        opened("./stories", 1)


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b@", "hf:a b/c"])
def test_what_names_no_data_set_says_how_one_is_named(name):
    with pytest.raises(HarnessError, match="is not hf:OWNER/NAME"):
        opened(name, 1)
