"""Hooks hold an agent to train.py, to an honest message and to its own branch; a person is free."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HONEST, edit, harness

from harness.store import rules

MESSAGE = "Try it\n\nHypothesis: it may help\n"


@pytest.fixture
def guarded(repository):
    """A repository set up by `harness init`: `guarded(branch, message, *stage, **env)` commits there."""
    assert harness("init", cwd=repository.folder).returncode == 0
    repository("add", "-A")
    repository("commit", "-qm", "set up")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def git(*args, **env):
        return subprocess.run(
            ["git", *args], cwd=repository.folder, capture_output=True, text=True,
            env={**os.environ, "PATH": path, **env},
        )  # fmt: skip

    def commit(branch, *stage, message=MESSAGE):
        git("checkout", "-qB", branch)
        git(*stage)
        return git("commit", "-qm", message)

    commit.folder, commit.git = repository.folder, git
    return commit


def write(guarded, source):
    (guarded.folder / "train.py").write_text(source)


def assert_refused(done, *words):
    assert done.returncode != 0
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_an_experiment_may_change_train_py_and_nothing_else(guarded):
    write(guarded, HONEST + "# more\n")
    assert guarded("exp/0001-x", "add", "train.py").returncode == 0
    (guarded.folder / "other.py").write_text("x")
    assert_refused(guarded("exp/0001-x", "add", "other.py"), "train.py only, not other.py")
    done = guarded("main", "add", "other.py", message="whatever")
    assert done.returncode == 0, "a person may do as they like"


def test_what_commit_dash_a_takes_along_is_seen_too(guarded):
    """It has an index of its own, of which only the environment tells."""
    git = guarded.git
    git("checkout", "-qB", "exp/0001-x")
    write(guarded, HONEST + "# more\n")
    (guarded.folder / ".gitignore").write_text("x\n")
    assert_refused(git("commit", "-qam", MESSAGE), "train.py only, not .gitignore")
    assert_refused(git("commit", "-qm", MESSAGE, "--", ".gitignore"), "train.py only, not .gitignore")
    git("checkout", "-q", ".gitignore")
    write(guarded, "def load(:")
    assert_refused(git("commit", "-qam", MESSAGE), "no program")
    write(guarded, HONEST + "# more\n")
    assert git("commit", "-qam", MESSAGE).returncode == 0


def test_train_py_must_stay_a_regular_file(guarded):
    (guarded.folder / "train.py").unlink()
    (guarded.folder / "train.py").symlink_to("/etc/passwd")
    assert_refused(guarded("exp/0002-link", "add", "train.py"), "regular file")


def test_a_rename_and_a_mode_change_are_refused(guarded):
    assert_refused(guarded("exp/0003-name", "mv", "train.py", "model.py"), "model.py")
    guarded.git("reset", "-q", "--hard")
    (guarded.folder / "train.py").chmod(0o755)
    assert_refused(guarded("exp/0003-name", "add", "train.py"), "mode it had")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def load(:", "no program"),
        ("x = 1\nif __name__ == '__main__': pass\n", "no function load"),
        (edit(('if __name__ == "__main__":\n    main()\n', "main()\n")), "importing it would train"),
        (HONEST + "#" * 300_000, "over 256 KB"),
        ("\0\1\2", "no program"),
        (HONEST.replace("\n", "\r\n"), "carriage returns"),
        (edit(("default_rng(run.seed)", "default_rng(1234)")), "sets a seed of its own"),
        (
            edit(("default_rng(run.seed)", "default_rng(seed)"), ("import os", "seed = 1337\nimport os")),
            "a seed of its own",
        ),
        (HONEST + "\nseed_everything(seed=42)\n", "a seed of its own"),
        (HONEST + "\nchooser = random.Random(42)\n", "a seed of its own"),
        (HONEST + "\nnp.random.seed(int(42))\n", "a seed of its own"),
        (HONEST + "\nnp.random.seed(np.int64(42))\n", "a seed of its own"),
        (HONEST + "\nlucky: int = 3\nagain = lucky + 4\nnp.random.seed(again)\n", "a seed of its own"),
        (edit(("default_rng(run.seed)", "default_rng()")), "nothing begins from run.seed any more"),
        (
            edit(("    run = trial.open()\n", "    run = trial.open()\n    run.seed = 7\n")),
            "a seed of its own",
        ),
    ],
)
def test_what_is_no_experiment_is_refused_before_it_costs_anything(guarded, source, word):
    write(guarded, source)
    assert_refused(guarded("exp/0004-odd", "add", "train.py"), word)


@pytest.mark.parametrize(
    "seeding",
    [
        "default_rng(run.seed + 1)",
        "default_rng(seed=run.seed)",
        "default_rng([run.seed, 7])",
        "default_rng((start := run.seed) * 3)",
        "Generator(np.random.PCG64(run.seed))",
        "default_rng(np.random.SeedSequence(run.seed).spawn(2)[1])",
        "default_rng(getattr(run, 'seed'))",
        "default_rng([*range(run.seed, run.seed + 3)])",
    ],
)
def test_whatever_begins_from_the_runs_seed_is_allowed(seeding):
    changed = edit(("default_rng(run.seed)", seeding))
    assert rules.broken_source(changed.encode(), HONEST.encode()) is None
    named = edit(
        ("default_rng(run.seed)", "default_rng(mine)"),
        ("    model, rate", "    mine = run.seed\n    model, rate"),
    )
    assert rules.broken_source(named.encode(), HONEST.encode()) is None


def test_a_seed_that_the_program_had_before_is_no_reason_to_refuse_a_change():
    had = edit(("default_rng(run.seed)", "default_rng(1234)"))
    assert rules.broken_source(had.replace("lr=1.0", "lr=0.5").encode(), had.encode()) is None
    more = had.replace("    model, rate", "    np.random.seed(5)\n    model, rate", 1)
    assert "of its own" in rules.broken_source(more.encode(), had.encode())


def test_a_program_that_carries_weights_is_refused_and_a_longer_one_is_not():
    longer = HONEST + "".join(f"\ndef layer_{n}(x):\n    return x * {n} + {n * n}\n" for n in range(300))
    assert rules.broken_source(longer.encode(), HONEST.encode()) is None
    weights = base64.b85encode(os.urandom(20_000)).decode()
    learned = f"{HONEST}\nWEIGHTS = {weights!r}\n".encode()
    assert "what was learned is no program" in rules.broken_source(learned, HONEST.encode())


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("Only a subject", "Hypothesis"),
        (MESSAGE + "\nVal-Bpb: 0.1\n", "Val-Bpb"),
        (MESSAGE + "\nstatus: keep\n", "status"),
        (MESSAGE + "\nVal-Bpb : 0.1\n", "Val-Bpb"),
        (MESSAGE + "\nProgram: abc\n", "Program"),
        (MESSAGE + "\nStatus\u2028: keep\n", "Status"),
        (MESSAGE + "\n# ------------------------ >8 ------------------------\n\nStatus: keep\n", "Status"),
    ],
)
def test_a_message_without_a_hypothesis_or_with_a_forged_trailer_is_refused(guarded, message, word):
    write(guarded, HONEST + "# more\n")
    assert_refused(guarded("exp/0005-forged", "add", "train.py", message=message), word)


def test_an_agent_moves_its_own_branch_and_no_other_ref(guarded):
    guarded.git("branch", "exp/0001-other")
    guarded.git("checkout", "-qb", "exp/0006-mine")
    agent = {"HARNESS_BRANCH": "exp/0006-mine"}
    write(guarded, HONEST + "# more\n")
    assert guarded.git("commit", "-qam", MESSAGE, **agent).returncode == 0
    for forbidden in (
        ("branch", "-f", "main", "HEAD"),
        ("branch", "-D", "exp/0001-other"),
        ("branch", "-m", "exp/0007-renamed"),
        ("tag", "v1"),
        ("notes", "--ref", "autoresearch", "add", "-m", "forged", "HEAD"),
        ("update-ref", "-d", "refs/heads/exp/0006-mine"),
    ):
        before = guarded.git("for-each-ref").stdout
        assert guarded.git(*forbidden, **agent).returncode != 0, forbidden
        assert guarded.git("for-each-ref").stdout == before, forbidden
    assert guarded.git("branch", "-D", "exp/0001-other").returncode == 0, "a person may"


def test_hooks_that_were_there_before_go_on_working(repository):
    folder = repository.folder / ".git" / "hooks"
    folder.mkdir(exist_ok=True)
    for name, text in (("pre-commit", "exit 3"), ("post-checkout", "touch checked-out")):
        (folder / name).write_text(f"#!/bin/sh\necho the old {name} >&2; {text}\n")
        (folder / name).chmod(0o755)
    assert harness("init", cwd=repository.folder).returncode == 0
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (repository.folder / "note").write_text("x")
    subprocess.run(["git", "add", "note"], cwd=repository.folder, check=True)
    done = subprocess.run(
        ["git", "commit", "-m", "x"], cwd=repository.folder, env=env, capture_output=True, text=True
    )
    assert_refused(done, "the old pre-commit")
    subprocess.run(["git", "checkout", "-qb", "mine"], cwd=repository.folder, env=env, check=True)
    assert (repository.folder / "checked-out").exists()


def test_in_a_linked_work_tree_the_hooks_find_the_harness_or_say_that_they_check_nothing(guarded, tmp_path):
    bare = ":".join(part for part in os.environ["PATH"].split(":") if not (Path(part) / "harness").exists())
    tree = tmp_path / "tree"
    guarded.git("worktree", "add", "-q", "-b", "exp/0001-linked", str(tree))
    (tree / "notes.txt").write_text("more")

    def commit():
        subprocess.run(["git", "add", "-A"], cwd=tree, check=True)
        return subprocess.run(
            ["git", "commit", "-qm", MESSAGE], cwd=tree, capture_output=True, text=True,
            env={**os.environ, "PATH": bare},
        )  # fmt: skip

    (guarded.folder / ".venv" / "bin").mkdir(parents=True)
    (guarded.folder / ".venv" / "bin" / "harness").symlink_to(Path(sys.executable).parent / "harness")
    assert_refused(commit(), "an experiment may change train.py only, not notes.txt")
    (guarded.folder / ".venv" / "bin" / "harness").unlink()
    done = commit()
    assert done.returncode == 0 and "nothing was checked" in done.stderr
