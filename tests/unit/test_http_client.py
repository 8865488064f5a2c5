"""Requests: what is tried again, how long one waits, when a try has failed, and what each is charged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from serving import LOST, MOST, Handler, Numbered, answer, connect, raising, send

from londi.bench.server import Script, ScriptedServer
from londi.config import ServerConfig
from londi.errors import ConfigError
from londi.lms import client
from londi.lms.client import TOO_LONG, Client, Reply
from londi.lms.http import HTTPLM
from londi.lms.loop import run
from londi.usage import Usage

ACTIONS, PROMPT = Script().actions, "obs act:"


@pytest.mark.parametrize(
    ("handle", "cost", "said"),
    [
        (raising(httpx2.ConnectError), Usage(), "can't connect"),
        (raising(httpx2.LocalProtocolError), Usage(), "can't connect"),
        (raising(httpx2.ReadError), LOST, "connection broke"),
        (raising(httpx2.RemoteProtocolError), LOST, "connection broke"),
        (lambda n, r: httpx2.Response(429, json={"error": {"message": "slow down"}}), Usage(requests=1), "slow down"),
        (lambda n, r: httpx2.Response(503, text="out of\nmemory"), LOST, "status 503: out of memory"),
        (lambda n, r: httpx2.Response(200, text="{"), LOST, "damaged"),
        (lambda n, r: httpx2.Response(200, json=[]), LOST, "damaged"),
        (
            lambda n, r: httpx2.Response(200, json={"choices": [], "usage": {"prompt_tokens": 5}}),
            Usage(5, 0, MOST.completion_tokens, requests=1),
            "damaged",
        ),
    ],
)
def test_what_may_succeed_is_tried_again_and_every_attempt_charged(handle: Handler, cost: Usage, said: str) -> None:
    reply, waits, count = send(handle)
    assert reply.data is None
    assert said in reply.error
    assert (count, len(waits)) == (3, 2)
    assert reply.usage == cost + cost + cost
    once, _, _ = send(lambda n, r: handle(n, r) if n == 1 else answer("x"))
    assert once.data is not None
    assert once.usage == cost + Usage(7, 0, 2, requests=1)
    assert once.error == ""


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404, 422])
def test_what_can_not_succeed_is_not_tried_again(status: int) -> None:
    reply, waits, count = send(lambda n, r: httpx2.Response(status, json={"detail": "no"}))
    assert (count, waits, reply.status) == (1, [], status)
    assert reply.usage == Usage(requests=1), "refused, not worked on"


def test_a_refusal_to_show_a_reply_that_got_too_long_is_charged() -> None:
    said = f"Could not finish the message because max_tokens or model {TOO_LONG}."
    reply, waits, count = send(lambda n, r: httpx2.Response(400, json={"error": {"message": said}}))
    assert (count, waits, reply.usage) == (1, [], LOST)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ('{"prompt_tokens": 5, "completion_tokens": 3}', Usage(5, 0, 3, requests=1)),
        ('{"prompt_tokens": 5, "total_tokens": 9}', Usage(5, 0, 4, requests=1)),
        ('{"prompt_tokens": 5}', Usage(5, 0, MOST.completion_tokens, requests=1)),
        ('{"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": null}', Usage(5, 0, 3, requests=1)),
        (
            '{"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}}',
            Usage(5, 5, 3, requests=1),
        ),
        ('{"prompt_tokens": 1e999, "completion_tokens": 3}', LOST),
        ('{"prompt_tokens": NaN, "completion_tokens": 3}', LOST),
        ('{"prompt_tokens": 5, "completion_tokens": -3}', LOST),
        ('{"prompt_tokens": 5, "total_tokens": 3}', LOST),
        ("[5, 3]", LOST),
        ("null", LOST),
    ],
)
def test_the_tokens_that_a_server_says_it_used(usage: str, cost: Usage) -> None:
    reply, _, _ = send(lambda n, r: httpx2.Response(200, text=f'{{"choices": [{{}}], "usage": {usage}}}'))
    assert reply.data is not None
    assert reply.usage == cost


def test_waits_grow_with_jitter_and_follow_what_the_server_asks() -> None:
    _, waits, _ = send(lambda n, r: httpx2.Response(500), attempts=9)
    limits = [min(30.0, 0.5 * 2**i) for i in range(8)]
    assert all(0 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert len({round(wait / limit, 6) for wait, limit in zip(waits, limits, strict=True)}) == 8, "jitter"
    assert max(waits) > 8
    for value, low, high in (
        ("7", 7, 7),
        ("100000", 60, 60),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 60, 60),
        ("soon", 0, 0.5),
    ):
        _, waits, _ = send(lambda n, r, value=value: httpx2.Response(429, headers={"retry-after": value}), attempts=2)  # type: ignore[misc]
        assert low <= waits[0] <= high, value
    there = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:28:07 GMT"}
    _, waits, _ = send(lambda n, r: httpx2.Response(429, headers=there), attempts=2)
    assert waits[0] == 7, "by the server's clock, whatever ours says"


# When a try has failed ------------------------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with ScriptedServer(Script(plan=[None] * 4 + ["slow"])) as server:
        lm = connect(server, timeout=0.3, attempts=2, choose="generate", api="chat")
        (first,) = lm.decide([PROMPT], ACTIONS)
        rest = lm.decide([PROMPT] * 6, ACTIONS)
        assert [d.error for d in (first, *rest)] == [""] * 7
        slow = [d for d in rest if d.usage.requests == 2]
        assert len(slow) == 1
        assert slow[0].usage.completion_tokens >= 512
        lm.close()


class Dripping(httpx2.AsyncByteStream):
    """A body that goes on and on, a byte at a time."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)


def once(url: str, timeout: float, transport: httpx2.AsyncBaseTransport | None = None) -> tuple[Reply, float]:
    """Send one request, once; return the reply and the seconds it took."""
    sender = Client(ServerConfig(url, "", attempts=1, timeout=timeout), transport)
    begun = time.perf_counter()
    reply = run(sender.post("chat/completions", {}, MOST, lambda data: data["choices"][0]))
    run(sender.close())
    return reply, time.perf_counter() - begun


def test_a_body_that_never_ends_is_given_up() -> None:
    drip = Numbered(lambda n, r: httpx2.Response(200, stream=Dripping()))
    reply, seconds = once("http://test/v1", 0.2, drip)
    assert (reply.usage, reply.error) == (LOST, "no answer within 0.2 s")
    assert seconds < 2


def test_a_connection_that_hangs_costs_nothing() -> None:
    """The server accepts, and says nothing when it is greeted for encryption."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = run(asyncio.start_server(mute, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    hung, _ = once(f"https://127.0.0.1:{port}/v1", 0.3)
    silent, _ = once(f"http://127.0.0.1:{port}/v1", 0.3)
    server.close()
    assert (hung.usage, hung.error, hung.reached) == (Usage(), "can't connect: ConnectTimeout", False)
    assert (silent.usage, silent.error) == (LOST, "no answer within 0.3 s"), "it may have read the request"


class Counting(ScriptedServer):
    """Counts the connections."""

    connections = 0

    def __enter__(self) -> Counting:
        super().__enter__()
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await super()._serve(reader, writer)


@pytest.mark.parametrize(("kept", "connections"), [(5.0, 1), (0.05, 2)])
def test_idle_connections_are_left_before_the_server_drops_them(
    kept: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.KEPT_S < 5, "uvicorn's and Node's"
    monkeypatch.setattr(client, "KEPT_S", kept)
    with Counting() as server:
        lm = connect(server)
        lm.check()
        time.sleep(0.2)
        lm.decide([PROMPT], ACTIONS)
        lm.close()
        assert server.connections == connections


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:pass@host/v1", "ftp://host/v1", "host:8000/v1", ""),
        *(
            "http://host:port/v1",
            "http://host:99999/v1",
            "http://host:-1/v1",
            "http://host/v1?key=pass@",
            "http://h/#a",
        ),
    ],
)
def test_urls_that_can_not_be(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.base_url") as error:
        HTTPLM("toy", ServerConfig(url))
    assert "pass@" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concurrency": 0}, r"server\.concurrency"),
        ({"attempts": 0}, r"server\.attempts"),
        ({"timeout": 0.0}, r"server\.timeout"),
        ({"timeout": float("inf")}, r"server\.timeout"),
        ({"timeout": float("nan")}, r"server\.timeout"),
        ({"request": {"temperature": float("nan")}}, "JSON"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HTTPLM("toy", ServerConfig("http://test/v1", **settings))


@pytest.mark.parametrize(
    "option", ["model", "messages", "n", "stream", "max_tokens", "max_completion_tokens", "n_predict", "logprobs"]
)
def test_request_options_that_are_our_own_are_refused(option: str) -> None:
    """Most would make a call cost more than its worst case."""
    with pytest.raises(ConfigError, match=f"server.request can't hold '{option}'"):
        HTTPLM("toy", ServerConfig("http://test/v1", request={"seed": 1, option: 4}))
