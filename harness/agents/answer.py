"""What a model answers, as a proposal: a title, a hypothesis, and edits or a whole file.

Nothing of it is believed: sizes are bounded, control characters go, an edit must fit exactly once.
"""

import re
from dataclasses import dataclass

from harness.agents import NoProposal

ANSWER_CHARS = 400_000
LINE_CHARS = 300
TITLE_CHARS = 72
BLOCK = re.compile(
    r"^<{5,9} ?SEARCH[^\n]*\n(.*?)^={5,9}[^\n]*\n(.*?)^>{5,9} ?REPLACE[^\n]*$", re.DOTALL | re.MULTILINE
)
WHOLE = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


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
    edits = BLOCK.findall(text)
    if edits:
        for number, (old, new) in enumerate(edits, 1):
            source = _replaced(source, old, new, number)
        return Answer(title, hypothesis, source)
    files = [found for found in WHOLE.findall(text) if "def load" in found]
    if not files:
        raise NoProposal("the answer has neither SEARCH/REPLACE blocks nor a whole train.py in ```python")
    return Answer(title, hypothesis, files[-1])


def _labelled(text: str, label: str, limit: int) -> str:
    found = re.search(rf"^\W*{label}\W*:\W*(.+)$", text, re.MULTILINE | re.IGNORECASE)
    if found is None:
        return ""
    return clean(found[1], limit).strip("*_` ")


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
