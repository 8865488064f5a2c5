"""`londi bench rollout`: environment steps per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from londi import lms
from londi.agent import Agent
from londi.bench.base import result, row
from londi.config import Experiment
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.switchers import RandomRate


def bench_rollout(
    experiment: Experiment,
    num_envs: int = 32,
    episodes: int = 128,
    rounds: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Environment steps per second with `num_envs` in step against one at a time, same code, same episodes.

    Half of the steps call DEEPTHINK. The two sides take turns; the medians of `rounds` are compared.
    """
    quick, deepthink = lms.load_pair(experiment.quick, experiment.deepthink)
    agent = Agent(quick, deepthink, make_encoder(experiment), RandomRate(0.5), experiment.env.prompt)
    envs = make_envs(experiment, num_envs)

    def speed(count: int, first: int, played: int) -> float:
        jobs = [Assignment(first + i) for i in range(played)]
        start = time.perf_counter()
        steps = sum(len(episode.steps) for episode, _ in rollout(envs[:count], agent, jobs))
        return steps / (time.perf_counter() - start)

    speed(num_envs, 0, num_envs)
    ours, single = [], []
    for i in range(rounds):
        ours.append(speed(num_envs, 1_000 * i, episodes))
        single.append(speed(1, 1_000 * i, max(4, episodes // 8)))
        progress(i + 1)
    case = f"{num_envs} environments in step"
    return result("rollout", [row(case, median(ours), median(single), "environment steps per second")])
