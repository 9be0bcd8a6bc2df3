"""Every ref name, made and parsed in one place.

`refs/heads/exp/NNNN-slug` is one hypothesis, kept for ever; `refs/notes/autoresearch` holds the full
records; `main` is the list of discoveries.
"""

import re
from dataclasses import dataclass

MAIN = "refs/heads/main"
NOTES = "refs/notes/autoresearch"
EXPERIMENTS = "refs/heads/exp/"
SLUG_CHARS = 48
NAME = re.compile(r"([0-9]{4}|[1-9][0-9]{4,})-([a-z0-9][a-z0-9-]*)")  # 00012 is no number of ours


@dataclass(frozen=True, order=True)
class Name:
    """An experiment's number and slug."""

    number: int
    slug: str

    def __str__(self) -> str:
        return f"{self.digits}-{self.slug}"

    @property
    def digits(self) -> str:
        """`0007`."""
        return f"{self.number:04d}"

    @property
    def branch(self) -> str:
        return f"exp/{self}"

    @property
    def ref(self) -> str:
        return f"{EXPERIMENTS}{self}"


def local(ref: str) -> str:
    """What another machine's branch is called there; every other ref as it is."""
    remote, found, rest = ref.partition("/exp/")
    return EXPERIMENTS + rest if found and remote.startswith("refs/remotes/") else ref


def parse(ref: str) -> Name | None:
    """The experiment that a full ref name means; None for every other ref, hand-made ones included."""
    match = NAME.fullmatch(ref.removeprefix(EXPERIMENTS)) if ref.startswith(EXPERIMENTS) else None
    return Name(int(match[1]), match[2]) if match else None


def name_for(number: int, title: str) -> Name:
    """A name from a title of any characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower())[:SLUG_CHARS].strip("-")
    return Name(number, slug or "experiment")
