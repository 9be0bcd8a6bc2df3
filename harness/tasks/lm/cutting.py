"""Cutting text without documents of its own, such as code and books, at places where it pauses."""

import re
from collections.abc import Iterator

# From the largest pause to the smallest: blank lines, lines, sentences (those without spaces, too), words.
PAUSES = tuple(map(re.compile, (r"(?<=\n\n)", r"(?<=\n)", r"(?<=[.!?;] )|(?<=[。！？；…])", r"(?<=\s)")))


def pieces(text: str, limit: int) -> Iterator[str]:
    """Documents of at most `limit` characters, cut at the largest pauses that there are.

    The pieces of a text joined are the text again.
    """
    return _joined(_units(text, limit, 0), limit)


def _units(text: str, limit: int, pause: int) -> Iterator[str]:
    """Parts of at most `limit` characters, where a whole one between two pauses isn't longer."""
    if pause == len(PAUSES):
        yield from (text[at : at + limit] for at in range(0, len(text), limit))
        return
    for unit in filter(None, PAUSES[pause].split(text)):
        if len(unit) <= limit:
            yield unit
        else:
            yield from _joined(_units(unit, limit, pause + 1), limit)


def _joined(units: Iterator[str], limit: int) -> Iterator[str]:
    """As many at a time as fit."""
    piece = ""
    for unit in units:
        if piece and len(piece) + len(unit) > limit:
            yield piece
            piece = ""
        piece += unit
    if piece:
        yield piece
