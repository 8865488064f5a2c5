"""Models behind a server: a scripted one on loopback that tells the truth about itself, and transports that break."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from londi import config, lms
from londi.agent import Agent, History
from londi.bench.server import Fault, Script, ScriptedServer
from londi.budget import Budget
from londi.cli import main
from londi.config import ModelConfig, ServerConfig
from londi.encoders import TextEncoder
from londi.errors import ConfigError, ModelError
from londi.lms import ScriptedLM, choosing
from londi.lms.client import Client, Reply
from londi.lms.dollars import Prices, prices_of
from londi.lms.http import HTTPLM
from londi.lms.loop import run
from londi.switchers import Always
from londi.usage import Usage

ACTIONS = Script().actions
PROMPTS = tuple(f"obs {i} act:" for i in range(6))
SECRET = "sk-very-secret-0123456789"


def connect(server: ScriptedServer, **changes: Any) -> HTTPLM:
    options = {key: changes.pop(key) for key in ("max_new_tokens", "system") if key in changes}
    return HTTPLM("toy", ServerConfig(server.url, "", **changes), seed=0, **options)


async def at_once(seconds: float) -> None:
    """Wait for nothing."""


# Choosing among candidates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", [True, False])
def test_completions_give_the_probability_of_each_candidate(echo: bool) -> None:
    with ScriptedServer(Script(echo=echo)) as server:
        lm = connect(server, api="completions")
        for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, ACTIONS), strict=True):
            truth = server.script.distribution(prompt)
            assert decision.logprobs is not None
            np.testing.assert_allclose(np.exp(decision.logprobs), [truth[a] for a in ACTIONS], rtol=1e-9)
            assert decision.action == max(truth, key=lambda action: truth[action])
            # four candidates, two of which begin alike: 4 echoes, or 4 looks ahead: the first token, then one for each
            # that has a second; "turn" once
            assert decision.usage.requests == 4
        assert lm.mode == "logprobs"
        lm.close()


@pytest.mark.parametrize("guided", [True, False])
def test_chat_gives_the_probability_of_each_branch(guided: bool) -> None:
    """`turn left` and `turn right` begin with one token: where the reply is neither, they share its probability."""
    with ScriptedServer(Script(guided=guided)) as server:
        lm = connect(server)
        assert lm.mode == ("guided" if guided else "logprobs")
        decisions = lm.decide(PROMPTS, ACTIONS)
        for prompt, decision in zip(PROMPTS, decisions, strict=True):
            (text,) = (entry.text for entry in server.ledger if entry.text.startswith(f"{prompt}\n"))
            truth = server.script.distribution(text)
            assert decision.logprobs is not None
            found = dict(zip(ACTIONS, np.exp(decision.logprobs), strict=True))
            for action in ("go forward", "pick up"):
                assert found[action] == pytest.approx(truth[action])
            assert found["turn left"] + found["turn right"] == pytest.approx(truth["turn left"] + truth["turn right"])
            assert decision.action == max(truth, key=lambda action: truth[action])
            assert decision.usage.requests == 1
        assert {d.action for d in decisions} & {"turn left", "turn right"}, "some replies are one of the two"
        lm.close()


def test_a_reply_is_read_where_the_server_offers_nothing_else() -> None:
    with ScriptedServer(Script(guided=False, logprobs=False)) as server:
        lm = connect(server)
        assert lm.mode == "generate"
        for decision in lm.decide(PROMPTS, ACTIONS):
            assert decision.action in ACTIONS
            assert decision.logprobs is None
        lm.close()


@pytest.mark.parametrize(
    ("reply", "action", "requests"),
    [
        ("I will pick up the ball, no: go forward.", "go forward", 1),
        ("<think>turn left?</think> turn right", "turn right", 1),
        ("I do not know", "", 2),
    ],
)
def test_a_reply_that_names_no_action_is_asked_for_once_more(reply: str, action: str, requests: int) -> None:
    with ScriptedServer(Script(reply=reply, guided=False, logprobs=False)) as server:
        lm = connect(server)
        server.ledger.clear()
        (decision,) = lm.decide(PROMPTS[:1], ACTIONS)
        assert (decision.action, decision.usage.requests) == (action, requests)
        assert ("names no action: 'I do not know'" in decision.error) == (not action)
        assert "turn left?" in decision.thought or "<think>" not in reply
        assert all("turn left | turn right | go forward | pick up" in entry.text for entry in server.ledger[-requests:])
        lm.close()


def test_completions_are_read_to_the_end_of_the_line() -> None:
    with ScriptedServer(Script(logprobs=False, chat=False)) as server:
        lm = connect(server)
        decisions = lm.decide(["pick up go forward turn left turn right act:"], ACTIONS)
        assert lm.mode == "generate"
        assert server.ledger[-1].body["stop"] == ["\n"]
        assert "names no action" in decisions[0].error, "it writes one token alone"
        lm.close()


def test_free_text_system_messages_and_request_options() -> None:
    with ScriptedServer(Script(reply="whatever it says")) as server:
        lm = connect(server, request={"seed": 3, "temperature": 0.5, "reasoning_effort": "low"}, system="Be brief.")
        (decision,) = lm.decide(PROMPTS[:1])
        assert decision.action == "whatever it says"
        body = server.ledger[-1].body
        assert (body["seed"], body["temperature"], body["reasoning_effort"]) == (3, 0.5, "low")
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert body["max_tokens"] == 512
        lm.close()


def test_log_probabilities_that_are_not_there_are_asked_for_in_vain() -> None:
    with ScriptedServer(Script(logprobs=False)) as server, pytest.raises(ModelError, match=r"server\.choose"):
        connect(server, choose="logprobs").decide(PROMPTS, ACTIONS)


def test_what_the_server_can_do_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(Script(completions=False)) as server:
        main(["lm", "info", "openai:toy", "--base-url", server.url, "--api-key-env", "", "--json"])
        found = json.loads(capsys.readouterr().out)
    expected = {"api": "chat", "choose": "guided", "top_logprobs": 20, "echo": False, "chat": True}
    expected |= {"completions": False, "json_schema": True, "usage_reported": True, "cached_tokens_reported": True}
    assert expected.items() <= found.items()
    assert (found["models"], found["context"], found["dollars"]) == (["toy"], 4096, "no price known")


def test_a_model_that_does_not_chat_is_asked_to_complete() -> None:
    """Whatever the server says of it: OpenAI's answers 404 and speaks of the model."""

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("chat/completions"):
            return httpx2.Response(404, json={"error": {"message": "This is not a chat model."}})
        choice = {"text": " go forward", "logprobs": None}
        return httpx2.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    transport = Numbered(handle)
    lm = HTTPLM("davinci", ServerConfig("http://test/v1", ""), transport=transport, sleep=at_once)
    assert lm.decide(PROMPTS[:1], ACTIONS)[0].action == "go forward"
    assert lm.mode == "generate"


class Refusing(httpx2.AsyncBaseTransport):
    """A server that takes no `max_tokens`, no temperature and no log-probabilities, and says so as OpenAI's do."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        said = {
            "logprobs": "You are not allowed to request logprobs from this model.",
            "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "temperature": "Unsupported value: 'temperature' does not support 0 with this model.",
        }
        for key, message in said.items():
            if key in body:
                return httpx2.Response(403 if key == "logprobs" else 400, json={"error": {"message": message}})
        return answer("go forward")


def answer(text: str, usage: dict[str, Any] | None = None) -> httpx2.Response:
    found = {"prompt_tokens": 7, "completion_tokens": 2} if usage is None else usage
    return httpx2.Response(200, json={"choices": [{"message": {"content": text}}], "usage": found})


def test_what_a_server_does_not_take_is_left_out() -> None:
    transport = Refusing()
    lm = HTTPLM("gpt", ServerConfig("http://test/v1", choose="generate"), transport=transport, sleep=at_once)
    (decision,) = lm.decide(PROMPTS[:1], ACTIONS)
    assert decision.action == "go forward"
    assert {"max_tokens", "temperature", "logprobs"}.isdisjoint(transport.bodies[-1])
    assert transport.bodies[-1]["max_completion_tokens"] == 512


# Retries and charges --------------------------------------------------------------------------------------------------

Handler = Callable[[int, httpx2.Request], httpx2.Response]


class Numbered(httpx2.AsyncBaseTransport):
    """Answers the n-th request by `handle(n, request)`, which may raise."""

    def __init__(self, handle: Handler) -> None:
        self.handle, self.count = handle, 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.count += 1
        return self.handle(self.count, request)


MOST = Usage(100, 0, 10)


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


LOST = Usage(100, 0, 10, requests=1)


@pytest.mark.parametrize(
    ("handle", "cost", "said"),
    [
        (raising(httpx2.ConnectError), Usage(), "can't connect"),
        (raising(httpx2.ReadError), LOST, "connection broke"),
        (raising(httpx2.RemoteProtocolError), LOST, "connection broke"),
        (lambda n, r: httpx2.Response(429, json={"error": {"message": "slow down"}}), Usage(requests=1), "slow down"),
        (lambda n, r: httpx2.Response(503, text="out of\nmemory"), LOST, "status 503: out of memory"),
        (lambda n, r: httpx2.Response(200, text="{"), LOST, "damaged"),
        (lambda n, r: httpx2.Response(200, json=[]), LOST, "damaged"),
        (
            lambda n, r: httpx2.Response(200, json={"choices": [], "usage": {"prompt_tokens": 5}}),
            Usage(5, requests=1),
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


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with ScriptedServer(Script(plan=[None] * 4 + ["slow"])) as server:
        lm = connect(server, timeout=0.3, attempts=2, choose="generate", api="chat")
        (first,) = lm.decide(PROMPTS[:1], ACTIONS)
        rest = lm.decide(PROMPTS, ACTIONS)
        assert [d.error for d in (first, *rest)] == [""] * 7
        slow = [d for d in rest if d.usage.requests == 2]
        assert len(slow) == 1
        assert slow[0].usage.completion_tokens >= 512
        lm.close()


FAULT_LIST: list[Fault | None] = [None, "busy", "broken", "reset", "cut off", "no JSON", "no choices"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(FAULT_LIST), min_size=0, max_size=12), st.sampled_from(["generate", "guided"]))
def test_no_charge_is_lost_or_exceeds_the_worst_case(plan: list[Fault | None], choose: Any) -> None:
    """Whatever breaks in whatever order, while three decisions are under way at once."""
    with ScriptedServer(Script(plan=[None, None, *plan])) as server:
        table = ServerConfig(server.url, "", "chat", choose, attempts=2)
        lm = HTTPLM("toy", table, max_new_tokens=8, sleep=at_once, seed=0)
        lm.prices = Prices(1.0, 2.0, 0.5, "2026-01-01")
        lm.check()
        server.ledger.clear()
        decisions, most = lm.decide(PROMPTS[:3], ACTIONS), lm.worst_case(PROMPTS[:3], ACTIONS)
        assert sum(d.usage.requests for d in decisions) == len(server.ledger)
        for prompt, decision, case in zip(PROMPTS, decisions, most, strict=False):
            own = [entry for entry in server.ledger if entry.text.startswith(prompt)]
            expected = 0
            for entry in own:
                if entry.reported is not None:
                    expected += sum(entry.reported)
                elif entry.fault != "busy":
                    expected += lm.most(prompt, ACTIONS).prompt_tokens + 8
            assert decision.usage.tokens == expected
            assert decision.usage.tokens <= case.tokens
            assert 0 <= decision.usage.dollars <= case.dollars
            assert bool(decision.error) == (own[-1].fault is not None)
        lm.close()


@pytest.mark.parametrize(("settings", "requests"), [({"api": "completions"}, 4), ({"api": "chat"}, 2)])
def test_the_worst_case_counts_every_request(settings: dict[str, Any], requests: int) -> None:
    with ScriptedServer() as server:
        lm = connect(server, attempts=3, **settings)
        (case,) = lm.worst_case(PROMPTS[:1], ACTIONS)
        assert case.requests == 3 * requests
        assert lm.decide(PROMPTS[:1], ACTIONS)[0].usage.tokens <= case.tokens
        lm.close()


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    spec = ModelConfig("openai:toy", server=ServerConfig("http://127.0.0.1:9/v1", "", attempts=1))
    with pytest.raises(ModelError, match=r"no answer from http://127\.0\.0\.1:9/v1"):
        lms.load(spec)


def test_an_unknown_model_and_a_refused_key_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server:
        with pytest.raises(ModelError, match="has no model 'other'"):
            HTTPLM("other", ServerConfig(server.url, "")).check()
        with pytest.raises(ModelError, match=r"nothing to talk to|has no model"):
            HTTPLM("toy", ServerConfig(server.url + "/nowhere", "")).check()
    monkeypatch.setenv("MY_KEY", SECRET)
    refusing = Numbered(lambda n, r: httpx2.Response(401, json={"error": {"message": f"bad key {SECRET}"}}))
    with pytest.raises(ModelError, match=r"is the key in \$MY_KEY right") as error:
        HTTPLM("toy", ServerConfig("http://test/v1", "MY_KEY"), transport=refusing).check()
    assert SECRET not in str(error.value)
    assert "***" in str(error.value)


def test_a_server_that_dies_leaves_every_step_to_quick() -> None:
    quick = ScriptedLM(lambda prompt: "turn left", "quick")
    with ScriptedServer() as server:
        lm = connect(server, attempts=1)
        history = History("g", "o", ACTIONS, 9, Budget(3))
        agent = Agent(quick, lm, TextEncoder(), Always())
        first = agent.act([history]).drafts[0]
        assert first.deepthink is not None
        assert first.deepthink.error == ""
        assert history.budget.remaining == 2
    history.see("o")
    second = agent.act([history]).drafts[0]
    assert second.action == "turn left"
    assert second.deepthink is not None
    assert "connect" in second.deepthink.error or "broke" in second.deepthink.error
    assert not second.deepthink.charged or history.budget.remaining == 1
    lm.close()


@pytest.mark.parametrize("measure", ["tokens", "dollars"])
def test_budgets_stay_hard_when_the_server_breaks(measure: Any) -> None:
    faults: dict[Fault, float] = {"busy": 0.2, "broken": 0.2, "reset": 0.2, "no choices": 0.1}
    quick = ScriptedLM(lambda prompt: "turn left", "quick")
    with ScriptedServer(Script(faults=faults, plan=[None] * 2, seed=3)) as server:
        settings = ServerConfig(server.url, "", "chat", "generate", attempts=2)
        lm = HTTPLM("toy", settings, max_new_tokens=8, sleep=at_once, seed=0)
        lm.prices = Prices(1.0, 2.0, 0.5, "2026-01-01")
        lm.check()
        (case,) = lm.worst_case(["goal: g\nlast: none\nobs: o\nact:"], ACTIONS)
        cap = 3 * case.of(measure)
        budget = Budget(int(cap) if measure == "tokens" else cap, measure)
        history, agent = History("g", "o", ACTIONS, 99, budget), Agent(quick, lm, TextEncoder(), Always())
        spent = 0.0
        calls = []
        for _ in range(60):
            draft = agent.act([history]).drafts[0]
            history.see("o")
            calls.append(draft.called)
            if draft.deepthink:
                spent += draft.deepthink.usage.of(measure)
            assert spent <= cap * (1 + 1e-9)
        assert calls[0]
        assert not calls[-1], "the budget is used up at last"
        assert budget.spent == pytest.approx(spent)
        lm.close()


def test_dollars_need_a_price() -> None:
    with ScriptedServer() as server:
        lm = connect(server)
        agent = Agent(ScriptedLM(lambda prompt: "turn left"), lm, TextEncoder(), Always())
        with pytest.raises(ModelError, match=r"server\.prices"):
            agent.act([History("g", "o", ACTIONS, 9, Budget(1.0, "dollars"))])
        lm.close()


# Keys -----------------------------------------------------------------------------------------------------------------


def decide_elsewhere(lm: HTTPLM) -> tuple[str, str]:
    """Run in another process."""
    return lm.decide(PROMPTS[:1], ACTIONS)[0].action, repr(lm)


def test_a_key_is_sent_and_goes_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with ScriptedServer() as server:
        spec = ModelConfig("openai:toy", server=ServerConfig(server.url, "MY_KEY"))
        lm = lms.load(spec)
        assert isinstance(lm, HTTPLM)
        (here,) = lm.decide(PROMPTS[:1], ACTIONS)
        assert {entry.authorization for entry in server.ledger} == {f"Bearer {SECRET}"}
        experiment = config.Experiment("x", config.EnvConfig("londi/KeyDoor-v0"), spec, spec)
        copies = [repr(lm), caplog.text, config.dump(experiment), repr(here), pickle.dumps(lm).decode("latin-1")]
        assert not any(SECRET in text for text in copies)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            action, shown = pool.submit(decide_elsewhere, lm).result()
        assert action == here.action
        assert SECRET not in shown
        assert {entry.authorization for entry in server.ledger} == {f"Bearer {SECRET}"}, "read where it is needed"
        lm.close()


@pytest.mark.parametrize(
    ("key", "fine"), [(f"{SECRET}\r\n", True), (f"{SECRET} ", True), ("sk-\u201cx\u201d", False), ("a\nb", False)]
)
def test_a_key_with_a_stray_character_is_in_no_error(key: str, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    said = "x" * 290 + SECRET
    transport = Numbered(lambda n, r: httpx2.Response(401, json={"error": {"message": said}}))
    lm = HTTPLM("toy", ServerConfig("http://test/v1", "MY_KEY"), transport=transport, sleep=at_once)
    with pytest.raises(ModelError if fine else ConfigError) as error:
        lm.check()
    assert "sk-very" not in str(error.value)
    assert key not in str(error.value)


@pytest.mark.parametrize("url", ["http://user:pass@host/v1", "ftp://host/v1", "host:8000/v1", ""])
def test_urls_that_can_not_be(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.base_url") as error:
        HTTPLM("toy", ServerConfig(url))
    assert "pass@" not in str(error.value)


# Dollars --------------------------------------------------------------------------------------------------------------


def test_dollars_of_a_usage(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text('date = 2026-01-31\n[models."a/b"]\nprompt = 1.0\ncached = 0.1\ncompletion = 4.0\n')
    prices = prices_of("a/b", str(table))
    assert prices is not None
    assert prices.date == "2026-01-31"
    assert prices.dollars(Usage(1_000_000, 200_000, 500_000)) == pytest.approx(0.8 + 0.02 + 2.0)
    assert prices_of("c", str(table)) is None
    assert prices_of("gpt-4o-mini") is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "date"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\n", "completion"),
        ("date = 2026-01-31\n[models.m]\nprompt = -1.0\ncompletion = 1\n", "at least 0"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\ncompletion = 1\ncached = 2\n", "above prompt"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\ncompletion = 1\npromt = 2\n", "may have"),
        ("=", "no TOML"),
    ],
)
def test_price_tables_that_are_wrong(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        prices_of("m", str(tmp_path / "prices.toml"))


def test_a_price_table_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"no price table nothing\.toml"):
        HTTPLM("toy", ServerConfig("http://test/v1", prices="nothing.toml"))


# Reading answers ------------------------------------------------------------------------------------------------------


def test_an_echo_whose_tokens_lie_across_the_prompt_is_refused() -> None:
    whole = {"logprobs": {"tokens": ["a", " act: go"], "token_logprobs": [None, -1.0], "top_logprobs": [{}, {}]}}
    with pytest.raises(ValueError, match="across"):
        choosing.echoed(whole, "a act:", " go")


def test_a_likely_token_that_is_not_listed_is_bounded() -> None:
    reply = [choosing.Token("go", -0.1, {"go": -0.1, "turn": -3.0})]
    found = choosing.along_reply(reply, "", "", ("go", "turn left", "sing"))
    np.testing.assert_allclose(found, [-0.1, -3.0, -3.0])


def test_the_end_of_a_reply_counts_where_a_candidate_begins_another() -> None:
    """A model that would rather go on than close the quotation mark is no less sure of what it said before."""
    reply = [
        choosing.Token('{"action": "', -0.5, {}),
        choosing.Token("pick", -0.7, {"pick": -0.7, "go": -0.9}),
        choosing.Token(" up", -0.1, {" up": -0.1, '"': -2.0}),
        choosing.Token('"}', -3.0, {'",': -0.1, '"}': -3.0}),
    ]
    lead, tail = '{"action": "', '"'
    np.testing.assert_allclose(choosing.along_reply(reply, lead, tail, ("pick up", "go")), [-0.8, -0.9])
    np.testing.assert_allclose(choosing.along_reply(reply, lead, tail, ("pick up", "pick")), [-0.8, -2.7])


def test_the_frame_of_a_guided_reply() -> None:
    text = json.dumps({"action": 'say "go"'})
    assert choosing.guided_action(text, ('say "go"',)) == 'say "go"'
    assert choosing.guided_frame(text, 'say "go"') == ('{"action": "', '"')
    assert choosing.guided_action('{"action": "fly"}', ("go",)) is None
    assert choosing.guided_action('{"action": "g', ("go",)) is None


# The benchmark --------------------------------------------------------------------------------------------------------


def test_the_benchmark_counts_right(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "http", "--requests", "200", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert min(count for fault, count in found["faults"].items() if fault != "slow") > 0
    assert found["rows"][0]["ratio"] > 3


def test_the_benchmark_finds_a_lost_charge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = Client._attempt

    async def forgetful(self: Client, *args: Any) -> Reply:
        reply = await honest(self, *args)
        return Reply(reply.data, Usage(), reply.error, reply.status) if reply.data is None else reply

    monkeypatch.setattr(Client, "_attempt", forgetful)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "http", "--requests", "100", "--json"])
    assert stopped.value.code == 1
    checks = json.loads(capsys.readouterr().out)["checks"].values()
    assert [check["passed"] for check in checks] == [False, False, True, True, True]


def test_it_can_be_awaited() -> None:
    with ScriptedServer() as server:
        lm = connect(server)
        decisions = asyncio.run(lm.adecide(PROMPTS, ACTIONS))
        assert [d.action for d in decisions] == [d.action for d in lm.decide(PROMPTS, ACTIONS)]
        lm.close()
