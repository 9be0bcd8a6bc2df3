"""The compile cache takes over what was compiled, and nothing else, whatever a trial packs."""

import io
import os
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT, edit

from harness.sandbox import compile_cache
from harness.worker.run import measure

NAME = "inductor/ab/kernel.py"


def archive(tmp_path, *members):
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return os.open(path, os.O_RDONLY)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_new_is_added_and_what_is_there_is_never_replaced(tmp_path):
    folder = tmp_path / "cache"
    assert compile_cache.take(archive(tmp_path, (NAME, b"first")), folder) == 1
    assert compile_cache.take(archive(tmp_path, (NAME, b"second"), ("triton/x/y", b"new")), folder) == 1
    assert files(folder) == {NAME: b"first", "triton/x/y": b"new"}


def test_a_hostile_archive_writes_nothing_outside_and_raises_nothing(tmp_path, monkeypatch):
    folder, outside = tmp_path / "place" / "cache", tmp_path / "outside"
    folder.mkdir(parents=True)
    link, sparse = tarfile.TarInfo("inductor/a/link"), tarfile.TarInfo("inductor/a/sparse")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    sparse.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "-99999999",
    }
    names = (
        str(outside), "../../outside", "inductor/../../../outside", "inductor//x", "inductor", "e/x/y",
        "inductor/a/e\nvil", "/".join(["inductor", *"d" * 20]), f"inductor/{outside}",
    )  # fmt: skip
    for odd in [(link, b""), (sparse, b"x" * 512), *((name, b"x") for name in names)]:
        assert compile_cache.take(archive(tmp_path, odd), folder) == 0, odd
    assert files(tmp_path / "place") == {} and not outside.exists()
    chained = tarfile.TarInfo("./././@LongLink")
    chained.type = tarfile.GNUTYPE_LONGNAME
    assert compile_cache.take(archive(tmp_path, *[(chained, b"x")] * 5000), folder) == 0
    for junk in (b"", b"\0" * 4096, os.urandom(5000)):
        path = tmp_path / "junk"
        path.write_bytes(junk)
        assert compile_cache.take(os.open(path, os.O_RDONLY), folder) == 0
    reading, _ = os.pipe()
    assert compile_cache.take(reading, folder) == 0
    monkeypatch.setattr(compile_cache, "MOST_FILES", 3)
    assert compile_cache.take(archive(tmp_path, *((f"{NAME}{n}", b"") for n in range(9))), folder) == 3


def test_what_was_used_longest_ago_makes_room(tmp_path, monkeypatch):
    folder, size = tmp_path / "cache", 20_000
    for which in "abc":
        compile_cache.take(archive(tmp_path, (f"inductor/{which}/kernel.py", b"x" * size)), folder)
        os.utime(folder / "inductor" / which / "kernel.py", (ord(which), ord(which)))
    compile_cache.take(archive(tmp_path, (compile_cache.USED, b"inductor/a/kernel.py\n../../x\n")), folder)
    monkeypatch.setattr(compile_cache, "ALL_BYTES", 90_000)  # an archive is a bit larger than what is in it
    compile_cache.take(archive(tmp_path, ("inductor/d/kernel.py", b"x" * size)), folder)
    assert sorted(name[9] for name in files(folder)) == ["a", "c", "d"]
    compile_cache.evict(folder, 0, 0)
    assert files(folder) == {}


def test_a_trial_says_what_it_read_of_the_cache(tmp_path, monkeypatch):
    known, folder = tmp_path / "known", tmp_path / "cache"
    for which in ("read", "unread"):
        for root in (known, folder):
            (root / "inductor" / which).mkdir(parents=True)
            (root / "inductor" / which / "kernel.py").write_text(which)
            os.utime(root / "inductor" / which / "kernel.py", (5, 5))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(compile_cache.tempfile, "tempdir", str(tmp_path))
    for name in (*compile_cache.NAMES, *compile_cache.FRESH_BACKWARD):
        monkeypatch.setenv(name, "")
    compile_cache.unpack(known)
    (tmp_path / "compiled" / "inductor" / "read" / "kernel.py").read_text()
    compile_cache.take(compile_cache.pack(known), folder)
    ages = {path.parent.name: path.stat().st_mtime for path in folder.rglob("*.py")}
    assert ages["unread"] == 5 < ages["read"]


def test_no_file_lies_where_a_compiler_makes_a_folder(tmp_path):
    folder = tmp_path / "cache"
    planted = (
        "inductor/aa",
        "inductor/fxgraph",
        "inductor/fxgraph/aa",
        "inductor/fxgraph/aa/key",
        "triton/KEY",
    )
    assert compile_cache.take(archive(tmp_path, *((name, b"") for name in planted)), folder) == 0
    own = ("inductor/aa/caak.py", "inductor/fxgraph/aa/key/file", "triton/KEY/kernel.cubin")
    assert compile_cache.take(archive(tmp_path, *((name, b"") for name in own)), folder) == len(own)


@pytest.mark.slow
def test_what_pytorch_compiles_is_taken_over_whole(tmp_path):
    """The layout of its cache is its own affair, and may change."""
    work = "import torch; torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(8))"
    made = tmp_path / "compiled"
    variables = {
        name: str(made / place) for name, place in compile_cache.NAMES.items()
    } | compile_cache.FRESH_BACKWARD
    subprocess.run([sys.executable, "-c", work], env={**os.environ, **variables}, check=True, cwd=tmp_path)
    every = files(made)
    assert any(name.startswith("inductor/fxgraph/") for name in every)
    folder = tmp_path / "cache"
    assert compile_cache.take(archive(tmp_path, *every.items()), folder) == len(every)


def test_only_what_was_there_before_the_first_token_is_taken_over(setup, tmp_path):
    """Weights must not go from one trial to the next by way of the cache."""
    import dataclasses

    cache = tmp_path / "cache"
    cache.mkdir()
    with_cache = dataclasses.replace(setup, compiled=cache)
    place = 'os.environ["TORCHINDUCTOR_CACHE_DIR"], "ab"'
    source = edit(
        ("    run = trial.open()\n", f'    run = trial.open()\n    from pathlib import Path\n'
         f"    place = Path({place}); place.mkdir(parents=True, exist_ok=True)\n"
         "    print('FOUND', sorted(p.name for p in place.iterdir()))\n"
         "    import torch._functorch.config as config; print('BACKWARD', config.enable_autograd_cache)\n"
         "    (place / 'before').write_text('compiled')\n"),
        ("        spin(0.01)\n", "        spin(0.01)\n        (place / 'learned').write_text('weights')\n"),
    )  # fmt: skip
    logs = []
    for number in (1, 2):
        folder = tmp_path / f"run-{number}"
        trial = measure(source.encode(), "0" * 40, 1, with_cache, folder, lambda _: None, lambda _: None)
        assert trial.status == "ok", (trial.detail, trial.training.log)
        logs.append(trial.training.log)
    assert files(cache) == {"inductor/ab/before": b"compiled"}
    assert "FOUND []" in logs[0] and "FOUND ['before']" in logs[1]
    # PyTorch's cache of backward passes would take an operator's edited gradient for the old one.
    assert all("BACKWARD False" in log for log in logs)


def test_a_run_by_hand_takes_no_gradient_from_a_cache_that_knows_an_operator_by_its_name(repository):
    (repository.folder / "train.py").write_text(
        "import torch._functorch.config as config\nfrom harness import trial\n"
        "assert config.enable_autograd_cache\ntrial.open()\nprint('BACKWARD', config.enable_autograd_cache)\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=repository.folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "BACKWARD False\n", done.stderr
