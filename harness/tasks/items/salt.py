"""This machine's salt: what is held out, and what is made up, depends on it, and no experiment sees it."""

import hashlib
import os
import secrets

import numpy as np

from harness.paths import cache_dir
from harness.tasks import folder as folders


def salt() -> bytes:
    """Made when it is needed first. Who prepares the same data on several hosts copies the file."""
    path = cache_dir() / "salt"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        folders.make_place(path.parent)
        temporary = path.with_name(f".salt.{os.getpid()}.tmp")
        temporary.write_text(secrets.token_hex(32))
        temporary.chmod(0o600)
        try:
            os.link(temporary, path)  # of two that make one at once, one wins
        except FileExistsError:
            pass
        temporary.unlink()
        return path.read_bytes()


def generator(name: str) -> np.random.Generator:
    """For data that are made up, and that nobody can make up once more who doesn't know the salt."""
    drawn = hashlib.sha256(salt() + name.encode()).digest()
    return np.random.default_rng(int.from_bytes(drawn, "big"))
