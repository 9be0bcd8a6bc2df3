"""`harness doctor`: what a trial needs, and the command that mends it."""

import json
import subprocess

from conftest import harness, without_bwrap


def test_doctor_names_what_is_wrong_and_what_mends_it(repository, tmp_path):
    done = harness("doctor", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stdout
    levels = {finding["name"]: finding["level"] for finding in json.loads(done.stdout)}
    assert {levels[name] for name in ("git", "config", "device", "torch", "sandbox", "data")} == {"ok"}
    broken = harness(
        "doctor", "--json", cwd=repository.folder, PATH=without_bwrap(tmp_path), HARNESS_CACHE=str(tmp_path)
    )
    findings = {finding["name"]: finding for finding in json.loads(broken.stdout)}
    assert broken.returncode == 1
    assert findings["sandbox"]["level"] == "warn"
    assert findings["data"]["level"] == "fail"
    assert findings["data"]["fix"].startswith("harness prepare")


def test_doctor_names_hooks_that_do_not_run_and_says_nothing_of_data_without_a_config(tmp_path):
    def found():
        done = harness("doctor", "--json", cwd=tmp_path)
        return {finding["name"]: finding for finding in json.loads(done.stdout)}

    assert harness("init", cwd=tmp_path).returncode == 0
    assert found()["hooks"]["level"] == "ok"
    nobody = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "")
    said = harness("doctor", cwd=tmp_path, **nobody).stdout
    assert said.count("has no commit yet") == said.count("who you are") == 1
    (tmp_path / "hooks" / "commit-msg").chmod(0o644)
    (tmp_path / ".autoresearch" / "config.toml").write_text("a = [")
    findings = found()
    assert (findings["hooks"]["level"], findings["hooks"]["fix"]) == ("warn", "chmod +x hooks/*")
    assert findings["config"]["level"] == "fail" and "data" not in findings
    subprocess.run(["git", "config", "--unset", "core.hooksPath"], cwd=tmp_path, check=True)
    assert found()["hooks"]["fix"] == "harness init"
