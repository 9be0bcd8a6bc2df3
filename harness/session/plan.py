"""What is done next, and where: a pure function of what is known. The loop carries it out.

On each device one run trains or is scored, and one more may start meanwhile, where the device has room: it is
**held**, and gets its first batch when what the other one gave was taken in, and `main` is known.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.worker.service import AT_A_TIME


@dataclass(frozen=True)
class Due:
    """An experiment that was begun and is not decided."""

    number: int
    parent: str
    ran_on: tuple[str, ...] = ()
    """What its runs so far were measured on."""
    is_again: bool = False
    """Whether it ran in this session, and has to once more before it is decided."""


@dataclass(frozen=True)
class Running:
    """A run that was not taken in yet."""

    id: int
    commit: str
    purpose: Hashable
    """The setting and the gate's rule that it was begun under."""
    due: Due | None = None
    """None for one of `main`."""
    is_held: bool = False
    has_trained: bool = False
    is_over: bool = False
    is_cancelled: bool = False
    wants_room: bool = False
    """Nothing else may be where it is: it ran out of memory beside another one."""
    waits: bool = False
    """For a device that somebody else has."""


@dataclass(frozen=True)
class Place:
    """A worker."""

    number: int
    on: str
    """What its runs are measured on."""
    may_start: bool = True
    """Whether it has room for one more beside those that are there."""
    has_room: bool = False
    """Whether it has so much when nothing trains."""
    runs: tuple[Running, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a run there is not over with its training."""
        return not all(run.has_trained for run in self.runs)

    @property
    def is_free(self) -> bool:
        if not self.runs:
            return True
        untaken = all(run.is_over for run in self.runs)
        return len(self.runs) < AT_A_TIME and self.may_start and (self.has_room or not untaken)


@dataclass(frozen=True)
class Facts:
    """What git, the workers and the agent say now."""

    main: str
    purpose: Hashable
    """The setting and the gate's rule of now."""
    chain: tuple[str, ...]
    """Commits from `main` to the frontier's head; empty while `main` or the noise is to be measured."""
    due: tuple[Due, ...]
    """In the order that they are to be run in."""
    places: tuple[Place, ...]
    missing: int = 0
    """Runs of `main` that are to be made before anything is decided, and do not run."""
    missing_on: Mapping[str, int] = field(default_factory=dict)
    """The same of single devices that others are known beside."""
    has_score: bool = False
    """Whether a run of `main` is over."""
    has_proposal: bool = False
    """Whether there is an answer that nobody took yet."""
    may_ask: bool = True
    """Whether one may be waited for."""
    gone: tuple[Running, ...] = ()
    """Runs whose worker is there no more, and that were not taken in yet."""

    @property
    def running(self) -> list[Running]:
        every = [*(run for place in self.places for run in place.runs), *self.gone]
        return [run for run in every if not run.is_cancelled]

    @property
    def of_main(self) -> list[Running]:
        """Its runs that are made before anything is decided."""
        return [run for run in self.running if run.due is None and run.commit == self.main]

    @property
    def waiting(self) -> list[Due]:
        """That do not run."""
        running = {run.due.number for run in self.running if run.due is not None}
        return [due for due in self.due if due.number not in running]

    @property
    def undecided(self) -> int:
        """Experiments that are at work, or to be run again."""
        return sum(due.is_again for due in self.waiting) + sum(run.due is not None for run in self.running)

    @property
    def early(self) -> bool:
        """Whether an experiment on `main` is to be ready when its last runs are over."""
        new = [due for due in self.waiting if not due.is_again]
        is_near = self.has_score or self.missing == 0
        return bool(self.of_main) and is_near and all(due.parent == self.main for due in new[:1])

    @property
    def base(self) -> str:
        """What a new experiment is a change of; empty while nobody knows."""
        return self.chain[-1] if self.chain else self.main if self.early else ""


@dataclass(frozen=True)
class Bounds:
    """What limits the session."""

    left: int | None = None
    """Experiments that may yet be decided."""
    is_over: bool = False
    """Nothing new is to be begun."""
    is_over_unpaid: bool = False
    """The same, for what was paid for already."""
    is_stopping: bool = False
    """Nor anything that was begun is to be run again."""


@dataclass(frozen=True)
class Start:
    """A run: of an experiment, or of `main`."""

    place: int
    due: Due | None


@dataclass(frozen=True)
class Propose:
    """Commit the next proposal, on the base; `is_waited_for`: a place has nothing to do until then."""

    is_waited_for: bool


@dataclass(frozen=True)
class Release:
    """Let one that is held have its first batch."""

    run: int


@dataclass(frozen=True)
class BringUp:
    """Put one that is held on the frontier's head, where that is another commit than its parent; else let it
    train."""

    run: int


@dataclass(frozen=True)
class PutBack:
    """End one that is held: it begins once more later."""

    run: int


Action = Start | Propose | Release | BringUp | PutBack


def plan(facts: Facts, bounds: Bounds) -> list[Action]:
    """What to do now, in this order; to be asked again when that is done, until there is nothing."""
    return [*_ended(facts, bounds)] or [*_let_train(facts, bounds)] or _begin(facts, bounds)


def _ended(facts: Facts, bounds: Bounds) -> Iterator[Action]:
    for run in facts.running:
        is_again = run.due is not None and run.due.is_again
        if run.waits and (bounds.is_stopping if is_again else bounds.is_over_unpaid):
            yield PutBack(run.id)  # who has the device may have it all night
    for place in facts.places:
        if any(run.wants_room for run in place.runs):
            yield from (PutBack(run.id) for run in place.runs if run.is_held and not run.is_cancelled)


def _let_train(facts: Facts, bounds: Bounds) -> Iterator[Action]:
    for place in facts.places:
        if len(place.runs) == 1 and place.runs[0].is_held and not place.runs[0].is_cancelled:
            (run,) = place.runs
            wanted = _is_wanted(run, facts, bounds)
            if wanted:
                has_moved = run.due is not None and facts.chain and run.due.parent != facts.chain[-1]
                yield BringUp(run.id) if has_moved else Release(run.id)
            elif wanted is not None:
                yield PutBack(run.id)  # it was only to be ready


def _is_wanted(run: Running, facts: Facts, bounds: Bounds) -> bool | None:
    """Whether one that is held is to train; None: not before `main` is known."""
    held = sum(each.is_held for each in facts.running)
    enough = bounds.is_over_unpaid or _is_full(facts.undecided - held, bounds)
    if run.purpose != facts.purpose:  # a person changed the config
        return False
    if run.due is None:
        return run.commit == facts.main and not enough
    if not facts.chain:  # or moved `main`
        return None if facts.early else False
    return not (bounds.is_stopping if run.due.is_again else enough)


def _is_full(undecided: int, bounds: Bounds) -> bool:
    return bounds.left is not None and undecided >= bounds.left


def _begin(facts: Facts, bounds: Bounds) -> list[Action]:
    """Runs where there are places for them: idle ones, then where one is scored, then where one trains."""
    found: list[Action] = []
    waiting, undecided = facts.waiting, facts.undecided
    again, new = [due for due in waiting if due.is_again], [due for due in waiting if not due.is_again]
    missing, missing_on = facts.missing, dict(facts.missing_on)
    for place in sorted(facts.places, key=lambda place: len(place.runs) + place.trains):
        if not place.is_free:
            continue
        if facts.chain and not bounds.is_stopping and (due := _elsewhere(again, place, facts.places)):
            again.remove(due)
            found.append(Start(place.number, due))
            continue
        is_full = _is_full(undecided, bounds)
        if bounds.is_over_unpaid if again or new else bounds.is_over:  # those were paid for
            continue
        if (not facts.chain and missing > 0) and (again or not is_full):
            missing -= 1
            found.append(Start(place.number, None))
        elif is_full:
            continue
        elif facts.chain and missing_on.get(place.on, 0) > 0:
            missing_on[place.on] -= 1
            found.append(Start(place.number, None))
        elif (not facts.chain and (again or not place.runs)) or not facts.base:
            continue
        elif new:
            undecided += 1
            found.append(Start(place.number, new.pop(0)))
        elif not bounds.is_over and (facts.has_proposal or (facts.may_ask and not place.trains)):
            return [*found, Propose(not place.trains)]
    return found


def _elsewhere(again: Sequence[Due], place: Place, places: Sequence[Place]) -> Due | None:
    """Of those that are to be run again the first one that didn't run here, if there is a device where it
    didn't."""
    every = {other.on for other in places}
    return next((due for due in again if place.on not in due.ran_on or every <= set(due.ran_on)), None)


def missing_runs(made: int, workers: int, wanted: int) -> int:
    """Of `main` when a session begins with it: on every worker, since one without would wait.

    Args:
        made: whatever came of them.
        wanted: as few as say something.
    """
    missing = max(0, wanted - made)
    return -(-missing // workers) * workers if wanted > 1 else missing
