"""What a model answers, as a proposal: a title, a hypothesis, and a change of train.py.

Nothing of it is trusted: sizes are bounded, control characters go, what a model thought aloud goes before
anything is read. See `changes` for how a change may be said; tests/answers has a file for each way.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

from harness.agents import NoProposal, changes

ANSWER_CHARS = 400_000
LINE_CHARS = 300
TITLE_CHARS = 72
LABEL_CHARS = 2000  # of a line with a label that are looked at
# How models open and close what they think: Qwen and DeepSeek, Mistral, Kimi.
THOUGHTS = r"think|thinking|thought|thoughts|reasoning|reflection|analysis"
OPENS = re.compile(rf"\s*(?:<(?:{THOUGHTS})>|\[THINK\]|◁think▷)", re.IGNORECASE)
CLOSES = re.compile(rf"(?:</(?:{THOUGHTS})>|\[/THINK\]|◁/think▷)", re.IGNORECASE)
FINAL = "<|channel|>final<|message|>"  # as gpt-oss ends its analysis
LAZY = re.compile(
    r"#.*(?:\.\.\.|…|\b(?:rest of|remaining|unchanged|same as before|as before|existing code|omitted)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    title: str
    hypothesis: str
    source: str
    """The whole new train.py."""


def read(text: str, source: str) -> Answer:
    """Understand an answer about `source`.

    Raises:
        NoProposal: it has no title, no hypothesis, no change, or one that doesn't fit or isn't whole; says
            which, and where.
    """
    if len(text) > ANSWER_CHARS:
        raise NoProposal(f"an answer of {len(text):,} characters is too long")
    text = _spoken(text.replace("\r\n", "\n"))
    said = changes.objects(text)
    title = _labelled(text, said, "Title", TITLE_CHARS)
    hypothesis = _labelled(text, said, "Hypothesis", LINE_CHARS)
    if not title:
        raise NoProposal("the answer has no line 'Title: ...'")
    if not hypothesis:
        raise NoProposal("the answer has no line 'Hypothesis: ...'")
    new = _changed(text, said, source)
    _check_whole(new, source)
    return Answer(title, hypothesis, new)


def _spoken(text: str) -> str:
    """Without what it thought aloud.

    Raises:
        NoProposal: it ended in the middle of that.
    """
    text = text.rpartition(FINAL)[2]
    lines, kept, thinks = text.split("\n"), list[str](), False
    for line in lines:
        if not thinks and OPENS.match(line):
            thinks = True
        if CLOSES.search(line):
            rest = CLOSES.split(line)[-1]
            kept = [*kept, rest] if thinks else [rest]  # a lone close: all before it was thought
            thinks = False
        elif not thinks:
            kept.append(line)
    if thinks:
        raise NoProposal("the answer ended in the middle of its thoughts: they are opened and not closed")
    return "\n".join(kept)


def _labelled(text: str, said: dict[str, Any] | None, label: str, limit: int) -> str:
    """What stands behind a label, or in the line below it."""
    if said is not None and isinstance(value := said.get(label.lower()), str):
        return clean(value, limit)
    pattern = re.compile(rf"[\s>#*_\-–•\d.)]*{label}[\s*_]*[:：][\s*_]*(.*)$", re.IGNORECASE)
    heading = re.compile(rf"#+[\s*_]*{label}[\s*_]*$", re.IGNORECASE)
    lines = (line[:LABEL_CHARS] for line in text.split("\n") if line.strip())
    for line in lines:
        found = pattern.match(line)
        if found or heading.match(line):
            value = found[1] if found and found[1].strip() else next(lines, "")
            return clean(value, LABEL_CHARS).strip("*_` ")[:limit].rstrip()
    return ""


def _changed(text: str, said: dict[str, Any] | None, source: str) -> str:
    lines = text.split("\n")
    made, whole = changes.of_object(said) if said is not None else ([], "")
    if said is None or not (made or whole):
        made = changes.blocks(lines) or changes.diffs(lines)
    for each in made:
        source = changes.applied(source, each)
    if made:
        return source
    files = [whole] if whole else changes.wholes(lines)
    if not files:
        raise NoProposal("the answer has neither SEARCH/REPLACE blocks nor a whole train.py in ```python")
    return files[-1]


def _check_whole(new: str, old: str) -> None:
    """That nothing was left out.

    Raises:
        NoProposal: a line stands for others, or names that were defined are used and gone.
    """
    known = set(old.split("\n"))
    for number, line in enumerate(new.split("\n"), 1):
        if line not in known and LAZY.search(line) and line.strip().startswith("#"):
            raise NoProposal(
                f"line {number} of the new train.py stands for lines that were left out: {clean(line, 80)!r}"
            )
    try:
        before, after = ast.parse(old), ast.parse(new)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # said by whoever checks programs
    used = {node.id for node in ast.walk(after) if isinstance(node, ast.Name)}
    if lost := sorted((_bound(before) & used) - _bound(after)):
        names = ", ".join(lost[:5])
        raise NoProposal(f"the new train.py uses {names} and doesn't define it any more")


def _bound(tree: ast.AST) -> set[str]:
    """Names that are defined anywhere in a program."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def clean(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit].rstrip()
