"""Requests to an OpenAI-compatible server: the one layer that retries, and the one that says what an attempt cost."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from londi.config import ServerConfig
from londi.errors import ConfigError, MissingExtraError
from londi.usage import Usage

try:
    import httpx2
except ImportError as error:
    raise MissingExtraError("httpx2", "http") from error

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 60.0
"""Seconds: the first wait at most, any wait of our own, any wait that a server may ask for."""
TOO_LONG = "output limit was reached"
"""How OpenAI refuses, with status 400, to show a reply that was cut off while the model thought."""
_LONGEST_MESSAGE = 300
_NOT_REACHED = (
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError),
    httpx2.LocalProtocolError,
)
_AGAIN = (408, 409, 429)
_OURS = {
    *("model", "messages", "prompt", "stream", "echo", "logprobs", "top_logprobs", "response_format"),
    *("max_tokens", "max_completion_tokens", "n", "best_of"),
    *("n_predict", "n_cmpl"),  # llama.cpp's own names for two of these, which it takes first
}
"""What requests hold in any case, or what would make them cost more than their worst case."""
KEPT_S = 2.0
"""Seconds that an idle connection is kept: many servers drop theirs after 5, maybe just as we write."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request, all its attempts together."""

    data: dict[str, Any] | None
    """The body; None where every attempt failed."""
    usage: Usage
    """What all attempts cost, without dollars."""
    error: str = ""
    status: int = 0
    """HTTP status of the last attempt; 0 where none came."""
    retry_after: float = 0.0
    """Seconds that the server asks to wait."""

    @property
    def reached(self) -> bool:
        """Whether any attempt reached the server."""
        return self.usage.requests > 0


class Client:
    """Sends requests, at most `concurrency` at a time, and tries those again that may succeed the next time.

    Tried again: connections that fail or break, tries longer than the timeout, bodies that are cut off or no JSON or
    lack what they must have, and the statuses 408, 409, 429 and 5xx. The waits between are drawn from [0, w], w
    doubling from half a second to 30 ("full jitter"), and are no shorter than `Retry-After` asks, up to a minute.

    Charged: each attempt that reached the server is a request. Its tokens are those of the server's own `usage`; an
    attempt that may have been worked on but did not say so (5xx, cut off, too late) costs `most`, the worst case;
    a refusal (4xx) costs no tokens, unless it is that the reply got too long, and a connection that was never made
    nothing at all.
    """

    def __init__(
        self,
        settings: ServerConfig,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        seed: int | None = None,
    ) -> None:
        _check_settings(settings)
        self.settings, self._sleep, self._random = settings, sleep, random.Random(seed)
        self._http = httpx2.AsyncClient(
            transport=transport,
            # each try has one deadline for all of it, see _attempt; connecting and encryption fail before it, each
            # in half its time, so that a connection that was never made is told from one that is silent
            timeout=httpx2.Timeout(None, connect=settings.timeout / 2),
            limits=httpx2.Limits(
                max_connections=settings.concurrency,
                max_keepalive_connections=settings.concurrency,
                keepalive_expiry=KEPT_S,
            ),
        )
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def clean(self, text: str) -> str:
        """Remove the key from a text, in case the server repeats it."""
        key = self._key()
        return text.replace(key, "***") if key else text

    def _key(self) -> str:
        key = os.environ.get(self.settings.api_key_env, "").strip() if self.settings.api_key_env else ""
        if not (key.isascii() and key.isprintable()) or {*' "\\'} & {*key}:  # `clean` would miss it, spelt otherwise
            raise ConfigError(f"the key in ${self.settings.api_key_env} holds characters that no key has")
        return key

    async def get(self, path: str) -> Reply:
        """Get a JSON object, once."""
        async with self._slots:
            return await self._attempt("GET", path, None, Usage(), lambda data: data.get)

    async def post(
        self, path: str, body: dict[str, Any], most: Usage, check: Callable[[dict[str, Any]], object]
    ) -> Reply:
        """Send a request until it succeeds or the attempts are used up.

        `most` is what one attempt can cost; `check` raises ValueError, KeyError, IndexError, TypeError or
        AttributeError for a body that lacks what it must have.
        """
        spent = Usage()
        for attempt in range(self.settings.attempts):
            async with self._slots:
                reply = await self._attempt("POST", path, body, most, check)
            spent += reply.usage
            final = attempt == self.settings.attempts - 1
            if reply.data is not None or final or not _may_succeed(reply.status):
                break
            await self._sleep(self._wait(attempt, reply))
        return Reply(reply.data, spent, reply.error, reply.status)

    def _wait(self, attempt: int, reply: Reply) -> float:
        own = self._random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt))
        return max(own, min(LONGEST_ASKED, reply.retry_after))

    async def _attempt(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        most: Usage,
        check: Callable[[dict[str, Any]], object],
    ) -> Reply:
        lost = Usage(most.prompt_tokens, 0, most.completion_tokens, requests=1)
        try:
            async with asyncio.timeout(self.settings.timeout):
                response = await self._send(method, path, body)
        except TimeoutError:
            return Reply(None, lost, f"no answer within {self.settings.timeout:g} s")
        except _NOT_REACHED as error:
            return Reply(None, Usage(), f"can't connect: {self.clean(_name(error))}")
        except httpx2.HTTPError as error:
            return Reply(None, lost, f"the connection broke: {self.clean(_name(error))}")
        status, data = response.status_code, _body(response)
        if status >= 300:
            wait = _retry_after(response.headers.get("retry-after", ""), response.headers.get("date", ""))
            said = self.clean(_message(response.text if data is None else data))[:_LONGEST_MESSAGE]
            charged = lost if status >= 500 or TOO_LONG in said else Usage(requests=1)
            return Reply(None, charged, f"status {status}: {said}", status, wait)
        cost = _reported(data, most) or lost
        try:
            check(data)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Reply(None, cost, "the answer is damaged", status)
        return Reply(data, cost, "", status)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self._key()}"} if self._key() else {}
        url = f"{self.settings.base_url.rstrip('/')}/{path}"
        return await self._http.request(method, url, json=body, headers=headers)


def _check_settings(settings: ServerConfig) -> None:
    try:
        url = httpx2.URL(settings.base_url)
        right = url.scheme in ("http", "https") and url.host and 0 < (url.port or 80) < 2**16
        right = right and not (url.userinfo or url.query or url.fragment)
    except httpx2.InvalidURL:
        right = False
    if not right:
        raise ConfigError(
            "server.base_url is a URL such as 'http://127.0.0.1:8000/v1', without user, password and query "
            "(keys come from the environment: server.api_key_env)"
        ) from None
    for key, value in (("concurrency", settings.concurrency), ("attempts", settings.attempts)):
        if value < 1:
            raise ConfigError(f"server.{key} must be at least 1, not {value}")
    if not 0 < settings.timeout < math.inf:
        raise ConfigError(f"server.timeout must be above 0 seconds, not {settings.timeout}")
    ours = sorted({*settings.request} & _OURS)
    if ours:
        raise ConfigError(
            f"server.request can't hold '{ours[0]}', which londi sets itself "
            "(model = 'openai:NAME', max_new_tokens, server.choose)"
        )
    try:
        json.dumps(settings.request, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"server.request can't be sent as JSON: {error}") from error


def _may_succeed(status: int) -> bool:
    """Whether to try again: no answer at all, a damaged one, busy, or broken."""
    return status < 300 or status in _AGAIN or status >= 500


def _retry_after(value: str, date: str) -> float:
    """Seconds that a header asks for, given as such or as a date; 0 where it is neither.

    A date is held against the answer's own, if it has one: this machine's clock may be another.
    """
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    until = _timestamp(value)
    return 0.0 if until is None else max(0.0, until - (_timestamp(date) or time.time()))


def _timestamp(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _body(response: httpx2.Response) -> Any:
    """The JSON of a body; None where it is none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _reported(data: Any, most: Usage) -> Usage | None:
    """The tokens that the server says it used, at most those of the reply where it leaves them out; None without."""
    try:
        usage = data["usage"]
        details = usage.get("prompt_tokens_details") or {}
        prompt, cached = int(usage["prompt_tokens"]), int(details.get("cached_tokens") or 0)
        written, total = usage.get("completion_tokens"), usage.get("total_tokens")
        if written is None:
            written = most.completion_tokens if total is None else int(total) - prompt
        completion = int(written)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if prompt < 0 or completion < 0:
        return None
    return Usage(prompt, max(0, min(cached, prompt)), completion, requests=1)


def _message(found: Any) -> str:
    """What a body says is wrong, in one line."""
    for key in ("error", "message", "detail"):
        found = found.get(key, found) if isinstance(found, dict) else found
    text = found if isinstance(found, str) else json.dumps(found)
    return " ".join(text.split())


def _name(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()
