"""What a hostile train.py reaches for while it trains, under the real sandbox; and what a clumsy one gets."""

import dataclasses
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import assert_failed, edit, processes_with

from harness.sandbox import holdings, isolation, namespace, readonly
from harness.store.records import CRASH, ERROR, INVALID, OK

LOOP_END = "        spin(0.01)\n"
MAIN = "    run = trial.open()\n"
SUBMIT = "    run.submit(model)\n"


def look_for(expression: str) -> str:
    """A train.py that prints what it sees of something, and ends."""
    return f"import os\nprint('SEEN', {expression}, flush=True)\n"


def test_every_process_in_the_sandbox_has_a_filter_its_first_one_too(train_only):
    """Another one's memory can be written to, and what is put there would run without it."""
    status = "open(f'/proc/{p}/status').read()"
    found = f"[p for p in os.listdir('/proc') if p.isdigit() and 'Seccomp:\\t2' not in {status}]"
    assert "SEEN []" in train_only(look_for(found)).log


def test_validation_tokens_home_and_git_are_out_of_sight(train_only, setup, tmp_path):
    secret = Path.home() / "secret.txt"
    secret.write_text("secret")
    paths = [
        str(setup.task.data.folder),
        str(setup.task.data.files("val")["items"]),
        str(setup.task.data.train_file),
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


def test_a_private_folder_inside_of_a_shown_one_is_covered_up(setup, train_only):
    import click

    inside = Path(click.__file__).parent
    hidden = dataclasses.replace(setup.isolation, hide=(inside,))
    training = train_only(f"import os\nraise SystemExit(str(os.listdir({str(inside)!r})))\n", hidden)
    assert_failed(training, CRASH, "exit 1: []")


def test_a_private_folder_is_covered_up_even_where_pythonpath_names_it(
    setup, train_only, tmp_path, monkeypatch
):
    (tmp_path / "secret").write_text("x")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hidden = dataclasses.replace(setup.isolation, hide=(tmp_path,))
    training = train_only(look_for(f"os.path.exists({str(tmp_path / 'secret')!r})"), hidden)
    assert "SEEN False" in training.log, training.log


def test_a_crash_names_the_line_of_train_py(train_only):
    assert_failed(train_only("x = 1\nx +\n"), CRASH, "SyntaxError", "train.py line 2")
    assert_failed(train_only("\n\n1 / 0\n"), CRASH, "ZeroDivisionError", "train.py line 3")


def test_a_sandbox_that_does_not_start_is_not_held_against_the_experiment(train_only, monkeypatch):
    monkeypatch.setattr("harness.worker.prestart.BOOT", "harness.no_such_module")
    assert_failed(train_only("1 / 0\n"), ERROR, "the sandbox did not start")


def test_no_file_in_the_sandbox_holds_the_embedded_validation_text(train_only):
    """The embedded corpus is Python's own sources, which the sandbox needs: the held-out part hides."""
    module = "__import__('harness.tasks.lm.interpreter').tasks.lm.interpreter"
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
    assert_failed(train_only(connect.format("127.0.0.1")), CRASH, "Address family")
    assert_failed(train_only(connect.format("192.0.2.1")), CRASH, "Address family")


@pytest.mark.parametrize("place", ["/usr/x", "/x", "/trial/train.py", "/harness-lib/harness/x", "/dev/x"])
def test_nothing_outside_its_directory_can_be_written(train_only, place):
    assert_failed(train_only(f"open({place!r}, 'w')\n"), CRASH, "Error")


def test_training_tokens_cannot_be_altered(train_only, setup):
    before, mode = setup.task.data.train_file.read_bytes(), setup.task.data.train_file.stat().st_mode
    attack = """
    import fcntl
    for fd in range(3, 64):
        try: os.fchmod(fd, 0o777)  # seems to work
        except OSError: pass
        for harm in (lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
                     lambda: os.ftruncate(fd, 0), lambda: os.write(fd, b"x")):
            try: harm(); print("HARMED", fd, os.readlink(f"/proc/self/fd/{fd}"), flush=True)
            except OSError: pass
"""
    training = train_only(edit((SUBMIT, attack + SUBMIT)))
    assert setup.task.data.train_file.read_bytes() == before
    assert setup.task.data.train_file.stat().st_mode == mode
    assert setup.task.data.train_file.name not in training.log


def test_a_descriptor_from_a_read_only_mount_cannot_be_upgraded(setup, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"data")
    descriptor = readonly.open_file(path, setup.isolation)
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


def test_killing_everything_in_sight_ends_nothing(train_only):
    """It is the first process in there, which the kernel lets nobody inside kill."""
    attack = """
    try: os.kill(-1, 9)
    except ProcessLookupError: pass
    os.kill(os.getpid(), 9)
"""
    training = train_only(edit((MAIN, MAIN + attack)))
    assert training.status == OK, training.detail


def test_deleting_its_directory_harms_only_itself(train_only, tmp_path):
    attack = "    import shutil\n    shutil.rmtree('/trial', ignore_errors=True)\n"
    assert_failed(train_only(edit((SUBMIT, attack + SUBMIT))), CRASH)


SHARED = """
import ctypes, errno, fcntl, mmap, os
libc, said = ctypes.CDLL(None, use_errno=True), []
def tried(name, call):
    try:
        said.append(f"{name} {call()}")
    except OSError as error:
        said.append(f"{name} {errno.errorcode[error.errno]}")
def raw(*args):
    if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), "")
MINCORE, CACHESTAT, INOTIFY, URING = NUMBERS
one, two = (os.open("/usr/bin/env", os.O_RDONLY) for _ in range(2))
seen = mmap.mmap(one, 0, prot=mmap.PROT_READ)
lock = lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
tried("lock", lambda: lock(one))
tried("lock again", lambda: lock(two))
tried("who locks", lambda: fcntl.fcntl(one, fcntl.F_GETLK, bytes(32)))
tried("resident", lambda: raw(MINCORE, ctypes.c_void_p(4096), 4096, ctypes.create_string_buffer(1)))
found = ctypes.create_string_buffer(40)
tried("cached", lambda: raw(CACHESTAT, one, ctypes.create_string_buffer(16), found, 0))
tried("at once", lambda: os.preadv(one, [bytearray(8)], 0, os.RWF_NOWAIT))
tried("read", lambda: os.preadv(one, [bytearray(8)], 0))
tried("populate", lambda: seen.madvise(22))
tried("watch", lambda: raw(INOTIFY, 0))
tried("ring", lambda: raw(URING, 8, 0))
raise SystemExit("; ".join(said))
"""
KEPT = {"x86_64": (27, 451, 294, 425), "aarch64": (232, 451, 26, 425)}


def test_what_the_kernel_knows_of_shared_files_can_not_carry_a_note_from_one_process_to_another(train_only):
    training = train_only(SHARED.replace("NUMBERS", str(KEPT[platform.machine()])))
    assert_failed(training, CRASH)
    assert "lock None; lock again None; who locks EINVAL; resident ENOSYS; cached ENOSYS; " in training.log
    assert "at once ENOTSUP; read 8; populate EINVAL; watch ENOSYS; ring ENOSYS" in training.log


def test_advice_on_shared_files_is_not_followed(train_only):
    """What we have read stays in memory, though a trial says that nobody needs it any more."""
    program = Path(os.path.realpath("/usr/bin/env"))
    program.read_bytes()
    advise = f"import os\nf = os.open({str(program)!r}, os.O_RDONLY)\n"
    advise += "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)\nraise SystemExit('advised')\n"
    assert_failed(train_only(advise), CRASH, "advised")
    with program.open("rb") as file:
        assert os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT) == 4096


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's trials own /dev")
def test_the_hosts_devices_are_as_they_were_after_a_trial(train_only):
    node = "/dev/full"
    before = os.stat(node)
    spoil = f"import os\nos.chmod({node!r}, 0o600)\nos.utime({node!r}, ns=(7, 7))\n"
    assert_failed(train_only(spoil + "raise SystemExit(oct(os.stat('/dev/full').st_mode))"), CRASH, "0o20666")
    assert os.stat(node)[:1] + os.stat(node)[8:9] == before[:1] + before[8:9]


def test_a_trial_on_the_processor_sees_no_gpu(train_only, tmp_path, monkeypatch):
    file = tmp_path / "nvidia0"
    file.touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(isolation, "_gpu_files", lambda gpu: [] if gpu is None else [file])
    training = train_only(look_for(f"[os.environ['CUDA_VISIBLE_DEVICES'], os.path.exists({str(file)!r})]"))
    assert "SEEN ['', False]" in training.log


def test_a_process_on_a_gpu_sees_that_one_and_what_all_of_them_share(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia-uvm", "nvidiactl"):
        (tmp_path / name).touch()

    def seen(gpu):
        return [file.name for file in isolation._gpu_files(gpu, tmp_path)]

    assert seen(str(tmp_path / "nvidia1")) == ["nvidia-uvm", "nvidia1", "nvidiactl"]
    assert seen("") == seen(str(tmp_path / "nvidia7")) == ["nvidia-uvm", "nvidia0", "nvidia1", "nvidiactl"]
    assert seen(None) == []


def test_a_syntax_error_is_a_crash_with_its_line(train_only):
    assert_failed(train_only("def main(:\n"), CRASH, "SyntaxError")


def test_exiting_at_once_is_a_crash(train_only):
    assert_failed(train_only("raise SystemExit(0)\n"), CRASH, "without submitting")


def test_a_nan_loss_ends_the_trial_early(train_only):
    nan = edit(("np.square(errors).mean()", "float('nan')"))
    started = time.monotonic()
    training = train_only(nan, budget_seconds=60.0)
    assert_failed(training, CRASH, "loss is nan at step 0")
    assert time.monotonic() - started < 40


def test_memory_without_end_is_a_crash(train_only):
    eat = "hoard = []\nwhile True: hoard.append(bytearray(1 << 26))\n"
    assert_failed(train_only(eat, memory_gb=1.0), CRASH, "MemoryError")


def test_an_empty_checkpoint_is_a_crash(train_only):
    submit = "    run._host.training_ended()\n    run._host.submit(run.checkpoint_dir, {})\n"
    write = '    (run.checkpoint_dir / "about").write_text("a line")\n'
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
    fd = os.open(run.checkpoint_dir / "about", os.O_RDONLY)
    run._host._channel.send({"ask": "submit", "names": ["../../escaped"]}, [fd])
    time.sleep(5)
"""
    assert_failed(train_only(edit((SUBMIT, submit))), INVALID, "not a plain file")


@pytest.mark.parametrize("names", ["['a', 'a']", "['a']", "[1, 2]", "'ab'", "None", "['a', 'a', 'b']"])
def test_files_without_a_name_each_are_refused(train_only, names):
    submit = f"""
    run._host.training_ended()
    fd = os.open(run.checkpoint_dir / "about", os.O_RDONLY)
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


def test_a_seed_of_its_own_gives_a_program_no_other_order_of_the_data(train_only):
    shown = edit((LOOP_END, '        print("FIRST", inputs.sum() ** 2, flush=True)\n        break\n'))
    pinned = edit((MAIN, MAIN + "    run.seed = 7\n"), source=shown)
    logs = [train_only(source).log for source in (shown, pinned)]
    first, second = (re.findall(r"FIRST (\S+)", log) for log in logs)
    assert first == second and len(first) == 1, logs


def test_what_was_brought_into_memory_is_touched_again_only_if_the_kernel_put_some_out(monkeypatch):
    counts = iter([5, 5, 6, None])
    monkeypatch.setattr(holdings, "evicted", lambda: next(counts))
    touched = holdings.Touched(evicted=holdings.evicted())
    assert touched.is_all_there()
    assert not touched.is_all_there(), "a page more went"
    assert not touched.is_all_there(), "the kernel doesn't say"


def test_what_a_killed_start_of_a_sandbox_left_is_ended_by_the_next():
    reading, writing = os.pipe()
    os.close(reading)  # as it is when who started it is dead: the outer process ends, the inner one waits
    command = ["bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent", "--ro-bind", "/", "/"]
    mark = f"left-{os.getpid()}"
    left = subprocess.Popen(
        [*command, "--info-fd", str(writing), "--", "sleep", "977", mark], pass_fds=[writing],
        env={"PATH": os.environ["PATH"], namespace.OURS: "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    left.wait(timeout=10)
    assert len(processes_with(mark)) == 1
    namespace._sweep.cache_clear()
    namespace._sweep()
    until = time.monotonic() + 10
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_with(mark) == []
