"""The loop, readable from top to bottom: propose, commit, train and score, decide, record.

Guarantees: an experiment is a commit on its own branch before it costs GPU time; what was measured is
in git before anything else happens; `main` moves only by fast-forward to a kept commit, when the gate
is sure of it. Killed anywhere, the next start finishes what was begun: an experiment without a status
is measured, runs that it had already count, and `main` moves if it had not got there. What is believed
is rebuilt from git. The next proposal is made while a trial trains, the next trial starts beside it, and
with several GPUs none waits for another: one thread asks what is to be measured next (`_next`), hands it to
a station that is free, and takes in what comes back (`_take`).
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from harness import gate
from harness.agents import Agent, program
from harness.errors import HarnessError
from harness.executors.local import Crew, Job
from harness.gate.standing import Standing, revised
from harness.lock import held, refuse
from harness.session.baseline import Baseline, Ground
from harness.session.events import Event
from harness.session.limits import Limits, Summary
from harness.session.proposals import Drafts, in_background
from harness.session.runner import Lab
from harness.session.state import State
from harness.store.experiment import Experiment
from harness.store.records import AGAIN, KEEP, Base, Decision, Measured, Trial
from harness.store.repo import Moved, Repository
from harness.worker.device import Device
from harness.worker.run import Bench
from harness.worker.supervisor import Progress
from harness.worker.worker import Cancelled, Station


@dataclass(frozen=True)
class Watcher:
    """Where events go, and progress, which doesn't stay, with the number of its station."""

    tell: Callable[[Event], None]
    show: Callable[[Progress, int], None]


class Loop:
    """One night. `run` returns when a limit is met or `stop` was called."""

    def __init__(
        self, repository: Repository, agent: Agent, limits: Limits, seed: int, watcher: Watcher,
        devices: list[Device] | None = None, places: int = 1, stand_in: Agent | None = None,
    ) -> None:  # fmt: skip
        """`devices`: a station each; None: so many `places` on the one that the config means. `stand_in`
        proposes when `agent` has nothing usable again and again."""
        self._repository, self._limits, self._watcher = repository, limits, watcher
        self._lab = Lab(repository, self._tell, watcher.show)
        self._experiments = self._lab.experiments
        self._drafts = Drafts(
            self._lab, agent, seed, repository.paths.read_program, self._tell, stand_in
        )  # fmt: skip
        self._crew = Crew(self._lab.run, devices, places)
        self._waiting: list[Experiment] = []  # begun, and to be measured before anything new
        self._again: list[Experiment] = []  # to be run once more before they are decided
        self._results: list[Experiment] = []
        self._began = time.monotonic()
        self._stopping = ""
        self._failure: HarnessError | None = None  # raised when what runs is over
        self._standing: Standing | None = None
        self._stands_on: Ground | None = None
        self._baseline = Baseline(self._lab, self._crew, self._tell)
        self._unproposed_since: float | None = None
        self._proposed_after = 0.0  # seconds that the last proposal was waited for
        self._disturbed = 0  # trials
        self._state = State(repository.loop_state, limits)

    def stop(self, why: str) -> None:
        """End after the running trials."""
        self._stopping = self._stopping or why

    def run(self) -> Summary:
        """Experiment after experiment.

        Raises:
            HarnessError: something that only the person can mend; nothing is lost.
            KeyboardInterrupt: at once; the running experiments are measured at the next start.
        """
        self._repository.check_ready()
        with held(self._repository.loop_lock, refuse), closing(self._crew), closing(self._lab.kept):
            in_background(self._repository.tidy)
            bench, station = self._crew.bench(self._lab.bench()), self._crew.free()[0]
            if (known := self._lab.known(bench)) is not None:  # an earlier loop may have been killed
                self._lab.advance(known, bench, station)  # between the checkout and main
            self._lab.kept.score_holdout(self._experiments.main, bench, station)  # or before that was over
            self._repository.check_clean()
            self._lab.kept.sweep()
            self._waiting = self._drafts.begun_before()
            while True:
                self._fill()
                if not self._crew.running and (why := self._over()):
                    break
                try:
                    self._ask_ahead()
                except (HarnessError, OSError) as failure:
                    self._fail(failure)
                with self._lab.away():
                    self._crew.wait(self._drafts.answer if self._unproposed_since else None)
                for over in self._crew.done():
                    try:
                        self._take(over)
                        self._let_train()
                    except (HarnessError, OSError) as failure:  # the others' results are not to be lost
                        self._fail(failure)
                self._lab.kept.settle()
        seconds = time.monotonic() - self._began
        kept = sum(result.status == KEEP for result in self._results)
        own = seconds - self._lab.seconds
        return Summary(why, kept, len(self._results), seconds, own, self._drafts.paid_usd, self._disturbed)

    def _fail(self, failure: HarnessError | OSError) -> None:
        """Begin nothing more; raised when what runs is over."""
        if isinstance(failure, BrokenPipeError):
            failure = HarnessError("nobody reads its output any more", "harness loop --json > events.jsonl")
        elif not isinstance(failure, HarnessError):
            failure = HarnessError(f"the machine failed: {failure}")
        self._failure = self._failure or failure
        self._crew.cancel_held()

    def _over(self) -> str:
        """Why nothing more is to be begun, while nothing runs; raises what went wrong."""
        why = self._enough()
        failure = self._failure or (self._drafts.gave_up if not why else None)
        if failure is not None or why:
            self._lab.kept.settle(wait=True)
        if failure is not None:
            raise failure
        return why

    # ── what is to be measured next ───────────────────────────────────────────────────────────

    def _fill(self) -> None:
        """Hand out trials while there are stations for them."""
        for waits in self._crew.in_the_way():
            self._put_back(waits)
        for station in self._crew.free():
            job: Job | None = None
            try:
                wanted = not self._crew.is_training(station) or self._has_next(station)
                job = self._next(station) if self._failure is None and wanted else None
            except (HarnessError, OSError) as failure:
                self._fail(failure)
            if job is None and self._standing is None:
                continue  # for the first experiment there may be room beside a run of main
            if job is None:
                return
            job.propose_seconds, self._proposed_after = self._proposed_after, 0.0
            self._crew.start(job, station)

    def _next(self, station: Station) -> Job | None:
        """What a station is to do now; None if there is nothing, or not yet."""
        bench = self._crew.bench(self._lab.bench(), station)
        current = self._stand(bench, station)
        waited, self._unproposed_since = self._unproposed_since, None
        if self._again and current is not None and not self._stopping:
            again = self._again.pop(0)
            return Job(self._lab.order(again.commit, standing=current), bench, again)
        if self._enough(ahead=0 if self._again else self._undecided):
            return None
        if current is None and ((of_main := self._baseline.next(bench)) is not None or self._again):
            return of_main
        base = current.incumbent if current else self._early(bench) if self._crew.at(station) else None
        if base is None:
            return None
        if not self._waiting:
            found = self._drafts.next(base, bench, self._results)
            if found is None:
                if not self._crew.is_training(station):
                    self._unproposed_since = waited or time.monotonic()
                return None
            self._waiting.append(found)
            if waited is not None:
                self._proposed_after = time.monotonic() - waited
        experiment = self._waiting.pop(0)
        if current is not None and experiment.parent not in current.line:  # main went on by hand, say
            experiment = self._drafts.moved(experiment, base.commit) or experiment
        self._tell("begun", f"{experiment.name.number:04d} {experiment.message.title}", experiment)
        return Job(self._lab.order(experiment.commit, standing=current), bench, experiment)

    def _has_next(self, station: Station) -> bool:
        """Whether a trial could begin at once, with nothing else to be done before."""
        ready = bool(self._again or self._waiting or self._drafts.is_ready)
        if not ready and (self._standing is not None or not self._baseline.is_due):
            return False
        ground = self._baseline.ground(bench := self._crew.bench(self._lab.bench(), station))
        known = self._stands_on == ground or self._baseline.left(ground) > 0
        return known or (ready and self._early(bench) is not None)

    def _early(self, bench: Bench) -> Base | None:
        """`main`, while its last runs are made, for what waits to be measured on it."""
        base = self._baseline.early(bench)
        return base if base and all(each.parent == base.commit for each in self._waiting[:1]) else None

    def _stand(self, bench: Bench, station: Station) -> Standing | None:
        """Where the research stands, `main` moved as far as it may; read from git where somebody else
        moved it, or the setting is another. None while `main` or the noise is to be measured there."""
        ground = self._baseline.ground(bench)
        if self._standing is not None and self._stands_on == ground:
            return self._standing
        if not self._baseline.is_made(bench) or (known := self._lab.known(bench)) is None:
            return None
        if (passed := self._lab.passed_by(bench)) is not None:
            self._waiting += self._drafts.begin_again(passed[0], known.incumbent.commit, passed[1])
            known = self._lab.known(bench) or known  # its runs may hold there
        return self._advance(known, bench, station)

    def _advance(self, standing: Standing, bench: Bench, station: Station) -> Standing:
        """Move `main` as far as it may."""
        for line in revised(self._standing, standing):
            self._tell("note", f"     {line}")
        self._standing = moved = self._lab.advance(standing, bench, station)
        # Not where main is now: a person may have moved it meanwhile.
        self._stands_on = moved.line[0], bench.setting, bench.config.gate
        return moved

    @property
    def _undecided(self) -> int:
        """Experiments that were begun and are to be decided tonight."""
        return len(self._again) + sum(job.experiment is not None for job in self._crew.running)

    def _ask_ahead(self) -> None:
        """Have proposals made for when the running trials are over."""
        busy = self._crew.running if self._failure is None else []
        if not busy or self._waiting or self._enough(self._undecided, self._drafts.paid_usd):
            return
        bench, asked = busy[-1].bench, sum(job.is_held and job.experiment is not None for job in busy)
        if base := self._early(bench) or (self._standing.incumbent if self._standing else None):
            self._drafts.ask_ahead(base, bench, self._results, len(self._crew) - asked)

    # ── what came back ────────────────────────────────────────────────────────────────────────

    def _take(self, job: Job) -> None:
        """Take in what a trial gave."""
        try:
            trial, folder = job.future.result()
        except Cancelled:
            return
        trial = replace(trial, propose_seconds=job.propose_seconds)
        self._disturbed += bool(trial.delay)
        self._crew.learn(job, trial)
        if job.experiment is None:
            others = any(not each.is_held for each in self._crew.runs_of(trial.commit))
            mended = trial.commit != self._experiments.main  # by a person, meanwhile
            self._lab.noted(trial, folder, job.bench, others or mended)
            self._take_run_of_main(job, trial)
        else:
            self._decide(job, job.experiment, trial, folder)

    def _let_train(self) -> None:
        """Whoever waits on a station for its first batch, and for nothing else, gets it."""
        for waits in self._crew.next_to_train():
            if wanted := self._is_wanted(waits):
                self._bring_up(waits)
                self._crew.release(waits)
            elif wanted is not None:
                self._put_back(waits)  # it was only to be ready

    def _is_wanted(self, job: Job) -> bool | None:
        """Whether one that waits for its first batch is to have it now; None: not before `main` is known."""
        bench = self._crew.bench(self._lab.bench(), job.station)
        enough = self._enough(self._undecided - sum(j.is_held for j in self._crew.running), spent_usd=0.0)
        ground = self._baseline.ground(bench)
        if self._baseline.ground(job.bench) != ground:  # a person changed the config
            return False
        if job.experiment is None:
            return job.order.commit == ground[0] and not enough
        if self._stands_on != ground:  # or a person moved main
            return None if self._early(bench) is not None else False
        return not (self._stopping if self._experiments.trials(job.order.commit) else enough)

    def _put_back(self, job: Job) -> None:
        job.turn.cancelled.set()
        if job.experiment is None:
            self._baseline.put_back(job)
        else:
            begun_before = self._experiments.trials(job.order.commit)
            (self._again if begun_before else self._waiting).append(job.experiment)

    def _take_run_of_main(self, job: Job, trial: Trial) -> None:
        score = trial.detail if trial.val_bpb is None else f"{trial.val_bpb:.4f}"
        count = len(self._experiments.main_scores(job.bench.setting))
        run = f", run {count} for the noise" if count > 1 else ""
        self._tell("measured", f"     baseline: {score}{run}")
        self._lab.kept.score_holdout(trial.commit, job.bench, job.station)
        self._read_again(job)

    def _read_again(self, job: Job) -> None:
        self._stands_on = None
        self._stand(self._crew.bench(self._lab.bench(), job.station), job.station)

    def _decide(self, job: Job, experiment: Experiment, trial: Trial, folder: Path) -> None:
        """Run it again, or record what it is; `main` may move, and what meets a winner is applied on it."""
        bench, parent, standing = job.bench, experiment.parent, self._standing
        try:
            if (stands_on := self._stands_on) != (ground := self._baseline.ground(bench)):
                now = self._lab.known(bench)
                only_main = stands_on is not None and stands_on[1:] == ground[1:]  # moved by a person
                of_old = only_main and standing is not None and standing.knows(parent)
                if now is not None and (now.knows(parent) or not of_old):
                    standing = now
                elif not only_main:  # nothing to hold it against in its setting: first main's runs there
                    standing = None
        except HarnessError:
            self._experiments.note(experiment.commit, trial=trial)  # what was measured is not to be lost
            raise
        if standing is None:
            return self._run_again(experiment, trial, folder, "it waits for main's score in this setting")
        shorter = program.is_shorter(*map(self._experiments.source, (experiment.commit, parent)))
        earlier = self._experiments.scores(experiment.commit, bench.setting)
        decision = gate.decide(trial, earlier, parent, standing, shorter)
        if decision.status == AGAIN:
            return self._run_again(experiment, trial, folder, decision.reason)
        if decision.status == KEEP:
            self._lab.kept.keep(folder, trial)  # first: a killed loop's unmarked ones are swept
        done = self._record(experiment, trial, decision, bench)
        if done is None or done.status != KEEP:
            self._lab.kept.forget(folder)
        if done is None or done.val_bpb is None:
            return
        is_known = standing.knows(parent)
        moved = self._stands_on != self._baseline.ground(bench)  # by a person
        if moved or not is_known:
            onto = self._experiments.main if is_known else standing.incumbent.commit
            in_line = is_known and self._experiments.are_in_line(parent, onto)  # else main was amended, say
            if done.status == KEEP and not in_line:
                self._waiting += self._drafts.begin_again(done, onto)
            return self._read_again(job)
        if done.origin and self._experiments.are_one_program(done.origin, done.commit):
            return self._read_again(job)  # it stands in that one's place
        scores = self._experiments.scores(done.commit, bench.setting)
        of = Measured(done.commit, parent, scores, done.status == KEEP, shorter)
        now = standing.after(of)
        if done.status == KEEP and parent != standing.line[-1]:
            self._waiting += self._drafts.meet(done, standing, now)  # first: moving main may take a while
        self._advance(now, bench, job.station)

    def _run_again(self, experiment: Experiment, trial: Trial, folder: Path, why: str) -> None:
        """Note what was measured; it is decided after one more trial."""
        self._lab.kept.forget(folder)
        self._experiments.note(experiment.commit, trial=trial)
        self._tell("note", f"     {why}")
        self._again.append(experiment)

    def _bring_up(self, job: Job) -> None:
        """One that waits for its first batch, on a commit that is the tip no more: begun anew there."""
        experiment, standing = job.experiment, self._standing
        if experiment is None or standing is None or experiment.parent == (tip := standing.incumbent.commit):
            return
        if (moved := self._drafts.moved(experiment, tip)) is not None:
            self._tell("note", f"{moved.name.number:04d} starts anew: the tip is {tip[:7]} now")
            job.turn.cancelled.set()
            self._waiting.insert(0, moved)

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
        # Titles of others may stand between its own and this.
        which = f"{done.name.number:04d}" if self._crew.running else "    "
        self._tell("measured", f"{which} {decision.status}: {decision.reason}", done)
        self._drafts.learn(done, trial, bench)
        return done

    # ── around it ─────────────────────────────────────────────────────────────────────────────

    def _enough(self, ahead: int = 0, spent_usd: float | None = None) -> str:
        """Why to stop now, or after `ahead` more experiments; empty to go on."""
        spent = self._drafts.spent_usd if spent_usd is None else spent_usd  # 0 for what was paid already
        seconds = time.monotonic() - self._began
        return self._stopping or self._limits.reached(self._results, seconds, spent, ahead)

    def _tell(self, kind: str, text: str, experiment: Experiment | None = None) -> None:
        if kind in ("begun", "measured"):  # for `harness status`
            of, spent = f"{experiment.name.number:04d}" if experiment else "main", self._drafts.spent_usd
            self._state.write(text, of, kind == "measured", len(self._results), spent)
        self._watcher.tell(Event(kind, text, experiment))
