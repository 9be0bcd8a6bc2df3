"""The loop, readable from top to bottom: propose, commit, train and score, decide, record.

Guarantees: an experiment is a commit on its own branch before it costs GPU time; what was measured is
in git before anything else happens; `main` moves only by fast-forward to a kept commit. Killed
anywhere, the next start finishes what was begun: an experiment without a status is measured, kept
ones on top of `main` move it. The next proposal is made while the current trial trains.
"""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness import config as configs
from harness import gate
from harness.agents import Agent, Context, NoProposal, Tried, program
from harness.errors import HarnessError
from harness.ledger import guards
from harness.ledger.experiments import Experiment, Experiments
from harness.ledger.repo import Moved, Repository
from harness.limits import Limits, failed_in_a_row
from harness.lock import held
from harness.paths import write_atomically
from harness.records import CRASH, ERROR, KEEP, OK, Incumbent, Proposal, Trial
from harness.trial.measure import Bench, measure, open_bench
from harness.trial.supervisor import Progress
from harness.views.night import Event

SEED = 1  # of every first run, the incumbent's too
REPEATS_OF_ERROR = 2
FAILURES_TO_TELL = 5  # in a row, before the agent is told of them
FREE_MB = 1024  # beyond what a trial may write
FAILED_PROPOSALS = 3
REPAIRS = 2  # of crashes in a row that the agent is shown the output of
MEMORY = 500  # earlier experiments that an agent is shown


@dataclass(frozen=True)
class Watcher:
    """Where events go, and progress, which doesn't stay."""

    tell: Callable[[Event], None]
    show: Callable[[Progress], None]


@dataclass(frozen=True)
class Summary:
    why: str
    kept: int
    measured: int
    seconds: float
    own_seconds: float
    """What was neither proposing nor a trial."""
    usd: float


@dataclass(frozen=True)
class _Draft:
    """A proposal on its way, and the commit that it was made for."""

    base: str
    answer: "Future[Proposal]"


class Loop:
    """One night. `run` returns when a limit is met or `stop` was called."""

    def __init__(
        self, repository: Repository, agent: Agent, limits: Limits, seed: int, watcher: Watcher
    ) -> None:
        self._repository, self._agent = repository, agent
        self._limits, self._seed, self._watcher = limits, seed, watcher
        self._experiments = Experiments(repository)
        self._results: list[Experiment] = []
        self._began = time.monotonic()
        self._elsewhere = 0.0  # seconds in trials and waiting for proposals
        self._spent = 0.0
        self._stopping = ""
        self._last_config: configs.Config | None = None
        self._said_once: set[str] = set()
        self._unbilled = 0.0
        self._crashes = 0
        self._to_mend: tuple[Tried, str] | None = None

    def stop(self, why: str) -> None:
        """End after the running trial."""
        self._stopping = self._stopping or why

    def run(self) -> Summary:
        """Experiment after experiment.

        Raises:
            HarnessError: something that only the person can mend; nothing is lost.
            KeyboardInterrupt: at once; the running experiment is measured at the next start.
        """
        self._repository.check_ready()
        with held(self._repository.paths.loop_lock, _refuse):
            _in_background(self._repository.tidy)
            self._advance()  # an earlier loop may have been killed between the checkout and main
            self._repository.check_clean()
            waiting, draft = self._begun_before(), None
            while not (why := self._enough()):
                bench = self._bench()
                self._advance()
                incumbent = self._incumbent(bench)
                if not waiting:
                    if (found := self._next(draft, incumbent, bench)) is None:
                        continue  # a limit was met while the agent thought
                    waiting, draft = [found], None
                experiment = waiting.pop(0)
                if not (waiting or draft or self._enough(ahead=1)):  # made while this one trains
                    draft = self._ask(incumbent, bench)
                waiting += self._measure(experiment, incumbent, bench)
        seconds = time.monotonic() - self._began
        kept = sum(result.status == KEEP for result in self._results)
        own = seconds - self._elsewhere
        return Summary(why, kept, len(self._results), seconds, own, self._spent)

    # ── the arrows of the flow ────────────────────────────────────────────────────────────────

    def _ask(self, incumbent: Incumbent, bench: Bench, trouble: str = "") -> _Draft:
        """Have the agent think, in its own thread, about values only."""
        if not trouble and (failed := failed_in_a_row(self._results)) >= FAILURES_TO_TELL:
            trouble = f"the last {failed} experiments gave no score: {self._results[-1].message.subject}"
        every = list(self._experiments)
        tried = tuple(self._as_tried(experiment, bench) for experiment in every[-MEMORY:])
        mend, log = self._to_mend or (None, "")
        context = Context(
            self._repository.paths.read_program(), self._experiments.source(incumbent.commit),
            incumbent.val_bpb, incumbent.commit, tried, bench.device.kind == "cuda", len(every), self._seed,
            trouble, mend, log,
        )  # fmt: skip
        return _Draft(incumbent.commit, _in_background(self._agent.propose, context))

    def _next(self, draft: _Draft | None, incumbent: Incumbent, bench: Bench) -> Experiment | None:
        """The next proposal that was not tried, committed on a branch that starts at the incumbent.

        None if a limit is met while the agent thinks.
        """
        trouble = ""
        for _ in range(FAILED_PROPOSALS):
            draft = draft or self._ask(incumbent, bench, trouble)
            with self._away():
                while not draft.answer.done():
                    if self._enough():
                        return None
                    wait([draft.answer], timeout=0.2)
            try:
                proposal = self._paid(draft.answer.result())
                proposal = self._reapplied(proposal, proposal.base or draft.base, incumbent.commit)
                trouble = guards.broken_source(proposal.source) or ""
                if not trouble:
                    mark = _mark(proposal.source)
                    if mark not in {experiment.program for experiment in self._experiments}:
                        return self._experiments.begin(proposal, incumbent.commit, mark)
                    trouble = f"{proposal.title!r} is a program that was tried before"
            except NoProposal as none:
                trouble = str(none)
                self._unbilled += none.cost_usd or 0.0
                self._spent += none.cost_usd or 0.0
            self._tell("trouble", f"no usable proposal: {trouble}")
            draft = None
        raise HarnessError(
            f"the agent gave nothing usable {FAILED_PROPOSALS} times: {trouble}", "another --agent"
        )

    def _measure(self, experiment: Experiment, incumbent: Incumbent, bench: Bench) -> list[Experiment]:
        """Train, score, decide, record. What has to be measured because of it, `main` having moved."""
        title = experiment.message.title
        self._tell("begun", f"{experiment.name.number:04d} {title}", experiment)
        trial = self._trial(experiment.commit, bench)
        decision = gate.decide((trial,), incumbent)
        try:
            done = self._experiments.complete(experiment, (trial,), decision)
        except Moved as moved:  # a person's doing, which says that this one is theirs
            self._tell("trouble", f"     not recorded: {moved}")
            return []
        self._results.append(done)
        self._tell("measured", f"     {decision.status}: {decision.reason}", done)
        self._remember_crash(done, trial, bench)
        if done.status != KEEP:
            return []
        self._advance()
        return self._on_top(done)

    def _on_top(self, kept: Experiment) -> list[Experiment]:
        """A kept experiment that `main` passed by meanwhile, begun anew on what passed it."""
        if self._experiments.holds(kept.commit) or self._experiments.taken_off(kept.commit):
            return []
        onto = self._experiments.tip
        try:
            again = self._reapplied(self._experiments.proposal(kept), kept.parent, onto)
        except NoProposal as conflict:
            self._tell("main", f"     main moved meanwhile: {conflict}")
            return []
        self._tell("main", "     main moved meanwhile: applied again on the new one")
        return [self._experiments.begin(again, onto, _mark(again.source))]

    def _remember_crash(self, done: Experiment, trial: Trial, bench: Bench) -> None:
        """What the agent may mend: a crash, but not the crash of the mending for ever."""
        crashed = done.status == CRASH
        self._crashes = self._crashes + 1 if crashed else 0
        mendable = crashed and self._crashes <= REPAIRS
        self._to_mend = (self._as_tried(done, bench), trial.training.log) if mendable else None

    def _paid(self, proposal: Proposal) -> Proposal:
        """With what the unusable answers before it cost: the commit carries all of it."""
        if proposal.cost_usd is None:
            return proposal
        self._spent += proposal.cost_usd
        total, self._unbilled = proposal.cost_usd + self._unbilled, 0.0
        return dataclasses.replace(proposal, cost_usd=total)

    def _advance(self) -> None:
        """Move `main` to the last kept experiment on it, unless a person's changes are in the way."""
        main, tip = self._experiments.main, self._experiments.tip
        if main == tip:
            return
        try:
            if self._experiments.advance(main, tip):
                self._tell("main", f"     main is at {tip[:7]}")
        except HarnessError as in_the_way:
            self._tell_once("trouble", f"     the loop goes on from {tip[:7]}: {in_the_way}")

    def _trial(self, commit: str, bench: Bench) -> Trial:
        """One trial; what the machine spoilt is repeated."""
        source = self._experiments.source(commit)
        for attempt in range(1 + REPEATS_OF_ERROR):
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
            folder = self._repository.paths.runs / f"{stamp}-{commit[:7]}-s{SEED}"
            with self._away():
                trial = measure(source, commit, SEED, bench, folder, self._watcher.show, self._note)
            if trial.status == ERROR:
                self._tell("trouble", f"     error, not the experiment's fault: {trial.detail}")
            elif trial.late and not attempt:
                self._tell("trouble", f"     once more: {trial.detail}")
            else:
                break
        if trial.warning:
            self._tell("trouble", f"     WARNING: {trial.warning}")
        return trial

    def _incumbent(self, bench: Bench) -> Incumbent:
        """The commit to beat; measured first if nobody did in this setting."""
        found = self._experiments.incumbent(bench.setting)
        if found is None:
            commit = self._experiments.tip
            self._tell("begun", f"{commit[:7]} main was not measured in this setting: it goes first")
            trial = self._trial(commit, bench)
            if trial.status != OK:
                raise HarnessError(f"main's train.py gives no score: {trial.status}: {trial.detail}")
            self._experiments.baseline(commit, (trial,))
            self._tell("measured", f"     baseline: {trial.val_bpb:.4f}")
            found = self._experiments.incumbent(bench.setting)
            assert found is not None
        return found

    # ── around it ─────────────────────────────────────────────────────────────────────────────

    def _begun_before(self) -> list[Experiment]:
        """What an earlier loop began and was stopped in, or lost to an error of the machine."""
        every = list(self._experiments)
        found = [e for e in every if e.program and e.status in (None, ERROR)]
        if not found and every and every[-1].status == KEEP:
            return self._on_top(every[-1])  # it may have been stopped just before that
        for experiment in found:
            self._note(f"{experiment.name.number:04d} was begun and not measured: it goes first")
        return found

    def _enough(self, ahead: int = 0) -> str:
        """Why to stop now, or after `ahead` more experiments; empty to go on."""
        seconds = time.monotonic() - self._began
        return self._stopping or self._limits.reached(self._results, seconds, self._spent, ahead)

    def _bench(self) -> Bench:
        """Config and program as they are now; the last good ones where a person is in the middle of them.

        Raises:
            HarnessError: the first config is unusable, data or device are gone, or the disk is full.
        """
        paths = self._repository.paths
        if not paths.program.exists():
            self._tell_once("trouble", "no .autoresearch/program.md to tell the agent. Try: harness init")
        try:
            config = configs.load(paths.config)
            bench = open_bench(config, paths.root)
        except HarnessError as unusable:
            if self._last_config is None:
                raise
            config = self._last_config
            bench = open_bench(config, paths.root)  # raises where data or device, not the config, is at fault
            self._tell_once("trouble", f"going on with the last good config: {unusable}")
        self._last_config = config
        wanted = config.trial.disk_mb + FREE_MB
        if (free := shutil.disk_usage(paths.home).free // 2**20) < wanted:
            raise HarnessError(
                f"only {free} MB are free at {paths.home}, a trial may need {wanted}",
                "harness clean, or free some space",
            )
        return bench

    def _as_tried(self, experiment: Experiment, bench: Bench) -> Tried:
        """As the agent sees it: what was scored in another setting has no score that compares."""
        message = experiment.message
        comparable = experiment.setting in (None, bench.setting)
        return Tried(
            message.title, message.hypothesis, self._experiments.source_or_nothing(experiment.commit),
            experiment.status, experiment.val_bpb if comparable else None,
            experiment.delta if comparable else None, message.trailers.get("Reason", ""),
        )  # fmt: skip

    def _reapplied(self, proposal: Proposal, base: str, onto: str) -> Proposal:
        """The same change on another commit.

        Raises:
            NoProposal: the two changes touch the same lines.
        """
        if base == onto:
            return proposal
        source = self._experiments.reapplied(proposal.source, base, onto)
        if source is None:
            raise NoProposal(f"{proposal.title!r} doesn't apply to the new incumbent")
        return dataclasses.replace(proposal, source=source)

    def _tell(self, kind: str, text: str, experiment: Experiment | None = None) -> None:
        if kind in ("begun", "measured"):  # for `harness status`; of no use to anybody afterwards
            now = time.time()
            state = {
                "running": text if kind == "begun" else "", "since": now,
                "began": now - (time.monotonic() - self._began), "limits": dataclasses.asdict(self._limits),
                "measured": len(self._results), "spent": self._spent,
            }  # fmt: skip
            write_atomically(self._repository.paths.loop_state, json.dumps(state).encode())
        self._watcher.tell(Event(kind, text, experiment))

    def _tell_once(self, kind: str, text: str) -> None:
        if text not in self._said_once:
            self._said_once.add(text)
            self._tell(kind, text)

    def _note(self, text: str) -> None:
        self._tell("note", text)

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Time that isn't the loop's own."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._elsewhere += time.monotonic() - began


def _mark(source: bytes) -> str:
    """The digest of a program.

    Raises:
        NoProposal: it is nested too deeply, or has numbers too long, to be read.
    """
    try:
        return program.digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoProposal(f"its train.py can't be read: {type(error).__name__}") from None


def _in_background(work: Callable[..., Any], *args: Any) -> "Future[Any]":
    """In a thread that doesn't outlive the process: an agent may be waiting for an hour."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _refuse(process: str) -> None:
    raise HarnessError(f"another loop runs in this repository (process {process})", "harness status")
