"""Which files a source has, and which of them are the validation split as they stand."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.tasks.folder import begins_at
from harness.tasks.lm import reading, records

VAL = {"val", "valid", "validation", "dev"}
TEST = {"test"}
BESIDE_CODE = VAL - {"dev"}  # a source tree has folders of the other names

KERNELS = ("/proc/", "/sys/", "/dev/")  # where a link may lead to what never ends


@dataclass(frozen=True)
class Found:
    """What a path, a glob or a folder holds."""

    files: tuple[tuple[Path, str], ...]
    """In order, each with its name within the source."""
    hidden: int
    """Files and folders that weren't looked at."""


def find(where: Path | str) -> Found:
    """The files of a path or a glob; hidden ones are left alone, those of hidden folders too."""
    text = str(where)
    if any(mark in text for mark in "*?[") and not Path(text).exists():
        matched = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207 - it may be absolute
        root = Path(os.path.commonpath([path.parent for path in matched])) if matched else Path()
        inside = [find(path) for path in matched]
        files = [(path, str(path.relative_to(root))) for found in inside for path, _ in found.files]
        return Found(tuple(sorted(set(files))), sum(found.hidden for found in inside))
    path = Path(text)
    if path.is_file():
        return Found(((path, reading.shown(path.name)),), 0)
    files, hidden = [], 0
    for folder, folders, names in os.walk(path):
        hidden += sum(map(is_hidden, [*folders, *names]))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in filter(lambda name: not is_hidden(name), names):
            file = Path(folder, name)
            if file.is_file() and not str(file.resolve()).startswith(KERNELS):
                files.append((file, reading.shown(str(file.relative_to(path)))))
    return Found(tuple(sorted(files)), hidden)


def own(source: str) -> tuple[Path, ...]:
    """A person's own files and folders that a source names, for who must not see them: the folder that a
    pattern begins with, or what matches it where that folder is home, which has much else."""
    path = Path(source).expanduser()
    folder = begins_at(path)
    if not source or not folder.exists():
        return ()
    if folder != path and Path.home().is_relative_to(folder.resolve()):
        return tuple(matched for matched, _ in find(path).files)
    return (folder,)


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def entries(files: Sequence[tuple[Path, str]]) -> Iterator[tuple[str, reading.Entry | records.Unreadable]]:
    """What is in them, archives too, each with its file's name; or why a file can't be looked into."""
    for path, name in files:
        try:
            for entry in reading.entries(path, name):
                if not is_hidden(entry.name):
                    yield name, entry
        except records.Unreadable as why:
            yield name, why


def splits(names: Sequence[str]) -> dict[str, str]:
    """What a document of each file may become, a key of `prepare.SHARES`: `any`, where no name says more."""
    kinds = {name: kind_of(name) for name in names}
    has_val = "val" in kinds.values()
    has_test = "test" in kinds.values()
    may_be = {
        "val": "val",
        "test": "holdout" if has_val else "val",
        "": "train" if has_val and has_test else "holdout-or-train" if has_val or has_test else "any",
    }
    return {name: may_be[kind] for name, kind in kinds.items()}


def kind_of(name: str) -> str:
    """`val`, `test` or nothing, by whole words of it and of its folders; of code by a folder's."""
    path = PurePosixPath(name)
    suffix = ([""] + [s for s in reading.suffixes(name) if s not in reading.COMPRESSED])[-1]
    is_data = suffix in reading.RECORDS | {"", ".txt", ".md", ".zip", ".tar"}
    each = [set(re.split(r"[^a-z0-9]+", part.lower())) for part in path.parts]
    if not is_data or " " in path.name:  # the title of a note, which may be about a test
        each.pop()
    words = set().union(*each)
    if words & (VAL if is_data else BESIDE_CODE):
        return "val"
    return "test" if is_data and words & TEST else ""
