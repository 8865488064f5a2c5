"""Tabular and linear Q-learning, and the Switchers that tables make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from londi import lms
from londi.agent import Agent
from londi.config import ModelConfig
from londi.encoders import TableEncoder
from londi.envs.keydoor import STATES, KeyDoorEnv, read_state
from londi.errors import ConfigError
from londi.learners.qlearning import Budgets, LinearQLearning, Prices, QLearning, Transition
from londi.rollout import Assignment, rollout
from londi.switchers.tabular import TabularSwitcher
from londi.theory.finite import evaluate_policy
from londi.theory.generate import garnet
from londi.theory.operators import backup, budget_bellman, intervene
from londi.theory.policies import evaluate
from londi.theory.sample import Sampler
from londi.theory.solve import policy_iteration, solve_budgets, value_iteration

GAMMA = 0.8
MDP = garnet(8, 3, GAMMA, np.random.default_rng(2))
PRICES = np.array([0.0, 0.1, 0.3, 1.0])


def one(state: int, call: bool, reward: float, following: int, done: bool = False) -> Transition:
    return Transition(np.array([state]), np.array([call]), np.array([reward]), np.array([following]), np.array([done]))


@pytest.mark.parametrize("rows", [Prices(PRICES), Budgets(4)], ids=["prices", "budgets"])
def test_the_expected_target_is_the_bellman_operator(rows: Prices | Budgets) -> None:
    """Relabelling is exact: summed over s', one transition's targets are the operator's backup for every row."""
    rng = np.random.default_rng(0)
    values = rng.random((rows.num_rows, MDP.num_states))
    for state in range(MDP.num_states):
        for call in (False, True):
            chances = MDP.transition[int(call), state]
            best = GAMMA * values[:, chances > 0].T  # (successors, K)
            called, reward = np.full(len(best), call), np.full(len(best), MDP.reward[int(call), state])
            expected = chances[chances > 0] @ rows.targets(called, reward, best)
            if isinstance(rows, Prices):
                operator = intervene(MDP, values, PRICES[:, None]) if call else backup(MDP, 0, values)
                np.testing.assert_allclose(expected, operator[:, state])
            elif call:
                assert expected[0] == -np.inf
                np.testing.assert_allclose(expected[1:-1], backup(MDP, 1, values)[:-2, state])
                np.testing.assert_allclose(expected[-1], backup(MDP, 1, values)[-1, state])
            else:
                np.testing.assert_allclose(expected, backup(MDP, 0, values)[:, state])


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_the_exact_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_price, by_budget = QLearning(Prices(PRICES), 8, GAMMA, 2), QLearning(Budgets(3), 8, GAMMA, 2)
    sampler = Sampler(MDP, 2, rng, restart=0.1)
    for _ in range(30_000):
        step = sampler.step()
        by_price.update(step)
        by_budget.update(step)
    np.testing.assert_allclose(by_price.values, [value_iteration(MDP, PRICES).values] * 2, rtol=0.03)
    exact = solve_budgets(MDP, 3).values
    np.testing.assert_allclose(by_budget.values[:, :4], [exact] * 2, rtol=0.03)
    np.testing.assert_allclose(by_budget.values[:, 4], [policy_iteration(MDP, 0.0).values] * 2, rtol=0.03)


def test_the_first_visit_takes_the_target_and_the_next_are_averaged() -> None:
    learner = QLearning(Prices(np.array([0.25])), 2, 0.5)
    learner.update(one(0, True, 1.0, 1))
    assert learner.q[0, 0, 0].tolist() == [0.0, 0.75]
    learner.update(one(1, False, 0.0, 0, done=True))
    assert learner.q[0, 0, 1].tolist() == [0.0, 0.0], "nothing follows the end"
    learner.update(one(0, True, 0.0, 0))
    assert learner.q[0, 0, 0, 1] == pytest.approx(0.75 + (0.5 * 0.75 - 0.25 - 0.75) / 1.5)


def test_a_budget_row_learns_from_the_row_below_and_row_0_never_calls() -> None:
    learner = QLearning(Budgets(2), 2, 0.5)
    learner.q[0, :, 1, 0] = [1, 2, 3, 4]
    learner.update(one(0, True, 1.0, 1))
    assert learner.q[0, :, 0, 1].tolist() == [-np.inf, 1.5, 2.0, 3.0]
    learner.update(one(0, False, 1.0, 1))
    assert learner.q[0, :, 0, 0].tolist() == [1.5, 2.0, 2.5, 3.0]


def test_without_relabelling_one_row_moves() -> None:
    learner = QLearning(Budgets(2), 2, 0.5)
    learner.update(one(0, True, 1.0, 1), row=np.array([1]))
    assert learner.q[0, :, 0, 1].tolist() == [-np.inf, 1.0, 0.0, 0.0]
    assert learner.visits.sum() == 1


def test_learners_in_step_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    steps = [Sampler(MDP, 3, rng).step() for _ in range(200)]
    together = QLearning(Prices(np.array([[0.1], [0.2], [0.3]])), 8, GAMMA, 3)
    for step in steps:
        together.update(step)
    for i, price in enumerate((0.1, 0.2, 0.3)):
        alone = QLearning(Prices(np.array([price])), 8, GAMMA)
        for s in steps:
            rows = [i]
            alone.update(Transition(s.state[rows], s.call[rows], s.reward[rows], s.next_state[rows], s.done[rows]))
        np.testing.assert_array_equal(alone.q[0], together.q[i])


def test_one_hot_features_are_a_table() -> None:
    linear = LinearQLearning(Budgets(3), np.eye(8), GAMMA, 2, rate=0.5, delay=3e3)
    sampler = Sampler(MDP, 2, np.random.default_rng(4), restart=0.1)
    for _ in range(60_000):
        linear.update(sampler.step())
    best = np.maximum(linear.weights[:, :, 0], np.where([[True], *[[False]] * 4], -np.inf, linear.weights[:, :, 1]))
    np.testing.assert_allclose(best[:, :4], [solve_budgets(MDP, 3).values] * 2, rtol=0.06)
    np.testing.assert_allclose(budget_bellman(MDP, best[0, :4]), best[0, :4], rtol=0.06)


def test_the_sampler_draws_from_the_problem() -> None:
    sampler = Sampler(MDP, 4_000, np.random.default_rng(0), restart=0.5, call_rate=0.25)
    called, counts = 0, np.zeros((2, 8, 8))
    for _ in range(40):
        step = sampler.step()
        called += step.call.sum()
        np.add.at(counts, (step.call.astype(int), step.state, step.next_state), 1)
        np.testing.assert_array_equal(step.reward, MDP.reward[step.call.astype(int), step.state])
    assert called / 160_000 == pytest.approx(0.25, abs=0.01)
    visits = counts.sum(-1, keepdims=True)
    np.testing.assert_allclose(counts / visits, MDP.transition, atol=4 * 0.5 / np.sqrt(visits.min()))


def test_an_exact_table_plays_the_key_door_room_as_the_matrices_say() -> None:
    """The same Switcher, as matrices and in the real agent with the real environment."""
    env = KeyDoorEnv()
    mdp = replace(env.switching_mdp(), gamma=0.99)
    found = solve_budgets(mdp, 4)
    advantage = np.where(found.call, 1.0, -1.0)
    switcher = TabularSwitcher("budget", np.concatenate([advantage, advantage[-1:]]))
    number = {state: i for i, state in enumerate(STATES)}
    encoder = TableEncoder(lambda prompt: number[read_state(prompt)], len(STATES))
    quick, deepthink = (lms.load(ModelConfig(f"builtin:keydoor-{name}")) for name in ("quick", "deepthink"))
    jobs = [Assignment(seed, "", 4) for seed in range(1_000)]
    episodes = [
        e for e, _ in rollout([KeyDoorEnv() for _ in range(64)], Agent(quick, deepthink, encoder, switcher), jobs)
    ]
    call = np.broadcast_to(found.call, (env.max_steps, *found.call.shape))
    success, calls = evaluate_policy(replace(mdp, gamma=1.0), env.max_steps, call)
    assert np.mean([e.success for e in episodes]) == pytest.approx(success, abs=0.03)
    assert np.mean([e.num_calls for e in episodes]) == pytest.approx(calls, abs=0.1)
    assert max(e.num_calls for e in episodes) <= 4


def test_a_learned_table_is_a_switcher() -> None:
    learner = QLearning(Prices(PRICES), 8, GAMMA)
    sampler = Sampler(MDP, 1, np.random.default_rng(0), restart=0.1)
    for _ in range(20_000):
        learner.update(sampler.step())
    best = policy_iteration(MDP, 0.1)
    call = learner.switcher().advantage[1] > 0
    returns, calls = evaluate(MDP, call)
    assert returns - 0.1 * calls == pytest.approx(MDP.initial @ best.values, rel=0.02)
    again = TabularSwitcher.from_state(learner.switcher().state())
    np.testing.assert_array_equal(again.advantage, learner.switcher().advantage)
    assert QLearning(Budgets(2), 8, GAMMA).switcher().kind == "budget"


def test_wrong_input_is_refused() -> None:
    for prices in ([-0.1], [np.nan], []):
        with pytest.raises(ConfigError, match="prices"):
            Prices(np.array(prices))
    with pytest.raises(ConfigError, match="max_calls"):
        Budgets(0)
    with pytest.raises(ConfigError, match="gamma"):
        QLearning(Budgets(1), 3, 1.0)
    with pytest.raises(ConfigError, match="budget table"):
        TabularSwitcher("budget", np.zeros((2, 3)))
    for rising in (None, np.array([1.0, 0.5]), np.array([1.0])):
        with pytest.raises(ConfigError, match="price table"):
            TabularSwitcher("price", np.zeros((2, 3)), rising)
    with pytest.raises(ConfigError, match="states"):
        TableEncoder(len, 0)
    with pytest.raises(ConfigError, match="not among"):
        TableEncoder(len, 3)._number("four")
