"""A pretrained model through both backends, which must agree, and a real server that drives an episode."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from londi import envs
from londi.agent import Agent
from londi.config import LocalConfig, ServerConfig
from londi.encoders import TextEncoder
from londi.lms.http import HTTPLM
from londi.lms.transformers import TransformersLM
from londi.prompt import PromptTemplate
from londi.rollout import Assignment, rollout
from londi.switchers import RandomRate

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::ResourceWarning")]

CANDIDATES = ("turn left", "turn right", "go forward", "pick up the ball", "open the door", "wait")
PROMPTS = tuple(
    f"You walk through a house. {where}\nYour goal: {goal}.\nPossible actions: {', '.join(CANDIDATES)}.\nYour action:"
    for where in (
        "A ball lies before you.",
        "You see a closed door ahead.",
        "The ball is to your right.",
        "All is dark.",
    )
    for goal in ("get the ball", "leave the room", "stay where you are")
)


def server(url: str, system: str = "", **changes: Any) -> HTTPLM:
    return HTTPLM("smollm2", ServerConfig(url, "", timeout=300, concurrency=2, **changes), system=system)


def test_both_backends_rank_the_candidates_alike(folder: Path, llama_cpp: str) -> None:
    """llama.cpp computes with rounded activations: candidates that lie close together may change places."""
    local = TransformersLM(str(folder), mode="score", local=LocalConfig(chat="never"))
    remote = server(llama_cpp, api="completions")
    assert remote.mode == "logprobs"
    pairs = agree = best = 0
    for one, other in zip(local.decide(PROMPTS, CANDIDATES), remote.decide(PROMPTS, CANDIDATES), strict=True):
        assert other.error == ""
        assert one.logprobs is not None
        assert other.logprobs is not None
        best += one.action == other.action
        for i, j in itertools.combinations(range(len(CANDIDATES)), 2):
            apart = one.logprobs[i] - one.logprobs[j]
            if abs(apart) > 0.5:
                pairs += 1
                agree += apart * (other.logprobs[i] - other.logprobs[j]) > 0
    assert pairs > 100, "they must differ for this to mean anything"
    assert agree / pairs >= 0.97, (agree, pairs)
    assert best >= len(PROMPTS) - 1
    remote.close()


def test_both_backends_read_the_same_tokens(folder: Path, llama_cpp: str) -> None:
    """The chat template, its special tokens and the server's own count."""
    for prompt, system in itertools.product(PROMPTS[:2], ("", "Be brief.")):
        local, remote = TransformersLM(str(folder), system=system), server(llama_cpp, system, api="chat")
        (decision,) = remote.decide([prompt])
        assert decision.error == ""
        assert decision.usage.prompt_tokens == len(local.tokens.prompts([prompt], 0)[0])
        remote.close()


def test_reused_prefixes_change_nothing_on_trained_weights(folder: Path) -> None:
    keeps, forgets = TransformersLM(str(folder)), TransformersLM(str(folder), local=LocalConfig(cache_mb=0))
    template = PromptTemplate(layout="transcript", instructions="You walk through a house. Actions: {actions}.\n" * 4)
    observations, actions = ["A ball lies before you."], list[str]()
    for step in range(4):
        prompt = template.render("get the ball", observations, actions, CANDIDATES)
        (one,), (other,) = keeps.decide([prompt], CANDIDATES), forgets.decide([prompt], CANDIDATES)
        assert one.logprobs is not None
        assert other.logprobs is not None
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)
        assert (one.usage.cached_tokens > 0) == (step > 0)
        actions.append(one.action)
        observations.append(f"You see wall number {step}.")


def test_a_real_server_drives_an_episode(folder: Path, llama_cpp: str) -> None:
    """A local QUICK, a served DEEPTHINK, a budget: every call counted, paid for and within it."""
    env = envs.make("londi/BabyAI-GoToPickUp-v0", max_steps=6)
    quick = TransformersLM(str(folder), mode="score")
    deepthink = server(llama_cpp, api="chat")
    assert deepthink.mode == "guided"
    template = PromptTemplate(layout="transcript", instructions="Reach the goal. Actions: {actions}.")
    agent = Agent(quick, deepthink, TextEncoder(), RandomRate(0.7), template)
    played = [episode for episode, _ in rollout([env], agent, [Assignment(seed, budget=3) for seed in range(2)])]
    for episode in played:
        assert not episode.violated
        assert episode.num_failed == 0
        assert 1 <= episode.num_calls <= 3
        for step in episode.steps:
            assert step.action in (env.admissible or ())
            if step.deepthink:
                assert step.action == step.deepthink.action
                assert step.deepthink.usage.requests == 1
                assert step.deepthink.usage.prompt_tokens > 50
    assert sum(step.quick.usage.cached_tokens for step in played[0].steps) > 0
    deepthink.close()


def test_a_pretrained_model_plays_scienceworld_in_free_text(folder: Path) -> None:
    """No one expects success of it: its words reach the simulator, and what it costs and how sure it is are known."""
    env = envs.make("londi/ScienceWorld-find-plant-v0", split="test", max_steps=3, list_actions=8, heap_mb=256)
    lm = TransformersLM(str(folder), max_new_tokens=12)
    template = PromptTemplate(instructions="You do science in a house. Answer with one action in one line.")
    agent = Agent(lm, lm, TextEncoder(), RandomRate(0.5), template)
    [(episode, _)] = rollout([env], agent, [Assignment(0, budget=2)])
    env.close()
    assert len(episode.steps) == 3
    assert episode.num_calls <= 2
    for step in episode.steps:
        assert step.quick.action
        assert step.entropy > 0
        assert step.usage.flops > 0
