"""Keys and what is sent along: where they go and, above all, where they don't; models in other processes and loops."""

from __future__ import annotations

import asyncio
import logging
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import httpx2
import pytest
from serving import ACTIONS, PROMPTS, SECRET, Numbered, answer, connect, over

from londi import config, lms
from londi.bench.server import Script, ScriptedServer
from londi.config import ModelConfig, ServerConfig
from londi.errors import ConfigError, ModelError
from londi.lms.http import HTTPLM


def decide_elsewhere(lm: HTTPLM) -> tuple[str, str]:
    """Run in another process."""
    return lm.decide(PROMPTS[:1], ACTIONS)[0].action, repr(lm)


def test_a_key_is_sent_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_refused_key_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    refusing = Numbered(lambda n, r: httpx2.Response(401, json={"error": {"message": f"bad key {SECRET}"}}))
    with pytest.raises(ModelError, match=r"is the key in \$MY_KEY right") as error:
        over(refusing, "MY_KEY").check()
    assert SECRET not in str(error.value)
    assert "***" in str(error.value)


@pytest.mark.parametrize(
    ("key", "fine"),
    [
        *((f"{SECRET}\r\n", True), (f"{SECRET} ", True), ("sk-\u201cx\u201d", False), ("a\nb", False)),
        *(("sk-very  secret", False), ('sk-very"secret', False), ("sk-very\\secret", False)),
    ],
)
def test_a_key_with_a_stray_character_is_in_no_error(key: str, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    said = "x" * 290 + SECRET
    transport = Numbered(lambda n, r: httpx2.Response(401, json={"error": {"message": said}}))
    with pytest.raises(ModelError if fine else ConfigError) as error:
        over(transport, "MY_KEY").check()
    assert "sk-very" not in str(error.value)
    assert key not in str(error.value)


def test_a_key_in_a_reply_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    transport = Numbered(lambda n, r: answer(f"{'x' * 70} {SECRET}"))
    (decision,) = over(transport, "MY_KEY", choose="generate").decide(PROMPTS[:1], ACTIONS)
    assert "names no action" in decision.error
    assert "sk-very" not in decision.error


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


# Elsewhere ------------------------------------------------------------------------------------------------------------


def test_what_was_found_out_survives_pickling() -> None:
    """Else every worker would ask the server anew, and might find otherwise."""
    with ScriptedServer() as server:
        lm = connect(server, api="completions")
        before = lm.decide(PROMPTS, ACTIONS)
        server.ledger.clear()
        copy: HTTPLM = pickle.loads(pickle.dumps(lm))
        after = copy.decide(PROMPTS, ACTIONS)
        assert [d.logprobs for d in after] == [d.logprobs for d in before]
        assert sum(d.usage.requests for d in after) == len(server.ledger)
        assert copy.probing.requests == 0
        lm.close()
        copy.close()


def test_it_can_be_awaited_on_any_loop() -> None:
    with ScriptedServer(Script(latency=0.02)) as server:
        lm = connect(server, concurrency=1)
        ticks = 0

        async def both() -> list[str]:
            nonlocal ticks

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.005)

            ticking = asyncio.create_task(tick())
            found = await asyncio.gather(*(lm.adecide(PROMPTS[i : i + 3], ACTIONS) for i in (0, 3)))
            ticking.cancel()
            return [decision.action for decisions in found for decision in decisions]

        expected = [decision.action for decision in lm.decide(PROMPTS, ACTIONS)]
        assert asyncio.run(both()) == asyncio.run(both()) == expected
        assert ticks > 6, "its own loop goes on meanwhile"
        lm.close()
