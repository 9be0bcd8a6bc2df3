"""`search`: Optuna over the constants of train.py, and a catalogue of structural edits.

No network, no key. Its state is rebuilt from the experiments' own programs at every proposal: what is
in git is all that it knows. One or two constants change at a time, the rest stays the incumbent's, so
that a result says something about them. It is the honest baseline that a model has to beat.
"""

import math
import random
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import PartialFixedSampler, TPESampler

from harness.agents import Context, NoProposal, program
from harness.agents.catalogue import CATALOGUE, Edit
from harness.store.decisions import Proposal

OCTAVES = 2.0  # a constant is searched from a quarter to four times of the incumbent's
STRUCTURAL_EVERY = 3
ATTEMPTS = 50
STARTUP = 5  # programs scored before the estimator is asked
FACTORS = (1, 2, 4)
ZERO_STEP = 0.1  # what stands for an octave where a constant begins at 0
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """See `harness.agents.Agent`."""

    def __init__(self, edits: tuple[Edit, ...] = CATALOGUE) -> None:
        """`edits`: what it tries besides constants."""
        self._edits = edits

    def propose(self, context: Context) -> Proposal:
        """The next program that was not tried.

        Raises:
            NoProposal: train.py has no constants to search, and no edit applies.
        """
        tried = {program.digest(context.source)}
        for earlier in context.history:
            tried.add(_digest(earlier.source))
        chooser = random.Random(f"{context.seed} {context.number}")
        if context.number % STRUCTURAL_EVERY == STRUCTURAL_EVERY - 1:
            titles = [earlier.title for earlier in context.history]
            edits = chooser.sample(self._edits, len(self._edits))  # then those first that were tried least
            for edit in sorted(edits, key=lambda edit: titles.count(edit.title)):
                source = edit.applied(context.source.decode("utf-8", "replace"))
                if source is not None and _digest(source.encode()) not in tried:
                    return Proposal(edit.title, edit.hypothesis, source.encode(), "search/catalogue")
        for attempt in range(ATTEMPTS):
            proposal = self._tuned(context, chooser, attempt)
            if _digest(proposal.source) not in tried:
                return proposal
        raise NoProposal("every change of a constant that search thinks of was tried before")

    def _tuned(self, context: Context, chooser: random.Random, attempt: int) -> Proposal:
        now = {c.name: c for c in program.constants(context.source, context.on_gpu)}
        if not now:
            raise NoProposal("train.py has no upper-case constants to search")
        anchor = {name: constant.value for name, constant in now.items()}
        space = {name: _distribution(value) for name, value in anchor.items()}
        here = {name: _coordinate(value, value) for name, value in anchor.items()}
        names = chooser.sample(sorted(now), min(len(now), chooser.choice((1, 1, 2))))
        fixed = {name: value for name, value in here.items() if name not in names}
        seed = chooser.randrange(2**31)
        with warnings.catch_warnings():  # experimental or deprecated there, and pinned below 6 here
            warnings.simplefilter("ignore")
            tpe = TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, gamma=_good)
            sampler = PartialFixedSampler(fixed, tpe)
        study = optuna.create_study(sampler=sampler)
        for earlier in context.history:
            values = {c.name: c.value for c in program.constants(earlier.source, context.on_gpu)}
            if earlier.value is None or not set(now) <= set(values):
                continue
            params = {name: _coordinate(values[name], anchor[name]) for name in now}
            if all(_within(space[name], value) for name, value in params.items()):
                study.add_trial(
                    optuna.trial.create_trial(
                        params=params, distributions=space, value=context.metric.sign * earlier.value
                    )
                )
        asked = study.ask(space).params
        changed = {now[name]: _value(asked[name], anchor[name]) for name in names}
        changed = {constant: value for constant, value in changed.items() if value != constant.value}
        what = ", ".join(f"{c.name} {c.value!r} to {value!r}" for c, value in changed.items())
        known = len(study.trials) - 1
        how = "a random step" if known < STARTUP else "the step likeliest to help"
        which = " and ".join(c.name for c in changed) or "Nothing"
        return Proposal(
            f"Change {what}" if what else "Change nothing",
            f"{which} may not be at the best value: {how} after {known} scored programs of these constants "
            "(tree-structured Parzen estimator).",
            program.with_values(context.source, changed),
            "search/tpe",
        )


def _good(count: int) -> int:
    """How many of the scored programs count as good: more than Optuna's tenth, since they are few."""
    return min(25, math.ceil(count / 4))


def _digest(source: bytes) -> str:
    try:
        return program.digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _distribution(value: float) -> BaseDistribution:
    if isinstance(value, bool):
        return CategoricalDistribution((False, True))
    return FloatDistribution(-OCTAVES, OCTAVES)


def _within(space: BaseDistribution, value: float) -> bool:
    return not isinstance(space, FloatDistribution) or space.low <= value <= space.high


def _coordinate(value: float, anchor: float) -> float | bool:
    """Where a constant lies, in octaves from its anchor; the inverse of `_value`.

    What is near 1 from below (a momentum, a decay) is measured by its distance from 1.
    """
    if isinstance(anchor, bool):
        return bool(value)
    if anchor == 0:
        return value / ZERO_STEP
    if isinstance(anchor, float) and 0.5 <= anchor < 1:
        return math.log2((1 - value) / (1 - anchor)) if value < 1 else math.inf
    return math.log2(value / anchor) if value / anchor > 0 else -math.inf


def _value(coordinate: float, anchor: float) -> int | float | bool:
    if isinstance(anchor, bool):
        return bool(coordinate)
    if anchor == 0:
        return type(anchor)(round(max(0.0, coordinate) * ZERO_STEP, 4))
    if isinstance(anchor, float) and 0.5 <= anchor < 1:
        return max(0.0, float(f"{1 - (1 - anchor) * 2**coordinate:.4g}"))
    if isinstance(anchor, int):
        # Sizes, and factors such as one of 2: doublings, so that what must divide goes on dividing. Counts
        # between them, of layers say, go one by one.
        is_count = abs(anchor) < 16 and abs(anchor) not in FACTORS
        steps = anchor * 2.0 ** (coordinate if is_count else round(coordinate))
        return int(math.copysign(max(1, round(abs(steps))), anchor))
    return float(f"{anchor * 2**coordinate:.3g}")
