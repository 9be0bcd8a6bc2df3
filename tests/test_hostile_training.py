"""A hostile or clumsy train.py while it trains: one clear line, nothing else harmed.

Every trial here is real: a process under the real sandbox, the real supervisor, the real scorer.
"""

import dataclasses
import os
import re
import time
from pathlib import Path

import pytest
from conftest import HONEST, edit

from harness.records import CRASH, INVALID, OK
from harness.trial import readonly

LOOP_END = "        time.sleep(0.01)\n"
MAIN = "    run = trial.open()\n"
SUBMIT = "    run.submit(model)\n"


def processes_with(mark: str) -> list[str]:
    """Command lines of live processes that carry a mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mark in line and int(entry.name) != os.getpid():
            found.append(line)
    return found


def assert_failed(training, status, *words):
    assert training.status == status, (training.status, training.detail, training.log[-2000:])
    assert all(word in training.detail for word in words), training.detail
    assert "\n" not in training.detail


# ── the clock ─────────────────────────────────────────────────────────────────────────────────


def test_an_honest_one_ends_with_its_budget_and_is_scored(try_out):
    trial = try_out(HONEST)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 1.0) < 0.5
    assert 0 < trial.val_bpb < 8
    assert trial.isolation == "bwrap"
    assert trial.training.reported.num_steps > 5
    assert trial.training.curve[-1].loss < trial.training.curve[0].loss


def test_one_that_ignores_the_deadline_is_killed_after_the_grace(train_only):
    started = time.monotonic()
    training = train_only(edit((SUBMIT, "    while True: time.sleep(0.1)\n" + SUBMIT)))
    assert_failed(training, INVALID, "2 s after its 1 s", "killed")
    assert time.monotonic() - started < 30 + 1 + 2


def test_training_on_for_a_while_before_submitting_is_noticed(train_only):
    training = train_only(edit((SUBMIT, "    time.sleep(1.6)\n" + SUBMIT)))
    assert_failed(training, INVALID, "past its budget")


def test_training_on_while_pretending_to_save_is_noticed(train_only):
    pretend = "    run._host.training_ended(); time.sleep(1.7)\n" + SUBMIT
    assert_failed(train_only(edit((SUBMIT, pretend))), INVALID, "after its budget")


def test_a_patched_clock_gains_no_time(train_only):
    patch = MAIN + "    now = time.monotonic()\n    time.monotonic = lambda: now\n"
    assert_failed(train_only(edit((MAIN, patch))), INVALID, "after its 1 s were spent")


def test_a_start_up_without_end_is_capped(train_only):
    assert_failed(
        train_only("import time\ntime.sleep(60)\n", startup_seconds=1.5), CRASH, "no batch", "1.5 s"
    )


def test_sigterm_handlers_change_nothing(train_only):
    deaf = MAIN + "    import signal\n    signal.signal(signal.SIGTERM, lambda *a: None)\n"
    deaf = edit((MAIN, deaf), (SUBMIT, "    while True: time.sleep(0.1)\n" + SUBMIT))
    assert_failed(train_only(deaf), INVALID, "killed")


def test_a_daemon_does_not_outlive_its_trial(train_only):
    fork = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(987654)"])
        os._exit(0)
    time.sleep(0.3)
"""
    training = train_only(edit((SUBMIT, fork + SUBMIT)))
    assert training.status == OK, training.detail
    assert processes_with("987654") == []


FREE_INIT = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
names = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
names += "fs gs ds es fsx gsx"
class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in names.split()]
if libc.ptrace(16, 1, None, None) == 0:  # attach to the sandbox's init
    os.waitpid(1, 0x40000000)
    now, saved = Registers(), Registers()
    libc.ptrace(12, 1, None, ctypes.byref(now))
    libc.ptrace(12, 1, None, ctypes.byref(saved))
    now.rip, now.rax, now.orig_rax, now.rdi, now.rsi = saved.rip - 2, 157, 2**64 - 1, 1, 0
    libc.ptrace(13, 1, None, ctypes.byref(now))
    libc.ptrace(9, 1, None, None)  # have it call prctl(PR_SET_PDEATHSIG, 0)
    os.waitpid(1, 0x40000000)
    saved.rip, saved.rax, saved.orig_rax = saved.rip - 2, 61, 2**64 - 1
    libc.ptrace(13, 1, None, ctypes.byref(saved))
    libc.ptrace(17, 1, None, None)
if os.fork() == 0:
    os.setsid()
    libc.prctl(1, 0)
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(30); 765432"])
time.sleep(99)
"""


def test_a_sandbox_whose_init_was_freed_from_its_parent_is_killed_all_the_same(train_only):
    assert_failed(train_only(FREE_INIT, startup_seconds=2.0), CRASH, "no batch")
    assert processes_with("765432") == []


def test_settings_of_the_kernel_cannot_be_opened_for_writing(train_only):
    attack = """
import os
for name in ("sys/kernel/core_pattern", "sys/vm/swappiness", "sys/kernel/hostname", "sysrq-trigger"):
    try: os.close(os.open("/proc/" + name, os.O_WRONLY))
    except OSError: continue
    raise SystemExit(name + " opens for writing")
raise SystemExit("none does")
"""
    assert_failed(train_only(attack), CRASH, "none does")


def test_no_further_namespaces_can_be_made_inside(train_only):
    attack = "import ctypes\nraise SystemExit(f'unshare gave {ctypes.CDLL(None).unshare(0x10000000)}')\n"
    assert_failed(train_only(attack), CRASH, "unshare gave -1")


def test_a_checkpoint_with_holes_is_refused(train_only):
    sparse = "    with open(run.checkpoint_dir / 'ballast', 'wb') as f: f.truncate(40 << 20)\n"
    assert_failed(train_only(edit((SUBMIT, sparse + SUBMIT))), INVALID, "holes")


def test_a_keyring_carries_nothing_to_the_next_trial(train_only):
    note = """
import ctypes
libc = ctypes.CDLL(None)
for ring in (-3, -4, -5):
    name = b"note %d" % ring
    found = libc.syscall(250, 10, ctypes.c_int(ring), b"user", name, 0)
    libc.syscall(248, b"user", name, b"x", 1, ctypes.c_int(ring))
    if found > 0: raise SystemExit("a note was found")
raise SystemExit("nothing was found")
"""
    for _ in range(2):
        assert_failed(train_only(note), CRASH, "nothing was found")


def test_submitting_a_second_time_changes_nothing(train_only):
    twice = SUBMIT + "    model.head.weight.data.zero_()\n" + SUBMIT + "    print('still here')\n"
    training = train_only(edit((SUBMIT, twice)))
    assert training.status == OK, training.detail
    assert "still here" not in training.log


def test_submitting_without_training_is_no_result(train_only):
    skip = "    model = Model(run.vocab_size)\n"
    assert_failed(train_only(edit((skip, skip + SUBMIT))), INVALID, "without training")


# ── what it says ──────────────────────────────────────────────────────────────────────────────


def test_a_printed_score_is_only_text(try_out):
    trial = try_out(edit((SUBMIT, "    print('val_bpb: 0.1', flush=True)\n" + SUBMIT)))
    assert trial.status == OK, trial.detail
    assert trial.val_bpb > 1
    assert "val_bpb: 0.1" in trial.training.log


def test_a_patched_harness_patches_only_itself(try_out):
    patch = """
    import harness.trial.scorer, harness.trial.audit
    harness.trial.scorer.score = lambda request: 0.1
    harness.trial.audit.judge = lambda *a: None
    nn.functional.cross_entropy = lambda *a, **k: torch.zeros((), requires_grad=True)
"""
    plain = edit((LOOP_END, LOOP_END + "        if step == 9: break\n"))
    expected = try_out(plain).val_bpb
    patched = edit((SUBMIT, patch + SUBMIT), source=plain)
    trial = try_out(patched)
    assert trial.status == OK, trial.detail
    assert trial.val_bpb == pytest.approx(expected, rel=1e-6)


def test_a_gigabyte_of_output_is_bounded_and_keeps_its_end(train_only):
    flood = """
    block = b"x" * 999_999 + b"\\n"
    for _ in range(1000): os.write(1, block)
    os.write(1, b"the end\\n")
"""
    soon = LOOP_END + "        if step == 3: break\n"
    training = train_only(edit((LOOP_END, soon), (SUBMIT, flood + SUBMIT)), budget_seconds=20.0)
    assert len(training.log) < 200_000
    assert "the end" in training.log
    assert training.status == OK, training.detail


def test_escape_sequences_are_stripped_from_the_log(train_only):
    shout = "    sys.stdout.write('\\x1b]0;owned\\x07\\x1b[2Jred\\x1b[31m\\x9b5n\\u202eevil\\n')\n"
    training = train_only(edit((SUBMIT, shout + "    sys.stdout.flush()\n" + SUBMIT)))
    assert training.status == OK, training.detail
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", training.log)
    assert "red" in training.log
    assert "owned" not in training.log


def test_nonsense_on_the_socket_is_invalid(train_only):
    noise = "    run._host._channel.socket.send(b'[1, 2')\n    time.sleep(5)\n"
    assert_failed(train_only(edit((SUBMIT, noise + SUBMIT))), INVALID, "not JSON")


def test_lying_figures_do_not_break_the_record(train_only):
    lies = "    run._reported |= {'num_steps': 'many', 'total_tokens': -1, 'flops_per_token': 1e400}\n"
    training = train_only(edit((SUBMIT, lies + "    run._host.log({'step': [], 'loss': {}})\n" + SUBMIT)))
    assert training.status == OK, training.detail
    assert training.reported.num_steps is None
    assert training.reported.total_tokens is None
    assert training.reported.flops_per_token is None


# ── what it reaches for ───────────────────────────────────────────────────────────────────────


def look_for(expression: str) -> str:
    """A train.py that prints what it sees of something, and ends."""
    return f"import os\nprint('SEEN', {expression}, flush=True)\n"


def test_validation_tokens_home_and_git_are_out_of_sight(train_only, bench, tmp_path):
    secret = Path.home() / "secret.txt"
    secret.write_text("secret")
    paths = [
        str(bench.corpus.folder),
        str(bench.corpus.rows_file("val")),
        str(bench.corpus.train_file),
        str(secret),
        str(Path(__file__).parent.parent / ".git"),
        str(tmp_path),
        "/root",
        "/etc/passwd",
        "/etc/shadow",
        "/var",
    ]
    training = train_only(look_for(f"[p for p in {paths!r} if os.path.exists(p)]"))
    seen = re.search(r"SEEN (.*)", training.log).group(1)
    leftover = [p for p in eval(seen) if p != "/root"]  # may hold the interpreter, and only that
    assert leftover == []


def test_a_private_folder_inside_of_a_shown_one_is_covered_up(bench, train_only):
    import click

    inside = Path(click.__file__).parent
    hidden = dataclasses.replace(bench.isolation, hide=(inside,))
    training = train_only(f"import os\nraise SystemExit(str(os.listdir({str(inside)!r})))\n", hidden)
    assert_failed(training, CRASH, "exit 1: []")


def test_no_file_in_the_sandbox_holds_the_embedded_validation_text(train_only):
    """The embedded corpus is Python's own sources, which the sandbox needs: the held-out part hides."""
    module = "__import__('harness.corpus.sources').corpus.sources"
    training = train_only(look_for(f"[p for d in {module}.hidden_dirs() for p in os.listdir(d)]"))
    assert "SEEN []" in training.log


def test_keys_are_not_in_any_environment_in_sight(train_only, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("TORCH_TOKEN", "also-secret")
    everything = "[open(f'/proc/{p}/environ','rb').read() for p in os.listdir('/proc') if p.isdigit()]"
    training = train_only(look_for(everything))
    assert "SEEN" in training.log
    assert "secret" not in training.log


def test_there_is_no_network(train_only):
    connect = "import socket\nsocket.create_connection(({!r}, 80), timeout=2)\n"
    assert_failed(train_only(connect.format("127.0.0.1")), CRASH, "refused")
    assert_failed(train_only(connect.format("192.0.2.1")), CRASH, "unreachable")


@pytest.mark.parametrize("place", ["/usr/x", "/x", "/trial/train.py", "/harness-lib/harness/x", "/dev/x"])
def test_nothing_outside_its_directory_can_be_written(train_only, place):
    assert_failed(train_only(f"open({place!r}, 'w')\n"), CRASH, "Error")


def test_training_tokens_cannot_be_altered(train_only, bench):
    before = bench.corpus.train_file.read_bytes()
    attack = """
    import fcntl
    for fd in range(3, 64):
        for harm in (lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR), lambda: os.fchmod(fd, 0o777),
                     lambda: os.ftruncate(fd, 0), lambda: os.write(fd, b"x")):
            try: harm(); print("HARMED", fd, os.readlink(f"/proc/self/fd/{fd}"), flush=True)
            except OSError: pass
"""
    training = train_only(edit((SUBMIT, attack + SUBMIT)))
    assert bench.corpus.train_file.read_bytes() == before
    assert "train.tokens" not in training.log


def test_a_descriptor_from_a_read_only_mount_cannot_be_upgraded(bench, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"data")
    descriptor = readonly.open_file(path, bench.isolation)
    try:
        assert os.read(descriptor, 4) == b"data"
        for harm in (
            lambda: os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR),
            lambda: os.fchmod(descriptor, 0o600),
        ):
            with pytest.raises(OSError, match="Read-only"):
                harm()
    finally:
        os.close(descriptor)


def test_filling_the_disk_fills_only_its_own(train_only):
    fill = """
    with open("big", "wb") as file:
        while True: file.write(bytes(1 << 20))
"""
    assert_failed(train_only(edit((SUBMIT, fill + SUBMIT))), CRASH, "No space left")


def test_killing_its_parent_kills_nothing_of_ours(train_only):
    attack = MAIN + "    import signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    os.kill(1, 9)\n"
    training = train_only(edit((MAIN, attack)))
    assert training.status in (OK, CRASH)
    assert "\n" not in training.detail


def test_killing_everything_in_sight_ends_only_itself(train_only):
    attack = """
    try: os.kill(-1, 9)
    except ProcessLookupError: pass
    os.kill(os.getpid(), 9)
"""
    training = train_only(edit((MAIN, MAIN + attack)))
    assert_failed(training, CRASH, "signal 9")


def test_deleting_its_directory_harms_only_itself(train_only, tmp_path):
    attack = "    import shutil\n    shutil.rmtree('/trial', ignore_errors=True)\n"
    assert_failed(train_only(edit((SUBMIT, attack + SUBMIT))), CRASH)


# ── clumsiness ────────────────────────────────────────────────────────────────────────────────


def test_a_syntax_error_is_a_crash_with_its_line(train_only):
    assert_failed(train_only("def main(:\n"), CRASH, "SyntaxError")


def test_exiting_at_once_is_a_crash(train_only):
    assert_failed(train_only("raise SystemExit(0)\n"), CRASH, "without submitting")


def test_a_nan_loss_ends_the_trial_early(train_only):
    nan = edit(("loss.backward()", "loss = loss * float('nan'); loss.backward()"))
    started = time.monotonic()
    training = train_only(nan, budget_seconds=60.0)
    assert_failed(training, CRASH, "loss is nan at step 0")
    assert time.monotonic() - started < 40


def test_memory_without_end_is_a_crash(train_only):
    eat = "hoard = []\nwhile True: hoard.append(bytearray(1 << 26))\n"
    assert_failed(train_only(eat, memory_gb=1.0), CRASH, "MemoryError")


def test_an_empty_checkpoint_is_a_crash(train_only):
    submit = "    run._host.training_ended()\n    run._host.submit(run.checkpoint_dir, {})\n"
    write = '    (run.checkpoint_dir / "vocab_size").write_text(str(run.vocab_size))\n'
    nothing = edit((write + SUBMIT, submit))
    assert_failed(train_only(nothing), CRASH, "empty checkpoint")


def test_a_checkpoint_of_fifty_gigabytes_is_refused(train_only):
    huge = "    with open(run.checkpoint_dir / 'huge', 'wb') as f: f.truncate(50 << 30)\n"
    assert_failed(train_only(edit((SUBMIT, huge + SUBMIT))), INVALID, "51200 MB, over disk_mb")
    real = "    f = open(run.checkpoint_dir / 'huge', 'wb')\n    while True: f.write(bytes(1 << 20))\n"
    assert_failed(train_only(edit((SUBMIT, real + SUBMIT))), CRASH, "No space left")


def test_a_checkpoint_file_with_a_path_for_a_name_is_refused(train_only):
    submit = """
    run._host.training_ended()
    fd = os.open(run.checkpoint_dir / "vocab_size", os.O_RDONLY)
    run._host._channel.send({"ask": "submit", "names": ["../../escaped"]}, [fd])
    time.sleep(5)
"""
    assert_failed(train_only(edit((SUBMIT, submit))), INVALID, "not a plain file")


@pytest.mark.parametrize("names", ["['a', 'a']", "['a']", "[1, 2]", "'ab'", "None", "['a', 'a', 'b']"])
def test_files_without_a_name_each_are_refused(train_only, names):
    submit = f"""
    run._host.training_ended()
    fd = os.open(run.checkpoint_dir / "vocab_size", os.O_RDONLY)
    run._host._channel.send({{"ask": "submit", "names": {names}}}, [fd, fd])
    time.sleep(5)
"""
    assert_failed(train_only(edit((SUBMIT, submit))), INVALID, "a name each")


def test_a_file_that_is_none_does_not_pass_for_our_own_failure(train_only):
    submit = """
    run._host.training_ended()
    fds = [os.open(path, os.O_RDONLY) for path in ("/proc/self/mem", "/proc/self/status")]
    run._host._channel.send({"ask": "submit", "names": ["a", "b"]}, fds)
    time.sleep(5)
"""
    assert train_only(edit((SUBMIT, submit))).status in (INVALID, OK)


def test_a_pipe_for_a_checkpoint_is_refused(train_only):
    submit = """
    run._host.training_ended()
    run._host._channel.send({"ask": "submit", "names": ["pipe"]}, [os.pipe()[0]])
    time.sleep(5)
"""
    assert_failed(train_only(edit((SUBMIT, submit))), INVALID, "not a plain file")
