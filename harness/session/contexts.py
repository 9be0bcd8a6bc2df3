"""What an agent is shown of an experiment: values, never git."""

from harness.agents import Tried
from harness.store.experiment import Experiment
from harness.store.history import History
from harness.store.records import Setting

MEMORY = 500  # earlier experiments that an agent is shown


def as_tried(known: History, experiment: Experiment, setting: Setting) -> Tried:
    """What was scored in another setting has no score that compares."""
    message = experiment.message
    comparable = experiment.setting in (None, setting)
    return Tried(
        message.title, message.hypothesis, known.source_or_nothing(experiment.commit), experiment.status,
        experiment.value if comparable else None, experiment.delta if comparable else None,
        message.trailers.get("Reason", ""), max(1, len(experiment.runs)), experiment.agent,
        experiment.cost_usd, experiment.program, known.source_or_nothing(experiment.parent),
        _parents(experiment) if comparable else None,
    )  # fmt: skip


def _parents(experiment: Experiment) -> float | None:
    """The value of its parent, if that is what it was judged against."""
    if (incumbent := experiment.incumbent) is None or not experiment.parent.startswith(incumbent[0]):
        return None
    return incumbent[1]
