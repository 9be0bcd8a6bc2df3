"""Each folder of tests/attacks is a way to a score that wasn't earned; none gets one.

`attack.py` is appended to `honest.py`, or to `honest_line.py` where it is `on` the toy task; both are
deterministic, and it is run as a whole trial. `expected.toml` says what must come out: `status`, what its one
line `says` (or one of several), perhaps what it `never` says, and caps of the trial.
Whatever that is: nothing scores better than the honest program, and the host is as it was.
"""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import assert_mistake, harness, setup_of, with_caps
from text import using_text  # noqa: F401

from harness.worker.run import measure

ATTACKS = Path(__file__).parent / "attacks"
NAMES = sorted(path.name for path in ATTACKS.iterdir() if (path / "attack.py").exists())
GUARD = '\n\nif __name__ == "__main__":\n    main()\n'
BETTER = 1e-6  # the same program gives the same score
ABOUT = ("on", "status", "says", "never")  # the rest of expected.toml are caps
NODES = ("null", "zero", "full", "random", "urandom", "tty")


def program(name: str, task: str) -> str:
    """The train.py of an attack; of the honest program for an empty name."""
    attack = (ATTACKS / name / "attack.py").read_text() if name else ""
    return (ATTACKS / ("honest_line.py" if task == "toy" else "honest.py")).read_text() + attack + GUARD


def says(expected: dict, detail: str) -> bool:
    """Whether that is the one line, or one of those that may come first."""
    wanted = expected.get("says", "")
    return any(words in detail for words in ([wanted] if isinstance(wanted, str) else wanted))


@pytest.fixture
def attempt(setup, small_config, tmp_path):
    """`attempt(name, task)` -> the run of an attack, of the honest program for an empty name."""

    def run(name: str, task: str, **caps):
        # Long enough for all steps of the honest program on a busy machine; it ends with them.
        caps = {"audit_rows": 512, "budget_seconds": 3.0, **caps}
        here = with_caps(setup_of(small_config) if task == "toy" else setup, caps)
        source, folder = program(name, task).encode(), tmp_path / f"run-{name}"
        return measure(source, "0" * 40, 1, here, folder, lambda _: None, lambda _: None)

    return run


@pytest.fixture(scope="module")
def honest():
    """Each task's honest value, once somebody needs it."""
    return {}


def nodes() -> list[tuple[int, int, list[str]]]:
    found = [Path("/dev", name) for name in NODES]
    return [(p.stat().st_mode, p.stat().st_uid, os.listxattr(p)) for p in found if p.exists()]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_gains_nothing(attempt, honest, name):
    expected = tomllib.loads((ATTACKS / name / "expected.toml").read_text())
    task, before = expected.get("on", "lm"), nodes()
    trial = attempt(name, task, **{k: v for k, v in expected.items() if k not in ABOUT})
    told = f"{trial.status}: {trial.detail}\n{trial.training.log[-1500:]}"
    assert trial.status == expected["status"], told
    assert says(expected, trial.detail), told
    assert expected.get("never") is None or expected["never"] not in trial.detail, told
    assert "\n" not in trial.detail
    if trial.value is not None:
        honest[task] = honest.get(task) or attempt("", task).value
        assert trial.value > honest[task] - BETTER, told
    assert nodes() == before


def test_a_tree_with_two_entries_of_one_name_is_not_run(repository):
    """git's commands show the first, libgit2 the second."""

    def git(*args: str, data: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *args], cwd=repository.folder, input=data, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    shown = git("rev-parse", "HEAD:train.py")
    ran = git("hash-object", "-w", "--stdin", data=b"raise SystemExit('another one ran')\n")
    entries = b"".join(b"100644 train.py\0" + bytes.fromhex(blob) for blob in (shown, ran))
    tree = git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=entries)
    commit = git("commit-tree", tree, "-p", "HEAD", "-m", "two of them")
    assert_mistake(harness("run", commit, cwd=repository.folder), "2 entries train.py")
