"""A hostile or clumsy `load` and model while they are scored: `invalid` or `crash`, in one line.

The checkpoint is trained once; each test serves it with another train.py, through the real scorer,
real model servers under the real sandbox, and the real audit.
"""

import pytest
from conftest import assert_refused
from text import (
    FORWARD,
    using_text,  # noqa: F401
)
from text import edit_text as edit

from harness.store.records import CRASH, INVALID, Kind, Score
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
    "nan": ("        return self.head(self.table(tokens)) * float('nan')\n", INVALID, "NaN"),
    "impossible target": (
        "        x = self.head(self.table(tokens))\n        x[..., :100] = -float('inf')\n        return x\n",
        INVALID,
        "infinite",
    ),
    "out of memory": ("        return torch.zeros(1 << 42)\n", CRASH, "RuntimeError"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_broken_forward(scored, name):
    body, status, words = FORWARDS[name]
    assert_refused(scored(edit((FORWARD, body)), memory_gb=1.5), status, words)


def test_what_is_usual_is_a_scored_batch_also_for_a_server_that_answers_only_one():
    assert overtime_seconds(0.5, [8.0], usual=0.1, kind="cpu") > 8.0
    assert overtime_seconds(0.5, [0.1, 0.12, 0.1], usual=0.1, kind="cpu") == 0.5
