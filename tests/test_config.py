"""The config is checked key by key, and an error names the nearest valid key."""

import tomllib

import pytest

from harness import config as configs
from harness.errors import HarnessError


@pytest.mark.parametrize("profile", configs.PROFILES.values(), ids=lambda p: p.profile)
def test_a_dumped_profile_reads_back_the_same(profile):
    assert configs.from_table(tomllib.loads(configs.dump(profile))) == profile


def test_left_out_keys_take_the_profile_s_default():
    changed = configs.from_table({"profile": "gpu", "trial": {"budget_seconds": 60}})
    assert changed.trial.budget_seconds == 60.0
    assert changed.data == configs.GPU.data


def test_a_folder_in_the_place_of_the_file_is_named_with_what_mends_it(tmp_path):
    with pytest.raises(HarnessError, match=f"{tmp_path} is a folder. Try: mv {tmp_path} .*; harness init"):
        configs.load(tmp_path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"data": {"seqlen": 1}}, ["data.seqlen", "data.seq_len"]),
        ({"trail": {}}, ["trail", "'trial'"]),
        ({"trial": {"budget_secs": 1}}, ["trial.budget_secs", "trial.budget_seconds"]),
        ({"trial": {"budget_seconds": "5"}}, ["trial.budget_seconds", "float"]),
        ({"trial": {"budget_seconds": True}}, ["trial.budget_seconds", "float"]),
        ({"trial": {"budget_seconds": -1}}, ["trial.budget_seconds", "above 0"]),
        ({"trial": {"memory_gb": 1e300}}, ["trial.memory_gb", "at most 1e+06"]),
        ({"data": {"source": "~nobody-of-this-name/texts"}}, ["data.source", "home folder of nobody"]),
        ({"trial": {"budget_seconds": float("inf")}}, ["trial.budget_seconds", "finite"]),
        ({"trial": {"budget_seconds": float("nan")}}, ["trial.budget_seconds", "finite"]),
        ({"trial": {"sandbox": "perhaps"}}, ["trial.sandbox", "require"]),
        ({"data": {"vocab_size": 70000}}, ["data.vocab_size", "65536"]),
        ({"data": {"eval_tokens": 1.5}}, ["data.eval_tokens", "int"]),
        ({"profile": "tpu"}, ["profile", "cpu, gpu"]),
        ({"data": 3}, ["[data]", "table"]),
    ],
)
def test_nonsense_is_named(table, words):
    with pytest.raises(HarnessError) as caught:
        configs.from_table(table)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path):
    with pytest.raises(HarnessError, match="harness init"):
        configs.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("profile = ")
    with pytest.raises(HarnessError, match="not valid TOML"):
        configs.load(broken)
