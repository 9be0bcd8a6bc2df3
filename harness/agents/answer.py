"""What a model answers, as a proposal: a title, a hypothesis, and edits or a whole file.

Nothing of it is trusted: sizes are bounded, control characters go, an edit must fit exactly once.
"""

import re
from dataclasses import dataclass

from harness.agents import NoProposal

ANSWER_CHARS = 400_000
LINE_CHARS = 300
TITLE_CHARS = 72
LABEL_CHARS = 2000  # of a line with a label that are looked at
# Of single lines: a pattern over many could take hours for an answer that was made for it, in which nothing
# else of the process runs.
SEARCH, DIVIDER, REPLACE = (re.compile(mark) for mark in (r"<{5,9} ?SEARCH", r"={5,9}", r">{5,9} ?REPLACE"))
FENCE, FENCE_END = re.compile(r"```(?:python|py)?[ \t]*$"), re.compile(r"```[ \t]*$")


@dataclass(frozen=True)
class Answer:
    title: str
    hypothesis: str
    source: str
    """The whole new train.py."""


def read(text: str, source: str) -> Answer:
    """Understand an answer about `source`.

    Raises:
        NoProposal: it has no title, no hypothesis, no edit, or one that doesn't fit; says which.
    """
    if len(text) > ANSWER_CHARS:
        raise NoProposal(f"an answer of {len(text):,} characters is too long")
    text = text.replace("\r\n", "\n")
    title, hypothesis = _labelled(text, "Title", TITLE_CHARS), _labelled(text, "Hypothesis", LINE_CHARS)
    if not title:
        raise NoProposal("the answer has no line 'Title: ...'")
    if not hypothesis:
        raise NoProposal("the answer has no line 'Hypothesis: ...'")
    lines = text.split("\n")
    if edits := _edits(lines):
        for number, (old, new) in enumerate(edits, 1):
            source = _replaced(source, old, new, number)
        return Answer(title, hypothesis, source)
    files = [found for found in _fenced(lines) if "def load" in found]
    if not files:
        raise NoProposal("the answer has neither SEARCH/REPLACE blocks nor a whole train.py in ```python")
    return Answer(title, hypothesis, files[-1])


def _labelled(text: str, label: str, limit: int) -> str:
    """What stands behind a label, or in the line below it."""
    lines = (line[:LABEL_CHARS] for line in text.split("\n") if line.strip())
    for line in lines:
        if found := re.match(rf"\W*{label}\W*:\W*(.*)$", line, re.IGNORECASE):
            return clean(found[1] or next(lines, ""), limit).strip("*_` ")
    return ""


def _edits(lines: list[str]) -> list[tuple[str, str]]:
    """The text that each SEARCH/REPLACE block looks for, and what comes in its place."""
    edits, old, new = [], None, None
    for line in lines:
        if SEARCH.match(line):
            old, new = "", None
        elif old is not None and new is None:
            old, new = (old, "") if DIVIDER.match(line) else (f"{old}{line}\n", None)
        elif old is not None and new is not None:
            if REPLACE.match(line):
                edits.append((old, new))
                old = new = None
            else:
                new += f"{line}\n"
    return edits


def _fenced(lines: list[str]) -> list[str]:
    """What stands in fences of Python."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in lines:
        if inside is None:
            inside = [] if FENCE.match(line) else None
        elif FENCE_END.match(line):
            found.append("".join(f"{each}\n" for each in inside))
            inside = None
        else:
            inside.append(line)
    return found


def clean(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit].rstrip()


def _replaced(source: str, old: str, new: str, number: int) -> str:
    count = source.count(old) if old else 0
    if count == 0:  # blanks at the ends of lines are nobody's intention
        stripped = "\n".join(line.rstrip() for line in source.split("\n"))
        old = "\n".join(line.rstrip() for line in old.split("\n"))
        source, count = stripped, stripped.count(old) if old.strip() else 0
    if count != 1:
        raise NoProposal(f"the text of SEARCH block {number} occurs {count} times in train.py, not once")
    return source.replace(old, new)
