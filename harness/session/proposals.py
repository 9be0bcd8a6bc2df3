"""From an agent's answer to an experiment: asked for ahead, checked, committed on a branch of its own.

Guarantees: what is committed parses, was not tried before, and is a change of the incumbent; the next
proposal is made while the current run trains. What an answer cost is counted, used or not.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from harness.agents import Agent, Context, NoProposal, Tried
from harness.errors import HarnessError
from harness.session.background import in_background
from harness.session.contexts import MEMORY, as_tried
from harness.session.limits import failed_in_a_row
from harness.session.moving import Moving, mark_of
from harness.session.runner import Runner
from harness.store import rules
from harness.store.decisions import Base, Proposal
from harness.store.experiment import Experiment
from harness.store.records import CRASH, RunRecord, Setting
from harness.worker.run import Setup

FAILURES_TO_TELL = 5  # in a row, before the agent is told of them
FAILED_PROPOSALS = 3  # in a row, before somebody else proposes
STAND_INS = 10  # in a row, before the loop ends
# That an agent may take while a device has nothing to do; none if its last answer was late.
IDLE_SECONDS = 30.0
TELL_SECONDS = 10.0  # after which a person is told of it
NOISE_EVERY = 10  # results
REPAIRS = 2  # of crashes in a row that the agent is shown the output of


@dataclass(frozen=True)
class Pending:
    """A proposal on its way, and the commit that it was made for."""

    base: str
    answer: "Future[Proposal]"
    by_stand_in: bool = False
    asked_at: float = field(default_factory=time.monotonic)
    answered_at: list[float] = field(default_factory=list)
    """When it came, a moment after it is done; empty until then."""

    def __post_init__(self) -> None:
        self.answer.add_done_callback(lambda _: self.answered_at.append(time.monotonic()))

    @property
    def was_late(self) -> bool:
        """Whether the answer took longer than a device may be idle for it, whenever it was taken."""
        answered_at = self.answered_at[0] if self.answered_at else time.monotonic()
        return answered_at - self.asked_at > IDLE_SECONDS

    @property
    def failed(self) -> BaseException | None:
        """What came in place of a proposal; waits for the answer."""
        return self.answer.exception()

    @property
    def cost_usd(self) -> float:
        """Of an answer that came, used or not."""
        return getattr(self.failed or self.answer.result(), "cost_usd", None) or 0.0


class Proposals:
    """One session's proposals.

    Attributes:
        spent_usd: on answers that were taken.
        stood_in: experiments that were begun in the agent's place.
        gave_up: why there will be no more of them.
        moving: puts those that are there on other commits.
    """

    def __init__(
        self, runner: Runner, agent: Agent, seed: int, program_text: Callable[[], str],
        tell: Callable[[str, str], None], stand_in: Agent | None = None,
    ) -> None:  # fmt: skip
        """`stand_in` proposes one experiment where `agent`, which did better before, gave nothing usable."""
        self._runner, self._agent, self._seed, self._tell = runner, agent, seed, tell
        self._stand_in = stand_in
        self._experiments, self.moving = runner.experiments, Moving(runner, tell)
        self._program_text = program_text
        self.spent_usd, self.stood_in = 0.0, 0
        self.gave_up: HarnessError | None = None
        self._unbilled_usd = 0.0
        self._ahead: list[Pending] = []
        self._meantime: Pending | None = None  # somebody else's, while the agent can't answer
        self._has_answered = False
        self._is_replaced = False
        self._told_of: Pending | None = None  # that it takes long
        self._late: Pending | None = None  # somebody proposed meanwhile
        self._is_slow = False
        self._failed = 0  # proposals of the agent in a row that could not be used
        self._failed_since = 0  # somebody stood in for it
        self._most_failed = FAILED_PROPOSALS
        self._crashes = 0
        self._trouble = ""  # why the agent's last answer could not be used
        self._to_mend: tuple[Tried, str] | None = None
        self._tried: dict[tuple[str, Setting], Tried] = {}
        self._noise_of: tuple[tuple[Setting, int], float | None] | None = None

    def ask_ahead(self, base: Base, setup: Setup, results: Sequence[Experiment], wanted: int = 1) -> None:
        """Have the next ones made while something trains, one by one: each knows those before it."""
        if len(self._ahead) < wanted and self._answered == self._ahead and self.gave_up is None:
            self._ahead.append(self._ask(base, setup, results))
        if self._meantime is None and self._is_out and self._ahead and not self._ahead[0].answer.done():
            self._meantime = self._ask(base, setup, results, by_stand_in=True)

    @property
    def _is_out(self) -> bool:
        """Whether the agent can't answer now, or took too long the last time, and somebody else can."""
        is_waiting = getattr(self._agent, "is_waiting", False)
        return self._stand_in is not None and (self._is_slow or bool(is_waiting))

    @property
    def paid_usd(self) -> float:
        """On all answers, those that nobody took yet among them."""
        return self.spent_usd + sum(pending.cost_usd for pending in self._answered)

    @property
    def _answered(self) -> list[Pending]:
        return [pending for pending in self._ahead if pending.answer.done()]

    @property
    def is_ready(self) -> bool:
        """Whether there is an answer that nobody took yet."""
        return any(pending.answer.done() for pending in self._ahead[:1])

    @property
    def _in_between(self) -> list[Pending]:
        return [self._meantime] if self._meantime is not None else []

    @property
    def answer(self) -> "Future[Proposal] | None":
        """What is being waited for."""
        return next((pending.answer for pending in (*self._in_between, *self._ahead)), None)

    def next(self, base: Base, setup: Setup, results: Sequence[Experiment]) -> Experiment | None:
        """The next proposal that was not tried, committed on a branch that starts at `base`.

        None while there is none: then one is being made, or the agent gave up.
        """
        if not self._ahead:
            self.ask_ahead(base, setup, results)
        if not self._ahead or not self._ahead[0].answer.done():
            return self._between(base, setup, results)
        pending = self._ahead.pop(0)
        self._is_slow = pending is self._late and pending.was_late
        self._meantime = None  # it is back
        if isinstance(failed := pending.failed, HarnessError):  # the person has to mend something
            if self._stand_in is None or not self._has_answered:
                self.gave_up = failed
            else:
                self._tell("trouble", f"{failed}. {_name(self._stand_in)} proposes from here on")
                self._agent, self._stand_in, self._is_replaced = self._stand_in, None, True
                self._ahead.clear()
            return None
        begun, trouble = self._begun(pending, base, setup)
        if begun is not None:
            self.stood_in += pending.by_stand_in or self._is_replaced
            if not pending.by_stand_in:
                self._failed, self._failed_since, self._trouble, self._has_answered = 0, 0, "", True
                if self._stand_in is not None:
                    self._most_failed = FAILED_PROPOSALS * (STAND_INS + 1)
            return begun
        self._tell("trouble", f"no usable proposal: {trouble}")
        if not (pending.by_stand_in or pending.base != base.commit):
            self._failed, self._failed_since = self._failed + 1, self._failed_since + 1
            self._trouble = trouble
        if self._failed >= self._most_failed:
            self.gave_up = HarnessError(
                f"the agent gave nothing usable {self._failed} times: {trouble}",
                "another --agent or --model (what a model or command said: .autoresearch/runs/agent.log)",
            )
        elif not self._ahead:
            by_stand_in = self._failed_since >= FAILED_PROPOSALS
            if by_stand_in:
                self._failed_since = 0
                name = _name(self._stand_in)
                self._tell("trouble", f"{name} proposes one in its place, then it is asked again")
            self._ahead.append(self._ask(base, setup, results, trouble, by_stand_in))
        return None

    def _begun(self, pending: Pending, base: Base, setup: Setup) -> tuple[Experiment | None, str]:
        """What was proposed, committed on `base`; or None, and why not."""
        try:
            proposal = self._paid(_given(pending))
            proposal = self.moving.reapplied(proposal, proposal.base or pending.base, base.commit)
            parent = self._experiments.source(base.commit)
            if trouble := rules.broken_source(proposal.source, parent, setup.task.growth_bytes):
                return None, trouble
            if (mark := mark_of(proposal.source)) == mark_of(parent):
                return None, f"{proposal.title!r} is the incumbent's program, nothing else"
            if self.moving.is_tried(proposal, mark):
                return None, f"{proposal.title!r} is a program that was tried before"
            return self._experiments.begin(proposal, base.commit, mark), ""
        except NoProposal as none:
            self._unbilled_usd += none.cost_usd or 0.0
            self.spent_usd += none.cost_usd or 0.0
            return None, str(none)

    def _between(self, base: Base, setup: Setup, results: Sequence[Experiment]) -> Experiment | None:
        """While the agent can't answer, or takes long: what somebody else proposes, so that no device is idle
        for it. What it says itself comes next when it is there."""
        name, other = _name(self._agent), _name(self._stand_in)
        waited = time.monotonic() - self._ahead[0].asked_at if self._ahead else 0.0
        is_late = waited > (0 if self._is_slow else IDLE_SECONDS)
        if waited > TELL_SECONDS and not is_late and self._told_of is not self._ahead[0]:
            self._told_of = self._ahead[0]
            then = f"; {other} proposes one after {IDLE_SECONDS:.0f} s"
            self._tell("note", f"waiting for {name}{then if self._stand_in else ''}")
        if self._stand_in is None or not (is_late or self._is_out):
            self._meantime = None  # it is back
            return None
        self._late = self._ahead[0] if is_late else self._late
        self._meantime = self._meantime or self._ask(base, setup, results, by_stand_in=True)
        if not self._meantime.answer.done():
            return None
        self._tell("note", f"{name} has no answer yet: {other} proposes one meanwhile")
        pending, self._meantime = self._meantime, None
        begun, _ = self._begun(pending, base, setup)
        self.stood_in += begun is not None
        return begun

    def begun_before(self) -> list[Experiment]:
        """What an earlier loop began and was stopped in, or lost to an error of the machine."""
        found = []
        for experiment in self._experiments:
            if experiment.is_due:
                number = experiment.name.digits
                if broken := self.broken(experiment):  # made by hand, without the hooks
                    self._tell("trouble", f"{number} can't be measured: {broken}")
                else:
                    self._tell("note", f"{number} was begun and not measured: it comes next")
                    found.append(experiment)
        return found

    def broken(self, experiment: Experiment) -> str | None:
        """Why one that somebody made can't be measured, in one line."""
        if not (source := self._experiments.source_or_nothing(experiment.commit)):
            return "it has no usable train.py"
        changes = self._experiments.changes(experiment)
        parent = self._experiments.source_or_nothing(experiment.parent)
        return rules.broken_change(experiment.name.branch, changes) or rules.broken_source(source, parent)

    def learn(self, done: Experiment, run: RunRecord, setup: Setup) -> None:
        """What the agent may mend: a crash, but not the crash of the mending for ever."""
        crashed = done.status == CRASH
        self._crashes = self._crashes + 1 if crashed else 0
        mendable = crashed and self._crashes <= REPAIRS
        self._to_mend = (self._as_tried(done, setup.setting), run.training.log) if mendable else None

    def _ask(
        self, base: Base, setup: Setup, results: Sequence[Experiment], trouble: str = "",
        by_stand_in: bool = False,
    ) -> Pending:  # fmt: skip
        """Have the agent think, in its own thread, about values only."""
        trouble = trouble if by_stand_in else trouble or self._trouble  # another one may have stood in since
        if not trouble and (failed := failed_in_a_row(results)) >= FAILURES_TO_TELL:
            trouble = f"the last {failed} experiments gave no score: {results[-1].message.subject}"
        every, setting = list(self._experiments), setup.setting
        ahead = [pending.answer.result() for pending in self._answered if pending.failed is None]
        tried = (
            *(self._as_tried(experiment, setting) for experiment in every[-MEMORY:]),
            *(Tried(p.title, p.hypothesis, p.source, None, None, None, "") for p in ahead),
        )
        mend, log = self._to_mend or (None, "")
        context = Context(
            self._program_text(), self._experiments.source(base.commit), setting.metric,
            base.value, base.commit, tried, setup.device.kind == "cuda", len(every) + len(ahead), self._seed,
            trouble, mend, log, self._noise(setup, len(results)), self._run_of(base.commit, setup),
        )  # fmt: skip
        agent = self._stand_in if by_stand_in and self._stand_in is not None else self._agent
        return Pending(base.commit, in_background(agent.propose, context), by_stand_in)

    def _run_of(self, commit: str, setup: Setup) -> str:
        """What there is to train with, in words: who proposes can't see it."""
        runs = (run for run in self._experiments.runs(commit) if run.setting == setup.setting)
        last = max(
            (run.training.reported for run in runs), key=lambda said: said.num_steps or 0, default=None
        )
        words = f"{setup.config.trial.budget_seconds:g} s of training"
        if last is None or not last.num_steps:
            return words
        return f"{words}, now {last.num_steps:,} steps over {last.total_tokens or 0:,} {last.unit}"

    def _as_tried(self, experiment: Experiment, setting: Setting) -> Tried:
        """A commit says the same for ever, so it is read once."""
        key = experiment.commit, setting
        if key not in self._tried:
            self._tried[key] = as_tried(self._experiments, experiment, setting)
        return self._tried[key]

    def _noise(self, setup: Setup, results: int) -> float | None:
        """Sd of a score, once there are runs of one program to tell it; looked at now and then."""
        key = setup.setting, results // NOISE_EVERY
        if self._noise_of is None or self._noise_of[0] != key or self._noise_of[1] is None:
            found = self._runner.noise(setup)
            self._noise_of = key, found.sd if found is not None and found.sd > 0 else None
        return self._noise_of[1]

    def _paid(self, proposal: Proposal) -> Proposal:
        """With what the unusable answers before it cost: the commit carries all of it."""
        if proposal.cost_usd is None:
            return proposal
        self.spent_usd += proposal.cost_usd
        total, self._unbilled_usd = proposal.cost_usd + self._unbilled_usd, 0.0
        return dataclasses.replace(proposal, cost_usd=total)


def _name(agent: Agent | None) -> str:
    return type(agent).__name__.lower()


def _given(pending: Pending) -> Proposal:
    """What came of it.

    Raises:
        NoProposal: nothing, or the agent failed in a way that nobody thought of.
    """
    try:
        return pending.answer.result()
    except NoProposal:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an agent made of an answer
        raise NoProposal(f"the agent failed: {type(error).__name__}: {error}") from None
