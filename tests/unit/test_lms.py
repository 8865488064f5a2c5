"""How a config becomes a model, and models that are functions."""

from __future__ import annotations

from typing import Any

import pytest

from londi import Agent, Always, Budget, ScriptedLM, TextEncoder, lms
from londi.agent import History
from londi.config import LocalConfig, ModelConfig, ServerConfig
from londi.errors import ConfigError, ModelError

ACTIONS = ("go left", "go", "stay where you are")
answers: list[str] = []


def script(prompt: str) -> str:
    answers.append(prompt)
    return "stay where you are" if len(answers) % 2 else "go"


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    [
        ("openai:toy", {"mode": "generate"}, r"'mode': it has server\.choose"),
        ("openai:toy", {"dtype": "bfloat16"}, "'dtype'"),
        ("openai:toy", {"local": LocalConfig(chat_template={"enable_thinking": False})}, "'local'"),
        ("python:test_lms:script", {"max_new_tokens": 5}, "'max_new_tokens'"),
        ("builtin:babyai-quick", {"server": ServerConfig("http://127.0.0.1:1/v1")}, "'server'"),
        ("./folder", {"server": ServerConfig(attempts=1)}, "'server'"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(model: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"no use for the setting {why}"):
        lms.load(ModelConfig(model, **settings))


def test_a_function_is_not_asked_what_it_could_cost() -> None:
    """Its answers may differ from one call to the next; a budget holds all the same."""
    lm = lms.load(ModelConfig("python:test_lms:script"))
    assert isinstance(lm, ScriptedLM)
    answers.clear()
    (case,) = lm.worst_case(["a b"], ACTIONS)
    assert (case.prompt_tokens, case.completion_tokens, answers) == (2, 4, [])
    assert lm.worst_case(["a b"])[0].tokens == 2 + 4, "free text can be known by asking alone"
    agent = Agent(ScriptedLM(lambda _: "go"), lm, TextEncoder(), Always())
    for cap in range(0, 80, 3):
        history = History("g", "o", ACTIONS, 9, Budget(cap, "tokens"))
        for _ in range(4):
            agent.act([history])
            history.see("o")
        assert history.budget.spent <= cap


def test_an_empty_table_is_named() -> None:
    with pytest.raises(ModelError, match="empty table"):
        ScriptedLM(lambda _: {}).decide(["x"], ACTIONS)
