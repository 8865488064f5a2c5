"""`londi bench rollout`: environment steps per second, and what the framework adds to a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from londi import lms
from londi.agent import Agent
from londi.bench.base import result, row
from londi.config import Experiment
from londi.envs.base import TextEnv
from londi.lms.base import Decision, LanguageModel
from londi.making import make_encoder, make_envs
from londi.prompt import PromptTemplate
from londi.rollout import Assignment, rollout
from londi.switchers import RandomRate

RATE = 0.5
"""Share of the steps that call DEEPTHINK."""


class _Timed:
    """A language model, and the seconds that it took."""

    def __init__(self, inner: LanguageModel) -> None:
        self.inner, self.name, self.seconds = inner, inner.name, 0.0

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return the decisions of the model."""
        start = time.perf_counter()
        decisions = self.inner.decide(prompts, candidates)
        self.seconds += time.perf_counter() - start
        return decisions


def bench_rollout(
    experiment: Experiment,
    num_envs: int = 32,
    episodes: int = 128,
    rounds: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Environment steps per second with `num_envs` in step against one at a time, same code, same episodes.

    And milliseconds a step without the models' time, of the agent with everything around it (features, budgets,
    records) against a plain loop over environment and models. Half of the steps call DEEPTHINK. The sides take turns;
    the medians of `rounds` are compared.
    """
    quick, deepthink = (_Timed(each) for each in lms.load_pair(experiment.quick, experiment.deepthink))
    agent = Agent(quick, deepthink, make_encoder(experiment), RandomRate(RATE), experiment.env.prompt)
    envs = make_envs(experiment, num_envs)
    few = max(4, episodes // 8)

    def timed(play: Callable[[], int]) -> tuple[float, float]:
        """Steps a second, and milliseconds a step without the models' time."""
        before, start = quick.seconds + deepthink.seconds, time.perf_counter()
        steps, taken = play(), time.perf_counter() - start
        return steps / taken, 1_000 * (taken - (quick.seconds + deepthink.seconds - before)) / steps

    def ours(count: int, first: int, played: int) -> tuple[float, float]:
        jobs = [Assignment(first + i) for i in range(played)]
        return timed(lambda: sum(len(episode.steps) for episode, _ in rollout(envs[:count], agent, jobs)))

    def plain(first: int) -> tuple[float, float]:
        seeds = range(first, first + few)
        return timed(lambda: plain_loop(envs[0], quick, deepthink, experiment.env.prompt, seeds))

    ours(num_envs, 0, num_envs)
    found = []
    for i in range(rounds):
        first = 1_000 * i
        found.append((*ours(num_envs, first, episodes), *ours(1, first, few), *plain(first)))
        progress(i + 1)
    together, many, alone, one, _, loop = map(median, zip(*found, strict=True))
    unit = "milliseconds a step without the models' time"
    case = f"{num_envs} environments in step"
    return result(
        "rollout",
        [
            row(f"{case}, and one", together, alone, "environment steps per second"),
            row("one environment, and a plain loop", one, loop, unit, smaller_is_better=True),
            row(f"{case}, and a plain loop", many, loop, unit, smaller_is_better=True),
        ],
    )


def plain_loop(
    env: TextEnv, quick: LanguageModel, deepthink: LanguageModel, template: PromptTemplate, seeds: Iterable[int]
) -> int:
    """Play episodes as one would without londi, DEEPTHINK on random steps; return the number of steps."""
    steps = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        goal, admissible = str(info["goal"]), info["admissible"]
        observations, actions, over = [observation], list[str](), False
        while not over:
            prompt = template.render(goal, observations, actions, admissible)
            action = quick.decide([prompt], admissible)[0].action
            if rng.random() < RATE:
                action = deepthink.decide([prompt], admissible)[0].action
            observation, _, terminated, truncated, info = env.step(action)
            observations.append(observation)
            actions.append(action)
            over, steps = terminated or truncated, steps + 1
    return steps
