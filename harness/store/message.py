"""The message of an experiment's commit: subject, hypothesis, and git trailers.

Git's own `%(trailers:key=Val-Bpb)` reads them: the last paragraph, one `Key: value` a line. A message
that the harness completed is the experiment's record in short; the note has the rest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import HarnessError
from harness.store.aliases import FORMER_FIGURE, VAL_BPB
from harness.store.decisions import Decision
from harness.store.metric import DIGITS, Metric
from harness.store.records import RunRecord

HYPOTHESIS = "Hypothesis"
AGENT, COST, ORIGIN, BLOB = "Agent", "Cost-Usd", "Origin", "Blob"
# Only the harness writes these, in this order.
MEASURED = (
    "Status", "Reason", "Metric", "Value", "Value-Runs", "Val-Bpb", "Val-Bpb-Runs", "Incumbent",
    "Delta", "Effect", "Confidence", "Seeds", "Hosts", "Figures", "Train-Seconds", "Tokens-M", "Items-M",
    "Params-M", "Peak-Vram-Mb", "Budget-Seconds", "Device", "Data", "Evaluator", "Runtime", "Isolation",
)  # fmt: skip
PROPOSED = ("Program", BLOB, ORIGIN, AGENT, COST)  # the harness's too, known before a run
TRAILERS = (*MEASURED, *PROPOSED)
KNOWN = frozenset(TRAILERS)
BETWEEN = re.compile(r"\n\s*\n")
A_FIGURE = rf"[a-z]\w* -?\d[\d.]*, [+-]\d[\d.]*|{FORMER_FIGURE}"
FIGURE = re.compile(rf"(?: \((?:{A_FIGURE}|crash|invalid|error|discard)\))+$")
CLAIMED = re.compile(rf"\((?:{A_FIGURE})")


@dataclass(frozen=True)
class Message:
    """A parsed message; `trailers` are those of its last paragraph that the harness knows."""

    subject: str
    hypothesis: str = ""
    trailers: Mapping[str, str] = field(default_factory=dict)

    @property
    def value(self) -> str:
        """Of the metric; empty where it has none."""
        return self.trailers.get("Val-Bpb") or self.trailers.get("Value", "")

    @property
    def values(self) -> str:
        """Of its runs, if there are several."""
        return self.trailers.get("Val-Bpb-Runs") or self.trailers.get("Value-Runs", "")

    @property
    def title(self) -> str:
        """The subject without the figure that the harness put behind it."""
        return FIGURE.sub("", self.subject)

    def text(self) -> str:
        """The whole message, as committed."""
        parts = [self.subject]
        if self.hypothesis:
            parts.append(f"{HYPOTHESIS}: {self.hypothesis}")
        if self.trailers:
            known = [name for name in TRAILERS if name in self.trailers]
            parts.append("\n".join(f"{name}: {self.trailers[name]}" for name in known))
        return "\n\n".join(parts) + "\n"


def parse(text: str) -> Message:
    """Read any message; what is missing is empty."""
    subject, _, rest = _printable(text).strip().partition("\n")
    paragraphs = [part for whole in BETWEEN.split(rest) if (part := whole.strip())]
    hypothesis = next((p for p in paragraphs if p.startswith(f"{HYPOTHESIS}:")), "")
    trailers = {}
    for line in paragraphs[-1].split("\n") if paragraphs else ():
        name, colon, value = line.partition(":")
        if colon and (name := name.strip()) in KNOWN:
            trailers[name] = value.strip()
    return Message(subject.strip(), " ".join(hypothesis.partition(":")[2].split()), trailers)


def _printable(text: str) -> str:
    """It may be anybody's: what doesn't print becomes blank."""
    if text.replace("\n", "").isprintable():  # as a rule: ten thousand are read for a picture
        return text
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def unclaimed(title: str) -> str:
    """Without figures such as only the harness writes."""
    return CLAIMED.sub("(", title)


def verdict(decision: Decision, metric: Metric) -> str:
    """What stands behind the title: the score and the estimated gain, or what went wrong."""
    if decision.value is None or decision.claim is None:
        return decision.status
    score, claim = (float(metric.exact(figure)) for figure in (decision.value, decision.claim))
    # rounded from what the trailers say: they must not differ
    return f"{metric.name} {metric.text(score)}, {metric.change(claim)}"


def measured(last: RunRecord, runs: Sequence[RunRecord], decision: Decision) -> dict[str, str]:
    """The trailers of an experiment that is decided.

    Args:
        last: its last run.
        runs: all that count, that one too.
    """
    training, said = last.training, last.training.reported
    scores, metric = [run.value for run in runs if run.value is not None], last.metric
    # What reads the trailers of the language model finds its name, as ever.
    value, values = ("Val-Bpb", "Val-Bpb-Runs") if metric == VAL_BPB else ("Value", "Value-Runs")
    figures = {
        "Status": decision.status,
        "Reason": decision.reason if decision.value is None else last.mismatch or None,
        "Metric": metric.words,
        value: _text(decision.value, DIGITS),
        values: " ".join(map(metric.exact, scores)) if len(scores) > 1 else None,
        "Incumbent": f"{decision.incumbent.commit[:7]} {metric.exact(decision.incumbent.value)}",
        "Delta": f"{decision.delta:+.6f}" if decision.delta is not None else None,
        "Effect": f"{decision.effect:+.6f} {decision.effect_sd or 0.0:.6f}"
        if decision.effect is not None
        else None,
        "Confidence": _text(decision.confidence, 3),
        "Seeds": " ".join(str(run.seed) for run in runs),
        "Hosts": " ".join(run.measured_on for run in runs) if all(run.measured_on for run in runs) else None,
        "Train-Seconds": _text(training.training_seconds, 1),
        "Figures": _figures(last),
        f"{said.unit.title()}-M": _millions(said.total_tokens),
        "Params-M": _millions(said.num_params),
        "Peak-Vram-Mb": _text(said.peak_vram_mb, 0),
        "Budget-Seconds": f"{last.budget_seconds:g}",
        "Device": last.device,
        "Data": last.data,
        "Evaluator": last.evaluator,
        "Runtime": last.runtime,
        "Isolation": last.isolation,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _figures(run: RunRecord) -> str | None:
    """What the task shows beside a score."""
    found = run.score.figures if run.score else {}
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items()) or None


def _millions(count: int | None) -> str | None:
    return _text(count / 1e6, 1 if count >= 1e5 else 4) if count is not None else None


def _text(value: float | None, decimals: int) -> str | None:
    return f"{value:.{decimals}f}" if value is not None else None


def check_agents(text: str) -> None:
    """What an agent may write: a subject, a hypothesis, and none of the harness's trailers.

    Raises:
        HarnessError: one line naming the rule.
    """
    found = parse(text)
    if not found.subject:
        raise HarnessError("the message has no subject")
    if not found.hypothesis:
        raise HarnessError("the message has no hypothesis", "a paragraph 'Hypothesis: why it should help'")
    for line in _printable(text).split("\n"):  # as `parse` will read it
        name, colon, _ = line.partition(":")
        if colon and (name := name.strip()).title() in KNOWN:
            raise HarnessError(f"{name}: is the harness's to write", "a message without that line")
