"""Served models when things go wrong: what decisions are charged, hard budgets, and steps left to QUICK."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ACTIONS, PROMPTS, at_once, connect

from londi.agent import Agent, History
from londi.bench.server import REFUSED, Fault, Script, ScriptedServer
from londi.budget import Budget
from londi.config import ServerConfig
from londi.encoders import TextEncoder
from londi.errors import ModelError
from londi.lms import ScriptedLM
from londi.lms.dollars import Prices
from londi.lms.http import HTTPLM
from londi.switchers import Always

FAULT_LIST: list[Fault | None] = [None, "busy", "broken", "reset", "cut off", "no JSON", "no choices"]
WAYS = [("chat", "generate"), ("chat", "guided"), ("completions", "logprobs")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(FAULT_LIST), min_size=0, max_size=12), st.sampled_from(WAYS), st.booleans())
def test_no_charge_is_lost_or_exceeds_the_worst_case(plan: list[Fault | None], way: Any, echo: bool) -> None:
    """Whatever breaks in whatever order, while three decisions are under way at once."""
    api, choose = way
    with ScriptedServer(Script(plan=[None, None, *plan], echo=echo)) as server:
        table = ServerConfig(server.url, "", api, choose, attempts=2)
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
                elif entry.fault not in REFUSED:
                    expected += lm.most(prompt, ACTIONS).prompt_tokens + int(entry.body["max_tokens"])
            assert decision.usage.tokens == expected
            assert decision.usage.tokens <= case.tokens
            assert decision.usage.requests <= case.requests
            assert 0 <= decision.usage.dollars <= case.dollars
            texts = {entry.text for entry in own}
            failed = [all(e.fault is not None for e in own if e.text == text) for text in texts]
            assert bool(decision.error) == any(failed)
        lm.close()


@pytest.mark.parametrize(
    ("settings", "requests"),
    [({"api": "completions"}, 4), ({"api": "chat"}, 2), ({"request": {"stop": ["!" * 99]}}, 2)],
)
def test_the_worst_case_counts_every_request(settings: dict[str, Any], requests: int) -> None:
    with ScriptedServer() as server:
        lm = connect(server, attempts=3, **settings)
        (case,) = lm.worst_case(PROMPTS[:1], ACTIONS)
        assert case.requests == 3 * requests
        assert lm.decide(PROMPTS[:1], ACTIONS)[0].usage.tokens <= case.tokens
        plain = connect(server, attempts=3, api=lm.server.api).worst_case(PROMPTS[:1], ACTIONS)[0]
        assert (case.prompt_tokens > plain.prompt_tokens) == ("request" in settings), "templates may write options out"
        lm.close()


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
