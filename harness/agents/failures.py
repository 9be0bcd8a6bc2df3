"""What went wrong with a model, by what helps: waiting, asking for less, another model, or the person."""

import os
import re
from enum import StrEnum
from typing import Any

LONGEST_RETRY_AFTER_SECONDS = 3600.0
PASSING = (408, 409, 425)  # time-outs and conflicts: no answer of the kind "never"
NO_MONEY = re.compile(
    r"insufficient[_ ](?:quota|credit|balance|funds)|billing|exceeded your current quota", re.I
)
LONG_ANSWER = re.compile(r"max_tokens|max_completion_tokens|max_new_tokens|completion tokens", re.I)
LONG_CONTEXT = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|too many tokens|prompt is too long|"
    r"exceeds? the (?:model's|available)",
    re.I,
)
REFUSED = re.compile(r"content[_ ](?:policy|filter)|safety|refus", re.I)


class Kind(StrEnum):
    MONEY = "money"  # the person's to mend, as the next two
    KEY = "key"
    MODEL = "model"  # unknown, or a request that it will never take
    CONTEXT = "context"  # the question is too long for it
    ANSWER = "answer"  # the answer that was asked for is
    OVERLOAD = "overload"  # wait, as long as it says
    OUTAGE = "outage"  # wait
    REFUSAL = "refusal"  # ask again, otherwise


FOR_THE_PERSON = (Kind.MONEY, Kind.KEY, Kind.MODEL)
MENDS = {
    Kind.MONEY: "the provider's account page",
    Kind.KEY: "export the provider's API key; for a server of your own OPENAI_API_BASE=http://HOST:PORT/v1",
    Kind.MODEL: "another --model PROVIDER/NAME",
}


def kind_of(error: Exception) -> Kind:
    """Of what litellm raised: by its status, and by its words where a server says all with one."""
    status, said = getattr(error, "status_code", None) or 0, str(error)
    if (
        "missing credentials" in said.lower() or status == 401
    ):  # the first is said as if the server had failed
        return Kind.KEY
    if status in (402, 403) or NO_MONEY.search(said):
        return Kind.MONEY
    if type(error).__name__ == "ContextWindowExceededError":
        return Kind.CONTEXT
    if 400 <= status < 500 and status not in (*PASSING, 429):
        if REFUSED.search(said):
            return Kind.REFUSAL
        if LONG_ANSWER.search(said):
            return Kind.ANSWER
        return Kind.CONTEXT if LONG_CONTEXT.search(said) else Kind.MODEL
    return Kind.OVERLOAD if status == 429 else Kind.OUTAGE


def at(model: str) -> str:
    """` at ADDRESS`, where a person's own server is asked."""
    base = os.environ.get("OPENAI_API_BASE") or os.environ.get("OPENAI_BASE_URL")
    return f" at {base}" if base and model.startswith("openai/") else ""


def mend(kind: Kind, model: str) -> str:
    if kind == Kind.MODEL and "/" not in model:
        return f"--model openai/{model} for a server of your own, else --model PROVIDER/{model}"
    if kind == Kind.MODEL and at(model):
        return f"another --model, or another address than OPENAI_API_BASE's{at(model)[3:]}, mostly with /v1"
    return MENDS[kind]


def retry_after(error: Any) -> float:
    """Seconds that the provider asks for, bounded; 0 where it says nothing usable."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    extra = getattr(error, "litellm_response_headers", None) or {}
    try:
        seconds = float(headers.get("retry-after") or extra.get("retry-after") or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def short(error: Exception) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    text = re.sub(r"\b(\w+: )\1+", r"\1", text.split("litellm.", 1)[-1])
    text = re.sub(r"^InternalServerError: \w+ - (?=Connection error)", "", text)  # the server said nothing
    return text if len(text) <= 240 else text[:240].rsplit(" ", 1)[0] + " …"
