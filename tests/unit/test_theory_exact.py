"""The exact stationary solvers against brute force, simulation, each other, and the finite ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from londi.envs.keydoor import KeyDoorEnv
from londi.errors import ConfigError
from londi.theory import SwitchingMDP, finite
from londi.theory.frontier import price_frontier
from londi.theory.generate import FAMILIES, garnet, with_step_limit
from londi.theory.operators import bellman, budget_bellman
from londi.theory.policies import budget_policy_values, call_distribution, evaluate
from londi.theory.solve import policy_iteration, policy_values, solve_budgets, value_iteration

FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def problem(family: Callable[..., SwitchingMDP], states: int = 25, gamma: float = 0.9, seed: int = 0) -> SwitchingMDP:
    return family(states, gamma, np.random.default_rng(seed))


def as_sparse(mdp: SwitchingMDP) -> SwitchingMDP:
    from scipy.sparse import csr_array

    return replace(mdp, transition=tuple(csr_array(matrix) for matrix in mdp.transition))


@FAMILY
def test_both_iterations_find_the_best_of_all_switchers(family: Callable[..., SwitchingMDP]) -> None:
    mdp = problem(family, 9, seed=3)
    S, price = mdp.num_states, 0.15
    best = np.full(S, -np.inf)
    for bits in itertools.product([False, True], repeat=S):
        returns, calls = policy_values(mdp, np.array(bits))
        best = np.maximum(best, returns - price * calls)
    found = policy_iteration(mdp, price)
    np.testing.assert_allclose(found.values, best, atol=1e-12)
    np.testing.assert_allclose(value_iteration(mdp, price).values, best, atol=1e-9)


@FAMILY
def test_many_prices_at_once_are_each_alone(family: Callable[..., SwitchingMDP]) -> None:
    mdp, prices = problem(family), np.array([0.0, 0.05, 0.4, np.inf])
    together = value_iteration(mdp, prices)
    for row, price in enumerate(prices):
        alone = policy_iteration(mdp, float(price))
        np.testing.assert_allclose(together.values[row], alone.values, atol=1e-9)
        assert not (np.isinf(price) and alone.call.any())


@FAMILY
def test_sparse_problems_are_solved_as_dense_ones(family: Callable[..., SwitchingMDP]) -> None:
    dense = problem(family, 60)
    sparse = as_sparse(dense)
    np.testing.assert_allclose(policy_iteration(sparse, 0.1).values, policy_iteration(dense, 0.1).values, atol=1e-10)
    np.testing.assert_allclose(solve_budgets(sparse, 5).values, solve_budgets(dense, 5).values, atol=1e-10)
    call = policy_iteration(dense, 0.1).call
    assert evaluate(sparse, call) == pytest.approx(evaluate(dense, call))


@FAMILY
def test_the_frontier_is_the_best_value_at_every_price(family: Callable[..., SwitchingMDP]) -> None:
    mdp = problem(family, 36)
    frontier = price_frontier(mdp)
    prices = np.linspace(0, 1.2 * frontier.breakpoints[-1], 60)
    best = [mdp.initial @ policy_iteration(mdp, price).values for price in prices]
    np.testing.assert_allclose(frontier.value(prices), best, atol=1e-10)
    assert (np.diff(frontier.breakpoints) > 0).all()
    assert (np.diff(frontier.calls) < 0).all()
    assert (np.diff(frontier.returns) < 0).all()
    assert frontier.breakpoints[0] == 0
    assert frontier.calls[-1] == 0
    for k in range(1, len(frontier.breakpoints)):  # neighbours are worth the same where one gives way to the other
        before, after = frontier.returns[k - 1 : k + 1] - frontier.breakpoints[k] * frontier.calls[k - 1 : k + 1]
        assert before == pytest.approx(after, abs=1e-9)


@FAMILY
def test_budget_values_are_the_fixed_point_and_their_switcher_earns_them(family: Callable[..., SwitchingMDP]) -> None:
    mdp = problem(family)
    found = solve_budgets(mdp, 6)
    np.testing.assert_allclose(budget_bellman(mdp, found.values), found.values, atol=1e-10)
    np.testing.assert_allclose(budget_policy_values(mdp, found.call)[0], found.values, atol=1e-9)
    assert not found.call[0].any()


@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_a_step_limit_gives_what_backward_induction_gives(gamma: float) -> None:
    mdp, horizon = KeyDoorEnv().switching_mdp(), 25
    mdp = replace(mdp, gamma=gamma)
    limited = with_step_limit(mdp, horizon)
    S = mdp.num_states
    values, _ = finite.solve_budgets(mdp, horizon, 4)
    np.testing.assert_allclose(solve_budgets(limited, 4).values[:, :S], values[0], atol=1e-10)
    values, call = finite.solve_price(mdp, horizon, 0.05)
    found = policy_iteration(limited, 0.05)
    np.testing.assert_allclose(found.values[:S], values[0], atol=1e-10)
    np.testing.assert_allclose(value_iteration(limited, 0.05).values, found.values, atol=1e-10)
    if gamma == 1.0:
        assert evaluate(limited, found.call) == pytest.approx(finite.evaluate_policy(mdp, horizon, call))


def test_the_distribution_of_calls_is_that_of_simulated_episodes() -> None:
    mdp = with_step_limit(KeyDoorEnv().switching_mdp(), 40)
    frontier = price_frontier(mdp)
    call = frontier.switch_sets[2]
    exact = call_distribution(mdp, call, 40)
    rng, episodes = np.random.default_rng(1), 20_000
    state = rng.choice(mdp.num_states, episodes, p=mdp.initial)
    calls = np.zeros(episodes, int)
    while not mdp.terminal[state].all():
        called = call[state] & ~mdp.terminal[state]
        calls += called
        state = np.where(called, step(mdp, 1, state, rng), step(mdp, 0, state, rng))
    assert exact.sum() == pytest.approx(1)
    assert exact @ np.arange(41) == pytest.approx(frontier.calls[2])
    np.testing.assert_allclose(np.bincount(calls, minlength=41) / episodes, exact, atol=0.012)


def step(mdp: SwitchingMDP, choice: int, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Successors of a sparse problem with at most two of them."""
    matrix = mdp.transition[choice]
    first, count = matrix.indptr[state], np.diff(matrix.indptr)[state]
    second = (rng.random(len(state)) >= matrix.data[first]) & (count > 1)
    return np.asarray(matrix.indices[first + second])


@pytest.mark.parametrize("budget", [0, 2, 5])
def test_a_budget_is_never_exceeded_and_the_mean_is_the_expectation(budget: int) -> None:
    mdp = garnet(15, 3, 0.9, np.random.default_rng(5))
    table = solve_budgets(mdp, 5).call
    for call in (table, policy_iteration(mdp, 0.1).call):
        chances = call_distribution(mdp, call, 9, budget)
        assert chances.sum() == pytest.approx(1)
        assert (np.abs(chances[budget + 1 :]) < 1e-15).all()
        assert chances @ np.arange(10) == pytest.approx(evaluate(mdp, call, budget)[1])


def test_one_budget_call_by_hand() -> None:
    """Two steps to the goal; QUICK moves with probability .5, DEEPTHINK always; one call."""
    move = np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]), np.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 1]])
    reward = np.array([[0, 0.5, 0], [0, 1.0, 0]])
    start, goal = np.array([1.0, 0, 0]), np.array([False, False, True])
    mdp = SwitchingMDP(np.stack(move), reward, start, goal, 0.9)
    quick = 0.5 / (1 - 0.45)  # from the second state, then from the first
    assert solve_budgets(mdp, 2).values[0].tolist() == pytest.approx([0.45 * quick / 0.55, quick, 0])
    once = max(0.9 * quick, 0.45 / 0.55)  # call now, or wait for the second state and call there
    assert solve_budgets(mdp, 2).values[1].tolist() == pytest.approx([once, 1, 0])
    assert solve_budgets(mdp, 2).values[2].tolist() == pytest.approx([0.9, 1, 0])


def test_a_large_sparse_problem_is_solved_to_the_last_digits() -> None:
    mdp = garnet(3_000, 4, 0.99, np.random.default_rng(0), sparse=True)
    found, budgets = policy_iteration(mdp, 0.25), solve_budgets(mdp, 3)
    assert np.abs(bellman(mdp, found.values, 0.25) - found.values).max() < 1e-10
    assert np.abs(budget_bellman(mdp, budgets.values) - budgets.values).max() < 1e-10


def test_wrong_input_is_refused() -> None:
    mdp = garnet(6, 2, 0.9, np.random.default_rng(0))
    call, table = np.ones(6, bool), np.ones((3, 6), bool)
    for price in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="price"):
            policy_iteration(mdp, price)
        with pytest.raises(ConfigError, match="price"):
            value_iteration(mdp, price)
    with pytest.raises(ConfigError, match="max_calls"):
        solve_budgets(mdp, -1)
    with pytest.raises(ConfigError, match="max_calls"):
        call_distribution(mdp, call, -1)
    with pytest.raises(ConfigError, match="no call is left"):
        evaluate(mdp, table)
    with pytest.raises(ConfigError, match="lies outside"):
        evaluate(mdp, ~table, budget=3)
    with pytest.raises(ConfigError, match="at least 0"):
        evaluate(mdp, call, budget=-1)
    with pytest.raises(ConfigError, match="bool"):
        evaluate(mdp, np.ones(5, bool))
    with pytest.raises(ConfigError, match="branching"):
        garnet(6, 7, 0.9, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="step limit"):
        with_step_limit(mdp, 0)
    with pytest.raises(ConfigError, match="terminal"):
        policy_iteration(replace(mdp, gamma=1.0), 0.1)
    with pytest.raises(ConfigError, match="terminal"):
        policy_iteration(replace(as_sparse(mdp), gamma=1.0), 0.1)
    with pytest.raises(ConfigError, match="shape"):
        replace(as_sparse(mdp), transition=(as_sparse(mdp).transition[0], as_sparse(problem(garnet_5)).transition[1]))


def garnet_5(states: int, gamma: float, rng: np.random.Generator) -> SwitchingMDP:
    return garnet(states, 5, gamma, rng)
