"""Experiments that a session is to decide: begun, and not decided yet."""

from collections.abc import Iterable

from harness.session.plan import Due
from harness.store.experiment import Experiment
from harness.store.experiments import Experiments
from harness.store.records import OK, RunRecord


class Undecided:
    """Of one session, by number."""

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments
        self._known: dict[int, tuple[Experiment, Due]] = {}

    @property
    def due(self) -> tuple[Due, ...]:
        """In the order of their numbers."""
        return tuple(due for _, (_, due) in sorted(self._known.items()))

    def experiment(self, number: int) -> Experiment:
        """As it is now: a person may move `main`, and an experiment that didn't train goes along."""
        return self._known[number][0]

    def due_of(self, experiment: Experiment) -> Due:
        number = experiment.name.number
        return self._known[number][1] if number in self._known else Due(number, experiment.parent)

    def add(self, begun: Iterable[Experiment]) -> None:
        """What was begun, or put on another commit."""
        for experiment in begun:
            runs = self._experiments.runs(experiment.commit)
            ran_on = tuple(run.measured_on for run in runs if run.status == OK)
            number = experiment.name.number
            self._known[number] = experiment, Due(number, experiment.parent, ran_on)

    def again(self, experiment: Experiment, run: RunRecord) -> None:
        """It ran, and has to once more."""
        before, number = self.due_of(experiment), experiment.name.number
        ran_on = (*before.ran_on, run.measured_on) if run.status == OK else before.ran_on
        self._known[number] = experiment, Due(number, experiment.parent, ran_on, is_again=True)

    def drop(self, experiment: Experiment) -> None:
        """It is decided, or a person's."""
        known = self._known.get(experiment.name.number)
        if known is not None and known[0].commit == experiment.commit:  # else it was put elsewhere meanwhile
            del self._known[experiment.name.number]
