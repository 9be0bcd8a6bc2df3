"""The command line as a person meets it: fast, one line per mistake, the right exit code."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HARNESS, assert_mistake, edit, harness, make_text, without_bwrap

from harness import config as configs
from harness.cli import COMMANDS
from harness.worker.device import exclusive, resolve

# ── help ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.alone
def test_help_is_quick_and_loads_neither_torch_nor_litellm_nor_git():
    code = "import sys; from harness.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'litellm', 'pygit2', 'numpy') if m in sys.modules])"
    took = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
        took.append(time.perf_counter() - started)
    assert done.stdout.strip().endswith("[]")
    assert min(took) < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command):
    done = harness(command, "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert f"harness {command}" in done.stdout


def test_an_unknown_command_is_a_usage_error():
    done = harness("rnu")
    assert done.returncode == 2
    assert "No such command" in done.stderr


# ── a person's mistakes ───────────────────────────────────────────────────────────────────────


def test_outside_of_a_repository(tmp_path):
    assert_mistake(harness("run", cwd=tmp_path), "not in a git repository", "harness init DIR")


def test_a_repository_without_a_commit(git, small_config):
    (git.folder / ".autoresearch").mkdir()
    (git.folder / ".autoresearch" / "config.toml").write_text(configs.dump(small_config))
    assert_mistake(harness("run", cwd=git.folder), "no commit yet", "git commit")


def test_an_unknown_revision(repository):
    assert_mistake(harness("run", "nowhere", cwd=repository.folder), "'nowhere'", "git log")


def test_an_experiments_number_is_a_revision(repository):
    tree = ("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Mine\n\nHypothesis: it may help\n")
    commit = repository(*tree).strip()
    repository("branch", "exp/0012-mine", commit)
    assert json.loads(harness("run", "12", "--json", cwd=repository.folder).stdout)["commit"] == commit
    assert_mistake(harness("run", "13", cwd=repository.folder), "no experiment '13'", "harness log --all")


def test_a_revision_without_train_py(repository):
    repository("rm", "-q", "train.py")
    repository("commit", "-qm", "gone")
    assert_mistake(harness("run", cwd=repository.folder), "no train.py")


def test_a_train_py_that_is_a_link(repository):
    (repository.folder / "train.py").unlink()
    (repository.folder / "train.py").symlink_to("/etc/passwd")
    repository("commit", "-qam", "link")
    assert_mistake(harness("run", cwd=repository.folder), "not a regular file")


def test_no_config(repository):
    (repository.folder / ".autoresearch" / "config.toml").unlink()
    assert_mistake(harness("run", cwd=repository.folder), "no config", "harness init")


def test_a_typo_in_the_config(repository):
    path = repository.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace("budget_seconds", "budget_secnods"))
    assert_mistake(harness("run", cwd=repository.folder), "budget_secnods", "trial.budget_seconds")


def test_no_data(repository, tmp_path):
    done = harness("run", cwd=repository.folder, HARNESS_CACHE=str(tmp_path / "empty"))
    assert_mistake(done, "no prepared data", "harness prepare")


def test_altered_data(repository, setup, tmp_path):
    import shutil

    shutil.copytree(setup.task.data.folder.parent, tmp_path / "data")
    shutil.copy(setup.task.data.folder.parent.parent / "salt", tmp_path / "salt")
    path = tmp_path / "data" / setup.task.data.folder.name / "val.items"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    done = harness("run", cwd=repository.folder, HARNESS_CACHE=str(tmp_path))
    assert_mistake(done, "val.items was altered", "--again")


def test_a_gpu_that_is_not_there(repository, text_setup):
    path = repository.folder / ".autoresearch" / "config.toml"
    path.write_text(configs.dump(text_setup.config).replace('device = "cpu"', 'device = "cuda"'))
    done = harness("run", cwd=repository.folder, CUDA_VISIBLE_DEVICES="")
    assert_mistake(done, "no NVIDIA GPU")


# ── the sandbox that isn't there ──────────────────────────────────────────────────────────────


def test_without_bubblewrap_it_runs_loudly_and_says_none(repository, tmp_path):
    done = harness("run", "--json", cwd=repository.folder, PATH=without_bwrap(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["isolation"] == "none"
    assert "WARNING: no sandbox" in done.stderr
    assert "apt install bubblewrap" in done.stderr


def test_without_bubblewrap_require_refuses(repository, tmp_path):
    path = repository.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('sandbox = "auto"', 'sandbox = "require"'))
    done = harness("run", cwd=repository.folder, PATH=without_bwrap(tmp_path))
    assert_mistake(done, "'require'", "not installed")


def test_user_namespaces_that_are_off_are_named(repository, tmp_path):
    said = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"
    path = repository.folder / ".autoresearch" / "config.toml"
    path.write_text(path.read_text().replace('sandbox = "auto"', 'sandbox = "require"'))
    done = harness("run", cwd=repository.folder, PATH=without_bwrap(tmp_path, said))
    assert_mistake(done, "No permissions", "user namespaces are off", "sysctl")


@pytest.mark.alone
def test_without_a_sandbox_a_daemon_dies_all_the_same(repository, tmp_path):
    fork = edit(
        (
            "    model, rate",
            "    import subprocess\n"
            "    command = [sys.executable, '-c', 'import time; time.sleep(876543)']\n"
            "    subprocess.Popen(command, start_new_session=True)\n"
            "    model, rate",
        )
    )
    (repository.folder / "train.py").write_text(fork)
    repository("commit", "-qam", "fork")
    done = harness("run", "--json", cwd=repository.folder, PATH=without_bwrap(tmp_path))
    assert json.loads(done.stdout)["status"] == "ok"
    assert alive("876543") == []


def alive(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mark in line:
            found.append(line)
    return found


# ── a run ─────────────────────────────────────────────────────────────────────────────────────


def test_a_run_ends_with_the_summary_block_on_stdout(repository):
    done = harness("run", "--seed", "3", cwd=repository.folder)
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in done.stdout.splitlines()[1:]]
    assert done.stdout.startswith("---\n")
    assert names == [
        "squared_error", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_items_M",
        "num_steps", "num_params_M", "seed", "device", "data", "evaluator", "runtime", "isolation",
    ]  # fmt: skip
    assert "isolation:        bwrap" in done.stdout
    assert "training" in done.stderr
    assert "\x1b" not in done.stderr
    (record,) = (repository.folder / ".autoresearch" / "runs").glob("*/trial.json")
    trial = json.loads(record.read_text())
    assert trial["status"] == "ok"
    assert trial["training"]["curve"]
    assert not (record.parent / "checkpoint").exists()


def test_what_runs_is_the_commit_and_not_the_working_copy(repository):
    (repository.folder / "train.py").write_text("raise SystemExit('the working copy ran')\n")
    done = harness("run", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stderr
    assert "uncommitted changes" in done.stderr


def test_a_crash_is_a_status_and_exit_code_one(repository):
    (repository.folder / "train.py").write_text("raise ValueError('no \\x1b[31mluck')\n")
    repository("commit", "-qam", "broken")
    done = harness("run", "--json", cwd=repository.folder)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert (result["status"], result["squared_error"]) == ("crash", None)
    assert "ValueError: no luck" in done.stderr.splitlines()[-1]


@pytest.mark.alone
def test_a_second_run_waits_for_the_device_and_says_so(repository):
    slow = [*HARNESS, "run", "--budget", "4", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(slow, cwd=repository.folder, **pipes)
    time.sleep(2.0)
    second = subprocess.Popen([*HARNESS, "run", "--json"], cwd=repository.folder, **pipes)
    out_first, _ = first.communicate(timeout=120)
    out_second, err_second = second.communicate(timeout=120)
    assert first.returncode == second.returncode == 0
    assert f"in use by process {first.pid}; waiting" in err_second
    assert json.loads(out_first)["status"] == json.loads(out_second)["status"] == "ok"


def run_on_a_terminal(folder, budget):
    """Start `harness run` on a pseudo-terminal; returns the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*HARNESS, "run", "--budget", str(budget)], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal, words, seconds=60):
    seen, deadline = "", time.monotonic() + seconds
    while words not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(terminal, 65536).decode("utf-8", "replace")
            except OSError:
                break
    return seen


@pytest.mark.alone
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_a_usable_terminal(repository, kind):
    process, terminal = run_on_a_terminal(repository.folder, 50)
    assert "training" in read_until(terminal, "training ")
    assert alive("harness.worker.boot")
    process.send_signal(kind)
    seen = read_until(terminal, "interrupted", 20)
    process.wait(timeout=20)
    os.close(terminal)
    assert process.returncode == 130
    assert "\x1b[?25h" in seen, "the cursor was not shown again"
    assert alive("bwrap") == [] == alive("harness.worker.boot")


@pytest.mark.alone
def test_a_killed_harness_takes_its_trial_with_it(repository):
    process, terminal = run_on_a_terminal(repository.folder, 50)
    assert "training" in read_until(terminal, "training ")
    process.kill()
    process.wait()
    os.close(terminal)
    deadline = time.monotonic() + 5
    while (left := alive("bwrap") + alive("harness.worker.boot")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


# ── init and doctor ───────────────────────────────────────────────────────────────────────────


def test_init_makes_a_repository_and_changes_nothing_that_is_there(tmp_path):
    done = harness("init", str(tmp_path / "new"), "--profile", "cpu")
    assert f"Next: cd {tmp_path / 'new'}, git add" in done.stderr
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "new"
    assert (folder / ".git").is_dir()
    assert "def load(" in (folder / "train.py").read_text()
    assert configs.load(folder / ".autoresearch" / "config.toml") == configs.CPU
    assert (folder / ".autoresearch" / "program.md").exists()
    (folder / "train.py").write_text("mine")
    (folder / ".gitignore").write_text("mine")
    again = harness("init", cwd=folder)
    assert again.returncode == 0
    assert (folder / "train.py").read_text() == "mine"
    assert (folder / ".gitignore").read_text().startswith("mine\n")
    assert harness("init", cwd=folder).stdout == "nothing was missing\n"
    (folder / "inner").mkdir()
    assert_mistake(harness("init", cwd=folder / "inner"), "would lie inside the repository", "harness init")


def test_init_tells_coding_agents_what_this_place_is(tmp_path):
    assert harness("init", cwd=tmp_path).returncode == 0
    skill = (tmp_path / ".agents" / "skills" / "autoresearch" / "SKILL.md").read_text()
    assert skill.startswith("---\nname: autoresearch\ndescription: ")
    assert "edit `train.py` and nothing else" in (tmp_path / "AGENTS.md").read_text()


def test_coding_agents_are_known_by_name(tmp_path):
    """One that is there and signed in, one that is there, and those that aren't."""
    for name in ("claude", "codex"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": str(tmp_path), "ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "", "CODEX_API_KEY": ""}
    said = harness("agents", **env, HOME=str(tmp_path)).stdout
    assert re.search(r"^claude +ready +harness loop --agent command --command claude$", said, re.M)
    assert re.search(r"^codex +not signed in +codex login$", said, re.M)
    assert re.search(r"^goose +not installed +https://", said, re.M)
    assert json.loads(harness("agents", "--json").stdout)[0]["command"].startswith("claude -p ")


def test_a_slip_of_the_finger_in_a_command_or_a_limit_is_named(tmp_path):
    assert "Did you mean 'status'?" in harness("statsu", cwd=tmp_path).stderr
    done = harness("loop", "--hours", "nan", cwd=tmp_path)
    assert done.returncode == 2 and "nan is no limit" in done.stderr


def test_prepare_prints_what_it_made(repository):
    done = harness("prepare", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["splits"]["train"]["items"] == 16_000


# ── what new users stumbled over ──────────────────────────────────────────────────────────────


def test_a_budget_that_is_no_time_is_one_line(repository):
    for budget in ("nan", "inf"):
        assert_mistake(harness("run", "--budget", budget, cwd=repository.folder), f"{budget} seconds")


def test_a_cache_or_a_folder_that_can_not_be_made_is_one_line(repository):
    done = harness("prepare", cwd=repository.folder, HARNESS_CACHE="/proc/nowhere")
    assert_mistake(done, "can't make /proc/nowhere", "HARNESS_CACHE=")
    assert_mistake(harness("init", "/proc/nowhere"), "can't make /proc/nowhere")


def test_a_ref_that_names_no_commit_is_one_line(repository):
    cases = ("heads/main", "1" * 40), ("notes/autoresearch", repository("write-tree")), ("heads/main", "")
    for name, damaged in cases:
        path = repository.folder / ".git/refs" / name
        before = path.read_text() if path.exists() else ""
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{damaged}\n")
        assert_mistake(harness("status", cwd=repository.folder), f"{name} is at no commit", "git fsck")
        path.write_text(before) if before else path.unlink()


def test_init_inside_of_another_repository_makes_nothing_and_names_it(repository):
    inner = repository.folder / "a" / "b"
    assert_mistake(harness("init", str(inner)), f"inside the repository {repository.folder}", "harness init")
    assert not inner.parent.exists()


def test_prepare_says_when_val_is_smaller_than_what_is_scored_and_leaves_no_ruins(
    repository, text_setup, tmp_path
):
    (repository.folder / ".autoresearch" / "config.toml").write_text(configs.dump(text_setup.config))
    text = tmp_path / "book.txt"
    text.write_text("<|endoftext|>".join(make_text(1500, seed=1)))
    cache = tmp_path / "cache"
    done = harness("prepare", str(text), cwd=repository.folder, HARNESS_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert "are to be scored, val has" in done.stderr and "eval_tokens = " in done.stderr
    text.write_text("")
    done = harness(
        "prepare", str(text), "--again", cwd=repository.folder, HARNESS_CACHE=str(tmp_path / "cache")
    )
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "cache" / "data").iterdir() if "building" in path.name] == []


def test_a_run_by_hand_that_waits_for_the_device_is_interrupted_in_one_line(repository):
    with exclusive(resolve("cpu"), print):
        process = subprocess.Popen(
            [sys.executable, "train.py"], cwd=repository.folder, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
        )  # fmt: skip
        assert f"in use by process {os.getpid()}" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert (process.returncode, said) == (130, "interrupted\n")


@pytest.mark.alone
def test_a_run_by_hand_that_is_interrupted_leaves_nothing(repository, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "train.py"], cwd=repository.folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    while "step" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "interrupted" in said and "Traceback" not in said and "without a score" not in said
    assert list(tmp_path.glob("harness-byhand-*")) == []
    seeded = subprocess.run(
        [sys.executable, "train.py"], cwd=repository.folder, capture_output=True, text=True,
        env={**os.environ, "SEED": "abc", "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert_mistake(seeded, "SEED is 'abc'")
