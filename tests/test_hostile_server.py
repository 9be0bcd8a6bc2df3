"""A process that serves a model badly, or on purpose: whatever it does, the scorer lives and isn't fooled.

What it computes is beside the point, so it is numpy on the toy task; `test_hostile_scoring` has models.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import HONEST, assert_refused, edit, with_caps
from safetensors.numpy import save_file

from harness.sandbox.wire import pair
from harness.store.records import CRASH, INVALID, Failure, Score
from harness.tasks.items import store
from harness.worker import scoring
from harness.worker.model_client import Refused, Server

MODEL = "    model = lambda inputs: inputs @ weights\n"
RETURN = "    return model\n\ndef main"
CHANNEL = "channel = [o for o in gc.get_objects() if isinstance(o, wire.Channel)][0]"


def model(*lines: str) -> str:
    """HONEST, whose model does that before it answers."""
    body = "".join(f"        {line}\n" for line in lines)
    return edit((MODEL, f"    def model(inputs):\n{body}        return inputs @ weights\n"))


def loading(*lines: str) -> str:
    """HONEST, whose `load` ends with that."""
    return edit((RETURN, "".join(f"    {line}\n" for line in lines) + RETURN))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, setup):
    """The best line through what there is to train on."""
    folder = tmp_path_factory.mktemp("checkpoint")
    inputs, targets = store.read(setup.task.data.train_file)
    save_file({"weights": np.linalg.lstsq(inputs, targets)[0].astype("f")}, folder / "model.safetensors")
    return folder


@pytest.fixture
def scored(setup, checkpoint, tmp_path):
    """`scored(source, **caps)` -> Score or Failure."""

    def run(source: str, folder=checkpoint, **caps):
        script, changed = tmp_path / "train.py", with_caps(setup, caps)
        script.write_text(source)
        return scoring.score(
            script, folder, setup.task, "val", changed.config, setup.device, setup.isolation,
            tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip

    return run


def test_it_leaves_nothing_for_the_next_one(scored):
    """What the first server writes wherever it can, the audited one must not find."""
    note = loading(
        "import glob",
        'places = ["/trial", "/tmp", "/dev/shm", "/var/tmp", "/run", "checkpoint", "/harness-lib"]',
        'found = [path for place in places for path in glob.glob(place + "/note")]',
        "for place in places:",
        '    try: open(place + "/note", "w").write("x")',
        "    except OSError: pass",
        'if found: raise RuntimeError("a note was found: %s" % found)',
    )
    assert isinstance(scored(note), Score)


MODELS = {
    "raises": ("raise ValueError('no\\x1b[31m luck\\nat \\ud800all')", "ValueError: no luck at all"),
    "dies": ("os._exit(0)", "died"),
    "grows forever": ("hoard = [bytearray(1 << 28) for _ in range(10**9)]", "MemoryError"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_breaks_is_a_crash(scored, name):
    line, said = MODELS[name]
    assert_refused(scored(model(line), memory_gb=1.5), CRASH, said)


def test_a_load_that_raises_is_a_crash(scored, tmp_path):
    assert_refused(scored(loading("raise KeyError('weights')")), CRASH, "KeyError", "weights")
    assert "in load" in (tmp_path / "server.txt").read_text(), "a person needs the traceback"


def test_a_train_py_that_trains_on_import_is_told_about_the_guard(scored):
    assert_refused(scored(edit(('if __name__ == "__main__":\n    main()', "main()"))), CRASH, "guard")


def test_a_load_that_hangs_is_a_crash(scored):
    assert_refused(scored(loading("time.sleep(99)"), load_seconds=2.0), CRASH, "did not load", "2 s")


def test_a_model_that_hangs_is_a_crash(scored):
    assert_refused(scored(model("time.sleep(99)"), scoring_seconds=2.0), CRASH, "scoring_seconds (2 s)")


def test_a_train_py_without_load_is_a_crash(scored):
    assert_refused(scored("x = 1\n"), CRASH, "load")


def test_a_truncated_checkpoint_is_a_crash(scored, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    data = (checkpoint / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert_refused(scored(HONEST, broken), CRASH, "failed")


def test_one_that_lies_on_its_socket_gains_nothing(scored):
    """It says that it is done before it answered: the zeroed buffer is what counts."""
    told = "channel.send({'done': True, 'score': 0.0, 'loss': 0.0})"
    honest, result = scored(HONEST), scored(model("import gc, harness.sandbox.wire as wire", CHANNEL, told))
    assert isinstance(honest, Score), honest
    refused = isinstance(result, Failure) and result.status in (INVALID, CRASH)
    assert "IndexError" not in getattr(result, "detail", ""), "it found no channel to lie on"
    assert refused or result.value > honest.value + 0.01


def test_descriptors_nobody_asked_for_do_not_break_the_scorer(scored):
    opened = "[os.open('/dev/null', 0) for _ in range(32)]"
    sent = f"for _ in range(60): channel.send({{'done': True}}, {opened})"
    result = scored(model("import gc, harness.sandbox.wire as wire", CHANNEL, sent))
    assert isinstance(result, Score) or result.status in (INVALID, CRASH), result
    assert "IndexError" not in getattr(result, "detail", ""), "it found no channel to send them on"


def test_one_that_answers_without_listening_is_refused(setup, tmp_path):
    """Answers in advance must not leave the scorer waiting for room to ask."""
    script = tmp_path / "deaf.py"
    script.write_text("import time\ndef load(c, d):\n    return lambda inputs: time.sleep(60)\n")
    request = {
        "log": str(script.with_suffix(".log")), "isolation": "bwrap", "hide": [], "compiled": "",
        "source": str(script), "checkpoint": str(tmp_path), "memory_gb": 2.0, "disk_mb": 16,
        "device": dataclasses.asdict(setup.device), "load_seconds": 10.0, "library": "numpy",
    }  # fmt: skip
    exam = SimpleNamespace(inputs=np.zeros((1, 8)), asked_type="int64", reply_shape=(8, 320))
    server = Server(request, exam, 1)
    try:
        server.begin_load()
        server.take_seal()
        server.end_load()
        with pytest.raises(Refused, match="did not listen"):
            for _ in range(100_000):
                server._say({"forward": True})
    finally:
        server.close()


def test_a_flood_of_output_is_bounded_and_no_file_of_ours(scored, tmp_path):
    flood = model(
        "for _ in range(200): os.write(1, bytes(1 << 20))",
        "try: open('/proc/self/fd/1', 'rb'); os.fchmod(1, 0o4755)",
        "except OSError: pass",
    )
    scored(flood)
    assert (tmp_path / "server.txt").stat().st_size < 500_000
    assert (tmp_path / "server.txt").stat().st_mode & 0o7000 == 0


def test_the_scorer_is_the_installed_one_whatever_lies_in_the_current_folder(scored, tmp_path, monkeypatch):
    fake = tmp_path / "harness" / "worker"
    fake.mkdir(parents=True)
    for folder in (fake, fake.parent):
        (folder / "__init__.py").write_text("")
    (fake / "scorer.py").write_text("raise SystemExit('the copy in the work tree ran')")
    monkeypatch.chdir(tmp_path)
    assert isinstance(scored(HONEST), Score)


def test_shrinking_the_shared_buffer_does_not_kill_the_scorer(scored):
    shrink = model("for fd in range(3, 64):", "    try: os.ftruncate(fd, 0)", "    except OSError: pass")
    assert isinstance(scored(shrink), Score)


def test_what_a_process_said_before_it_died_is_heard_whatever_it_left_unread():
    ours, theirs = pair()
    ours.send({"never": "read"})
    theirs.send({"error": "no luck"})
    theirs.close()
    assert ours.receive(1.0) == ({"error": "no luck"}, [])
    assert ours.receive(1.0) is None
