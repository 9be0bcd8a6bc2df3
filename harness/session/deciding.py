"""What becomes of an experiment that ran: once more, or a status; of `main`; and of what meets a winner."""

from collections.abc import Callable
from pathlib import Path

from harness import gate
from harness.agents import program
from harness.errors import HarnessError
from harness.executors.jobs import Job
from harness.gate.hosts import EVERY
from harness.session.events import MEASURED
from harness.session.proposals import Proposals
from harness.session.research import Research
from harness.session.runner import Runner
from harness.session.undecided import Undecided
from harness.store.decisions import CANDIDATE, Decision, Measured
from harness.store.experiment import Experiment
from harness.store.records import AGAIN, KEEP, RunRecord
from harness.store.repo import Moved
from harness.worker.attempts import forget


class Deciding:
    """Of one session. Attributes: `results`, what was decided."""

    def __init__(
        self, runner: Runner, research: Research, proposals: Proposals, undecided: Undecided,
        tell: Callable[..., None], is_busy: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`is_busy`: whether other runs are at work, so that lines of several may stand among each other."""
        self._runner, self._research, self._proposals = runner, research, proposals
        self._experiments, self._undecided = runner.experiments, undecided
        self._tell, self._is_busy = tell, is_busy
        self.results: list[Experiment] = []
        self._since_rebuilt = 0  # decisions

    def decide(self, job: Job, experiment: Experiment, run: RunRecord, folder: Path) -> None:
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
        is_known, moved = standing.knows(parent), self._research.key != self._research.key_of(setup)
        if moved or not is_known:
            onto = self._experiments.main if is_known else standing.incumbent.commit
            in_line = is_known and self._experiments.are_in_line(parent, onto)  # else main was amended, say
            if done.status == KEEP and not in_line:
                self._undecided.add(self._proposals.moving.begin_again(done, onto))
        in_its_place = done.origin and self._experiments.are_one_program(done.origin, done.commit)
        if moved or not is_known or in_its_place:
            return self._research.read_again()
        scores, hosts = zip(*self._experiments.scored(done.commit, setup.setting), strict=True)
        of = Measured(done.commit, parent, scores, done.status == KEEP, shorter, hosts)
        now = standing.after(of)
        if done.status == KEEP and parent != standing.chain[-1]:
            # First: moving main may take a while.
            self._undecided.add(self._proposals.moving.meet(done, standing, now))
        self._since_rebuilt += 1
        if standing.offsets and self._since_rebuilt >= EVERY:  # what was measured since says more of them
            self._since_rebuilt = 0
            return self._research.read_again()
        self._research.advance(now, setup, job.worker)

    def _run_again(self, experiment: Experiment, run: RunRecord, folder: Path, why: str) -> None:
        """Note what was measured; it is decided after one more run."""
        forget(folder)
        self._experiments.add_run(experiment.commit, run)
        self._tell("note", f"     {why}")
        self._undecided.again(experiment, run)

    def _record(
        self, experiment: Experiment, run: RunRecord, decision: Decision, job: Job
    ) -> Experiment | None:
        """Into git; None if a person moved the branch, which says that this one is theirs."""
        self._undecided.drop(experiment)
        try:
            done = self._experiments.complete(experiment, run, decision)
        except Moved as moved:
            self._tell("trouble", f"     not recorded: {moved}")
            return None
        self._experiments.forget(experiment.commit)
        self.results.append(done)
        # Titles of others may stand between its own and this.
        which = done.name.digits if self._is_busy() else "    "
        word = CANDIDATE if decision.status == KEEP else decision.status
        self._tell(MEASURED, f"{which} {word}: {decision.reason}", done, job.order)
        self._proposals.learn(done, run, job.setup)
        return done
