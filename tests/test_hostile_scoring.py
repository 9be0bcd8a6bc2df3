"""A hostile or clumsy `load` and model while they are scored: `invalid` or `crash`, in one line.

The checkpoint is trained once; each test serves it with another train.py, through the real scorer,
real model servers under the real sandbox, and the real audit.
"""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_refused
from text import (
    FORWARD,
    RETURN,
    TEXT,
    bits_per_byte,
    using_text,  # noqa: F401
)
from text import edit_text as edit

from harness.store.records import CRASH, INVALID, Failure, Kind, Score
from harness.worker.overtime import overtime_seconds

# ── what the audit is for ─────────────────────────────────────────────────────────────────────


def test_looking_one_token_ahead_is_invalid(scored):
    ahead = edit(
        (
            FORWARD,
            "        x = self.table(torch.roll(tokens, -1, 1))\n        return x @ self.table.weight.T\n",
        )
    )
    refused = scored(ahead)
    assert_refused(refused, INVALID, "audit", "later tokens")
    assert refused.kind == Kind.AUDIT


def test_looking_ahead_in_a_few_rows_only_is_invalid(scored):
    rare = edit(
        (
            FORWARD,
            "        honest = self.head(self.table(tokens))\n"
            "        ahead = self.table(torch.roll(tokens, -1, 1)) @ self.table.weight.T\n"
            "        chosen = (tokens[:, :1, None] + tokens[:, 1:2, None]) % 3 == 0\n"
            "        return torch.where(chosen, ahead, honest)\n",
        )
    )
    assert_refused(scored(rare), INVALID, "audit")


def test_looking_ahead_only_where_a_token_is_hard_is_invalid(scored):
    """The best of the small cheats: one position in thirty, each worth many nats."""
    hard = edit(
        (
            FORWARD,
            "        logits = self.head(self.table(tokens))\n"
            "        guess, truth = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()\n"
            "        loss = nn.functional.cross_entropy(guess, truth, reduction='none')\n"
            "        loss = loss.view(len(tokens), -1)\n"
            "        hard = loss > loss.quantile(0.97, 1, keepdim=True)\n"
            "        logits[:, :-1].scatter_add_(2, tokens[:, 1:, None], hard[..., None] * 60.0)\n"
            "        return logits\n",
        )
    )
    assert_refused(scored(hard, audit_rows=64), INVALID, "audit")


def test_a_normalisation_over_the_whole_row_is_invalid(scored):
    leak = edit(
        (FORWARD, "        x = self.table(tokens)\n        return self.head(x - x.mean(1, keepdim=True))\n")
    )
    assert_refused(scored(leak), INVALID, "audit")


def test_a_normalisation_over_the_batch_is_invalid(scored):
    leak = edit((FORWARD, "        x = self.head(self.table(tokens))\n        return x - x.mean((0, 1))\n"))
    assert_refused(scored(leak), INVALID, "other rows")


def test_remembering_earlier_rows_is_invalid(scored):
    memory = edit(
        (
            FORWARD,
            "        if not hasattr(self, 'counts'): self.counts = torch.ones(320)\n"
            "        logits = self.head(self.table(tokens)) + self.counts.log()\n"
            "        self.counts += torch.bincount(tokens.flatten(), minlength=320)\n"
            "        return logits\n",
        )
    )
    assert_refused(scored(memory), INVALID, "in the end", "other rows")


def test_learning_while_being_scored_is_invalid(scored):
    learning = edit(
        (
            FORWARD,
            "        logits = self.head(self.table(tokens))\n"
            "        with torch.enable_grad():\n"
            "            guess = self.head(self.table(tokens[:, :-1])).flatten(0, 1)\n"
            "            loss = nn.functional.cross_entropy(guess, tokens[:, 1:].flatten())\n"
            "            weights = list(self.parameters())\n"
            "            for p, g in zip(weights, torch.autograd.grad(loss, weights)):\n"
            "                p.data -= 0.5 * g\n"
            "        return logits\n",
        )
    )
    assert_refused(scored(learning), INVALID, "in the end", "goes on training")


def test_chance_in_the_answers_is_invalid(scored):
    dropout = edit((FORWARD, "        return self.head(nn.functional.dropout(self.table(tokens), 0.1))\n"))
    assert_refused(scored(dropout), INVALID, "chance")


def test_a_server_leaves_nothing_for_the_next_one(scored):
    """What the first server writes wherever it can, the audited one must not find."""
    note = edit(
        (
            RETURN + "\ndef main",
            """    import glob, os
    places = ["/trial", "/tmp", "/dev/shm", "/var/tmp", "/run", "checkpoint", "/harness-lib"]
    found = [p for d in places for p in glob.glob(d + "/note")]
    for place in places:
        try: open(place + "/note", "w").write("x")
        except OSError: pass
    if found: raise RuntimeError("a note was found: %s" % found)
    return model

def main""",
        )
    )
    assert isinstance(scored(note), Score)


SEALED = """        import ctypes, fcntl, os, platform, socket, threading
        FUTEX = (202,) if platform.machine() == "x86_64" else (98,)
        libc, passed = ctypes.CDLL(None, use_errno=True), []
        def raw(*args):
            if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), "")
        tries = {
            "look up": lambda: os.stat("/usr/bin/note"), "open": lambda: open("/etc/passwd"), "fork": os.fork,
            "socket": socket.socket, "thread": lambda: threading.Thread(target=int).start(),
            "key": lambda: raw(250, 0, -3, 0), "hint": lambda: fcntl.fcntl(0, 1035, bytes(8)),
            "pipe": os.pipe, "list": lambda: os.listdir("/usr"), "make": lambda: os.mkdir("/tmp/note"),
            "wake in other sandboxes": lambda: raw(*FUTEX, ctypes.byref(ctypes.c_uint32()), 1, 1, 0, 0, 0),
            "ask a file system": lambda: fcntl.ioctl(1, 0x6628),
        }
        self.asked = getattr(self, "asked", 0) + 1
        for name, call in tries.items() if self.asked > 1 else ():
            try: call(); passed.append(name)
            except (OSError, RuntimeError): pass
        if passed: raise RuntimeError("not refused: %s" % passed)
        return self.head(self.table(tokens))
"""


def test_a_model_that_is_asked_for_rows_that_count_can_only_compute(scored):
    """The first answer is the warm-up's; from then on each way to leave a note is closed."""
    result = scored(edit((FORWARD, SEALED)))
    assert isinstance(result, Score), result


# ── what fails plainly ────────────────────────────────────────────────────────────────────────

FORWARDS = {
    "wrong shape": ("        return self.head(self.table(tokens))[:, :-1]\n", CRASH, "not replies of"),
    "no tensor": ("        return 'logits'\n", CRASH, "gave str"),
    "nan": ("        return self.head(self.table(tokens)) * float('nan')\n", INVALID, "NaN"),
    "infinite": ("        return self.head(self.table(tokens)) * float('inf')\n", INVALID, "infinite"),
    "impossible target": (
        "        x = self.head(self.table(tokens))\n        x[..., :100] = -float('inf')\n        return x\n",
        INVALID,
        "infinite",
    ),
    "raises": (
        "        raise ValueError('no\\x1b[31m luck\\nat \\ud800all')\n",
        CRASH,
        "ValueError: no luck at all",
    ),
    "dies": ("        os._exit(0)\n", CRASH, "died"),
    "out of memory": ("        return torch.zeros(1 << 42)\n", CRASH, "RuntimeError"),
    "grows forever": (
        "        hoard = []\n        while True: hoard.append(bytearray(1 << 28))\n",
        CRASH,
        "MemoryError",
    ),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_broken_forward(scored, name):
    body, status, words = FORWARDS[name]
    assert_refused(scored(edit((FORWARD, body)), memory_gb=1.5), status, words)


def test_a_load_that_raises_is_a_crash(scored, tmp_path):
    broken = edit((RETURN + "\ndef main", "    raise KeyError('weights')\n\ndef main"))
    assert_refused(scored(broken), CRASH, "KeyError", "weights")
    assert "in load" in (tmp_path / "server.txt").read_text(), "a person needs the traceback"


def test_a_train_py_that_trains_on_import_is_told_about_the_guard(scored):
    assert_refused(scored(edit(('if __name__ == "__main__":\n    main()', "main()"))), CRASH, "guard")


def test_a_load_that_hangs_is_a_crash(scored):
    hang = edit((RETURN + "\ndef main", "    time.sleep(99)\n\ndef main"))
    assert_refused(scored(hang, load_seconds=2.0), CRASH, "did not load", "2 s")


def test_a_forward_that_hangs_is_a_crash(scored):
    hang = edit((FORWARD, "        time.sleep(99)\n"))
    assert_refused(scored(hang, scoring_seconds=2.0), CRASH, "scoring_seconds (2 s)")


def test_a_train_py_without_load_is_a_crash(scored):
    assert_refused(scored("x = 1\n"), CRASH, "load")


def test_a_truncated_checkpoint_is_a_crash(scored, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    data = (checkpoint / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    (broken / "vocab_size").write_text("320")
    assert_refused(scored(TEXT, broken), CRASH, "failed")


def test_a_server_that_lies_on_its_socket_gains_nothing(scored, setup):
    """It says that it is done before it answered: the zeroed buffer is what counts."""
    lie = edit(
        (
            FORWARD,
            "        import gc, harness.sandbox.wire as wire\n"
            "        channel = [o for o in gc.get_objects() if isinstance(o, wire.Channel)][0]\n"
            "        channel.send({'done': True, 'score': 0.0, 'loss': 0.0})\n"
            "        return self.head(self.table(tokens))\n",
        )
    )
    uniform = bits_per_byte(setup.task.data, lambda *_: math.log(setup.task.data.vocab_size))
    result = scored(lie)
    refused = isinstance(result, Failure) and result.status in (INVALID, CRASH)
    assert refused or result.value > uniform - 1e-3


def test_descriptors_nobody_asked_for_do_not_break_the_scorer(scored):
    leak = edit(
        (
            FORWARD,
            "        import gc, harness.sandbox.wire as wire\n"
            "        channel = [o for o in gc.get_objects() if isinstance(o, wire.Channel)][0]\n"
            "        for _ in range(60):\n"
            "            channel.send({'done': True}, [os.open('/dev/null', 0) for _ in range(32)])\n"
            "        return self.head(self.table(tokens))\n",
        )
    )
    result = scored(leak)
    assert isinstance(result, Score) or result.status in (INVALID, CRASH), result


def test_a_server_that_answers_without_listening_is_refused(scored, setup):
    """Answers in advance must not leave the scorer waiting for room to ask."""
    from harness.worker.model_client import Refused, Server

    script = setup.task.data.folder.parent / "deaf.py"
    script.write_text("import time\ndef load(c, d):\n    return lambda tokens: time.sleep(60)\n")
    request = {
        "log": str(script.with_suffix(".log")), "isolation": "bwrap", "hide": [], "compiled": "",
        "source": str(script), "checkpoint": str(setup.task.data.folder), "memory_gb": 2.0, "disk_mb": 16,
            "device": dataclasses.asdict(setup.device),
        "load_seconds": 10.0, "library": "torch",
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
    flood = edit(
        (
            FORWARD,
            "        for _ in range(200): os.write(1, bytes(1 << 20))\n"
            "        try: open('/proc/self/fd/1', 'rb'); os.fchmod(1, 0o4755)\n"
            "        except OSError: pass\n"
            "        return self.head(self.table(tokens))\n",
        )
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
    assert isinstance(scored(TEXT), Score)


def test_shrinking_the_shared_buffer_does_not_kill_the_scorer(scored):
    shrink = edit(
        (
            FORWARD,
            "        for fd in range(3, 64):\n"
            "            try: os.ftruncate(fd, 0)\n"
            "            except OSError: pass\n"
            "        return self.head(self.table(tokens))\n",
        )
    )
    assert isinstance(scored(shrink), Score)


def test_what_a_process_said_before_it_died_is_heard_whatever_it_left_unread():
    from harness.sandbox.wire import pair

    ours, theirs = pair()
    ours.send({"never": "read"})
    theirs.send({"error": "no luck"})
    theirs.close()
    assert ours.receive(1.0) == ({"error": "no luck"}, [])
    assert ours.receive(1.0) is None


def test_what_is_usual_is_a_scored_batch_also_for_a_server_that_answers_only_one():
    assert overtime_seconds(0.5, [8.0], usual=0.1, kind="cpu") > 8.0
    assert overtime_seconds(0.5, [0.1, 0.12, 0.1], usual=0.1, kind="cpu") == 0.5
