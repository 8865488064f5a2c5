"""Any OpenAI-compatible server as a language model: vLLM, llama.cpp, Ollama, transformers serve, hosted APIs.

How an action is chosen among candidates depends on what the server offers, which is found out once by small requests
(`londi.lms.probe`). On completions: the log-probability of each candidate, from an echo of prompt and candidate, or
token by token from the likeliest next tokens. On chat: one reply, held to the candidates by a JSON schema where the
server does that, with the log-probabilities along it; else a free reply, and one more request where it names none.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np

from londi.config import ServerConfig
from londi.errors import ModelError
from londi.lms import choosing
from londi.lms.base import Decision, closest_candidate, log_softmax, naming
from londi.lms.client import Client, Reply, Sleep
from londi.lms.dollars import prices_of
from londi.lms.loop import awaited, later, run
from londi.lms.probe import Abilities, Probe
from londi.prompt import Prompt
from londi.usage import Usage

OVERHEAD = 512
"""Tokens that a chat template may add to the texts of a request, at most."""
LONGEST_WALK = 24
"""Tokens of a candidate that are looked up one by one."""
_ONLY = "Answer with exactly one of these actions, and nothing else: {}."


class HTTPLM:
    """A model behind an OpenAI-compatible server as a `LanguageModel`.

    - `model`: its name there. - `server`: see `londi.config.ServerConfig`.
    - `max_new_tokens`: longest reply, thoughts included; None for 512. - `system`: system message, chat only.
    - `transport`, `sleep`, `seed`: for tests: where requests go, how to wait, and the draws of the waits.

    A request that fails in spite of all attempts gives a `Decision` with its `error`, and what it cost. Can be
    pickled; the key is never part of it. Raises `ConfigError` for settings that can't be.
    """

    def __init__(
        self,
        model: str,
        server: ServerConfig | None = None,
        *,
        max_new_tokens: int | None = None,
        system: str = "",
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        seed: int | None = None,
    ) -> None:
        self.name, self.server, self.system = model, server or ServerConfig(), system
        self.max_new_tokens = max_new_tokens or 512
        self.prices = prices_of(model, self.server.prices)
        self.client = Client(self.server, transport, sleep, seed)
        self._probe = Probe(self.client, model, self.server, system)
        self._closes = weakref.finalize(self, later, self.client.close)
        self._closes.atexit = False

    def __reduce__(self) -> Any:
        return _rebuilt, (self.name, self.server, self.max_new_tokens, self.system, self._probe.known)

    def __repr__(self) -> str:
        return f"HTTPLM({self.name!r}, {self.server.base_url!r})"

    @property
    def mode(self) -> str:
        """How it chooses among candidates, as found out: `logprobs`, `guided` or `generate`."""
        return run(self._probe.abilities()).choose

    @property
    def probing(self) -> Usage:
        """What finding out about the server has cost so far; it is part of no decision."""
        return self._priced(self._probe.spent)

    def check(self) -> None:
        """See that the server answers; raises `ModelError` as `decide` does."""
        run(self._probe.abilities())

    def close(self) -> None:
        """Close the connections; otherwise that is done when the object goes."""
        if self._closes.detach():
            run(self.client.close())

    def capabilities(self) -> dict[str, Any]:
        """Return what the server can do, and the known prices; raises `ModelError` as `decide` does."""
        found = run(self._probe.everything())
        prices = None if self.prices is None else f"${self.prices.prompt:g} / ${self.prices.completion:g} per million"
        return found | {"dollars": f"{prices} tokens ({self.prices.date})" if self.prices else "no price known"}

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt; they are requested at the same time.

        Raises `ModelError` the first time, where the server can't be reached or refuses key or model.
        """
        return run(self._decide_all(prompts, candidates))

    async def adecide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """As `decide`, from a coroutine."""
        return await awaited(self._decide_all(prompts, candidates))

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the most that `decide` is charged for each prompt, all attempts and the repair included.

        It rests on two bounds: a tokenizer makes no more tokens than there are bytes, and a chat template adds no more
        than `OVERHEAD`. A server that reports more tokens than that is believed, and its call charged in full. Dollars
        are 0 where no price is known. Raises `ModelError` as `decide` does.
        """
        abilities = run(self._probe.abilities())
        cases = []
        for prompt in prompts:
            most, requests = self.most(prompt, candidates), self._requests(abilities, candidates)
            times = requests * self.server.attempts
            tokens = Usage(most.prompt_tokens * times, 0, most.completion_tokens * times, requests=times)
            cases.append(self._priced(tokens))
        return cases

    def most(self, prompt: str, candidates: Sequence[str] | None) -> Usage:
        """Return the most that one attempt of any request about this prompt can cost, in tokens."""
        texts = [self.system, prompt, *(candidates or ()), *(candidates or ()), _ONLY, json.dumps(self.server.request)]
        size = sum(len(text.encode()) + 4 for text in texts)
        return Usage(size + OVERHEAD, 0, self.max_new_tokens)

    def _requests(self, abilities: Abilities, candidates: Sequence[str] | None) -> int:
        """Requests for one decision, at most."""
        if candidates is None:
            return 1
        if abilities.choose != "logprobs" or abilities.api == "chat":
            return 2
        if abilities.echo:
            return len(candidates)
        return sum(min(LONGEST_WALK, len(text) + 2) for text in candidates)  # the space before it, the end of its line

    def _priced(self, usage: Usage) -> Usage:
        return usage if self.prices is None else usage + Usage(dollars=self.prices.dollars(usage))

    async def _decide_all(self, prompts: Sequence[str], candidates: Sequence[str] | None) -> list[Decision]:
        abilities = await self._probe.abilities()
        return list(await asyncio.gather(*(self._decide(prompt, candidates, abilities) for prompt in prompts)))

    async def _decide(self, prompt: str, candidates: Sequence[str] | None, abilities: Abilities) -> Decision:
        begun = time.perf_counter()
        asked = _Asked(self, prompt, candidates, abilities)
        if candidates is None:
            found = await asked.free()
        elif abilities.choose == "logprobs" and abilities.api == "completions":
            found = await asked.scored()
        else:
            found = await asked.replied()
        usage = self._priced(found.usage) + Usage(seconds=time.perf_counter() - begun)
        return Decision(found.action, usage, found.logprobs, found.thought, None, found.error)


class _Asked:
    """One decision in the making: its requests, and what they cost so far."""

    def __init__(self, lm: HTTPLM, prompt: str, candidates: Sequence[str] | None, abilities: Abilities) -> None:
        self.lm, self.prompt, self.abilities = lm, str(prompt), abilities
        self.candidates = tuple(candidates or ())
        self.most = lm.most(prompt, candidates)
        self.spent = Usage()
        named = prompt.instructions if isinstance(prompt, Prompt) else prompt
        self.names_actions = all(text in named for text in self.candidates)

    async def _post(self, body: dict[str, Any]) -> Reply:
        most = Usage(self.most.prompt_tokens, 0, body[self.abilities.limit])
        reply = await self.lm.client.post(self.abilities.path, body, most, choosing.check)
        self.spent += reply.usage
        return reply

    async def free(self) -> Decision:
        """A reply as it is."""
        reply = await self._post(self._first_line(self._body(self.prompt)))
        if reply.data is None:
            return self._failed(reply.error)
        thought, text = choosing.read(reply.data)
        return Decision(text, self.spent, None, thought) if text else self._failed("the reply is empty")

    async def replied(self) -> Decision:
        """A reply that is held to the candidates, or read; asked once more where it names none."""
        request = _ONLY.format(" | ".join(self.candidates))
        asked = self.prompt if self.names_actions else f"{self.prompt}\n{request}"
        for attempt, text in enumerate((asked, f"{self.prompt}\n{request}")):
            reply = await self._post(self._first_line(self._body(text, choosing_among=self.candidates)))
            if reply.data is None:
                return self._failed(reply.error)
            thought, answer = choosing.read(reply.data)
            action = self._action(answer, choosing.cut_off(reply.data))
            if action is not None:
                logprobs = self._along(reply.data, answer, action)
                return Decision(action, self.spent, logprobs, thought)
            if attempt:
                shown = self.lm.client.clean(answer)[:80]
                return self._failed(f"the reply names no action: '{shown}'" if shown else "the reply is empty")
        raise AssertionError  # pragma: no cover

    def _action(self, answer: str, cut_off: bool) -> str | None:
        if self.abilities.choose == "guided":
            found = choosing.guided_action(answer, self.candidates)
            if found is not None or cut_off:
                return found
        read = choosing.cut_action if cut_off else closest_candidate
        return read(answer, self.candidates)

    def _along(self, data: dict[str, Any], answer: str, action: str) -> tuple[float, ...] | None:
        """Log-probabilities of the candidates along a reply, where the server gives them and they can be read."""
        try:
            reply = choosing.tokens(data["choices"][0])
        except ValueError:
            return None
        text = "".join(token.text for token in reply)
        if not any(token.top for token in reply) or answer not in text:
            return None
        lead, candidates, tail = text[: text.rfind(answer)], list(self.candidates), ""
        if self.abilities.choose == "guided" and choosing.guided_action(answer, self.candidates) is not None:
            frame = choosing.guided_frame(answer, action, self.candidates)
            if frame is None:
                return None
            before, tail, candidates = frame
        else:
            reply, lead, candidates = choosing.lowered(reply), lead.lower(), [text.lower() for text in candidates]
            named = [match.start() for match in naming(action).finditer(answer.lower())]
            before = answer.lower()[: named[0 if choosing.cut_off(data) else -1]]
        scores = choosing.along_reply(reply, lead + before, tail, candidates)
        return tuple(log_softmax(scores).tolist()) if np.isfinite(scores).all() else None

    async def scored(self) -> Decision:
        """The log-probability of each candidate after the prompt, by completions."""
        lead = "" if self.prompt[-1:].isspace() else " "
        answers = choosing.ended([lead + text for text in self.candidates])
        try:
            scores = await (self._echoed(answers) if self.abilities.echo else self._walked(answers))
        except _FailedError as error:
            return self._failed(str(error))
        if not np.isfinite(scores).all():
            return self._failed("the log-probabilities can't be read: they are not finite")
        logprobs = log_softmax(np.array(scores))
        return Decision(self.candidates[int(logprobs.argmax())], self.spent, tuple(logprobs.tolist()))

    async def _echoed(self, answers: Sequence[str]) -> list[float]:
        async def one(answer: str) -> float:
            body = self._body(self.prompt + answer) | {"echo": True, "logprobs": 1, self.abilities.limit: 1}
            reply = await self._post(body)
            if reply.data is None:
                raise _FailedError(reply.error)
            try:
                return choosing.echoed(reply.data["choices"][0], self.prompt, answer)
            except ValueError as error:
                raise _FailedError(f"the log-probabilities can't be read: {error}") from error

        return await _all(one(answer) for answer in answers)

    async def _walked(self, answers: Sequence[str]) -> list[float]:
        """Token by token: what several candidates begin with is looked up once."""
        known: dict[str, asyncio.Task[dict[str, float]]] = {}

        async def top(begun: str) -> dict[str, float]:
            body = self._body(self.prompt + begun) | {self.abilities.limit: 1, "logprobs": self.abilities.top}
            reply = await self._post(body)
            if reply.data is None:
                raise _FailedError(reply.error)
            try:
                return dict(choosing.tokens(reply.data["choices"][0])[0].top)
            except (ValueError, IndexError) as error:
                raise _FailedError(f"the log-probabilities can't be read: {error}") from error

        async def one(answer: str) -> float:
            begun, total = "", 0.0
            for _ in range(LONGEST_WALK):
                if begun == answer:
                    break
                if begun not in known:
                    known[begun] = asyncio.ensure_future(top(begun))
                likely = await known[begun]
                found = choosing.next_token(likely, answer[len(begun) :])
                if found is None:
                    return total + min(likely.values(), default=-20.0)
                begun, total = begun + found[0], total + found[1]
            return total

        return await _all(one(answer) for answer in answers)

    def _body(self, text: str, choosing_among: Sequence[str] = ()) -> dict[str, Any]:
        abilities = self.abilities
        body = self.lm._probe.body(text) | {abilities.limit: self.lm.max_new_tokens}
        if choosing_among and abilities.choose == "guided":
            body["response_format"] = choosing.schema(choosing_among)
        if choosing_among and abilities.top and abilities.choose != "generate":
            body |= {"logprobs": True, "top_logprobs": abilities.top}
        return body

    def _first_line(self, body: dict[str, Any]) -> dict[str, Any]:
        """By completions a model goes on after its answer and makes up what follows: stop it there."""
        return {"stop": ["\n"], **body} if self.abilities.api == "completions" else body

    def _failed(self, error: str) -> Decision:
        return Decision("", self.spent, error=error)


class _FailedError(Exception):
    """A request failed in spite of all attempts."""


async def _all(coroutines: Any) -> list[Any]:
    """Wait for all, then raise the first failure: what the others cost is counted too."""
    found = await asyncio.gather(*coroutines, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return list(found)


def _rebuilt(model: str, server: ServerConfig, max_new_tokens: int, system: str, known: Abilities | None) -> HTTPLM:
    found = HTTPLM(model, server, max_new_tokens=max_new_tokens, system=system)
    found._probe.known = known
    return found


def load(model: str, server: ServerConfig, max_new_tokens: int | None, system: str) -> HTTPLM:
    """Load the model of an experiment and see that its server answers; raises `ModelError` where it doesn't."""
    if not model:
        raise ModelError("name the model behind the server: model = 'openai:NAME'")
    found = HTTPLM(model, server, max_new_tokens=max_new_tokens, system=system)
    found.check()
    return found
