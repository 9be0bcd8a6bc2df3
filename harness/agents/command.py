"""`command`: any coding agent's command line, at work in a clone of its own.

The clone shares the repository's objects, so it costs nothing, and has a `.git` of its own, so that
nothing done to it reaches the repository's. The repository's hooks tell the agent at once what a commit
may be; what it committed is checked again here, because hooks can be skipped, and only its train.py and
its message are taken over.
"""

import atexit
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from harness import config as configs
from harness.agents import Context, NoProposal, answer, confine, prompt
from harness.errors import HarnessError
from harness.paths import HOOKS, starter
from harness.sandbox import processes
from harness.sandbox.namespace import Namespace
from harness.store import message, rules
from harness.store.decisions import Proposal
from harness.store.experiments import AGENT_EMAIL
from harness.store.repo import TRAIN_BYTES, Change, Repository
from harness.tasks.lm import files
from harness.worker.device import memory_bytes

BRANCH = "exp/draft"  # in the clone only
MINUTES = 15.0
HISTORY_TOKENS = 12_000
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 600.0
ATTEMPTS = 15  # of a command that fails, with the waits above: almost two hours
FAST_SECONDS, FAST_ATTEMPTS = 10.0, 3  # of one that fails at once and never did anything else
MEMORY_SHARE, MOST_PROCESSES = 0.5, 1000  # of the machine's, for all of it; the rest is for runs
LOOK_SECONDS, ASKING_SECONDS = 1.0, 30.0
LOG_BYTES, LONGEST_CHANGES = 2**20, 65_536
NOTHING = "nothing"  # said in place of last words
NOT_RUNNABLE = (126, 127)  # what a shell says of a command that it can't start


class Command:
    """See `harness.agents.Agent`."""

    def __init__(
        self,
        command: str,
        repository: Repository,
        say: Callable[[str], None],
        minutes: float = MINUTES,
        writable: tuple[Path, ...] = (),
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """`command` is for `sh -c`; it finds its task on standard input and in the file $HARNESS_PROMPT.

        Args:
            writable: folders besides its clone that it may write to.

        Raises:
            HarnessError: the config requires a sandbox, and there is none.
        """
        self._command, self._say, self._minutes = command, say, minutes
        self._first_wait_seconds = first_wait_seconds
        self._name = f"command/{Path(command.split()[0]).name if command.split() else 'nothing'}"
        self._repository = repository
        self._paths, self._clone = repository.paths, repository.paths.worktrees / "draft"
        self._writable = writable
        self._hide: tuple[Path, ...] = ()
        confine.check_writable(writable, self._paths)
        self._running: Namespace | None = None
        self._ended = False
        self._last_words = self._refusal = ""
        self._has_worked = False
        self.is_waiting = False  # for its model, say: somebody else may propose meanwhile
        for folder in (self._clone, self._paths.runs):
            folder.mkdir(parents=True, exist_ok=True)
        self._confined = self._confinement()
        self._check()
        atexit.register(self._end)

    def _check(self) -> None:
        """A program that isn't there should be said before the first run.

        Raises:
            HarnessError: it isn't.
        """
        word = re.match(r"[\w./+-]+(?=\s|$)", self._command)
        if word is None or "=" in word[0] or ("/" in word[0] and not word[0].startswith("/")):
            return  # what stands in its clone isn't there yet
        prefix = self._prefix() if self._confined else []
        looking = [*prefix, "/bin/sh", "-c", f"command -v {word[0]}"]
        if subprocess.run(looking, capture_output=True, env=self._environment(), check=False).returncode:
            raise self._does_not_start(f"{word[0]}: not found")

    def _does_not_start(self, last: str) -> HarnessError:
        hidden = self._confined and "/tmp/" in self._command
        mend = "one that lies outside of /tmp, which is empty for it" if hidden else "another --command"
        return HarnessError(f"the agent's command does not start: {last}", mend)

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**confine.without_tokens(os.environ), "PATH": path}

    def _confinement(self) -> bool:
        wanted = configs.load(self._paths.config).trial.sandbox
        why = "sandbox = 'none'" if wanted == "none" else confine.problem(self._prefix())
        if why is not None and wanted == "require":
            raise HarnessError(f"sandbox = 'require', but {why}", "harness doctor")
        if why is not None:
            self._say(f"WARNING: only hooks hold the agent, which it can go round: {why}")
        return why is None

    def _prefix(self) -> list[str]:
        with contextlib.suppress(HarnessError):  # a person is in the middle of it
            self._hide = files.own(configs.load(self._paths.config).data.source)
        common = self._repository.common  # notes hold what no agent may see, and so do the first tree's runs
        hide = (common, common.parent / ".autoresearch" / "runs", *self._hide)
        return confine.prefix(self._paths, self._clone, self._writable, hide)

    def propose(self, context: Context) -> Proposal:
        """What the command committed. One that fails is run again after a wait: its model may be out.

        Raises:
            NoProposal: there is no commit, or one that breaks a rule; says which.
            HarnessError: there is no such command; or it fails for hours, or at once and always did.
        """
        try:
            return self._proposed(context)
        finally:
            self.is_waiting = False

    def _proposed(self, context: Context) -> Proposal:
        pause, fast = self._first_wait_seconds, 0
        for _ in range(ATTEMPTS):
            self._make_clone(context.commit)
            began = time.monotonic()
            try:
                failure = self._run(prompt.task(context, BRANCH, self._minutes, HISTORY_TOKENS))
                proposal = self._commit(context, ended_well=not failure)
            except NoProposal as none:
                raise NoProposal(f"{none}{self._words}") from None
            finally:
                self._remove_clone()
            if proposal is not None:
                self._has_worked = True
                return proposal
            if not failure:
                raise NoProposal(f"it ended without a commit{self._words}")
            fast += time.monotonic() - began < FAST_SECONDS
            if fast == FAST_ATTEMPTS and not self._has_worked:
                why = f"{self._name} failed {fast} times, each within seconds: {failure}"
                raise HarnessError(why, "its command line by hand; harness agents")
            self._say(f"{self._name}: {failure}; again in {pause:.0f} s")
            self.is_waiting = True  # from now on: the next attempt may fail as slowly
            threading.Event().wait(pause)
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)
        raise HarnessError(f"{self._name} failed {ATTEMPTS} times: {failure}", "try its command line by hand")

    @property
    def _words(self) -> str:
        """Its last ones, where they say more than a hook did."""
        is_said = bool(self._refusal) and self._refusal in self._last_words
        return "" if is_said else f" (its last words: {self._last_words})"

    def _make_clone(self, commit: str) -> None:
        self._remove_clone()  # of a loop that was killed
        root, hooks = str(self._paths.root), starter(HOOKS[0]).parent  # the installation's
        clone = ["clone", "--quiet", "--no-local", "--no-checkout", "-c", f"core.hooksPath={hooks}"]
        clone += ["-c", "commit.gpgsign=false"]  # the person's key is not there
        switch = ["-C", str(self._clone), "switch", "-q", "-c", BRANCH, commit]
        attributes = self._clone / ".git" / "info" / "attributes"
        for args in ([*clone, root, str(self._clone)], switch):
            done = subprocess.run(["git", *args], capture_output=True, check=False)
            if done.returncode:
                raise HarnessError(f"can't make a clone for the agent: {_line(done.stderr)}")
            attributes.parent.mkdir(exist_ok=True)  # which a person's own template may not have
            attributes.write_text("* -filter\n")  # those of LFS and git-crypt want a server or a key

    def _remove_clone(self) -> None:
        """With the real rm, which neither read-only folders nor a thousand levels of them stop."""
        for tool in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*tool, "--", str(self._clone)], capture_output=True, check=False)

    def _run(self, task: str) -> str:
        """Run the command, kill what is left of it; what went wrong, in a line, if it failed."""
        file = self._clone / ".git" / "harness-prompt.md"
        file.write_text(task, encoding="utf-8")
        name, email = self._name, AGENT_EMAIL
        variables = {
            "HARNESS_PROMPT": str(file), rules.AGENT_BRANCH: BRANCH,
            "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/tmp/cache",
            "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": email,
        }  # fmt: skip
        with file.open("rb") as stdin:
            running = self._start(
                ["nice", "-n", "10", "sh", "-c", self._command], variables, stdin, subprocess.STDOUT
            )
        with contextlib.suppress(OSError):  # `nice` counts for nothing where sessions have a share each
            Path(f"/proc/{running.process.pid}/autogroup").write_text("10")
        output = _Output(running.process)
        code, too_much = self._waited(running.process)
        running.kill()
        self._last_words = last = output.last_line()
        self._refusal = output.refusal()
        self._paths.agent_log.write_bytes(output.kept)
        if code is None:
            return too_much or f"it was not done after {self._minutes:g} minutes"
        if code in NOT_RUNNABLE:
            raise self._does_not_start(last)
        return f"exit {code}: {last}" if code else ""

    def _waited(self, process: "subprocess.Popen[bytes]") -> tuple[int | None, str]:
        """Its exit code; or None, and what it took too much of if that wasn't time."""
        end = time.monotonic() + 60 * self._minutes
        most = MEMORY_SHARE * memory_bytes()
        while (left := end - time.monotonic()) > 0:
            try:
                return process.wait(min(left, LOOK_SECONDS)), ""
            except subprocess.TimeoutExpired:
                every = processes.tree(process.pid)
            if len(every) > MOST_PROCESSES:
                return None, f"it had {len(every):,} processes, over {MOST_PROCESSES:,}"
            if (taken := processes.anonymous_bytes(every)) > most:
                return None, f"it took {taken / 2**30:.1f} GB of memory, over half of the machine's"
        return None, ""

    def _start(
        self, command: list[str], variables: dict[str, str], stdin: int | IO[bytes], errors: int
    ) -> Namespace:
        if self._ended:
            raise NoProposal("the loop has ended")
        self._running = Namespace(
            self._prefix() if self._confined else [], command, environment=self._environment() | variables,
            folder=self._clone, stdin=stdin, output=subprocess.PIPE, errors=errors,
        )  # fmt: skip
        return self._running

    def _end(self) -> None:
        """With the harness, wherever its thread is."""
        self._ended = True
        if self._running is not None:
            self._running.kill()
            self._remove_clone()  # not where another loop may be using it

    # ── what it committed, from a `.git` in which anything may stand ──────────────────────────

    def _commit(self, context: Context, ended_well: bool) -> Proposal | None:
        """The change of all its commits together, as one; None if there are none."""
        if self._git("rev-parse", BRANCH).decode("ascii", "replace").strip() == context.commit:
            left = self._git("diff", "--raw", "-z", "--no-renames", "--abbrev=40", "HEAD")
            return self._uncommitted(left, ended_well) if left else None
        raw = self._git("diff", "--raw", "-z", "--no-renames", "--abbrev=40", context.commit, BRANCH)
        if len(raw) >= LONGEST_CHANGES:
            raise NoProposal("an experiment may change train.py only, not a thousand files")
        if broken := rules.broken_change(BRANCH, _changes(raw)):
            raise NoProposal(broken)
        text = self._git("log", "-1", "--format=%B", BRANCH).decode("utf-8", "replace")
        try:
            message.check_agents(text)
        except HarnessError as problem:
            raise NoProposal(str(problem)) from None
        found = message.parse(text)
        source = self._git("cat-file", "blob", f"{BRANCH}:train.py", limit=TRAIN_BYTES + 1)
        title = answer.clean(found.subject, answer.TITLE_CHARS)
        hypothesis = answer.clean(found.hypothesis, answer.LINE_CHARS)
        if not (title and hypothesis):
            raise NoProposal("its title or its hypothesis is empty")
        return Proposal(title, hypothesis, source, self._name)

    def _uncommitted(self, raw: bytes, ended_well: bool) -> Proposal:
        """What it left in the clone and did not commit, with its last words as hypothesis.

        Raises:
            NoProposal: it is not train.py alone, or nothing says why it was changed.
        """
        last = self._last_words
        if not ended_well or last in ("", NOTHING) or last.startswith("harness:"):  # a hook refused it
            refusal = f": {self._refusal}" if self._refusal else ""
            raise NoProposal(f"train.py was changed, but not committed{refusal}")
        if broken := rules.broken_change(BRANCH, _changes(raw)):
            raise NoProposal(f"not committed: {broken}")
        source = self._out(["cat", "train.py"], TRAIN_BYTES + 1)
        self._say(f"{self._name}: its edit was not committed; it counts with its last words: {last}")
        title = answer.clean(last.partition(". ")[0], answer.TITLE_CHARS)
        return Proposal(title, answer.clean(last, answer.LINE_CHARS), source, self._name)

    def _git(self, *args: str, limit: int = LONGEST_CHANGES) -> bytes:
        """What git says in the clone, where its config may start anything: confined like the agent."""
        return self._out(["git", *args], limit)

    def _out(self, command: list[str], limit: int) -> bytes:
        running = self._start(command, {}, subprocess.DEVNULL, subprocess.DEVNULL)
        timer = threading.Timer(ASKING_SECONDS, running.kill)
        timer.start()
        assert running.process.stdout is not None
        with running.process.stdout as stream:
            said = stream.read(limit)
        timer.cancel()
        running.kill()
        return said


def _changes(raw: bytes) -> list[Change]:
    """`git diff --raw -z`: `:old-mode new-mode old-id new-id letter`, NUL, path, NUL."""
    fields = raw.decode("utf-8", "replace").split("\0")
    found = []
    for head, path in zip(fields[::2], fields[1::2], strict=False):
        modes = head.lstrip(":").split(" ")
        try:
            found.append(Change(path, int(modes[0], 8), int(modes[1], 8)))
        except (ValueError, IndexError):
            raise NoProposal("its commit can't be read") from None
    return found


class _Output:
    """Reads what a process prints to its end; keeps a bounded part."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self.kept = b""
        self._thread = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while data := stream.read1(65536):  # type: ignore[attr-defined]
                self.kept = (self.kept + data)[-LOG_BYTES:]

    def refusal(self) -> str:
        """What the harness said last in it, a hook mostly, if it did."""
        self._thread.join(ASKING_SECONDS)
        said = [line for line in self.kept.splitlines() if line.startswith(b"harness: ")]
        return _line(said[-1]).removeprefix("harness: ") if said else ""

    def last_line(self) -> str:
        self._thread.join(ASKING_SECONDS)
        return _line(self.kept)


def _line(said: bytes) -> str:
    """The last line of what was printed, fit for a message."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return answer.clean(lines[-1] if lines else NOTHING, 200)
