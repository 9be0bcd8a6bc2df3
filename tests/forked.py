"""`harness ...` in a process of its own, forked from one that has its modules: no start of Python."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = tuple(
    f"harness.cli.{name}" for name in ("run", "loop", "calibrate", "look", "status", "init", "page")
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, *COMMANDS])
TIMEOUT_SECONDS = 120.0


def _become(arguments, folder, env, outputs):
    """What a shell does, and then `python -m harness`."""
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["harness", *arguments]
    importlib.import_module("harness.cli").main()


def call(arguments, folder, env) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place, name) for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        given = (list(map(str, arguments)), str(folder), env, list(map(str, outputs)))
        process = FORKS.Process(target=_become, args=given)
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(
            arguments, process.exitcode, *(path.read_text() for path in outputs)
        )
