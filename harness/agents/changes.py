"""How a model says what it changes: SEARCH/REPLACE blocks, a unified diff, JSON, or a whole file.

What is unambiguous is taken, however it is spelled. What is opened and not closed makes the whole answer
unusable: half of a change is another one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.agents import NoProposal

LINE_CHARS = 80  # of a line that is named
# Of single lines: a pattern over many could take hours for an answer that was made for it, in which nothing
# else of the process runs.
SEARCH = re.compile(r"([ \t]*)<{5,9}[ \t]*(?:SEARCH|ORIGINAL|OLD|HEAD|FIND)?\b[^<]{0,80}$", re.IGNORECASE)
DIVIDER = re.compile(r"[ \t]*={5,9}[ \t]*$")
REPLACE = re.compile(r"[ \t]*>{5,9}[ \t]*(?:REPLACE|UPDATED|NEW|END)?\b[^>]{0,80}$", re.IGNORECASE)
FENCE = re.compile(r"[ \t]*(`{3,9}|~{3,9})[ \t]*([\w+.-]*)[^`]*$")
PYTHON = {"", "py", "python", "python3", "train.py"}
DIFF = {"diff", "patch", "udiff", "unified-diff"}
OLD = ("search", "old", "old_str", "old_string", "find", "before", "original")
NEW = ("replace", "new", "new_str", "new_string", "replacement", "after", "updated")
EDITS, WHOLE = (
    ("edits", "changes", "replacements", "blocks"),
    ("code", "train.py", "train_py", "file", "source"),
)


@dataclass(frozen=True)
class Replacement:
    """Some text, which must be there once, and what comes in its place."""

    old: str
    new: str
    name: str
    """For whoever is told that it doesn't fit: `SEARCH block 2`."""


@dataclass(frozen=True)
class Fenced:
    kind: str
    """What stands behind the fence, in small letters."""
    lines: tuple[str, ...]
    at: int
    """The number of its first line, from 1."""
    is_closed: bool


def blocks(lines: Sequence[str]) -> list[Replacement]:
    """SEARCH/REPLACE blocks.

    Raises:
        NoProposal: one isn't whole; names its line.
    """
    found, old, new, opened, indent = list[Replacement](), list[str](), list[str](), 0, ""
    state = "outside"
    for number, line in enumerate(lines, 1):
        name = f"SEARCH block {len(found) + 1} (line {opened})"
        if start := SEARCH.match(line):
            if state != "outside":
                lacks = "=======" if state == "old" else ">>>>>>> REPLACE"
                raise NoProposal(f"{name} has no {lacks} before line {number}")
            state, old, new, opened, indent = "old", [], [], number, start[1]
        elif state != "outside" and DIVIDER.match(line):
            if state == "new":
                raise NoProposal(f"{name} has two lines of =======, the second is line {number}")
            state = "new"
        elif REPLACE.match(line):
            if state != "new":
                what = "SEARCH" if state == "outside" else "======="
                raise NoProposal(f"line {number}, {_short(line)!r}, has no {what} before it")
            name = f"SEARCH block {len(found) + 1}"
            found.append(Replacement(_text(_unfenced(old)), _text(_unfenced(new)), name))
            state = "outside"
        elif state != "outside":
            (old if state == "old" else new).append(line.removeprefix(indent))
    if state != "outside":
        raise NoProposal(
            f"SEARCH block {len(found) + 1} (line {opened}) isn't closed: the answer was cut off"
        )
    return found


def _unfenced(lines: list[str]) -> list[str]:
    """Without a fence that stands inside of a block's half."""
    if len(lines) > 1 and FENCE.match(lines[0]) and FENCE.match(lines[-1]):
        return lines[1:-1]
    return lines


def fences(lines: Sequence[str]) -> Iterator[Fenced]:
    """What stands between fences, of any length and spelling."""
    mark, kind, inside, at = "", "", list[str](), 0
    for number, line in enumerate(lines, 1):
        found = FENCE.match(line)
        if not mark and found:
            mark, kind, inside, at = found[1], found[2].lower(), [], number + 1
        elif mark and found and found[1].startswith(mark) and not found[2]:
            yield Fenced(kind, tuple(inside), at, True)
            mark = ""
        elif mark:
            inside.append(line)
    if mark:
        yield Fenced(kind, tuple(inside), at, False)


def diffs(lines: Sequence[str]) -> list[Replacement]:
    """Hunks of a unified diff, in a fence or as the answer has it; found by their text, not by their numbers.

    Raises:
        NoProposal: one isn't whole, or is of another file.
    """
    fenced = [each for each in fences(lines) if each.kind in DIFF]
    parts = [(each.lines, each.at) for each in fenced]
    if not fenced:
        start = next((n for n, line in enumerate(lines) if line.startswith("--- ")), None)
        if start is None or not lines[start + 1 : start + 2] or not lines[start + 1].startswith("+++ "):
            return []
        parts = [(tuple(lines[start:]), start + 1)]
    return [hunk for part, at in parts for hunk in _hunks(part, at)]


def _hunks(lines: Sequence[str], at: int) -> Iterator[Replacement]:
    old, new, count, changes = list[str](), list[str](), 0, False

    def done() -> Iterator[Replacement]:
        nonlocal count
        if changes:
            count += 1
            if not any(line.strip() for line in old):
                raise NoProposal(f"hunk {count} of the diff has no line that is there by now")
            yield Replacement(_text(old), _text(new), f"hunk {count}")

    for number, line in enumerate(lines, at):
        if line.startswith("@@"):
            yield from done()
            old, new, changes = [], [], False
        elif line.startswith(("--- ", "+++ ")) and not changes:
            name = line[4:].split("\t")[0].strip()
            if not name.endswith("train.py"):
                raise NoProposal(f"line {number}: the diff is of {_short(name)}, not of train.py")
        elif line.startswith(("diff ", "index ", "\\")):
            continue
        elif line[:1] in ("-", "+"):
            changes = True
            (old if line[0] == "-" else new).append(line[1:])
        elif line[:1] in (" ", ""):
            old.append(line[1:])
            new.append(line[1:])
        else:
            raise NoProposal(f"line {number} of the diff has no blank, + or - before it: {_short(line)!r}")
    yield from done()


def wholes(lines: Sequence[str]) -> list[str]:
    """Whole files in fences of Python.

    Raises:
        NoProposal: one isn't closed.
    """
    found = list[str]()
    for each in fences(lines):
        text = _text(each.lines)
        if each.kind in PYTHON and "def load" in text:
            if not each.is_closed:
                raise NoProposal(f"the file from line {each.at} on isn't closed: the answer was cut off")
            found.append(text)
    return found


def objects(text: str) -> dict[str, Any] | None:
    """The answer as JSON, if it is that, with its names in small letters."""
    texts = ["\n".join(each.lines) for each in fences(text.split("\n")) if each.kind in ("json", "")]
    for candidate in (text.strip(), *texts):
        if candidate.startswith("{"):
            try:
                found = json.loads(candidate)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return {str(name).lower(): value for name, value in found.items()}
    return None


def of_object(found: dict[str, Any]) -> tuple[list[Replacement], str]:
    """Its replacements, or the whole file that it has.

    Raises:
        NoProposal: one of its edits lacks a part.
    """
    edits: list[Any] = next((found[name] for name in EDITS if isinstance(found.get(name), list)), [])
    made = list[Replacement]()
    for number, each in enumerate(edits, 1):
        said = {str(name).lower(): value for name, value in each.items()} if isinstance(each, dict) else {}
        old, new = (
            next((said[n] for n in names if isinstance(said.get(n), str)), None) for names in (OLD, NEW)
        )
        if old is None or new is None:
            raise NoProposal(
                f"edit {number} of the JSON has no {'search' if old is None else 'replace'} text"
            )
        made.append(Replacement(old, new, f"edit {number}"))
    whole = next((found[name] for name in WHOLE if isinstance(found.get(name), str)), "")
    return made, whole


def applied(source: str, change: Replacement) -> str:
    """With it carried out. Blanks at line ends, and an indentation that all its lines lack, are nobody's
    intention.

    Raises:
        NoProposal: its text isn't there exactly once.
    """
    count = source.count(change.old) if change.old else 0
    if count == 1:
        return source.replace(change.old, change.new)
    if count == 0 and change.old.strip():
        stripped = "".join(f"{line.rstrip()}\n" for line in source.split("\n"))[:-1]
        old = "".join(f"{line.rstrip()}\n" for line in change.old.split("\n"))[:-1]
        if stripped.count(old) == 1:
            return stripped.replace(old, change.new)
        for width in range(1, 13):  # as a model shows a part of a function
            moved = _moved(old, width)
            if stripped.count(f"\n{moved}") == 1:
                return stripped.replace(f"\n{moved}", f"\n{_moved(change.new, width)}")
        count = stripped.count(old)
    first = next((line for line in change.old.split("\n") if line.strip()), "")
    raise NoProposal(
        f"the text of {change.name} occurs {count} times in train.py, not once; it begins {_short(first)!r}"
    )


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _moved(text: str, width: int) -> str:
    return "\n".join(" " * width + line if line.strip() else line for line in text.split("\n"))


def _short(line: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in line.strip())
    return line if len(line) <= LINE_CHARS else line[: LINE_CHARS - 2] + " …"
