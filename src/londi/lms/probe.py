"""Finds out, by a few small requests, what an OpenAI-compatible server can do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Literal

from londi.config import ServerConfig
from londi.errors import ModelError
from londi.lms import choosing
from londi.lms.client import TOO_LONG, Client, Reply
from londi.usage import Usage

Api = Literal["chat", "completions"]
Choose = Literal["logprobs", "guided", "generate"]
_REPLY = 64
"""Tokens that a probe lets the model write."""
_LONG_REPLY = 1024
"""Tokens for a model that thinks, if the server shows no reply that was cut off."""
_PASSING = (0, 408, 409, 429, 502, 503, 504)
"""Statuses that say nothing of what a server can do; 0 for no answer."""
_MOST_TOP: dict[Api, tuple[int, ...]] = {"chat": (20, 5, 0), "completions": (1000, 20, 5, 0)}
"""Likeliest tokens asked for, until the server permits it; llama.cpp shows as many as one wants."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """How to talk to a server."""

    api: Api
    choose: Choose = "generate"
    limit: str = "max_tokens"
    """How it names the longest reply: `max_tokens` or, for OpenAI's reasoning models, `max_completion_tokens`."""
    temperature: bool = True
    """Whether it can be asked for temperature 0."""
    top: int = 0
    """How many of the likeliest tokens it shows; 0 for none."""
    echo: bool = False
    """Whether completions give the log-probabilities of the prompt."""

    @property
    def path(self) -> str:
        """Where requests go, after the base URL."""
        return "chat/completions" if self.api == "chat" else "completions"


class Probe:
    """Asks a server what it can do, once. `spent` is what that cost."""

    def __init__(self, client: Client, model: str, server: ServerConfig, system: str) -> None:
        self.client, self.model, self.server, self.system = client, model, server, system
        self.spent = Usage()
        self._lock = asyncio.Lock()
        self.known: Abilities | None = None
        """What was found out; None before."""

    async def abilities(self) -> Abilities:
        """Return what is needed to decide.

        Raises `ModelError` where the server can't be reached, refuses the key, doesn't know the model, or can't choose
        in the way that the settings ask for.
        """
        async with self._lock:
            if self.known is None:
                self.known = await self._find()
            return self.known

    def body(self, text: str, abilities: Abilities | None = None) -> dict[str, Any]:
        """A request about a text, without the length of the reply."""
        found = abilities or self.known
        assert found is not None
        body: dict[str, Any] = {"model": self.model} | ({"temperature": 0} if found.temperature else {})
        body |= self.server.request
        if found.api == "completions":
            return body | {"prompt": text}
        system = [{"role": "system", "content": self.system}] if self.system else []
        return body | {"messages": [*system, {"role": "user", "content": text}]}

    async def _find(self) -> Abilities:
        wanted = self.server.api
        found = None if wanted == "completions" else await self._basic(Abilities("chat"), final=wanted == "chat")
        if found is None:
            found = await self._basic(Abilities("completions"), final=True)
            assert found is not None
        if found.api == "completions":
            found = replace(found, echo=await self._echoes(found))
        return replace(found, choose=await self._choose(found))

    async def _choose(self, found: Abilities) -> Choose:
        wanted, shows = self.server.choose, bool(found.top or found.echo)
        if wanted == "logprobs" and not shows:
            raise ModelError(f"{self._where()} shows no log-probabilities: set server.choose = 'auto'")
        if wanted in ("logprobs", "generate"):
            return wanted
        if found.api == "chat" and await self._guides(found):
            return "guided"
        if wanted == "guided":
            raise ModelError(f"{self._where()} holds no reply to a JSON schema: set server.choose = 'auto'")
        return "logprobs" if shows else "generate"

    async def _basic(self, found: Abilities, final: bool) -> Abilities | None:
        """A first reply, with what the server does not take left out; None where it has no such endpoint."""
        for top in _MOST_TOP[found.api]:
            found = replace(found, top=top)
            for _ in range(3):
                reply = await self._post(found, self._logprobs(found))
                if reply.data is not None:
                    shown = any(token.top for token in _tokens(reply))
                    return found if shown else replace(found, top=0)
                less = _without(found, reply.error) if reply.status in (400, 422) else found
                if less == found:
                    break
                found = less
            if reply.status not in (400, 403, 422) or "logprob" not in reply.error.lower():
                break
        if not final and reply.status in (400, 404, 405, 422, 501):
            return None  # what is wrong with the model or the address, completions will say too
        raise ModelError(self._refusal(reply))

    def _logprobs(self, found: Abilities) -> dict[str, Any]:
        if not found.top:
            return {}
        return {"logprobs": True, "top_logprobs": found.top} if found.api == "chat" else {"logprobs": found.top}

    async def _post(self, found: Abilities, more: dict[str, Any], text: str = "Say yes.") -> Reply:
        body = {**self.body(text, found), found.limit: _REPLY, **more}
        reply = Reply(None, Usage())
        for limit in (body[found.limit], _LONG_REPLY):
            most = Usage(1024 + len(self.system.encode()), 0, limit)
            reply = await self.client.post(found.path, body | {found.limit: limit}, most, choosing.check)
            self.spent += reply.usage
            if TOO_LONG not in reply.error:
                break
        return reply

    async def _permits(self, found: Abilities, more: dict[str, Any], text: str = "Say yes.") -> dict[str, Any] | None:
        """The answer to a request that the server may refuse; None where it does.

        Raises `ModelError` where it only can't answer now: what is concluded holds as long as the model is used.
        """
        reply = await self._post(found, more, text)
        if reply.data is None and reply.status in _PASSING:
            raise ModelError(self._refusal(reply))
        return reply.data

    async def _echoes(self, found: Abilities) -> bool:
        data = await self._permits(found, {"echo": True, "logprobs": 1, found.limit: 1}, "one two: three")
        try:
            choosing.echoed(data["choices"][0] if data else {}, "one two:", " three")
        except ValueError:
            return False
        return True

    async def _guides(self, found: Abilities) -> bool:
        answers = ("yes", "no")
        data = await self._permits(found, {"response_format": choosing.schema(answers), found.limit: 2 * _REPLY})
        if data is None:
            return False
        text = choosing.read(data)[1]
        # a reasoning model may have used up the reply for its thoughts
        return choosing.guided_action(text, answers) is not None or (not text and choosing.cut_off(data))

    async def everything(self) -> dict[str, Any]:
        """Return all there is to show about the server; raises `ModelError` as `abilities` does."""
        found = await self.abilities()
        listed = await self.client.get("models")
        self.spent += listed.usage
        shown: dict[str, Any] = {"base_url": self.server.base_url, "api": found.api, "choose": found.choose}
        shown |= {"top_logprobs": found.top, "echo": found.echo}
        chat = found if found.api == "chat" else replace(found, api="chat", limit="max_tokens", top=0)
        other = replace(found, api="completions", top=0)
        shown["chat"] = found.api == "chat" or (await self._post(chat, {})).data is not None
        shown["completions"] = found.api == "completions" or (await self._post(other, {})).data is not None
        shown["json_schema"] = found.choose == "guided" or (shown["chat"] and await self._guides(chat))
        again = await self._post(found, {})
        usage = _part(again.data, "usage", dict)
        shown["usage_reported"] = "prompt_tokens" in usage
        shown["cached_tokens_reported"] = "cached_tokens" in _part(usage, "prompt_tokens_details", dict)
        models = [entry for entry in _part(listed.data, "data", list) if isinstance(entry, dict)]
        shown["models"] = [str(entry.get("id")) for entry in models]
        own = [entry for entry in models if entry.get("id") == self.model] or (models if len(models) == 1 else [])
        shown["context"] = _context(own[0]) if own else None
        return shown

    def _where(self) -> str:
        return f"{self.model} at {self.server.base_url}"

    def _no_model(self, reply: Reply) -> bool:
        return reply.status in (400, 404) and "model" in reply.error.lower()

    def _refusal(self, reply: Reply) -> str:
        if reply.status in (401, 403):
            named = self.server.api_key_env
            key = f"is the key in ${named} right?" if named else "set server.api_key_env to the variable with the key"
            return f"{self._where()} refuses the key ({reply.error}): {key}"
        if self._no_model(reply):
            return f"{self.server.base_url} has no model '{self.model}' ({reply.error})"
        if reply.status in (404, 405):
            return f"nothing to talk to at {self.server.base_url} ({reply.error}): server.base_url ends with /v1 mostly"
        if not reply.status:
            return f"no answer from {self.server.base_url} ({reply.error}): is it running, and server.base_url right?"
        return f"{self._where()} can't be used: {reply.error}"


def _without(found: Abilities, error: str) -> Abilities:
    """Leave out what a refusal names; log-probabilities are the caller's."""
    text = error.lower()
    if "max_completion_tokens" in text or ("max_tokens" in text and "support" in text):
        return replace(found, limit="max_completion_tokens")
    return replace(found, temperature=False) if "temperature" in text else found


def _tokens(reply: Reply) -> list[choosing.Token]:
    try:
        return choosing.tokens((reply.data or {})["choices"][0])
    except (ValueError, KeyError):
        return []


def _part(data: dict[str, Any] | None, key: str, kind: type[Any]) -> Any:
    """What a document holds under a key, where it is of the right kind; else an empty one."""
    found = (data or {}).get(key)
    return found if isinstance(found, kind) else kind()


def _context(entry: dict[str, Any]) -> int | None:
    """Tokens of the context, as vLLM and llama.cpp tell them."""
    found = entry.get("max_model_len") or _part(entry, "meta", dict).get("n_ctx_train")
    return int(found) if isinstance(found, int) else None
