"""A hostile or clumsy train.py and our clock, and what it says of itself. Every trial is real."""

import dataclasses
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import HONEST, assert_failed, edit, processes_with, setup_of

from harness.store.records import CRASH, ERROR, INVALID, OK
from harness.worker import clock, supervisor
from harness.worker.device import Device

TIMED = pytest.mark.alone  # what measures time

LOOP_END = "        spin(0.01)\n"
MAIN = "    run = trial.open()\n"
SUBMIT = "    run.submit(model)\n"


@pytest.fixture(scope="session")
def setup(small_config):
    """A second of training: what these tests measure is told from what a start takes."""
    trial = dataclasses.replace(small_config.trial, budget_seconds=1.0)
    return setup_of(dataclasses.replace(small_config, trial=trial))


@TIMED
def test_an_honest_one_ends_with_its_budget_and_is_scored(try_out):
    trial = try_out(HONEST)
    assert trial.status == OK, (trial.detail, trial.training.log)
    assert abs(trial.training.training_seconds - 1.0) < 0.5
    assert 0 < trial.value < 8
    assert trial.isolation == "bwrap"
    assert trial.training.reported.num_steps > 5
    assert trial.training.curve[-1].loss < trial.training.curve[0].loss


@pytest.fixture
def busy(setup):
    """Programs that compute all the time, where runs do."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    for process in started:
        os.sched_setaffinity(process.pid, setup.device.training_cores)
    yield
    for process in started:
        process.kill()


@TIMED
def test_other_work_on_the_machine_takes_no_step_from_a_run(train_only, request):
    alone = train_only(HONEST)
    request.getfixturevalue("busy")
    beside = train_only(HONEST, startup_seconds=90.0)
    assert beside.status == OK, (beside.detail, beside.log)
    assert beside.passed_seconds > 1.5 * beside.training_seconds
    assert beside.reported.num_steps > 0.7 * alone.reported.num_steps


@TIMED
def test_a_machine_too_busy_for_a_run_is_no_fault_of_the_experiment_s(train_only, busy, monkeypatch):
    monkeypatch.setattr(clock, "TIMES", 1.0)
    training = train_only(HONEST, startup_seconds=90.0, save_seconds=0.5)
    assert_failed(training, ERROR, "the machine was too busy", "of 1 s of a processor")


@TIMED
def test_one_that_ignores_the_deadline_is_killed_after_the_grace(train_only):
    started = time.monotonic()
    training = train_only(edit((SUBMIT, "    while True: pass\n" + SUBMIT)), save_seconds=2.0)
    assert_failed(training, INVALID, "2 s after its 1 s", "killed")
    assert time.monotonic() - started < 30 + 1 + 2


@TIMED
def test_one_that_waits_for_nothing_is_killed_and_told_so(train_only):
    training = train_only(edit((SUBMIT, "    while True: time.sleep(0.1)\n" + SUBMIT)), save_seconds=0.5)
    assert_failed(training, CRASH, "it waits for something that doesn't come", "in 8 s")


@TIMED
def test_training_on_for_a_while_before_submitting_is_noticed(train_only):
    training = train_only(edit((SUBMIT, "    spin(1.6)\n" + SUBMIT)))
    assert_failed(training, INVALID, "past its budget")


@TIMED
def test_training_on_while_pretending_to_save_is_noticed(train_only):
    pretend = "    run._host.training_ended(); spin(1.7)\n" + SUBMIT
    assert_failed(train_only(edit((SUBMIT, pretend))), INVALID, "after its budget")


@TIMED
def test_a_loss_that_takes_long_is_named_as_what_was_late(train_only):
    slow = "    run.submit(model, loss=lambda *_: spin(1.7) or 0.0)\n"
    training = train_only(edit((SUBMIT, slow)))
    assert_failed(training, INVALID, "it was submit's loss: ask for it once before the first batch")


@TIMED
def test_a_patched_clock_gains_no_time(train_only):
    patch = MAIN + "    time.process_time = time.monotonic = lambda: 0.0\n    spin = lambda _: None\n"
    assert_failed(train_only(edit((MAIN, patch)), save_seconds=2.0), INVALID, "after its 1 s were spent")


def test_no_process_is_started_once_the_first_batch_was_asked_for(train_only):
    """Where nobody waits for one that ends, the kernel forgets what it took."""
    fork = LOOP_END + "        if os.fork() == 0: os._exit(0)\n"
    failed = train_only(edit((LOOP_END, fork)))
    assert_failed(failed, CRASH, "PermissionError", "start it before run.batches()")


@pytest.mark.parametrize("moment", [MAIN, LOOP_END])
def test_a_name_that_is_no_text_hides_no_process(train_only, moment):
    """As the kernel cuts an honest name of 15 bytes in the middle of a character."""
    indent = moment[: len(moment) - len(moment.lstrip())]
    name = f"{indent}__import__('ctypes').CDLL(None).prctl(15, b'\\xff')\n"
    more = "        while time.process_time() < 99: pass\n"
    training = train_only(edit((moment, moment + name)))
    assert training.status == OK, training.detail
    assert abs(training.training_seconds - 1.0) < 0.5
    training = train_only(edit((moment, moment + name), (LOOP_END, LOOP_END + more)), save_seconds=1.0)
    assert_failed(training, INVALID, "killed")


def test_more_processes_than_can_be_watched_are_invalid(train_only):
    many = "    for _ in range(70):\n        if os.fork() == 0: time.sleep(99)\n"
    assert_failed(train_only(edit((MAIN, MAIN + many))), INVALID, "more than 64 processes")


@TIMED
def test_one_that_ends_while_it_trains_is_counted_once(train_only):
    """Its time stood in its own record, and then in that of who waited for it."""
    worked = """
    ended = []
    for _ in range(8):
        if os.fork() == 0:
            spin(0.1)
            time.sleep(1.0)
            os._exit(0)
"""
    reaped = "        os.waitpid(-1, os.WNOHANG)\n" + LOOP_END
    training = train_only(edit((MAIN, MAIN + worked + "    time.sleep(0.9)\n"), (LOOP_END, reaped)))
    assert training.status in (OK, CRASH), training.detail  # no child is left to wait for
    assert training.training_seconds is None or training.training_seconds < training.passed_seconds + 0.05


@TIMED
def test_those_that_it_started_before_count_for_it_and_for_us(train_only):
    pool = """
    import multiprocessing
    pool = multiprocessing.get_context("fork").Pool(2)
    for inputs, targets in run.batches(8):
        pool.map(spin, [0.05, 0.05])
    pool.terminate()
    run.submit({"weights": np.zeros(8, np.float32)})
"""
    training = train_only(edit((MAIN, MAIN + pool)))
    assert training.status == OK, training.detail
    assert abs(training.training_seconds - 1.0) < 0.5


@TIMED
def test_a_run_on_a_processor_stays_on_its_core(train_only):
    leave = (
        "import os\nos.sched_setaffinity(0, range(64))\nraise SystemExit(f'on {os.sched_getaffinity(0)}')\n"
    )
    training = train_only(leave)
    assert_failed(training, CRASH, "on {")
    assert "," not in training.detail


@TIMED
def test_a_start_up_without_end_is_capped(train_only):
    assert_failed(
        train_only("import time\ntime.sleep(60)\n", startup_seconds=1.5), CRASH, "no batch", "1.5 s"
    )


def test_sigterm_handlers_change_nothing(train_only):
    deaf = MAIN + "    import signal\n    signal.signal(signal.SIGTERM, lambda *a: None)\n"
    deaf = edit((MAIN, deaf), (SUBMIT, "    while True: pass\n" + SUBMIT))
    assert_failed(train_only(deaf, save_seconds=2.0), INVALID, "killed")


@TIMED
def test_a_harness_that_was_stopped_meanwhile_holds_nothing_against_the_experiment(train_only, monkeypatch):
    monkeypatch.setattr(supervisor, "AWAY_SECONDS", 1.0)
    monkeypatch.setattr(Device, "is_processor", False)  # where the wall's clock counts
    shown, looked = [], supervisor.Supervisor._progress

    def stopped(self, state, now):
        found = looked(self, state, now)
        if found.phase == "training" and not shown:
            shown.append(found)
            time.sleep(5)  # as after Ctrl-Z, or asleep with the machine
        return found

    monkeypatch.setattr(supervisor.Supervisor, "_progress", stopped)
    assert_failed(train_only(HONEST, save_seconds=2.0), ERROR, "the harness stood still for 5 s")


@TIMED
def test_a_daemon_does_not_outlive_its_trial(train_only):
    fork = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(987654)"])
        os._exit(0)
    time.sleep(0.3)
"""
    training = train_only(edit((MAIN, MAIN + fork)))
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


@TIMED
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
    start = "    for step, (inputs"
    assert_failed(train_only(edit((start, SUBMIT + start))), INVALID, "without training")


def test_a_printed_score_is_only_text(try_out):
    trial = try_out(edit((SUBMIT, "    print('val_bpb: 0.1', flush=True)\n" + SUBMIT)))
    assert trial.status == OK, trial.detail
    assert trial.value > 0.2
    assert "val_bpb: 0.1" in trial.training.log


def test_a_patched_harness_patches_only_itself(try_out):
    patch = """
    import harness.tasks.items.measures, harness.worker.scorer, harness.worker.tolerance
    harness.worker.scorer.score = lambda request: 0.1
    harness.worker.tolerance.judge = lambda *a: None
    harness.tasks.items.measures.Measure.of = lambda *a: 0.1
"""
    plain = edit((LOOP_END, LOOP_END + "        if step == 9: break\n"))
    expected = try_out(plain).value
    patched = edit((SUBMIT, patch + SUBMIT), source=plain)
    trial = try_out(patched)
    assert trial.status == OK, trial.detail
    assert trial.value == pytest.approx(expected, rel=1e-6)


@TIMED
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


STEALING = """
import array, fcntl, json, os, sys, termios, time
from harness import trial
def load(c, d): pass
def main():
    run = trial.open()
    sock = run._host._channel.socket
    for inputs, targets in run.batches(8):
        if run.elapsed_seconds > 0.1: break
    run._host.training_ended()
    (run.checkpoint_dir / "w").write_bytes(b"x" * 1000)
    fd = os.open(run.checkpoint_dir / "w", os.O_RDONLY)
    back = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    out = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    def queued():
        b = array.array("i", [0]); fcntl.ioctl(sock, 0x5411, b); return b[0]
    while queued(): pass
    sock.setsockopt(1, 7, 1 << 20)
    fcntl.fcntl(1, 1031, 1 << 20)
    slow = json.dumps({"ask": "x", "j": [[]] * 15000}).encode()
    for _ in range(3): sock.send(slow)
    sock.sendmsg([b'{"ask": "submit", "names": ["w"]}'], [(1, 1, array.array("i", [fd]))])
    os.write(out, b"!" * (3 * 65536 + 1))
    while queued(): pass
    try: os.read(back, 1 << 20)
    except BlockingIOError: pass
    time.sleep(12)
    os.write(1, b"it trained on")
    time.sleep(99)
if __name__ == "__main__": main()
"""

LINGERING = """
import array, socket, struct, time
from harness import trial
def load(c, d): pass
def main():
    run = trial.open()
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname()); two, _ = server.accept()
    one.setblocking(False)
    try:
        while True: one.send(b"x" * 65536)
    except BlockingIOError: pass
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    wire = run._host._channel.socket
    wire.sendmsg([MESSAGE], [(1, 1, array.array("i", [one.fileno()]))])
    one.close()
    time.sleep(1000)
if __name__ == "__main__": main()
"""


@TIMED
def test_emptying_its_own_log_does_not_make_the_supervisor_wait(train_only):
    started = time.monotonic()
    training = train_only(STEALING, save_seconds=2.0)
    assert time.monotonic() - started < 10, training
    assert "it trained on" not in training.log


LOG, SUBMISSION = b'{"ask": "log"}', b'{"ask": "submit", "names": ["w"]}'


@TIMED
@pytest.mark.parametrize("message", [LOG, SUBMISSION])
def test_a_socket_that_is_slow_to_close_holds_nobody_up(train_only, message):
    started = time.monotonic()
    training = train_only(LINGERING.replace("MESSAGE", repr(message)), startup_seconds=5.0, save_seconds=2.0)
    assert training.status in (CRASH, INVALID), training
    assert time.monotonic() - started < 10
