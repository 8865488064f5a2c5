"""Settings that must give the same trajectories, on the exact room with scripted models."""

from __future__ import annotations

import numpy as np
import pytest

from londi.agent import Agent, History
from londi.budget import Budget
from londi.encoders import TextEncoder
from londi.envs import make
from londi.envs.keydoor import KeyDoorEnv
from londi.episode import Episode
from londi.lms.builtin import load_builtin
from londi.rollout import Assignment, rollout
from londi.switchers import Always, EntropyThreshold, Never, RandomRate, Switcher
from londi.switchers.network import NETWORKS, Kind, NetworkSwitcher
from londi.switchers.reader import NetworkShape

SEEDS = range(40)


def network(kind: Kind) -> NetworkSwitcher:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NetworkSwitcher(NETWORKS[kind](NetworkShape(TextEncoder().num_dense(6), 4096, max_calls=4)))


def play(switcher: Switcher, budget: int | None, num_envs: int = 16, max_steps: int = 40) -> list[Episode]:
    quick, deepthink = load_builtin("keydoor-quick"), load_builtin("keydoor-deepthink")
    agent = Agent(quick, deepthink, TextEncoder(), switcher)
    envs = [make("londi/KeyDoor-v0", max_steps=max_steps) for _ in range(num_envs)]
    jobs = [Assignment(seed, budget=budget, price=0.05) for seed in SEEDS]
    return sorted((episode for episode, _ in rollout(envs, agent, jobs)), key=lambda e: e.seed)


def actions(episodes: list[Episode]) -> list[list[str]]:
    return [[step.action for step in episode.steps] for episode in episodes]


SWITCHERS = [Always(), RandomRate(0.5), EntropyThreshold(0.3), network("budget"), network("price")]


@pytest.mark.parametrize("switcher", SWITCHERS, ids=lambda s: type(s).__name__)
def test_budget_0_is_quick_alone(switcher: Switcher) -> None:
    assert actions(play(switcher, 0)) == actions(play(Never(), None))


def test_a_cap_of_the_horizon_with_always_is_deepthink_alone() -> None:
    capped, free = play(Always(), 40), play(Always(), None)
    assert actions(capped) == actions(free)
    assert all(
        step.called and step.action == step.deepthink.action for e in capped for step in e.steps if step.deepthink
    )
    assert all(step.called for e in capped for step in e.steps)
    assert sum(e.success for e in capped) > sum(e.success for e in play(Never(), None))


@pytest.mark.parametrize("switcher", SWITCHERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_no_episode_exceeds_its_budget(switcher: Switcher, budget: int) -> None:
    for episode in play(switcher, budget):
        assert episode.num_calls <= budget
        assert not episode.violated
        spent = 0
        for step in episode.steps:
            assert step.remaining == budget - spent
            assert not (step.called and step.remaining == 0)
            assert step.called <= step.wished
            spent += step.called


@pytest.mark.parametrize("switcher", SWITCHERS, ids=lambda s: type(s).__name__)
def test_an_episode_does_not_depend_on_its_neighbours(switcher: Switcher) -> None:
    assert actions(play(switcher, 3, num_envs=1)) == actions(play(switcher, 3, num_envs=16))


def test_a_failing_deepthink_gives_the_calls_back() -> None:
    class Broken:
        name = "broken"

        def decide(self, prompts: list[str], candidates: object = None) -> list[object]:
            raise ConnectionError("gone")

    env = make("londi/KeyDoor-v0")
    observation, info = env.reset(seed=0)
    budget = Budget(2)
    history = History(info["goal"], observation, info["admissible"], env.max_steps, budget)
    agent = Agent(load_builtin("keydoor-quick"), Broken(), TextEncoder(), Always())  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        agent.act([history])
    assert (budget.remaining, budget.spent) == (2, 0)
    assert history.actions == []


def test_a_policy_draws_other_numbers_than_its_environment() -> None:
    """numpy pads seeds with zeros: (seed, 0) is seed, and random calls would go with the world's own luck."""
    for seed in (0, 1, 50_000_000, 2**32 + 5):
        assignment = Assignment(seed)
        policy = np.random.default_rng((seed, assignment.stream)).random(8)
        env = KeyDoorEnv()
        env.reset(seed=seed)
        fresh = np.random.default_rng(seed).random(9)
        assert not np.isin(policy, fresh).any()
        assert env.np_random.random() in fresh, "the environment's generator is the one compared with"
