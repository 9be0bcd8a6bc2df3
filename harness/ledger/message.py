"""The message of an experiment's commit: subject, hypothesis, and git trailers.

Git's own `%(trailers:key=Val-Bpb)` reads them: the last paragraph, one `Key: value` a line. A message
that the harness completed is the experiment's record in short; the note has the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import HarnessError

HYPOTHESIS = "Hypothesis"
AGENT, COST, ORIGIN = "Agent", "Cost-Usd", "Origin"
# Only the harness writes these, in this order.
MEASURED = (
    "Status", "Reason", "Val-Bpb", "Val-Bpb-Runs", "Incumbent", "Delta", "Effect", "Confidence",
    "Seeds", "Train-Seconds", "Tokens-M", "Params-M", "Peak-Vram-Mb", "Budget-Seconds", "Device", "Data",
    "Evaluator", "Isolation",
)  # fmt: skip
PROPOSED = ("Program", ORIGIN, AGENT, COST)  # the harness's too, known before a trial
TRAILERS = (*MEASURED, *PROPOSED)
LINE = re.compile(r"([A-Za-z][A-Za-z0-9-]*): ?(.*)")
FIGURE = re.compile(r"(?: \((?:val_bpb [^()]*|crash|invalid|error|discard)\))+$")


@dataclass(frozen=True)
class Message:
    """A parsed message; `trailers` are those of its last paragraph that the harness knows."""

    subject: str
    hypothesis: str = ""
    trailers: Mapping[str, str] = field(default_factory=dict)

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
    """Read any message, a person's too; what is missing is empty."""
    subject, _, rest = text.strip().partition("\n")
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", rest) if part.strip()]
    hypothesis = next((p for p in paragraphs if p.startswith(f"{HYPOTHESIS}:")), "")
    trailers = {}
    if paragraphs:
        for line in paragraphs[-1].splitlines():
            match = LINE.fullmatch(line.strip())
            if match and match[1] in TRAILERS:
                trailers[match[1]] = match[2].strip()
    return Message(subject.strip(), " ".join(hypothesis.partition(":")[2].split()), trailers)


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
    for line in text.splitlines():
        match = LINE.fullmatch(line.strip())
        if match and match[1].title() in TRAILERS:
            raise HarnessError(f"{match[1]}: is the harness's to write")
