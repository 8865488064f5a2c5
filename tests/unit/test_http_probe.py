"""Finding out what a server can do: what is asked, what is concluded, and what is left open."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from serving import ACTIONS, PROMPTS, Numbered, answer, chatting, connect, over, raising

from londi import lms
from londi.bench.server import Script, ScriptedServer
from londi.cli import main
from londi.config import ModelConfig, ServerConfig
from londi.errors import ModelError
from londi.lms.client import TOO_LONG
from londi.lms.http import HTTPLM
from londi.usage import Usage


def test_what_the_server_can_do_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(Script(completions=False)) as server:
        main(["lm", "info", "openai:toy", "--base-url", server.url, "--api-key-env", "", "--json"])
        found = json.loads(capsys.readouterr().out)
    expected = {"api": "chat", "choose": "guided", "top_logprobs": 20, "echo": False, "chat": True}
    expected |= {"completions": False, "json_schema": True, "usage_reported": True, "cached_tokens_reported": True}
    assert expected.items() <= found.items()
    assert (found["models"], found["context"], found["dollars"]) == (["toy"], 4096, "no price known")


@pytest.mark.parametrize(
    ("listed", "models"),
    [
        ([{"id": "toy"}], []),
        ("toy", []),
        ({"data": "toy"}, []),
        ({"data": ["toy", {"id": "toy", "meta": "none"}]}, ["toy"]),
        ({"data": [{"id": "toy", "meta": None}]}, ["toy"]),
    ],
)
def test_a_list_of_models_of_another_form_is_passed_over(listed: Any, models: list[str]) -> None:
    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=listed)
        return answer("yes", usage={"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None})

    found = over(Numbered(handle)).capabilities()
    assert (found["models"], found["context"]) == (models, None)
    assert (found["usage_reported"], found["cached_tokens_reported"]) == (True, False)


def test_a_model_that_does_not_chat_is_asked_to_complete() -> None:
    """Whatever the server says of it: OpenAI's answers 404 and speaks of the model."""

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("chat/completions"):
            return httpx2.Response(404, json={"error": {"message": "This is not a chat model."}})
        choice = {"text": " go forward", "logprobs": None}
        return httpx2.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    lm = over(Numbered(handle))
    assert lm.decide(PROMPTS[:1], ACTIONS)[0].action == "go forward"
    assert lm.mode == "generate"


def test_what_a_server_does_not_take_is_left_out() -> None:
    """It says so as OpenAI's do."""
    said = {
        "logprobs": "You are not allowed to request logprobs from this model.",
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0 with this model.",
    }

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        for key, message in said.items():
            if key in json.loads(request.content):
                return httpx2.Response(403 if key == "logprobs" else 400, json={"error": {"message": message}})
        return answer("go forward")

    transport = Numbered(handle)
    (decision,) = over(transport, choose="generate").decide(PROMPTS[:1], ACTIONS)
    assert decision.action == "go forward"
    assert {"max_tokens", "temperature", "logprobs"}.isdisjoint(transport.bodies[-1])
    assert transport.bodies[-1]["max_completion_tokens"] == 512


def test_log_probabilities_that_are_not_there_are_asked_for_in_vain() -> None:
    with ScriptedServer(Script(logprobs=False)) as server, pytest.raises(ModelError, match=r"server\.choose"):
        connect(server, choose="logprobs").decide(PROMPTS, ACTIONS)


@pytest.mark.parametrize("api", ["auto", "chat", "completions"])
@pytest.mark.parametrize("guided", [True, False])
def test_a_schema_is_tried_before_it_is_relied_on(api: Any, guided: bool) -> None:
    with ScriptedServer(Script(guided=guided)) as server:
        lm = connect(server, choose="guided", api=api)
        if guided and api != "completions":
            assert lm.mode == "guided"
        else:
            with pytest.raises(ModelError, match=r"holds no reply to a JSON schema: set server\.choose"):
                lm.check()
        lm.close()


def test_a_server_that_takes_a_schema_and_ignores_it_does_not_guide() -> None:
    transport = Numbered(lambda n, r: answer("Yes, of course."))
    assert over(transport).mode == "generate"
    assert "response_format" in transport.bodies[-1]


def test_thoughts_may_use_up_a_guided_reply() -> None:
    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        guided = "response_format" in json.loads(request.content)
        return answer("<think>yes or no", finish="length") if guided else answer("yes")

    assert over(Numbered(handle)).mode == "guided"


# What is only so for now ----------------------------------------------------------------------------------------------


def refuse(status: int, request: httpx2.Request) -> httpx2.Response:
    if not status:
        return raising(httpx2.ReadError)(1, request)
    return httpx2.Response(status, json={"error": {"message": "not now"}})


@pytest.mark.parametrize("status", [0, 408, 429, 502, 503, 504])
def test_a_server_that_can_not_answer_now_is_asked_again_later(status: int) -> None:
    """Else one busy moment would decide how a whole run chooses."""
    able, busy = chatting(answer('{"action": "go forward"}')), [True]

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        guided = "response_format" in json.loads(request.content)
        return refuse(status, request) if guided and busy else able.handle(number, request)

    lm = over(Numbered(handle), attempts=2)
    with pytest.raises(ModelError, match=r"not now|no answer"):
        lm.check()
    busy.clear()
    assert lm.mode == "guided"
    assert lm.decide(PROMPTS[:1], ACTIONS)[0].action == "go forward"


def test_a_busy_moment_does_not_decide_whether_completions_echo() -> None:
    with ScriptedServer(Script(plan=[None, "busy", "busy"])) as server:
        lm = connect(server, api="completions", attempts=2)
        with pytest.raises(ModelError, match="too many requests"):
            lm.check()
        assert lm.decide(PROMPTS[:1], ACTIONS)[0].usage.requests == len(ACTIONS), "an echo each"
        lm.close()


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_a_schema_does_without(status: int) -> None:
    able = chatting()

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        guided = "response_format" in json.loads(request.content)
        return refuse(status, request) if guided else able.handle(number, request)

    assert over(Numbered(handle), attempts=2).mode == "logprobs"


def test_a_lost_probe_costs_as_much_as_it_permits() -> None:
    plain = Numbered(lambda n, r: answer("yes") if n == 1 else httpx2.Response(500))
    lm = over(plain, attempts=1)
    lm.check()
    assert plain.bodies[-1]["max_tokens"] == 128
    assert lm.probing == Usage(7, 0, 2, requests=1) + Usage(1024, 0, 128, requests=1)


def test_a_model_that_thinks_too_long_for_a_probe_is_asked_again() -> None:
    """OpenAI's show no reply at all, with status 400, if the thoughts use it up."""
    said = (
        f"Could not finish the message because max_tokens or model {TOO_LONG}. Please try again with higher max_tokens."
    )

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if body["max_tokens"] < 200:
            return httpx2.Response(400, json={"error": {"message": said}})
        return answer('{"action": "yes"}' if "response_format" in body else "yes", {"prompt_tokens": 9})

    transport = Numbered(handle)
    lm = over(transport)
    assert lm.mode == "guided"
    assert [body["max_tokens"] for body in transport.bodies] == [64, 1024, 128, 1024]
    assert lm.probing == Usage(2 * (1024 + 9), 0, 64 + 128 + 2 * 1024, requests=4), "thoughts unseen are paid for"


# At the start ---------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    spec = ModelConfig("openai:toy", server=ServerConfig("http://127.0.0.1:9/v1", "", attempts=1))
    with pytest.raises(ModelError, match=r"no answer from http://127\.0\.0\.1:9/v1"):
        lms.load(spec)


def test_an_unknown_model_and_a_wrong_address_are_said_at_once() -> None:
    with ScriptedServer() as server:
        with pytest.raises(ModelError, match="has no model 'other'"):
            HTTPLM("other", ServerConfig(server.url, "")).check()
        with pytest.raises(ModelError, match=r"nothing to talk to|has no model"):
            HTTPLM("toy", ServerConfig(server.url + "/nowhere", "")).check()
