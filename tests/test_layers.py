"""Imports point downwards, and each heavy library stays in its one room."""

import ast
import subprocess
import sys

from conftest import ROOT


def test_the_layer_contracts_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_file_grows_past_its_one_noun():
    for path in (ROOT / "harness").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path
        assert path.stem not in ("utils", "helpers", "manager"), path


def test_every_module_says_what_it_is():
    for path in (ROOT / "harness").rglob("*.py"):
        assert path.name == "__main__.py" or ast.get_docstring(ast.parse(path.read_text())), path
