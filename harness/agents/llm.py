"""`llm`: any model that litellm reaches. One bounded, stateless call a proposal, its cost counted.

The only module that imports litellm. What a provider answers is sorted by what helps: waiting
(limits, outages), another model, less history, or the person.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.agents import Context, NoProposal, answer, prompt
from harness.errors import HarnessError
from harness.store.decisions import Proposal

ANSWER_TOKENS = 16_000
CALL_SECONDS = 300.0
HISTORY_TOKENS = 12_000
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 600.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
PASSING = (408, 409, 425)  # time-outs and conflicts: no answer of the kind "never"
KEYS = {  # any of them, by what a model's name begins with; other providers have other ways
    "anthropic/": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "gemini/": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai/": ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL"),
    "openrouter/": ("OPENROUTER_API_KEY",),
}
ATTEMPTS = 40  # with the waits above: more than five hours of an outage


class Llm:
    """See `harness.agents.Agent`."""

    def __init__(
        self,
        models: tuple[str, ...],
        say: Callable[[str], None],
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
        call_seconds: float = CALL_SECONDS,
        log: Path | None = None,
    ) -> None:
        """`models` in the order of preference: a later one is asked while the earlier ones don't answer.

        Args:
            log: a file for the last answer that could not be used.

        Raises:
            HarnessError: none of them can be asked without a key that isn't set.
        """
        lacking = {model: _lacks(model) for model in models}
        if models and all(lacking.values()):
            raise HarnessError(f"{models[0]}: no API key is set ({lacking[models[0]]})", _mend(401))
        self._models, self._say, self._log = models, say, log
        self._first_wait_seconds, self._call_seconds = first_wait_seconds, call_seconds

    def propose(self, context: Context) -> Proposal:
        """One proposal, after as many waits as it takes.

        Raises:
            NoProposal: the answer can't be used.
            HarnessError: the key, the model's name or the account needs the person.
        """
        text, model, cost = self._ask(context)
        try:
            found = answer.read(text, context.source.decode("utf-8", "replace"))
            source = found.source.encode()
        except UnicodeEncodeError:
            raise NoProposal("the answer has half a character in it", cost_usd=cost) from None
        except NoProposal as none:
            if self._log is not None:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                self._log.write_text(text, encoding="utf-8", errors="replace")
            raise NoProposal(str(none), cost_usd=cost) from None
        return Proposal(found.title, found.hypothesis, source, f"llm/{model}", cost)

    def _ask(self, context: Context) -> tuple[str, str, float | None]:
        litellm, openai = _litellm()
        history_tokens, failure = HISTORY_TOKENS, ""
        waits = self._waits()
        for _ in range(ATTEMPTS):
            wanted = 0.0
            for model in self._models:
                try:
                    response = litellm.completion(
                        model=model, messages=prompt.messages(context, history_tokens),
                        max_tokens=ANSWER_TOKENS, timeout=self._call_seconds, num_retries=0, max_retries=0,
                    )  # fmt: skip
                    return self._understood(litellm, response, model)
                except litellm.ContextWindowExceededError:
                    if not history_tokens:
                        raise HarnessError(
                            f"{model}: program.md and train.py exceed its context", "another --model"
                        ) from None
                    history_tokens //= 4
                    failure = f"{model}: the history is too long for it"
                    continue
                except openai.OpenAIError as error:  # litellm's are all of its kind
                    status = getattr(error, "status_code", None) or 0
                    if status == 429:
                        wanted = max(wanted, _retry_after(error))
                        failure = f"{model} is rate-limited"
                    elif "missing credentials" in str(error).lower():  # said as if the server had failed
                        raise HarnessError(f"{model}: no API key is set", _mend(401)) from None
                    elif 400 <= status < 500 and status not in PASSING:
                        raise HarnessError(f"{model}: {_short(error)}", _mend(status)) from None
                    else:
                        failure = f"{model} does not answer: {_short(error)}"
            pause = wanted or next(waits)
            self._say(f"{failure}; asking again in {pause:.0f} s")
            threading.Event().wait(pause)
        raise HarnessError(f"no model answered {ATTEMPTS} times: {failure}", "harness loop, later")

    def _understood(self, litellm: Any, response: Any, model: str) -> tuple[str, str, float | None]:
        try:
            cost = float(litellm.completion_cost(completion_response=response, model=model))
        except Exception:  # noqa: BLE001 - a model without a known price has no known cost
            cost = None
        choice = response.choices[0] if response.choices else None
        text = (choice.message.content or "") if choice is not None else ""
        if choice is not None and choice.finish_reason == "length":
            raise NoProposal(f"the answer was cut off at {ANSWER_TOKENS} tokens", cost_usd=cost)
        if not text.strip():
            raise NoProposal("the answer was empty", cost_usd=cost)
        return text, model, cost

    def _waits(self) -> Iterator[float]:
        pause = self._first_wait_seconds
        while True:
            yield pause
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)


def _lacks(model: str) -> str:
    """The key that it needs and that isn't there, to be said before the first run."""
    names = next((names for prefix, names in KEYS.items() if model.startswith(prefix)), ())
    return "" if any(map(os.environ.get, names)) else next(iter(names), "")


def _litellm() -> tuple[Any, Any]:
    """The library, and the one whose errors it raises; loading them takes seconds."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no call home at import
    if os.environ.get("OPENAI_API_BASE") or os.environ.get("OPENAI_BASE_URL"):
        os.environ.setdefault("OPENAI_API_KEY", "none")  # a server of one's own wants none, its client does
    import litellm
    import openai

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm, openai


def _retry_after(error: Any) -> float:
    """Seconds that the provider asks for, bounded; 0 where it says nothing usable."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    extra = getattr(error, "litellm_response_headers", None) or {}
    try:
        seconds = float(headers.get("retry-after") or extra.get("retry-after") or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _short(error: Exception) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    text = re.sub(r"\b(\w+: )\1+", r"\1", text.split("litellm.", 1)[-1])
    return text if len(text) <= 240 else text[:240].rsplit(" ", 1)[0] + " …"


def _mend(status: int) -> str:
    if status == 401:
        return "export the provider's API key, then harness doctor"
    return "the provider's account page" if status in (402, 403) else "another --model PROVIDER/NAME"
