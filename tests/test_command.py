"""The `command` agent: real programs that work in a clone, and every way to leave the one file."""

import contextlib
import dataclasses
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import HONEST, harness
from sessions import loop_in

from harness.agents import Context, NoProposal
from harness.agents.command import Command
from harness.errors import HarnessError
from harness.store.aliases import VAL_BPB
from harness.store.experiments import Experiments
from harness.store.opening import open_repository

EDIT = "sed -i s/lr=1.0/lr=0.5/ train.py\n"
COMMIT = "git commit -qam 'Halve the rate\n\nHypothesis: it overshoots.'\n"
ROOT = "root=$(git remote get-url origin)\n"
SKIP = "--no-verify"


@pytest.fixture
def context(research):
    source = (research.folder / "train.py").read_bytes()
    return Context("be bold", source, VAL_BPB, 2.0, research("rev-parse", "main"), (), False, 0, 0)


@pytest.fixture
def ask(research, context, monkeypatch):
    """`ask(script, **options)`: what the agent proposes whose command is that shell script."""

    monkeypatch.setattr("harness.agents.command.ATTEMPTS", 4)

    def run(script, said=None, **options):
        said = [] if said is None else said
        options = {"first_wait_seconds": 0.0, **options}
        agent = Command(script, open_repository(research.folder), said.append, **options)
        return agent.propose(context)

    return run


@pytest.fixture
def as_it_was(research):
    """The person's repository, every byte of it but run folders, is the same after the test."""

    def state():
        research("status")  # refreshes the index, which is git's own doing
        kept = {
            path: path.read_bytes() if path.is_file() else None
            for path in sorted(research.folder.rglob("*"))
            if {"runs", "worktrees", "events.jsonl"}.isdisjoint(path.parts)
        }
        return kept, research("for-each-ref"), research("status", "--porcelain")

    before = state()
    yield
    after = state()
    assert after[1:] == before[1:]
    assert after[0].keys() == before[0].keys()
    assert [path for path in before[0] if before[0][path] != after[0][path]] == []


def test_what_a_program_commits_is_a_proposal(ask, as_it_was):
    made = ask(EDIT + COMMIT)
    assert made.source.decode() == HONEST.replace("lr=1.0", "lr=0.5")
    assert (made.title, made.hypothesis) == ("Halve the rate", "it overshoots.")
    assert made.agent == "command/sed"


def test_it_is_told_what_to_do_on_standard_input_and_in_a_file(ask):
    made = ask(
        'task=$(cat); [ "$task" = "$(cat $HARNESS_PROMPT)" ] || exit 1\n'
        'case $task in *exp/draft*"be bold"*) ;; *) exit 1;; esac\n' + EDIT + COMMIT
    )
    assert made.title == "Halve the rate"


def test_several_commits_and_a_merge_become_one_experiment(ask, as_it_was):
    made = ask(
        EDIT + COMMIT + "sed -i s/0.01/0.02/ train.py\n"
        "git commit -qam 'Sleep more too\n\nHypothesis: both help.'\n"
        f"git merge -q {SKIP} --no-ff -s ours -m 'Both\n\nHypothesis: b.' main\n"
    )
    assert made.source.decode() == HONEST.replace("lr=1.0", "lr=0.5").replace("0.01", "0.02")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (EDIT + "echo x >> .gitignore\n", "train.py only, not .gitignore"),
        (EDIT + "mkdir a; echo x > a/b.py; git add a\n", "train.py only, not a/b.py"),
        ("rm train.py; ln -s /etc/passwd train.py\n", "regular file"),
        ("chmod +x train.py\n", "regular file with the mode"),
        ("git mv train.py model.py\n", "train.py only, not model.py"),
        ("git rm -q train.py\n", "regular file"),
        ("mkdir -p hooks; echo 'exit 0' > hooks/pre-commit; git add hooks\n" + EDIT, "not hooks/pre-commit"),
    ],
)  # fmt: skip
def test_a_commit_of_anything_else_is_refused_with_and_without_the_hooks(ask, as_it_was, script, words):
    with pytest.raises(NoProposal) as held:  # by the hook: nothing is committed
        ask(script + "git add -A; " + COMMIT + "exit 0\n")
    assert words in str(held.value)
    with pytest.raises(NoProposal) as skipped:
        ask(script + "git add -A; " + COMMIT.replace("-qam", f"{SKIP} -qam"))
    assert words in str(skipped.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Halve it", "no hypothesis"),
        ("Halve it\n\nHypothesis: h.\n\nStatus: keep\nVal-Bpb: 0.1", "Status: is the harness"),
        ("Halve it\n\nHypothesis: h.\n\nConfidence: 1.0", "Confidence: is the harness"),
        ("\u200b\n\nHypothesis: \u200b", "no hypothesis"),
    ],
)
def test_a_message_without_a_hypothesis_or_with_forged_trailers_is_refused(ask, as_it_was, message, words):
    for last in ("exit 0", "echo Traceback; exit 1"):
        with pytest.raises(NoProposal, match=f"changed, but not committed: .*{words}"):
            ask(EDIT + f"git commit -qam '{message}'; {last}\n")
    with pytest.raises(NoProposal) as skipped:
        ask(EDIT + f"git commit {SKIP} -qam '{message}'\n")
    assert words in str(skipped.value)


@pytest.mark.parametrize(
    "attack",
    [
        "git -C $root update-ref -d refs/heads/main",
        "git -C $root update-ref refs/heads/main HEAD",
        "git push -q -f origin HEAD:refs/heads/main",
        "git push -q origin :refs/heads/main",
        "git -C $root branch -D main; git -C $root branch evil",
        "echo evil > $root/.git/hooks/pre-commit; chmod +x $root/.git/hooks/pre-commit",
        "git -C $root config core.fsmonitor /tmp/evil",
        "echo evil >> $root/train.py; rm -rf $root/.git",
        "git -C $root notes --ref autoresearch add -f -m better main",
        "git -C $root gc --prune=now; rm -rf $root/.git/objects",
        "git branch -f main; git update-ref refs/notes/autoresearch HEAD",
        "git config core.hooksPath /dev/null",
        "git checkout -q --orphan new; git checkout -q -f exp/draft",
    ],
)
def test_nothing_it_does_to_git_reaches_the_repository(ask, as_it_was, attack):
    made = ask(f"{ROOT}({attack}) >&2\n{EDIT}{COMMIT}")
    assert made.title == "Halve the rate"


def test_rewritten_history_is_read_as_the_change_that_it_makes(ask, as_it_was):
    made = ask(
        EDIT + "git config core.hooksPath /dev/null; git checkout -q --orphan other; git add -A\n"
        "git commit -qm 'All anew\n\nHypothesis: h.'; git branch -M exp/draft\n"
    )
    assert made.title == "All anew"
    assert made.source.decode() == HONEST.replace("lr=1.0", "lr=0.5")


def test_the_hooks_that_run_are_the_repositorys_and_not_its_own(research, ask, as_it_was):
    made = ask(
        "mkdir -p hooks; printf '#!/bin/sh\\nexit 1\\n' > hooks/pre-commit; chmod +x hooks/pre-commit\n"
        + EDIT + "git commit -q -m 'Halve the rate\n\nHypothesis: h.' train.py\n"
    )  # fmt: skip
    assert made.title == "Halve the rate"


def test_data_home_sockets_and_the_gpu_are_out_of_its_reach_and_what_it_is_given_is_not(ask, as_it_was):
    home = Path.home()
    given = home / "sessions"
    given.mkdir(exist_ok=True)
    cache = os.environ["HARNESS_CACHE"]
    made = ask(
        f"[ -z \"$(ls {cache})\" ] || exit 1\n! ls /dev/nvidia* || exit 1\n"
        f"! echo x > {home}/.gitconfig || exit 1\n! mkdir -p {home}/.config/git || exit 1\n"
        f"! mv {home} {home}2 || exit 1\n! echo x > /proc/sys/kernel/core_pattern || exit 1\n"
        f"! ls /run/* || exit 1\n! ls ../../runs/* || exit 1\n"
        f"echo session > {given}/last || exit 1\n{EDIT}{COMMIT}",
        writable=(given,),
    )  # fmt: skip
    assert made.title == "Halve the rate"
    assert (given / "last").read_text() == "session\n"
    assert not (home / ".gitconfig").exists()


def test_a_clusters_token_is_out_of_its_reach(ask, as_it_was, monkeypatch, tmp_path):
    elsewhere = tmp_path / "token"
    elsewhere.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(elsewhere))
    folder = Path.home() / ".ray"
    folder.mkdir(exist_ok=True)
    (folder / "auth_token").write_text("secret")
    made = ask(
        f"! cat {folder}/auth_token || exit 1\n! grep secret {elsewhere} || exit 1\n"
        f"! env | grep RAY_ || exit 1\n! grep -az RAY_ /proc/*/environ || exit 1\n{EDIT}{COMMIT}"
    )
    assert made.title == "Halve the rate"


def test_no_note_is_among_what_it_can_read(research, ask, as_it_was):
    blob = research("rev-parse", "refs/notes/autoresearch^{tree}")
    assert "holdout_value" in research("grep", "-h", "holdout_value", "refs/notes/autoresearch")
    ask(
        ROOT + '[ -z "$(ls $root/.git)" ] || exit 1\n'
        f"git cat-file -e {blob} && exit 1\n"
        "git cat-file --batch-all-objects --batch | grep -q holdout_value && exit 1\n"
        "git log --all --format=%s | grep -q baseline || exit 1\n" + EDIT + COMMIT
    )


@pytest.mark.parametrize("pattern", ["texts/**/*.md", "*.md", "texts"])
def test_the_texts_that_runs_train_on_are_out_of_its_reach(research, ask, pattern):
    home = Path.home()
    (home / "texts" / "a").mkdir(parents=True, exist_ok=True)
    for path in (home / "texts" / "a" / "b.md", home / "c.md"):
        path.write_text("what is scored")
    config = research.folder / ".autoresearch" / "config.toml"
    config.write_text(re.sub('source = ".*"', f'source = "~/{pattern}"', config.read_text()))
    assert "~/" in config.read_text()
    seen = home / ("c.md" if pattern == "*.md" else "texts/a/b.md")
    assert ask(f"! grep scored {seen} || exit 1\n{EDIT}{COMMIT}").title == "Halve the rate"


@pytest.mark.parametrize("folder", [".", "..", ".autoresearch"])
def test_a_folder_that_must_stay_as_it_is_can_not_be_given(research, folder):
    with pytest.raises(HarnessError, match="must stay as it is"):
        Command("true", open_repository(research.folder), print, writable=(research.folder / folder,))


def test_what_it_leaves_behind_is_removed_however_deep_and_however_it_is_protected(ask, as_it_was):
    made = ask(
        'python3 -c \'import os\nfor _ in range(1500): os.mkdir("d"); os.chdir("d")\'\n'
        "mkdir locked; touch locked/x; chmod 0 locked\n" + EDIT + COMMIT
    )
    assert made.title == "Halve the rate"
    assert ask(EDIT + COMMIT).title == "Halve the rate"


def test_nothing_to_say_is_told_and_an_uncommitted_edit_too(ask, as_it_was):
    with pytest.raises(NoProposal, match="ended without a commit"):
        ask("true")
    with pytest.raises(NoProposal, match="changed, but not committed"):
        ask(EDIT)


def test_an_edit_that_it_did_not_commit_counts_with_its_last_words(ask, as_it_was):
    said = []
    made = ask(EDIT + "echo 'I halved the rate. It overshoots.'\n", said)
    assert made.source.decode() == HONEST.replace("lr=1.0", "lr=0.5")
    assert (made.title, made.hypothesis) == ("I halved the rate", "I halved the rate. It overshoots.")
    assert "its edit was not committed" in said[-1]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo x > other; git add other", "train.py only, not other"),
        ("rm train.py; ln -s /etc/passwd train.py", "regular file"),
        ("echo x >> .autoresearch/config.toml", "train.py only, not .autoresearch/config.toml"),
    ],
)
def test_what_it_did_not_commit_is_held_to_the_same_rules(ask, as_it_was, script, words):
    with pytest.raises(NoProposal, match=words):
        ask(EDIT + script + "\necho done\n")


def test_one_that_always_failed_at_once_needs_the_person(ask, as_it_was):
    said = []
    with pytest.raises(
        HarnessError, match=r"failed 3 times, each within seconds: exit 1: not as root.*harness agents"
    ):
        ask("echo not as root; exit 1", said)
    assert sum("again in" in line for line in said) == 2


def test_while_it_waits_somebody_else_may_propose(research, context):
    said = []
    once = Path.home() / "once"  # then it takes its time to fail
    agent = Command(
        f"[ -e {once} ] && sleep 60; touch {once}; exit 1", open_repository(research.folder), said.append,
        first_wait_seconds=1.0, writable=(Path.home(),),
    )  # fmt: skip

    def propose():
        with contextlib.suppress(NoProposal):
            agent.propose(context)

    threading.Thread(target=propose, daemon=True).start()
    until = time.monotonic() + 20
    while not agent.is_waiting and time.monotonic() < until:
        time.sleep(0.05)
    assert agent.is_waiting
    time.sleep(2.0)
    assert agent.is_waiting, "while it is tried again, too"
    agent._end()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "python3 -c 'import time; x = bytearray(400_000_000); time.sleep(60)'",
            r"it took 0\.\d GB of memory",
        ),
        ("for i in $(seq 30); do sleep 60 & done; wait", r"it had \d+ processes, over 20"),
    ],
)
def test_its_memory_and_its_processes_are_bounded(ask, as_it_was, monkeypatch, script, words):
    monkeypatch.setattr("harness.agents.command.ATTEMPTS", 1)
    monkeypatch.setattr("harness.agents.command.memory_bytes", lambda: 500_000_000)
    monkeypatch.setattr("harness.agents.command.MOST_PROCESSES", 20)
    began = time.monotonic()
    with pytest.raises(HarnessError, match=words):
        ask(script)
    assert time.monotonic() - began < 20


def test_a_command_that_is_not_there_needs_the_person(ask, as_it_was):
    with pytest.raises(HarnessError, match=r"does not start: .*no-such-agent.*not found"):
        ask("no-such-agent --yes")


def test_a_failing_command_is_run_again_after_longer_and_longer_waits(ask, as_it_was, monkeypatch):
    said = []
    given = Path.home() / "counter"
    given.mkdir()
    counter = given / "tries"
    monkeypatch.setattr("harness.agents.command.FAST_ATTEMPTS", 9)
    made = ask(
        f"echo x >> {counter}; [ $(wc -l < {counter}) -gt 3 ] || {{ echo '\x1b[31mmodel is out'; exit 7; }}\n"
        + EDIT + COMMIT,
        said, writable=(given,),
    )  # fmt: skip
    assert made.title == "Halve the rate"
    assert [line for line in said if "WARNING" not in line] == [
        "command/echo: exit 7: [31mmodel is out; again in 0 s"
    ] * 3


def test_one_that_hangs_is_ended_with_all_that_it_started(ask, as_it_was, monkeypatch):
    monkeypatch.setattr("harness.agents.command.ATTEMPTS", 1)
    began = time.monotonic()
    with pytest.raises(HarnessError, match=r"not done after 0\.02 minutes"):
        ask("setsid sleep 7531 & sleep 7531", minutes=0.02)
    assert time.monotonic() - began < 10
    assert subprocess.run(["pgrep", "-f", "sleep 7531"], capture_output=True, check=False).stdout == b""


def test_what_was_committed_before_the_time_was_over_counts(ask, as_it_was):
    assert ask(EDIT + COMMIT + "sleep 1000", minutes=0.1).title == "Halve the rate"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("yes | head -c 400000 > train.py\n", "over 256 KB"),
        ("head -c 50000000 /dev/zero > train.py\n", "over 256 KB"),
        ("head -c 9000 /dev/urandom > train.py\n", "no program"),
    ],
)
def test_a_huge_or_binary_file_never_becomes_an_experiment(research, as_it_was, script, words):
    said = []
    agent = Command(script + COMMIT.replace("-qam", f"{SKIP} -qam"), open_repository(research.folder), print)
    with pytest.raises(HarnessError, match="nothing usable 3 times"):
        loop_in(research.folder, agent, said.append, experiments=1).run()
    assert [words in event.text for event in said if "no usable" in event.text] == [True] * 3


def test_a_command_that_is_not_there_is_said_before_anything_is_trained(research):
    with pytest.raises(
        HarnessError, match=r"does not start: no-such-agent: not found.*Try: another --command"
    ):
        Command("no-such-agent --task x", open_repository(research.folder), print)
    with pytest.raises(HarnessError, match=r"does not start: /opt/no-such-agent: not found"):
        Command("/opt/no-such-agent x", open_repository(research.folder), print)
    Command("A=1 true", open_repository(research.folder), print)
    Command("cd . && true", open_repository(research.folder), print)
    Command("./agent.sh", open_repository(research.folder), print)


def test_a_program_of_endless_sums_and_a_broken_config_are_said_and_not_raised(research, as_it_was):
    said = []
    evil = "sed -i \"s/lr=1.0/lr=$(printf '1+%.0s' $(seq 3000))1/\" train.py\n"
    agent = Command(evil + COMMIT, open_repository(research.folder), print)
    with pytest.raises(HarnessError, match="nothing usable 3 times"):
        loop_in(research.folder, agent, lambda event: said.append(event.text), experiments=1).run()
    broken = EDIT + COMMIT + "printf '[core]\\n\\tcompression = \\377\\376\\n' >> .git/config\n"
    agent = Command(broken, open_repository(research.folder), print)
    with pytest.raises(HarnessError, match="nothing usable 3 times"):
        loop_in(research.folder, agent, lambda event: said.append(event.text), experiments=1).run()


def test_a_gigabyte_of_output_is_read_and_dropped(ask, as_it_was):
    assert ask("yes | head -c 1000000000\n" + EDIT + COMMIT).title == "Halve the rate"


def test_a_filter_that_can_not_work_in_its_clone_keeps_no_file_from_it(research, context, monkeypatch):
    (research.folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    (research.folder / "large.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    research("add", ".")
    research("commit", "-qm", "Large")
    settings = Path.home() / "settings"
    settings.write_text('[filter "lfs"]\nrequired = true\nsmudge = false\n')  # its server isn't there
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    agent = Command("cat large.bin\n" + EDIT + COMMIT, open_repository(research.folder), print)
    made = agent.propose(dataclasses.replace(context, commit=research("rev-parse", "main")))
    assert made.title == "Halve the rate"


def test_a_config_that_starts_programs_starts_none_of_ours(ask, as_it_was):
    given = Path.home() / "evils"
    given.mkdir()
    mark, evil = given / "was-here", given / "evil"
    made = ask(
        f"printf '#!/bin/sh\\nls {os.environ['HARNESS_CACHE']}/* >> {mark}\\n' > {evil}; chmod +x {evil}\n"
        f"{EDIT}{COMMIT}for key in core.fsmonitor core.pager diff.external; do\n"
        f"git config $key {evil}; done\n",
        writable=(given,),
    )  # fmt: skip
    assert made.title == "Halve the rate"
    assert not mark.exists() or "data" not in mark.read_text()  # if it ran, then confined


def test_without_bubblewrap_it_says_so_and_with_require_it_refuses(research, ask, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere:/usr/local/sbin")
    said = []
    Command("true", open_repository(research.folder), said.append)
    assert "bubblewrap is not installed" in said[0]
    config = research.folder / ".autoresearch" / "config.toml"
    config.write_text(config.read_text().replace('sandbox = "auto"', 'sandbox = "require"'))
    with pytest.raises(HarnessError, match="sandbox = 'require', but bubblewrap is not installed"):
        Command("true", open_repository(research.folder), said.append)


def test_loop_measures_what_a_program_commits(research):
    done = harness(
        "loop", "--agent", "command", "--command", EDIT + COMMIT, "--experiments", "1", cwd=research.folder
    )
    assert done.returncode == 0, done.stderr
    (made,) = Experiments(open_repository(research.folder))
    assert made.value is not None
    assert made.author == "command/sed"
    assert not (research.folder / ".autoresearch" / "worktrees" / "draft").exists()
