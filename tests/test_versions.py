"""Versions are kept by hand: a changed source without a new number says why the scores stay comparable."""

import hashlib
import tomllib
from ast import parse
from pathlib import Path

import pytest

from harness.agents.program import digest, former_digests, shown
from harness.store.aliases import FINGERPRINTS
from harness.store.records import Setting
from harness.worker import versions

HARNESS = Path(versions.__file__).parent.parent
SAID = tomllib.loads((Path(__file__).parent / "versions.toml").read_text())


@pytest.mark.parametrize("what", ["evaluator", "runtime"])
def test_sources_that_changed_have_a_new_version_or_a_reason_for_the_old_one(what):
    number = getattr(versions, f"{what.upper()}_VERSION")
    sources = getattr(versions, f"{what.upper()}_SOURCES")
    text = "\n".join(shown(parse((HARNESS / name).read_bytes())) for name in sources)
    now = hashlib.sha256(text.encode()).hexdigest()[:12]
    last = SAID[what][-1]
    entry = f'[[{what}]]\nversion = {number}\ndigest = "{now}"\nwhy = "..."'
    assert (last["version"], last["digest"]) == (number, now), f"add to tests/versions.toml:\n\n{entry}\n"
    numbers = [each["version"] for each in SAID[what]]
    assert numbers == sorted(numbers) and all(len(each["why"]) > 20 for each in SAID[what])


def test_a_digest_is_the_same_in_every_version_of_python():
    """As Python 3.11, 3.12 and 3.13 gave it."""
    source = b"import os\n\nclass A:\n    def f(self, a, *b, c=None):\n        y = f'{a!r:>4}'\n"
    assert digest(source) == "92a33e08944b"


def test_a_comment_makes_no_new_version_and_a_constant_does():
    assert shown(parse("a = 1  # one\n")) == shown(parse("a = (1)\n")) != shown(parse("a = 2\n"))
    assert shown(parse("a = None")) != shown(parse("a = 0")) != shown(parse("a = ''"))
    assert former_digests(b"a = 1")[0] != digest(b"a = 1")


def test_scores_of_release_0_1_0_compare_with_those_of_today():
    now = Setting("H200", "text@1", "1", 300.0, "1 torch 2.13.0")
    assert all(Setting("H200", "text@1", name, 300.0) == now for name in FINGERPRINTS)
    unknown = Setting("H200", "text@1", "0123456", 300.0)
    assert unknown != now and (unknown.evaluator, unknown.runtime) == ("0123456", "")
