"""A batch that is more than the memory holds is decided in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from londi import envs, lms
from londi.config import ModelConfig
from londi.errors import ModelError
from londi.lms.memory import ran_out
from londi.lms.transformers import TransformersLM
from londi.prompt import PromptTemplate

ROOM = envs.make("londi/BabyAI-GoTo-v0")


def prompts(count: int) -> list[str]:
    found: list[str] = []
    for seed in range(count):
        observation, info = ROOM.reset(seed=seed)
        found.append(str(PromptTemplate().render(info["goal"], [observation], [])))
    return found


def short_of_memory(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let a pass over more prompts ask torch for what no machine has; returns the sizes that were tried."""
    tried: list[int] = []
    score = lm.scorer.score

    def scoring(rows: Any, *args: Any) -> Any:
        tried.append(len(rows))
        if len(rows) > most:
            torch.empty(1 << 56)
        return score(rows, *args)

    monkeypatch.setattr(lm.scorer, "score", scoring)
    return tried


@pytest.mark.parametrize("name", ["babyai-quick", "babyai-deepthink"])
def test_halves_are_decided_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lms.load(ModelConfig(f"builtin:{name}", mode="score"))
    assert isinstance(lm, TransformersLM)
    whole = lm.decide(prompts(50), ROOM.admissible)
    tried = short_of_memory(lm, monkeypatch, 8)
    with pytest.warns(UserWarning, match="ran out of memory"):
        parts = lm.decide(prompts(50), ROOM.admissible)
    assert [d.action for d in parts] == [d.action for d in whole]
    assert all(a.logprobs == pytest.approx(b.logprobs, abs=1e-5) for a, b in zip(parts, whole, strict=True))
    assert max(tried) > 8 >= lm.max_batch
    tried.clear()
    lm.decide(prompts(50), ROOM.admissible)
    assert max(tried) <= 8, "what was too much is not tried again"


def test_one_prompt_that_is_too_much_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lms.load(ModelConfig("builtin:babyai-quick", mode="score"))
    assert isinstance(lm, TransformersLM)
    short_of_memory(lm, monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="at a time"),
        pytest.raises(ModelError, match="out of memory on a single prompt"),
    ):
        lm.decide(prompts(4), ROOM.admissible)


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    lm = lms.load(ModelConfig("builtin:babyai-quick", mode="score"))
    assert isinstance(lm, TransformersLM)
    monkeypatch.setattr(lm.scorer, "score", lambda *args: torch.ones(2, 3) @ torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        lm.decide(prompts(4), ROOM.admissible)
