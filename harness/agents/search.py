"""`search`: a Gaussian process over the constants of train.py, and a catalogue of structural edits.

No network, no key. Its state is rebuilt from the experiments' own programs at every proposal: what is in git
is all that it knows. It is the honest baseline that a model has to beat.
"""

import functools
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from harness.agents import Context, NoProposal, Tried, program
from harness.agents.axes import Axis, Value, axes_of
from harness.agents.catalogue import CATALOGUE, Edit
from harness.agents.earnings import earned
from harness.agents.thinking import Question, elsewhere
from harness.agents.tuning import FIRST, Seen, Step, Thought
from harness.store.decisions import Proposal
from harness.store.records import CRASH, INVALID, KEEP

STEPS = 6  # of which the first is taken that no earlier program is
TUNED_AFTER = 3  # proposals after a kept structure that move what it touched
TITLE = 72  # characters
EDIT_EVERY = 3  # proposals, while little is known of the constants
SAID = 8  # changes that a hypothesis names; the diff has all
MATTER = 3  # constants that it says matter most
CONSTANT = "search/gp"
STRUCTURAL = "search/catalogue"
Ask = Callable[[Question], Thought | str]
NAMES = re.compile(rb"\b[A-Z][A-Z0-9_]*\b")


class Search:
    """See `harness.agents.Agent`."""

    def __init__(self, edits: tuple[Edit, ...] = CATALOGUE, ask: Ask = elsewhere) -> None:
        """`edits`: what it tries besides constants; `ask`: what thinks of those."""
        self._edits, self.ask = edits, ask

    def propose(self, context: Context) -> Proposal:
        """The next program that was not tried.

        Raises:
            NoProposal: train.py has no constants to search, and no edit applies.
        """
        chooser = random.Random(f"{context.seed} {context.number} {len(context.trouble)}")
        tried = {program.digest(context.source)} | {_digest_of(earlier) for earlier in context.history}
        thought, why = think(context, chooser.randrange(2**31), ask=self.ask)
        tuned = self._tuned(context, thought, tried)
        edit = self._edit(context, tried, chooser)
        if edit is not None and (tuned is None or _is_turn_of(edit[1], tuned[1], context, chooser)):
            return edit[0]
        if tuned is not None:
            return tuned[0]
        raise NoProposal(why or "every change of a constant that search thinks of was tried before")

    def _tuned(self, context: Context, thought: Thought, tried: set[str]) -> tuple[Proposal, Step] | None:
        now = {c.name: c for c in program.constants(context.source, context.on_gpu)}
        for step in thought.steps:
            source = program.with_values(context.source, {now[n]: v for n, v in step.changed.items()})
            if program.digest(source) in tried:
                continue
            axes = {name: Axis(now[name]) for name in step.changed}
            parts = [axes[name].said(value) for name, value in step.changed.items()]
            what = ", ".join(parts[:SAID]) + (f" and {len(parts) - SAID} more" if len(parts) > SAID else "")
            values = [f"{name} {axes[name].now!r} to {value!r}" for name, value in step.changed.items()]
            title, said = _title(values, list(axes)), _hypothesis(context, what, step, thought)
            return Proposal(title, said, source, CONSTANT), step
        return None

    def _edit(
        self, context: Context, tried: set[str], chooser: random.Random
    ) -> tuple[Proposal, float] | None:
        """The edit whose turn it is, and what it may earn; None where none applies."""
        unit = context.noise or 1.0
        own = [one for one in context.history if one.agent == STRUCTURAL]
        every = earned(own, unit, context.metric.sign)
        text, best = context.source.decode("utf-8", "replace"), None
        for edit in self._edits:
            source = edit.applied(text)
            if source is None or _digest(source.encode()) in tried:
                continue
            known = earned((one for one in own if one.title == edit.title), unit, context.metric.sign)
            draw = known.draw(chooser, every)
            if best is None or draw > best[0]:
                best = draw, Proposal(edit.title, edit.hypothesis, source.encode(), STRUCTURAL)
        if best is None:
            return None
        return best[1], every.draw(chooser)


def think(context: Context, seed: int, count: int = STEPS, ask: Ask = elsewhere) -> tuple[Thought, str]:
    """What the process of the incumbent's constants knows; or nothing, and why."""
    constants = program.constants(context.source, context.on_gpu)
    names = Counter(NAMES.findall(context.source))
    used = [c for c in constants if names[c.name.partition("[")[0].encode()] > 1]
    axes = axes_of(used)
    if not axes:
        return Thought(), "train.py has no upper-case constants to search that it uses"
    structure, _ = _read(context.source, context.on_gpu)
    seen: list[Seen] = []
    loss: float | None
    shown = {one.source for one in context.history}
    for parent, value in {one.parent: one.parent_value for one in context.history}.items():
        other, values = _read(parent, context.on_gpu)
        if parent not in shown | {context.source} and value is not None and values:  # `main`, as a rule
            seen.append(Seen(values, other, context.metric.sign * value, 2))
    if context.value is not None and context.source not in shown:
        loss = context.metric.sign * context.value
        seen.append(Seen({c.name: c.value for c in constants}, structure, loss, 2))
    for earlier in context.history:
        other, values = _read(earlier.source, context.on_gpu)
        # Without a score only these say something of the program; others were scored in another setting.
        if values and (earlier.value is not None or earlier.status in (None, CRASH, INVALID)):
            loss = None if earlier.value is None else context.metric.sign * earlier.value
            seen.append(Seen(values, other, loss, earlier.runs, earlier.status is None))
    now = {axis.name: axis.now for axis in axes}
    touched = _touched(context, tuple(now))
    question = Question(now, structure, tuple(seen), context.noise, seed, count, touched)
    thought = ask(question)
    return (Thought(), thought) if isinstance(thought, str) else (thought, "")


def told(context: Context, thought: Thought) -> str:
    """What the process knows, in lines for a person or a model; empty where that is nothing."""
    if thought.optimum is None or thought.optimum_sd is None:
        return ""
    sign = context.metric.sign
    lines = [
        "By how much the score differs near the incumbent, constant by constant: "
        + ", ".join(f"{name} {span:.2g}" for name, span in thought.matters[: 2 * MATTER]),
        f"The best that is expected of constants alone: {sign * thought.optimum + 0.0:+.2g} ± "
        f"{thought.optimum_sd:.1g} {context.metric.name}, by {thought.scored} scored programs.",
    ]
    if thought.is_exhausted:
        lines.append("The constants are exhausted: what is left there is less than the noise can tell.")
    return "\n".join(lines)


def _title(values: Sequence[str], names: Sequence[str]) -> str:
    """As much as fits into a line."""
    some = f"{names[0]}, {names[1]} and {len(names) - 2} more" if len(names) > 2 else " and ".join(names)
    titles = f"Change {', '.join(values)}", f"Change {some}", f"Change {len(names)} constants"
    return next(title for title in titles if len(title) <= TITLE or title is titles[-1])


def _hypothesis(context: Context, what: str, step: Step, thought: Thought) -> str:
    known = f"{thought.scored} scored programs"
    if step.effect is None or step.effect_sd is None:
        return (
            f"{what}: too little is known to expect anything, {thought.scored} of {FIRST} first programs "
            "have a score. Several constants at a time tell most of what matters."
        )
    sign = context.metric.sign
    expected = f"{sign * step.effect + 0.0:+.2g} ± {step.effect_sd:.1g}"
    said = f"{what}: expected {expected} {context.metric.name}, by a Gaussian process over {known}."
    names = ", ".join(name for name, _ in thought.matters[:MATTER])
    said += f" What matters most near the incumbent: {names}."
    if thought.optimum is not None and thought.optimum_sd is not None:
        best = f"{sign * thought.optimum + 0.0:+.2g} ± {thought.optimum_sd:.1g}"
        said += f" The best expected of all constants: {best}."
    return said + (" They are exhausted here." if thought.is_exhausted else "")


def _is_turn_of(draw: float, step: Step, context: Context, chooser: random.Random) -> bool:
    """Whether an edit that may earn so much comes before the step."""
    if step.gain is None:  # little is known of the constants: the sooner it is, the better
        return context.number % EDIT_EVERY == EDIT_EVERY - 1
    return draw > _worth(context, step, chooser)


def _worth(context: Context, step: Step, chooser: random.Random) -> float:
    """What a step is expected to earn a run, in units of noise, by the process."""
    if step.gain is None or not context.noise:  # the noise isn't known: by those before it
        steps = (one for one in context.history if one.agent == CONSTANT)
        return earned(steps, 1.0, context.metric.sign).draw(chooser)
    return step.gain / context.noise


def _touched(context: Context, names: Sequence[str]) -> tuple[str, ...]:
    """Constants of a structure that was kept just now: those move first, and alone."""
    for age, earlier in enumerate(reversed(context.history)):
        if age >= TUNED_AFTER:
            return ()
        if earlier.status == KEEP and earlier.source == context.source and earlier.parent:
            if _read(earlier.source, context.on_gpu)[0] == _read(earlier.parent, context.on_gpu)[0]:
                return ()
            old = set(earlier.parent.splitlines())
            new = b"\n".join(line for line in earlier.source.splitlines() if line not in old)
            used = {name.decode() for name in NAMES.findall(new)}
            return tuple(name for name in names if name.partition("[")[0] in used)
    return ()


@functools.lru_cache(maxsize=1024)  # those that an agent is shown, and their parents
def _read(source: bytes, on_gpu: bool) -> tuple[str, dict[str, Value]]:
    """What a program is but for its constants, as a digest, and their values."""
    outline = _outline(source)
    constants = program.constants(outline, on_gpu) or program.constants(source, on_gpu)
    blank = program.with_values(source, dict.fromkeys(constants, 0))
    return hashlib.sha256(blank).hexdigest()[:12], {c.name: c.value for c in constants}


INDENTED = re.compile(rb"(?m)^(?:class|def|async def|@)[^\n]*\n(?:(?:[ \t)\]}][^\n]*)?\n)*")


def _outline(source: bytes) -> bytes:
    """Without the bodies of classes and functions, and as many lines: reads ten times as fast."""
    return INDENTED.sub(lambda found: b"\n" * found.group().count(b"\n"), source)


def _digest_of(earlier: Tried) -> str:
    return earlier.program or _digest(earlier.source)


def _digest(source: bytes) -> str:
    try:
        return program.digest(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
