"""The learned Switchers against the exact optimum of the key-door room, three training seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from londi import config
from londi.agent import Agent
from londi.config import Experiment
from londi.envs.keydoor import KeyDoorEnv
from londi.lms import load
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.switchers import RandomRate, Switcher
from londi.theory.finite import budget_frontier, price_frontier
from londi.train import Trainer, prepare

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "keydoor.toml"
BUDGETS = (0, 1, 2, 3, 4, 6, 8)
EPISODES = 400


@pytest.fixture(scope="module", params=[0, 1, 2], ids=lambda seed: f"seed{seed}")
def trainer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    experiment = replace(config.load(EXPERIMENT), seed=request.param)
    # with what BabyAI's Switchers learn with: without it, one seed in three needs 24,000 steps for a price
    train = replace(experiment.train, num_steps=8_000, n_step=3, guided=0.5)
    experiment = replace(experiment, train=train, switcher=replace(experiment.switcher, gated=True, textless=False))
    trainer = prepare(tmp_path_factory.mktemp("keydoor") / "run", experiment)
    trainer.train()
    return trainer


def play(made: Experiment, switcher: Switcher, budget: int | None, price: float = 0.0) -> tuple[float, float, int]:
    """Return success, mean calls and most calls over fresh episodes."""
    agent = Agent(load(made.quick), load(made.deepthink), make_encoder(made), switcher)
    jobs = [Assignment(1_000 + i, "", budget, price) for i in range(EPISODES)]
    episodes = [episode for episode, _ in rollout(make_envs(made, 64), agent, jobs)]
    calls = [episode.num_calls for episode in episodes]
    return float(np.mean([e.success for e in episodes])), float(np.mean(calls)), max(calls)


@cache
def best_of_random(budget: int) -> float:
    """Success of the best rate, which no training seed has a part in."""
    experiment = config.load(EXPERIMENT)
    return max(play(experiment, RandomRate(rate), budget)[0] for rate in (0.1, 0.3, 0.6, 1.0))


@pytest.mark.learning
def test_budgets_reach_the_exact_optimum_and_beat_random_calls(trainer: Trainer) -> None:
    env = KeyDoorEnv()
    exact = {n: best for n, best, _ in budget_frontier(env.switching_mdp(), env.max_steps, BUDGETS)}
    learned = {n: play(trainer.experiment, trainer.learners["budget"].switcher, n) for n in BUDGETS}
    assert all(most <= n for n, (_, _, most) in learned.items())
    # the standard error of a success rate over 400 episodes is .025 at most: averaged over seven budgets .01
    share = sum(success for success, _, _ in learned.values()) / sum(exact.values())
    assert share >= 0.95, (learned, exact)
    for n in (2, 3, 4, 6):
        assert learned[n][0] > best_of_random(n) + 0.05, (n, learned[n], best_of_random(n))


@pytest.mark.learning
def test_a_price_reaches_the_exact_optimum(trainer: Trainer) -> None:
    env = KeyDoorEnv()
    price = 0.05  # smaller prices come near the learner's own error: docs/method.md
    ((_, best_return, best_calls),) = price_frontier(env.switching_mdp(), env.max_steps, (price,))
    success, calls, _ = play(trainer.experiment, trainer.learners["price"].switcher, None, price)
    best = best_return - price * best_calls
    assert success - price * calls >= 0.95 * best, (success, calls, best_return, best_calls)
