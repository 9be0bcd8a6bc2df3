"""Processes of their own, forked from one that has the modules of commands: no start of Python."""

import atexit
import multiprocessing
import os
import subprocess
import tempfile
from pathlib import Path

COMMANDS = tuple(
    f"harness.cli.{name}" for name in ("run", "loop", "calibrate", "look", "status", "init", "page")
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, *COMMANDS])
TIMEOUT_SECONDS = 120.0
MAIN = "from harness.cli import main; main()"


def call(arguments, folder, env) -> subprocess.CompletedProcess:
    """What `python -m harness ARGUMENTS` does."""
    return _done(
        "import sys; sys.argv = " + repr(["harness", *map(str, arguments)]) + "\n" + MAIN, folder, env
    )


def execute(code) -> subprocess.CompletedProcess:
    """What `python -c CODE` does."""
    return _done(code, os.getcwd(), dict(os.environ))


def _become(code, folder, env, outputs):
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    try:
        exec(code, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()


def _done(code, folder, env):
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place, name) for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        process = FORKS.Process(target=_become, args=(code, str(folder), env, list(map(str, outputs))))
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(code, TIMEOUT_SECONDS)
        said = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess(code, process.exitcode, *said)
