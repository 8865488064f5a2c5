"""One language model alone: success and cost per decision, for `londi lm info`."""

from __future__ import annotations

from typing import Any

from londi import frontier, lms
from londi.agent import Agent
from londi.config import Experiment
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.switchers import Never


def measure_model(experiment: Experiment, model: lms.LanguageModel, episodes: int, first_seed: int) -> dict[str, Any]:
    """Play one language model alone; return success and cost per decision."""
    agent = Agent(model, model, make_encoder(experiment), Never(), experiment.env.prompt)
    jobs = [Assignment(first_seed + i) for i in range(episodes)]
    played = [episode for episode, _ in rollout(make_envs(experiment, 32), agent, jobs)]
    successes, steps = sum(e.success for e in played), sum(len(e.steps) for e in played)
    low, high = frontier.wilson(successes, episodes)
    return {
        "success": {"mean": successes / episodes, "low": low, "high": high},
        "steps": steps / episodes,
        "flops_per_decision": sum(e.usage.flops for e in played) / steps,
        "tokens_per_decision": sum(e.usage.tokens for e in played) / steps,
    }
