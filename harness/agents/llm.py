"""`llm`: any model that litellm reaches. One bounded, stateless call a proposal, its cost counted.

The only module that imports litellm. What a provider answers is sorted by what helps: waiting
(limits, outages), another model, less history, or the person.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.agents import Context, NoProposal, answer, failures, prompt
from harness.agents.known import PROVIDERS
from harness.errors import HarnessError
from harness.store.decisions import Proposal

ANSWER_TOKENS = 16_000
CALL_SECONDS = 300.0
HISTORY_TOKENS = 12_000
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 600.0
GRACE_SECONDS = 1.0  # its own limit is told as its own failure
LEAST_ANSWER_TOKENS = 1000
ATTEMPTS = 40  # with the waits above: more than five hours of an outage


class Llm:
    """See `harness.agents.Agent`. Attributes: `is_waiting`, for a provider that can't answer now."""

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
            raise HarnessError(
                f"{models[0]}: no API key is set ({lacking[models[0]]})", failures.MENDS[failures.Kind.KEY]
            )
        self.is_waiting = False
        self._models, self._say, self._log = models, say, log
        self._first_wait_seconds, self._call_seconds = first_wait_seconds, call_seconds

    def propose(self, context: Context) -> Proposal:
        """One proposal, after as many waits as it takes.

        Raises:
            NoProposal: the answer can't be used.
            HarnessError: the key, the model's name or the account needs the person.
        """
        try:
            text, model, cost = self._ask(context)
        except NoProposal as none:
            self._keep(str(none))
            raise
        try:
            found = answer.read(text, context.source.decode("utf-8", "replace"))
            source = found.source.encode()
        except UnicodeEncodeError:
            raise NoProposal("the answer has half a character in it", cost_usd=cost) from None
        except NoProposal as none:
            self._keep(text)
            raise NoProposal(str(none), cost_usd=cost) from None
        return Proposal(found.title, found.hypothesis, source, f"llm/{model}", cost)

    def _keep(self, answer: str) -> None:
        """The last one that could not be used, for the person."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.write_text(answer, encoding="utf-8", errors="replace")

    def _ask(self, context: Context) -> tuple[str, str, float | None]:
        litellm, openai = _litellm()
        history_tokens, answer_tokens, failure = HISTORY_TOKENS, ANSWER_TOKENS, ""
        waits = self._waits()
        try:
            for _ in range(ATTEMPTS):
                wanted = 0.0
                for model in self._models:
                    try:
                        asked = prompt.messages(context, history_tokens)
                        response = self._called(
                            litellm, model, asked, min(answer_tokens, _most(litellm, model))
                        )
                        return self._understood(litellm, response, model)
                    except TimeoutError:
                        failure = f"{model} gave no answer within {self._call_seconds:.0f} s"
                        continue
                    except openai.OpenAIError as error:  # litellm's are all of its kind
                        kind, said = failures.kind_of(error), failures.short(error)
                        wanted = max(wanted, failures.retry_after(error))
                    if kind in failures.FOR_THE_PERSON:
                        why = "no API key is set" if "missing credentials" in said.lower() else said
                        self._give_up(model, why, failures.mend(kind, model))
                    elif kind == failures.Kind.REFUSAL:
                        failure = f"{model} refused: {said}"
                        if model == self._models[-1]:
                            raise NoProposal(failure)
                    elif kind == failures.Kind.ANSWER:
                        answer_tokens //= 2
                        if answer_tokens < LEAST_ANSWER_TOKENS:
                            self._give_up(model, said, failures.MENDS[failures.Kind.MODEL])
                            answer_tokens = ANSWER_TOKENS
                            continue
                        failure = f"{model} answers in fewer tokens; asking for {answer_tokens:,}"
                    elif kind == failures.Kind.CONTEXT:
                        if not history_tokens and answer_tokens <= LEAST_ANSWER_TOKENS:
                            mend = "another --model, or the same served with a longer one"
                            self._give_up(model, "program.md and train.py exceed its context", mend)
                            history_tokens, answer_tokens = HISTORY_TOKENS, ANSWER_TOKENS
                            continue
                        history_tokens = history_tokens // 4 if history_tokens > 100 else 0
                        answer_tokens = max(LEAST_ANSWER_TOKENS, answer_tokens // 2)
                        failure = (
                            f"{model}: its context is too short; with less history, and an answer of "
                            f"{answer_tokens:,} tokens"
                        )
                    elif kind == failures.Kind.OVERLOAD:
                        failure = f"{model} is rate-limited"
                    else:
                        failure = f"{model}{failures.at(model)} does not answer: {said}"
                pause = wanted or next(waits)
                self._say(f"{failure}; asking again in {pause:.0f} s")
                self.is_waiting = True
                threading.Event().wait(pause)
            raise HarnessError(f"no model answered {ATTEMPTS} times: {failure}", "harness loop, later")
        finally:
            self.is_waiting = False

    def _give_up(self, model: str, why: str, mend: str) -> None:
        """A model that needs the person isn't asked again.

        Raises:
            HarnessError: it was the last.
        """
        left = tuple(each for each in self._models if each != model)
        if not left:
            raise HarnessError(f"{model}: {why}", mend)
        self._models = left
        self._say(f"{model}: {why}; it is not asked again. Try: {mend}")

    def _called(self, litellm: Any, model: str, messages: list[dict[str, str]], tokens: int) -> Any:
        """The response, within the time for a whole call: a body that drips meets no limit for each byte.

        Raises:
            TimeoutError: it took longer. Its thread is left to itself.
        """
        result: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def call() -> None:
            try:
                result.put((litellm.completion(
                    model=model, messages=messages, max_tokens=tokens, timeout=self._call_seconds,
                    num_retries=0, max_retries=0,
                ), None))  # fmt: skip
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                result.put((None, error))

        threading.Thread(target=call, name=f"asks {model}", daemon=True).start()
        try:
            response, error = result.get(timeout=self._call_seconds + GRACE_SECONDS)
        except queue.Empty:
            raise TimeoutError from None
        if error is not None:
            raise error
        return response

    def _understood(self, litellm: Any, response: Any, model: str) -> tuple[str, str, float | None]:
        try:
            cost = float(litellm.completion_cost(completion_response=response, model=model))
        except Exception:  # noqa: BLE001 - a model without a known price has no known cost
            cost = None
        choice = response.choices[0] if response.choices else None
        text = _text(choice.message.content) if choice is not None else ""
        if choice is not None and choice.finish_reason == "length":
            raise NoProposal("the answer was cut off: it has more tokens than were asked for", cost_usd=cost)
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
    names = next((names for prefix, names in PROVIDERS.items() if model.startswith(prefix)), ())
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


def _most(litellm: Any, model: str) -> int:
    """Tokens of an answer that it gives, as far as that is known."""
    try:
        return int(litellm.get_model_info(model).get("max_output_tokens") or ANSWER_TOKENS)
    except Exception:  # noqa: BLE001 - a model that nobody knows
        return ANSWER_TOKENS


def _text(content: Any) -> str:
    """Of a message: a text, or a list of parts that have one."""
    if isinstance(content, list):
        parts = (part.get("text", "") if isinstance(part, dict) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return content or ""
