"""Who is told what happened, and that telling never holds a session up."""

import json
import os
import signal
import time

from conftest import harness
from sessions import FASTER

from harness.session.notices import Notices


def notified(folder, command):
    config = folder / ".autoresearch" / "config.toml"
    text = config.read_text()
    where = text.index("[notify]") if "[notify]" in text else len(text)
    config.write_text(text[:where] + f"[notify]\ncommand = '''{command}'''\n")


def test_a_move_of_main_and_the_end_are_told_as_lines_of_json(research, tmp_path):
    notified(research.folder, f"cat >> {tmp_path}/told")
    message = "git commit -qm Faster -m 'Hypothesis: less sleep' train.py"
    script = f"cat > train.py <<'E'\n{FASTER}\nE\n{message}\n"
    (research.folder / ".autoresearch" / "edit.sh").write_text(script)
    command = f"sh {research.folder}/.autoresearch/edit.sh"
    done = harness(
        "loop", "--experiments", "1", "--agent", "command", "--command", command, "--workers", "1",
        cwd=research.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert told[-1]["kind"] == "end" and told[-1]["measured"] == 1
    assert told[-1]["repository"] == str(research.folder)
    moves = [each for each in told if each["kind"] == "main"]
    assert research("log", "-1", "--format=%s", "main").startswith("Faster")  # far more steps in its time
    assert [each["experiment"]["status"] for each in moves] == ["keep"]


def test_a_command_that_hangs_or_fails_is_said_once_and_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.session.notices.MOST_SECONDS", 0.5)
    said = []
    for command, why in (
        ("sleep 100", "stopped after"),
        ("echo no such channel >&2; exit 3", "exit 3: no such channel"),
    ):
        said.clear()
        notices = Notices(command, tmp_path, said.append)
        began = time.monotonic()
        for _ in range(50):
            notices.send("main", "it moved", {})
        assert time.monotonic() - began < 0.2
        time.sleep(1.2)
        notices.close()
        assert len(said) == 1 and why in said[0], said


def test_what_a_command_leaves_in_the_background_is_no_failure_and_not_waited_for(tmp_path):
    said = []
    notices = Notices("cat > /dev/null; sleep 30 & echo $! > pid", tmp_path, said.append)
    began = time.monotonic()
    notices.send("main", "x" * 1_000_000, {"nothing": float("nan")})
    notices.close()
    assert time.monotonic() - began < 5 and not said
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_what_others_wrote_is_no_part_of_the_command(tmp_path):
    notices = Notices("cat > told", tmp_path, lambda _: None)
    notices.send("main", "$(touch bad) `touch bad`; touch bad", {"title": "'; touch bad; '"})
    notices.close()
    assert json.loads((tmp_path / "told").read_text())["title"] == "'; touch bad; '"
    assert not (tmp_path / "bad").exists()
