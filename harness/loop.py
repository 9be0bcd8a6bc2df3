"""The loop, readable from top to bottom: propose, commit, train and score, decide, record.

Guarantees: an experiment is a commit on its own branch before it costs GPU time; what was measured is
in git before anything else happens; `main` moves only by fast-forward to a kept commit, when the gate
is sure of it. Killed anywhere, the next start finishes what was begun: an experiment without a status
is measured, runs that it had already count, and `main` moves if it had not got there. What is believed
is rebuilt from git. The next proposal is made while the current trial trains.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness import gate
from harness.agents import Agent, program
from harness.drafts import Drafts, in_background
from harness.errors import HarnessError
from harness.gate.standing import Standing
from harness.lab import Lab
from harness.ledger.experiments import Experiment
from harness.ledger.repo import Moved, Repository
from harness.limits import Limits
from harness.lock import held
from harness.paths import write_atomically
from harness.records import AGAIN, ERROR, KEEP, Decision, Measured, Trial
from harness.trial.measure import Bench
from harness.trial.supervisor import Progress
from harness.views.night import Event


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


class Loop:
    """One night. `run` returns when a limit is met or `stop` was called."""

    def __init__(
        self, repository: Repository, agent: Agent, limits: Limits, seed: int, watcher: Watcher
    ) -> None:
        self._repository, self._limits, self._watcher = repository, limits, watcher
        self._lab = Lab(repository, self._tell, watcher.show)
        self._experiments = self._lab.experiments
        self._drafts = Drafts(self._lab, agent, seed, repository.paths.read_program, self._tell)
        self._results: list[Experiment] = []
        self._began = time.monotonic()
        self._stopping = ""
        self._standing: Standing | None = None
        self._stands_on: object = None

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
        with held(self._repository.paths.loop_lock, refuse):
            in_background(self._repository.tidy)
            bench = self._lab.bench()
            if (known := self._lab.known(bench)) is not None:  # an earlier loop may have been killed
                self._lab.advance(known, bench, proof=False)  # between the checkout and main
            self._repository.check_clean()
            self._lab.sweep()
            waiting = self._begun_before()
            while not (why := self._enough()):
                bench = self._lab.bench()
                if (standing := self._stand(bench, waiting)) is None:
                    continue  # a limit was met while the noise was measured
                if not waiting:
                    incumbent = standing.incumbent
                    found = self._drafts.next(incumbent, bench, self._results, self._enough)
                    if found is None:
                        continue  # a limit was met while the agent thought
                    waiting = [found]
                experiment = waiting.pop(0)
                if not (waiting or self._enough(ahead=1)):  # made while this one trains
                    self._drafts.ask_ahead(standing.incumbent, bench, self._results)
                waiting += self._measure(experiment, standing, bench)
        seconds = time.monotonic() - self._began
        kept = sum(result.status == KEEP for result in self._results)
        own = seconds - self._lab.seconds
        return Summary(why, kept, len(self._results), seconds, own, self._drafts.spent_usd)

    # ── the arrows of the flow ────────────────────────────────────────────────────────────────

    def _stand(self, bench: Bench, waiting: list[Experiment]) -> Standing | None:
        """Where the research stands, `main` moved as far as it may; read from git where somebody else
        moved it, or the setting is another."""
        if self._standing is None or self._stands_on != self._ground(bench):
            self._standing = self._lab.standing(bench, self._enough)
            if self._standing is None:
                return None
            if (passed := self._lab.passed_by(bench)) is not None:
                waiting += self._drafts.begin_again(*passed, self._standing.incumbent.commit)
        return self._advance(self._standing, bench)

    def _advance(self, standing: Standing, bench: Bench) -> Standing:
        """Move `main` as far as it may."""
        self._standing = standing = self._lab.advance(standing, bench, proof=not self._stopping)
        self._stands_on = self._ground(bench)
        return standing

    def _ground(self, bench: Bench) -> object:
        """What the standing was read from, and must be the same for it to hold."""
        return self._experiments.main, bench.setting, bench.config.gate

    def _measure(self, experiment: Experiment, standing: Standing, bench: Bench) -> list[Experiment]:
        """Train, score and decide until there is a decision; record. What has to be measured because of
        it, if it stands on a commit that is not the tip's."""
        number, parent = experiment.name.number, experiment.parent
        self._tell("begun", f"{number:04d} {experiment.message.title}", experiment)
        shorter = self._is_shorter(experiment)
        while True:
            earlier = self._experiments.scores(experiment.commit, bench.setting)
            trial, folder = self._lab.trial(experiment.commit, bench, number)
            decision = gate.decide(trial, earlier, parent, standing, shorter)
            if decision.status != AGAIN:
                break
            self._lab.forget(folder)
            self._experiments.note(experiment.commit, trial=trial)
            self._tell("note", f"     {decision.reason}")
            if self._stopping:
                return []  # it goes on at the next start
        done = self._record(experiment, trial, decision, bench)
        if done is None or done.status != KEEP:
            self._lab.forget(folder)
        else:
            self._lab.keep(folder, done.commit)
        if done is None or done.val_bpb is None:
            return []
        if standing.knows(parent):
            scores = self._experiments.scores(done.commit, bench.setting)
            of = Measured(done.commit, parent, scores, done.status == KEEP, shorter)
            if self._stands_on == self._ground(bench):  # else a person moved main: it is read anew
                self._advance(standing.after(of), bench)
            return []
        if done.status != KEEP:
            return []
        return self._drafts.begin_again(done, parent, standing.incumbent.commit)

    def _record(
        self, experiment: Experiment, trial: Trial, decision: Decision, bench: Bench
    ) -> Experiment | None:
        """Into git; None if a person moved the branch, which says that this one is theirs."""
        try:
            done = self._experiments.complete(experiment, trial, decision)
        except Moved as moved:
            self._tell("trouble", f"     not recorded: {moved}")
            return None
        self._experiments.forget(experiment.commit)
        self._results.append(done)
        self._tell("measured", f"     {decision.status}: {decision.reason}", done)
        self._drafts.learn(done, trial, bench)
        return done

    # ── around it ─────────────────────────────────────────────────────────────────────────────

    def _is_shorter(self, experiment: Experiment) -> bool:
        old, new = (self._experiments.source(commit) for commit in (experiment.parent, experiment.commit))
        try:
            return program.lines(new) < program.lines(old)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False

    def _begun_before(self) -> list[Experiment]:
        """What an earlier loop began and was stopped in, or lost to an error of the machine."""
        found = [e for e in self._experiments if e.program and e.status in (None, ERROR)]
        for experiment in found:
            self._tell("note", f"{experiment.name.number:04d} was begun and not measured: it goes first")
        return found

    def _enough(self, ahead: int = 0) -> str:
        """Why to stop now, or after `ahead` more experiments; empty to go on."""
        seconds = time.monotonic() - self._began
        return self._stopping or self._limits.reached(self._results, seconds, self._drafts.spent_usd, ahead)

    def _tell(self, kind: str, text: str, experiment: Experiment | None = None) -> None:
        if kind in ("begun", "measured"):  # for `harness status`; of no use to anybody afterwards
            now = time.time()
            state = {
                "running": text if kind == "begun" else "", "since": now,
                "began": now - (time.monotonic() - self._began), "limits": dataclasses.asdict(self._limits),
                "measured": len(self._results), "spent": self._drafts.spent_usd,
            }  # fmt: skip
            write_atomically(self._repository.paths.loop_state, json.dumps(state).encode())
        self._watcher.tell(Event(kind, text, experiment))


def refuse(process: str) -> None:
    raise HarnessError(f"another loop runs in this repository (process {process})", "harness status")
