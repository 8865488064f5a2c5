"""What the tests of served models share: prompts, transports that answer as told, and a client to try them with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2

from londi.bench.server import Script, ScriptedServer
from londi.config import ServerConfig
from londi.lms.client import Client, Reply
from londi.lms.http import HTTPLM
from londi.lms.loop import run
from londi.usage import Usage

ACTIONS = Script().actions
PROMPTS = tuple(f"obs {i} act:" for i in range(6))
SECRET = "sk-very-secret-0123456789"
MOST = Usage(100, 0, 10)
LOST = Usage(100, 0, 10, requests=1)
"""What one attempt costs that may have been worked on in vain, where `MOST` is the most."""

Handler = Callable[[int, httpx2.Request], httpx2.Response]
Written = tuple[str, Mapping[str, float]]
"""A token and the probabilities of the likeliest at its place, its own among them."""


def connect(server: ScriptedServer, **changes: Any) -> HTTPLM:
    options = {key: changes.pop(key) for key in ("max_new_tokens", "system") if key in changes}
    return HTTPLM("toy", ServerConfig(server.url, "", **changes), seed=0, **options)


def over(transport: httpx2.AsyncBaseTransport, key: str = "", **changes: Any) -> HTTPLM:
    """A model whose requests go to a transport; it waits for nothing."""
    return HTTPLM("toy", ServerConfig("http://test/v1", key, **changes), transport=transport, sleep=at_once)


async def at_once(seconds: float) -> None:
    """Wait for nothing."""


def answer(
    content: Any, usage: dict[str, Any] | None = None, written: Sequence[Written] = (), finish: str = "stop"
) -> httpx2.Response:
    """An answer of chat."""
    found = {"prompt_tokens": 7, "completion_tokens": 2} if usage is None else usage
    choice: dict[str, Any] = {"message": {"content": content}, "finish_reason": finish}
    if written:
        choice["logprobs"] = {"content": [_token(text, top) for text, top in written]}
    return httpx2.Response(200, json={"choices": [choice], "usage": found})


def _token(text: str, top: Mapping[str, float]) -> dict[str, Any]:
    entries = [{"token": each, "logprob": math.log(p)} for each, p in top.items()]
    return {"token": text, "logprob": math.log(top.get(text, 1.0)), "top_logprobs": entries}


class Numbered(httpx2.AsyncBaseTransport):
    """Answers the n-th request by `handle(n, request)`, which may raise; `bodies` are what was sent."""

    def __init__(self, handle: Handler) -> None:
        self.handle, self.count = handle, 0
        self.bodies: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.count += 1
        content = await request.aread()
        self.bodies.append(json.loads(content) if content else {})
        return self.handle(self.count, request)


def chatting(*replies: httpx2.Response, guided: bool = True) -> Numbered:
    """A server that chats, shows log-probabilities and perhaps holds replies to a schema; it decides by `replies`."""
    left = list(replies)

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if body["messages"][-1]["content"] != "Say yes.":
            return left.pop(0)
        if "response_format" not in body:
            return answer("yes", written=[("yes", {"yes": 0.9})])
        return answer('{"action": "yes"}') if guided else httpx2.Response(400, json={"error": "no response_format"})

    return Numbered(handle)


def send(handle: Handler, attempts: int = 3) -> tuple[Reply, list[float], int]:
    """Send one request; return the reply, the waits and the number of attempts."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    transport = Numbered(handle)
    client = Client(ServerConfig("http://test/v1", "", attempts=attempts), transport, sleep, seed=0)
    reply = run(client.post("chat/completions", {}, MOST, lambda data: data["choices"][0]))
    return reply, waits, transport.count


def raising(error: type[httpx2.TransportError]) -> Handler:
    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        raise error("secret-free", request=request)

    return handle
