"""Answers of models as they come: each file of tests/answers is one, with what must come of it."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.agents import NoProposal, answer

ANSWERS = Path(__file__).parent / "answers"
SOURCE = (ANSWERS / "train.py").read_text()
PARTS = """<think>|</think>|Title: t|Hypothesis: h|<<<<<<< SEARCH|=======|>>>>>>> REPLACE|RATE = 0.1
RATE = 0.2
```python|```|```diff|@@ -1 +1 @@|-RATE = 0.1|+RATE = 0.2|--- a/train.py|+++ b/train.py|{|{"title": "t"}
[THINK]|~~~~|def load(a, b): ...|# ... rest unchanged|"""
MORE = ("\x00", "\ud800", " ")


@pytest.mark.parametrize("path", sorted(ANSWERS.glob("*.toml")), ids=lambda path: path.stem)
def test_an_answer_is_read_as_it_was_meant_or_refused_whole(path):
    case = tomllib.loads(path.read_text())
    if "refused" in case:
        with pytest.raises(NoProposal) as none:
            answer.read(case["answer"], SOURCE)
        assert case["refused"] in str(none.value) and "\n" not in str(none.value), none.value
        return
    found = answer.read(case["answer"], SOURCE)
    assert found.title == case.get("title", "Raise the rate")
    assert found.hypothesis == "it is too low."
    for line in [case["has"]] if isinstance(case["has"], str) else case["has"]:
        assert line in found.source
    changed = [line for line in found.source.split("\n") if line not in SOURCE.split("\n")]
    assert len(changed) == (1 if isinstance(case["has"], str) else len(case["has"])), changed


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([*PARTS.replace("\n", "|").split("|"), *MORE]), st.text(max_size=20)),
        max_size=25,
    )
)
def test_no_answer_ends_in_anything_but_a_proposal_or_a_reason(lines):
    try:
        found = answer.read("\n".join(lines), SOURCE)
    except NoProposal as none:
        assert "\n" not in str(none)
    else:
        assert found.title and found.hypothesis
