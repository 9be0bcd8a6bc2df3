"""The loop, readable from top to bottom: propose, commit, train and score, decide, record.

Guarantees: an experiment is a commit on its own branch before it costs GPU time; what was measured is
in git before anything else happens; `main` moves only by fast-forward to a kept commit, when the gate
is sure of it. Killed anywhere, the next start finishes what was begun: an experiment without a status
is measured, runs that it had already count, and `main` moves if it had not got there. The posterior
is rebuilt from git. The next proposal is made while a run trains, the next run starts beside it, and
with several GPUs none waits for another: one thread asks what is to be measured next (`_next`), hands it to
a worker that is free, and takes in what comes back (`_take`).
"""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from harness import gate
from harness.agents import Agent, program
from harness.errors import HarnessError
from harness.executors.jobs import Executor, Job, Pool, Worker
from harness.executors.remote import Lost
from harness.gate.hosts import EVERY
from harness.lock import held, refuse
from harness.session.background import in_background
from harness.session.baseline import Baseline
from harness.session.events import BEGUN, MEASURED, PUT_BACK, Journal, Watcher
from harness.session.limits import Limits, Summary
from harness.session.proposals import Proposals
from harness.session.research import Research
from harness.session.runner import Runner
from harness.store.checkout import Checkout
from harness.store.decisions import CANDIDATE, Decision, Measured
from harness.store.experiment import Experiment
from harness.store.records import AGAIN, KEEP, RunRecord
from harness.store.repo import Moved, Repository
from harness.worker.attempts import forget
from harness.worker.run import Setup
from harness.worker.worker import Cancelled

MOST_LOST = 3  # runs in a row, with their workers


class Loop:
    """One session. `run` returns when a limit is met or `stop` was called."""

    def __init__(
        self, repository: Repository, agent: Agent, limits: Limits, seed: int, watcher: Watcher,
        pool: Pool, stand_in: Agent | None = None,
    ) -> None:  # fmt: skip
        """`pool`: the workers, which end with the session. `stand_in` proposes when `agent` has nothing
        usable again and again."""
        self._repository, self._limits = repository, limits
        self._journal = Journal(repository.events, limits, watcher, lambda: self._proposals.spent_usd)
        self._tell = tell = self._journal.tell
        self._runner = Runner(repository, tell, self._journal.show)
        self._experiments = self._runner.experiments
        self._proposals = Proposals(self._runner, agent, seed, repository.paths.read_program, tell, stand_in)
        self._executor = Executor(pool, self._runner.hears)
        self._runner.kept.whose = self._executor.with_folder
        self._waiting: list[Experiment] = []  # begun, and to be measured before anything new
        self._again: list[Experiment] = []  # to be run once more before they are decided
        self._results: list[Experiment] = []
        self._began = time.monotonic()
        self._stopping = ""
        self._failure: HarnessError | None = None  # raised when what runs is over
        self._baseline = Baseline(self._runner, self._executor, tell)
        again = lambda *where: self._waiting.extend(self._proposals.moving.begin_again(*where))  # noqa: E731
        self._research = Research(self._runner, self._baseline, again, tell)
        self._unproposed_since: float | None = None
        self._proposed_after = 0.0  # seconds that the last proposal was waited for
        self._disturbed = 0  # runs
        self._lost = 0  # in a row
        self._since_rebuilt = 0  # decisions

    def stop(self, why: str) -> None:
        """End after the running runs."""
        self._stopping = self._stopping or why

    def run(self) -> Summary:
        """Experiment after experiment.

        Raises:
            HarnessError: something that only the person can mend; nothing is lost.
            KeyboardInterrupt: at once; the running experiments are measured at the next start.
        """
        with held(self._repository.loop_lock, refuse), closing(self._executor), closing(self._runner.kept):
            self._repository.exclude(self._repository.events)
            self._journal.begin()
            Checkout(self._repository).check_ready()  # under the lock: it removes locks of killed ones
            in_background(self._repository.tidy)
            setup, worker = self._setup(), self._executor.free()[0]
            if (known := self._runner.known(setup)) is not None:  # an earlier loop may have been killed
                self._runner.advance(known, setup, worker)  # between the checkout and main
            self._runner.kept.score_holdout(self._experiments.main, setup, worker)  # or before that was over
            Checkout(self._repository).check_clean()
            self._runner.kept.sweep()
            self._waiting = self._proposals.begun_before()
            while True:
                self._fill()
                if not self._executor.running and (why := self._over()):
                    break
                try:
                    self._ask_ahead()
                except (HarnessError, OSError) as failure:
                    self._fail(failure)
                with self._runner.away():
                    self._executor.wait(self._proposals.answer if self._unproposed_since else None)
                for over in self._executor.done():
                    try:
                        self._take(over)
                        self._let_train()
                    except (HarnessError, OSError) as failure:  # the others' results are not to be lost
                        self._fail(failure)
                self._runner.kept.settle()
        seconds = time.monotonic() - self._began
        kept = sum(result.status == KEEP for result in self._results)
        own = seconds - self._runner.seconds
        return Summary(why, kept, len(self._results), seconds, own, self._proposals.paid_usd, self._disturbed)

    def _enough(self, ahead: int = 0, spent_usd: float | None = None) -> str:
        """Why to stop now, or after `ahead` more experiments; empty to go on."""
        spent = self._proposals.spent_usd if spent_usd is None else spent_usd  # 0 for what was paid already
        seconds = time.monotonic() - self._began
        return self._stopping or self._limits.reached(self._results, seconds, spent, ahead)

    def _fail(self, failure: HarnessError | OSError) -> None:
        """Begin nothing more; raised when what runs is over."""
        if isinstance(failure, BrokenPipeError):
            failure = HarnessError("nobody reads its output any more", "harness loop --json > events.jsonl")
        elif not isinstance(failure, HarnessError):
            failure = HarnessError(f"the machine failed: {failure}")
        self._failure = self._failure or failure
        self._executor.cancel_held()

    def _over(self) -> str:
        """Why nothing more is to be begun, while nothing runs; raises what went wrong."""
        why = self._enough()
        failure = self._failure or (self._proposals.gave_up if not why else None)
        if failure is not None or why:
            self._runner.kept.settle(wait=True)
        if failure is not None:
            raise failure
        return why

    # ── what is to be measured next ───────────────────────────────────────────────────────────

    def _fill(self) -> None:
        """Hand out runs while there are workers for them."""
        for waits in self._executor.in_the_way():
            self._put_back(waits)
        for worker in self._executor.free():
            job: Job | None = None
            try:
                wanted = not self._executor.is_training(worker) or self._has_next(worker)
                job = self._next(worker) if self._failure is None and wanted else None
            except (HarnessError, OSError) as failure:
                self._fail(failure)
            if job is None and self._research.standing is None:
                continue  # for the first experiment there may be room beside a run of main
            if job is None:
                return
            job.propose_seconds, self._proposed_after = self._proposed_after, 0.0
            self._executor.start(job)

    def _next(self, worker: Worker) -> Job | None:
        """What a worker is to do now; None if there is nothing, or not yet."""
        setup = self._setup(worker)
        current = self._research.now(setup, worker)
        waited, self._unproposed_since = self._unproposed_since, None
        if current is not None and not self._stopping and (again := self._next_again(setup, worker)):
            order = self._runner.order(again.commit, again.name.digits, standing=current)
            return Job(order, setup, worker, again)
        if self._enough(ahead=0 if self._again else self._undecided):
            return None
        if current is not None and self._research.is_new_to(worker, setup, current):
            return self._baseline.one(setup, worker, "this device hasn't run it yet")
        if current is None and ((of_main := self._baseline.next(setup, worker)) is not None or self._again):
            return of_main
        base = (
            current.incumbent
            if current
            else self._baseline.early(setup, self._waiting)
            if self._executor.at(worker)
            else None
        )
        if base is None:
            return None
        if not self._waiting:
            found = self._proposals.next(base, setup, self._results)
            if found is None:
                if not self._executor.is_training(worker):
                    self._unproposed_since = waited or time.monotonic()
                return None
            self._waiting.append(found)
            if waited is not None:
                self._proposed_after = time.monotonic() - waited
        experiment = self._waiting.pop(0)
        if current is not None and experiment.parent not in current.chain:  # main went on by hand, say
            experiment = self._proposals.moving.moved(experiment, base.commit) or experiment
        number = experiment.name.digits
        order = self._runner.order(experiment.commit, number, standing=current)
        self._tell(BEGUN, f"{number} {experiment.message.title}", experiment, order)
        return Job(order, setup, worker, experiment)

    def _next_again(self, setup: Setup, worker: Worker) -> Experiment | None:
        """Of those that are to be run again the first one that ran elsewhere, if there is an elsewhere."""
        here = self._executor.on(worker, setup)
        anywhere = not self._executor.are_elsewhere(worker, setup)
        for again in self._again:
            ran_on = {on for _, on in self._experiments.scored(again.commit, setup.setting)}
            if anywhere or here not in ran_on:
                self._again.remove(again)
                return again
        return None

    def _has_next(self, worker: Worker) -> bool:
        """Whether a run could begin at once, with nothing else to be done before."""
        ready = bool(self._again or self._waiting or self._proposals.is_ready)
        if not ready and (self._research.standing is not None or not self._baseline.is_due):
            return False
        key = self._baseline.key(setup := self._setup(worker))
        known = self._research.key == key or self._baseline.left(key) > 0
        return known or (ready and self._baseline.early(setup, self._waiting) is not None)

    def _setup(self, worker: Worker | None = None) -> Setup:
        """By the config as it is now, on a worker's device."""
        return self._executor.setup(self._runner.setup(), worker)

    @property
    def _undecided(self) -> int:
        """Experiments that were begun and are to be decided in this session."""
        return len(self._again) + sum(job.experiment is not None for job in self._executor.running)

    def _ask_ahead(self) -> None:
        """Have proposals made for when the running runs are over."""
        busy = self._executor.running if self._failure is None else []
        if not busy or self._waiting or self._enough(self._undecided, self._proposals.paid_usd):
            return
        asked = sum(job.is_held and job.experiment is not None for job in busy)
        setup, standing = busy[-1].setup, self._research.standing
        if base := self._baseline.early(setup, self._waiting) or (standing.incumbent if standing else None):
            self._proposals.ask_ahead(base, setup, self._results, len(self._executor) - asked)

    # ── what came back ────────────────────────────────────────────────────────────────────────

    def _take(self, job: Job) -> None:
        """Take in what a run gave."""
        try:
            run, folder = job.future.result()
        except Cancelled:
            return
        except Lost as lost:
            return self._begin_again(job, str(lost))
        run = replace(run, propose_seconds=job.propose_seconds)
        self._disturbed += bool(run.delay)
        self._lost = 0
        if job.experiment is None:
            others = any(not each.is_held for each in self._executor.runs_of(run.commit))
            mended = run.commit != self._experiments.main  # by a person, meanwhile
            self._runner.noted(run, folder, job.setup, others or mended)
            score = run.detail if run.value is None else run.metric.text(run.value)
            self._tell(MEASURED, f"     baseline: {score}", order=job.order)
            self._runner.kept.score_holdout(run.commit, job.setup, job.worker)
            self._research.read_again(self._setup(job.worker), job.worker)
        else:
            self._decide(job, job.experiment, run, folder)

    def _let_train(self) -> None:
        """Whoever waits on a worker for its first batch, and for nothing else, gets it."""
        for waits in self._executor.next_to_train():
            if wanted := self._is_wanted(waits):
                self._bring_up(waits)
                self._executor.release(waits)
            elif wanted is not None:
                self._put_back(waits)  # it was only to be ready

    def _is_wanted(self, job: Job) -> bool | None:
        """Whether one that waits for its first batch is to have it now; None: not before `main` is known."""
        setup = self._setup(job.worker)
        enough = self._enough(self._undecided - sum(j.is_held for j in self._executor.running), spent_usd=0.0)
        key = self._baseline.key(setup)
        if self._baseline.key(job.setup) != key:  # a person changed the config
            return False
        if job.experiment is None:
            return job.order.commit == key[0] and not enough
        if self._research.key != key:  # or a person moved main
            return None if self._baseline.early(setup, self._waiting) is not None else False
        return not (self._stopping if self._experiments.runs(job.order.commit) else enough)

    def _begin_again(self, job: Job, why: str) -> None:
        """What was lost with its worker: nobody knows how it went, so it never was."""
        if job.handle.cancelled.is_set():
            return
        self._lost += 1
        if self._lost >= MOST_LOST:
            raise HarnessError(f"{self._lost} runs in a row were lost: {why}", "harness doctor")
        self._tell("trouble", f"     {job.order.name} is run again: {why}")
        self._put_back(job)

    def _put_back(self, job: Job) -> None:
        job.handle.cancel()
        if job.experiment is None:
            self._baseline.put_back(job)
            self._tell(PUT_BACK, "", order=job.order)
        else:
            begun_before = self._experiments.runs(job.order.commit)
            (self._again if begun_before else self._waiting).append(job.experiment)

    def _decide(self, job: Job, experiment: Experiment, run: RunRecord, folder: Path) -> None:
        """Run it again, or record what it is; `main` may move, and what meets a winner is applied on it."""
        setup, parent = job.setup, experiment.parent
        try:
            standing = self._research.standing_for(parent, setup)
        except HarnessError:
            self._experiments.add_run(experiment.commit, run)  # what was measured is not to be lost
            raise
        if standing is None:
            return self._run_again(experiment, run, folder, "it waits for main's score in this setting")
        shorter = program.is_shorter(*map(self._experiments.source, (experiment.commit, parent)))
        earlier = self._experiments.scored(experiment.commit, setup.setting)
        decision = gate.decide(run, earlier, parent, standing, shorter)
        if decision.status == AGAIN:
            return self._run_again(experiment, run, folder, decision.reason)
        if decision.status == KEEP:
            self._runner.kept.keep(folder, run)  # first: a killed loop's unmarked ones are swept
        done = self._record(experiment, run, decision, job)
        if done is None or done.status != KEEP:
            forget(folder)
        if done is None or done.value is None:
            return
        is_known, moved = standing.knows(parent), self._research.key != self._baseline.key(setup)
        if moved or not is_known:
            onto = self._experiments.main if is_known else standing.incumbent.commit
            in_line = is_known and self._experiments.are_in_line(parent, onto)  # else main was amended, say
            if done.status == KEEP and not in_line:
                self._waiting += self._proposals.moving.begin_again(done, onto)
        in_its_place = done.origin and self._experiments.are_one_program(done.origin, done.commit)
        if moved or not is_known or in_its_place:
            return self._research.read_again(self._setup(job.worker), job.worker)
        scores, hosts = zip(*self._experiments.scored(done.commit, setup.setting), strict=True)
        of = Measured(done.commit, parent, scores, done.status == KEEP, shorter, hosts)
        now = standing.after(of)
        if done.status == KEEP and parent != standing.chain[-1]:
            self._waiting += self._proposals.moving.meet(done, standing, now)  # moving main may take a while
        self._since_rebuilt += 1
        if standing.offsets and self._since_rebuilt >= EVERY:  # what was measured since says more of them
            self._since_rebuilt = 0
            return self._research.read_again(self._setup(job.worker), job.worker)
        self._research.advance(now, setup, job.worker)

    def _run_again(self, experiment: Experiment, run: RunRecord, folder: Path, why: str) -> None:
        """Note what was measured; it is decided after one more run."""
        forget(folder)
        self._experiments.add_run(experiment.commit, run)
        self._tell("note", f"     {why}")
        self._again.append(experiment)

    def _bring_up(self, job: Job) -> None:
        """One that waits for its first batch, on a commit that is no longer the head: begun anew there."""
        experiment, standing = job.experiment, self._research.standing
        if experiment is None or standing is None or experiment.parent == (head := standing.incumbent.commit):
            return
        if (moved := self._proposals.moving.moved(experiment, head)) is not None:
            self._tell("note", f"{moved.name.digits} starts anew: the frontier's head is {head[:7]} now")
            job.handle.cancel()
            self._waiting.insert(0, moved)

    def _record(
        self, experiment: Experiment, run: RunRecord, decision: Decision, job: Job
    ) -> Experiment | None:
        """Into git; None if a person moved the branch, which says that this one is theirs."""
        try:
            done = self._experiments.complete(experiment, run, decision)
        except Moved as moved:
            self._tell("trouble", f"     not recorded: {moved}")
            return None
        self._experiments.forget(experiment.commit)
        self._results.append(done)
        # Titles of others may stand between its own and this.
        which = done.name.digits if self._executor.running else "    "
        word = CANDIDATE if decision.status == KEEP else decision.status
        self._tell(MEASURED, f"{which} {word}: {decision.reason}", done, job.order)
        self._proposals.learn(done, run, job.setup)
        return done
