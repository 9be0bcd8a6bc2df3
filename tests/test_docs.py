"""README and docs are short, in short sentences, and true where that can be checked."""

import re
import sys

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = {"README.md": 150}
WORD = re.compile(r"[\w'’%./-]+")


def prose(text: str) -> str:
    """Without code, tables and headings; list items are paragraphs of their own."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = ["" if line.startswith(("    ", "|", "#", "!")) else line for line in text.splitlines()]
    return re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "\n", "\n".join(lines), flags=re.MULTILINE)


def sentence_lengths(text: str) -> list[int]:
    lengths = []
    for paragraph in re.split(r"\n\s*\n", prose(text)):
        flat = re.sub(
            r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", " ".join(paragraph.split()))
        )
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z0-9\"*(]|code)", flat):
            if (words := len(WORD.findall(sentence))) > 2:
                lengths.append(words)
    return lengths


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short_and_so_are_its_sentences(page):
    text = page.read_text()
    assert len(text.splitlines()) <= LONGEST.get(page.name, 200)
    if lengths := sentence_lengths(text):
        assert sum(lengths) / len(lengths) <= 18, sum(lengths) / len(lengths)
        assert max(lengths) <= 35, max(lengths)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme_or_from_a_page_that_is():
    linked = "".join(page.read_text() for page in PAGES)
    for page in PAGES[1:]:
        assert f"{page.name})" in linked or f"{page.name}#" in linked, page.name


def test_every_page_says_the_configuration_that_the_code_has(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_configuration

    assert (ROOT / "docs" / "configuration.md").read_text() == make_configuration.page()
    sys.modules.pop("make_configuration")


def test_the_readme_names_every_command_and_every_room():
    from harness.cli import COMMANDS

    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"harness {name}" not in text] == []
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert [room for room in rooms if not re.search(rf"\b{room}\b", text)] == []
