"""This machine's salt: what is held out, and what is made up, depends on it, and no experiment sees it."""

import hashlib
import os
import secrets

import numpy as np

from harness.errors import HarnessError
from harness.paths import cache_dir
from harness.tasks import folder as folders


def salt() -> bytes:
    """Made when it is needed first."""
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


def digest() -> str:
    """Of this machine's, for a recipe; empty where it has none yet: to look makes none."""
    path = cache_dir() / "salt"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def take(other: bytes) -> None:
    """Have the salt of another host, so that the same items are held out here.

    Raises:
        HarnessError: there is one already, and it is another one.
    """
    path = cache_dir() / "salt"
    folders.make_place(path.parent)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(other)
    except FileExistsError:
        if salt() != other:
            raise HarnessError(
                f"{path} is not the coordinator's, so other items would be held out",
                f"mv {path} {path}.old there, then harness prepare --cluster auto",
            ) from None


def generator(name: str) -> np.random.Generator:
    """For data that are made up, and that nobody can make up once more who doesn't know the salt."""
    drawn = hashlib.sha256(salt() + name.encode()).digest()
    return np.random.default_rng(int.from_bytes(drawn, "big"))
