"""The loop: propose, commit, train and score, decide, record. What is done next, and where, says `plan`.

Guarantees: an experiment is a commit on its own branch before it costs GPU time; what was measured is
in git before anything else happens; `main` moves only by fast-forward to a kept commit, when the gate
is sure of it. Killed anywhere, the next start finishes what was begun: an experiment without a status
is measured, runs that it had already count, and `main` moves if it had not got there. The posterior
is rebuilt from git. One thread asks what is to be done and has it done (`_act`), and takes in results.
"""

import itertools
import time
from contextlib import closing
from dataclasses import replace

from harness.agents import Agent
from harness.errors import DeviceLost, HarnessError, MachineFailed
from harness.executors.jobs import Executor, Job, Pool, Worker
from harness.executors.remote import Lost
from harness.lock import held, refuse
from harness.session.background import in_background
from harness.session.deciding import Deciding
from harness.session.events import BEGUN, MEASURED, PUT_BACK, Journal, Watcher
from harness.session.limits import Limits, Summary
from harness.session.plan import (
    Action,
    Bounds,
    BringUp,
    Facts,
    Place,
    Propose,
    PutBack,
    Release,
    Running,
    Start,
    plan,
)  # fmt: skip
from harness.session.proposals import Proposals
from harness.session.research import Research
from harness.session.runner import Runner
from harness.session.undecided import Undecided
from harness.store.checkout import Checkout
from harness.store.experiment import Experiment
from harness.store.records import KEEP
from harness.store.repo import Repository
from harness.worker.orders import Order
from harness.worker.run import Setup
from harness.worker.worker import Cancelled

BASELINE = "baseline"


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
        self._runner.kept.whose, self._runner.kept.on = self._executor.with_folder, self._executor.setup
        self._undecided = Undecided(self._experiments)
        self._began = time.monotonic()
        self._stopping = ""
        self._failure: HarnessError | None = None  # raised when what runs is over
        self._research = Research(self._runner, self._begin_elsewhere, tell)
        self._deciding = Deciding(
            self._runner, self._research, self._proposals, self._undecided, tell,
            lambda: bool(self._executor.running),
        )  # fmt: skip
        self._unproposed_since: float | None = None
        self._proposed_after = 0.0  # seconds that the last proposal was waited for
        self._ids = itertools.count(1)
        self._disturbed = 0  # runs

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
            setup, worker = self._setup(), self._executor.workers()[0]
            if (known := self._runner.known(setup)) is not None:  # an earlier loop may have been killed
                self._runner.advance(known, setup, worker)  # between the checkout and main
            self._runner.kept.score_holdout(self._experiments.main, setup, worker)  # or before that was over
            Checkout(self._repository).check_clean()
            self._runner.kept.sweep()
            self._undecided.add(self._proposals.begun_before())
            while True:
                facts = self._act()
                if not self._executor.running and (why := self._over()):
                    break
                if facts is not None:
                    self._ask_ahead(facts)
                with self._runner.away():
                    self._executor.wait(self._proposals.answer if self._unproposed_since else None)
                for over in self._executor.done():
                    try:
                        self._take(over)
                    except (HarnessError, OSError) as failure:  # the others' results are not to be lost
                        self._fail(failure)
                self._runner.kept.settle()
        seconds = time.monotonic() - self._began
        done, own = self._deciding.results, seconds - self._runner.seconds
        kept = sum(result.status == KEEP for result in done)
        by = self._proposals
        return Summary(why, kept, len(done), seconds, own, by.paid_usd, self._disturbed, by.stood_in)

    def _bounds(self) -> Bounds:
        reached = lambda spent: self._limits.reached(self._deciding.results, self._seconds, spent)  # noqa: E731
        most, stops = self._limits.experiments, bool(self._stopping)
        return Bounds(
            None if most is None else most - len(self._deciding.results),
            stops or bool(reached(self._proposals.spent_usd)), stops or bool(reached(0.0)), stops,
        )  # fmt: skip

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _fail(self, failure: HarnessError | OSError) -> None:
        """Begin nothing more; raised when what runs is over."""
        if isinstance(failure, BrokenPipeError):
            failure = HarnessError("nobody reads its output any more", "harness loop --json > events.jsonl")
        elif not isinstance(failure, HarnessError):
            failure = HarnessError(f"the machine failed: {failure}")
        self._failure = self._failure or failure

    def _over(self) -> str:
        """Why nothing more is to be begun, while nothing runs; raises what went wrong."""
        spent = self._proposals.spent_usd
        why = self._stopping or self._limits.reached(self._deciding.results, self._seconds, spent)
        failure = self._failure or (self._proposals.gave_up if not why else None)
        if failure is not None or why:
            self._runner.kept.settle(wait=True)
        if failure is not None:
            raise failure
        return why

    # ── what is done next ─────────────────────────────────────────────────────────────────────

    def _act(self) -> Facts | None:
        """Do all that is to be done now; None where that failed."""
        may_ask, waited, self._unproposed_since = True, self._unproposed_since, None
        try:
            while self._failure is None:
                facts = self._facts(may_ask)
                if not (actions := plan(facts, self._bounds())):
                    return facts
                for action in actions:
                    if isinstance(action, Propose):
                        may_ask = self._propose(action, facts, waited)
                    else:
                        self._carry_out(action, facts)
        except (HarnessError, OSError) as failure:
            self._fail(failure)
        self._executor.cancel_held()
        return None

    def _facts(self, may_ask: bool) -> Facts:
        workers = self._executor.workers()
        setup = self._setup()
        of_main = [job for job in self._of(self._experiments.main) if not job.handle.cancelled.is_set()]
        there = self._executor.by_worker(workers)
        idle = min(workers, key=lambda worker: len(there[worker]))
        standing = self._research.now(setup, idle, len(of_main), len(workers))
        purpose = setup.setting, setup.config.gate
        places = tuple(self._place(worker, there[worker], setup) for worker in workers if worker.is_alive)
        missing_on = self._research.missing_on(place.on for place in places)
        for place in places:  # what runs there already is not missing
            if place.on in missing_on:
                missing_on[place.on] -= sum(run.due is None and not run.is_cancelled for run in place.runs)
        return Facts(
            self._experiments.main, purpose, standing.chain if standing else (),
            self._undecided.due, places,
            0 if standing else self._research.missing, missing_on,
            bool(standing) or self._research.made > 0, self._proposals.is_ready, may_ask,
            tuple(self._running(job) for worker in there if worker not in workers for job in there[worker]),
        )  # fmt: skip

    def _place(self, worker: Worker, jobs: list[Job], setup: Setup) -> Place:
        runs = tuple(map(self._running, jobs))
        return Place(worker.place, self._executor.on(worker, setup), worker.may_start, worker.has_room, runs)

    def _running(self, job: Job) -> Running:
        due = self._undecided.due_of(job.experiment) if job.experiment else None
        handle, purpose = job.handle, (job.setup.setting, job.setup.config.gate)
        return Running(
            job.number, job.order.commit, purpose, due, job.is_held, handle.trained.is_set(),
            job.future.done(), handle.cancelled.is_set(), handle.wants_room.is_set(), handle.waits,
        )  # fmt: skip

    def _carry_out(self, action: Action, facts: Facts) -> None:
        if isinstance(action, Start):
            return self._start(action, facts)
        assert not isinstance(action, Propose)
        job = next(job for job in self._executor.running if job.number == action.run)
        if isinstance(action, PutBack):
            job.handle.cancel()
            if job.experiment is None:
                self._tell(PUT_BACK, "", order=job.order)
        elif isinstance(action, BringUp) and self._moved(job.experiment, facts) is not None:
            name = job.experiment.name.digits if job.experiment else ""
            self._tell("note", f"{name} starts anew: the frontier's head is {facts.chain[-1][:7]} now")
            job.handle.cancel()
        elif isinstance(action, BringUp | Release):
            job.handle.release()

    def _start(self, action: Start, facts: Facts) -> None:
        """A run on a worker."""
        there = (each for each in self._executor.workers() if each.place == action.place)
        if (worker := next(there, None)) is None:
            return  # it is gone since
        setup, standing, due = self._setup(worker), self._research.standing, action.due
        standing = standing if facts.chain else None
        if due is None:
            job = Job(self._order_of_main(worker, setup, facts), setup, worker, number=next(self._ids))
        else:
            experiment = self._undecided.experiment(due.number)
            is_elsewhere = bool(facts.chain) and due.parent not in facts.chain  # main went on by hand, say
            if is_elsewhere and not due.is_again:
                experiment = self._moved(experiment, facts) or experiment
            digits = experiment.name.digits
            order = self._runner.order(experiment.commit, digits, standing=standing)
            if not due.is_again:
                self._tell(BEGUN, f"{digits} {experiment.message.title}", experiment, order)
            job = Job(order, setup, worker, experiment, number=next(self._ids))
        job.propose_seconds, self._proposed_after = self._proposed_after, 0.0
        self._executor.start(job)

    def _of(self, main: str) -> list[Job]:
        """Its runs that are not over; an experiment that a person moved `main` to is none."""
        return [job for job in self._executor.running if job.experiment is None and job.order.commit == main]

    def _order_of_main(self, worker: Worker, setup: Setup, facts: Facts) -> Order:
        """A run of it, said aloud."""
        main, running = facts.main, self._of(facts.main)
        order = self._runner.order(main, BASELINE, [job.order.seed for job in running])
        if facts.chain:
            which, why = "", "this device hasn't run it yet"
            self._research.tried_on[self._executor.on(worker, setup)] += 1
        else:
            live = sum(not job.handle.cancelled.is_set() for job in running)
            made = self._research.made + live
            of = self._research.made + sum(run.due is None for run in facts.running) + facts.missing
            which = f" {made + 1}/{max(of, made + 1)}"
            why = "to measure run-to-run noise" if made else "not measured in this setting yet"
        self._tell(BEGUN, f"{BASELINE}{which}: main ({main[:7]}), {why}", None, order)
        return order

    def _propose(self, action: Propose, facts: Facts, waited: float | None) -> bool:
        """Commit the next proposal; False if there is none."""
        setup = self._setup()
        base = self._research.base(setup)
        found = self._proposals.next(base, setup, self._deciding.results) if base is not None else None
        if found is None:
            if action.is_waited_for:
                self._unproposed_since = waited or time.monotonic()
            return False
        self._undecided.add([found])
        if waited is not None:
            self._proposed_after = time.monotonic() - waited
        return True

    def _moved(self, experiment: Experiment | None, facts: Facts) -> Experiment | None:
        """One that was begun, on the frontier's head; None where it can't be put there."""
        found = self._proposals.moving.moved(experiment, facts.chain[-1]) if experiment else None
        self._undecided.add([found] if found is not None else [])
        return found

    def _begin_elsewhere(self, kept: Experiment, onto: str, base: str) -> None:
        self._undecided.add(self._proposals.moving.begin_again(kept, onto, base))

    def _setup(self, worker: Worker | None = None) -> Setup:
        """By the config as it is now, on a worker's device."""
        return self._executor.setup(self._runner.setup(), worker)

    def _ask_ahead(self, facts: Facts) -> None:
        """Have proposals made for when the running runs are over."""
        new = [due for due in facts.waiting if not due.is_again]
        paid, most = self._proposals.paid_usd, self._limits.experiments
        full = most is not None and len(self._deciding.results) + facts.undecided >= most
        over = self._stopping or self._limits.reached(self._deciding.results, self._seconds, paid)
        if not facts.running or new or full or over or not facts.base:
            return
        asked = sum(run.is_held and run.due is not None for run in facts.running)
        try:
            if (base := self._research.base(setup := self._setup())) is not None:
                self._proposals.ask_ahead(base, setup, self._deciding.results, len(self._executor) - asked)
        except (HarnessError, OSError) as failure:
            self._fail(failure)

    # ── what came back ────────────────────────────────────────────────────────────────────────

    def _take(self, job: Job) -> None:
        """Take in what a run gave."""
        try:
            run, folder = job.future.result()
        except Cancelled:
            return
        except (Lost, DeviceLost, MachineFailed) as lost:
            return self._lost_with(job, lost)
        if job.handle.cancelled.is_set():
            return  # it was put back, or on another commit, in the moment that it ended
        run = replace(run, propose_seconds=job.propose_seconds)
        self._disturbed += bool(run.delay)
        self._executor.came_back()
        if job.experiment is None:
            running = [other for other in self._executor.running if other.experiment is None]
            others = any(not each.is_held and each.order.commit == run.commit for each in running)
            mended = run.commit != self._experiments.main  # by a person, meanwhile
            self._runner.noted(run, folder, job.setup, others or mended)
            score = run.detail if run.value is None else run.metric.text(run.value)
            self._tell(MEASURED, f"     baseline: {score}", order=job.order)
            self._runner.kept.score_holdout(run.commit, job.setup, job.worker)
            self._research.read_again()
        else:
            self._deciding.decide(job, job.experiment, run, folder)

    def _lost_with(self, job: Job, why: Exception) -> None:
        """What was lost with its worker: nobody knows how it went, so it never was."""
        if job.handle.cancelled.is_set():
            return
        so = self._executor.lost(job.worker, why)
        said = why.message if isinstance(why, HarnessError) else str(why)
        self._tell("trouble", f"     {job.order.name} is run again: {said}{so}")
        if job.experiment is None:
            self._tell(PUT_BACK, "", order=job.order)
