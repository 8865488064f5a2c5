from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from londi.errors import ConfigError
from londi.theory import SwitchingMDP
from londi.theory.finite import budget_frontier, evaluate_policy, price_frontier, solve_budgets, solve_price

T = 6


def garnet(seed: int, num_states: int = 5, gamma: float = 1.0) -> SwitchingMDP:
    """A random problem whose last state is terminal."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(num_states, 0.4), size=(2, num_states))
    reward = rng.normal(size=(2, num_states))
    transition[:, -1] = np.eye(num_states)[-1]
    reward[:, -1] = 0.0
    last = np.arange(num_states) == num_states - 1
    return SwitchingMDP(transition, reward, rng.dirichlet(np.ones(num_states)), last, gamma)


def best_by_hand(mdp: SwitchingMDP, steps: int, left: int, state: int, price: float = 0.0) -> float:
    """The same recursion as in the paper, in scalars and without arrays over budgets."""
    if steps == 0:
        return 0.0

    def follow(choice: int) -> float:
        ahead = sum(
            mdp.transition[choice, state, after] * best_by_hand(mdp, steps - 1, left - choice, after, price)
            for after in range(mdp.num_states)
        )
        return float(mdp.reward[choice, state] - price * choice + mdp.gamma * ahead)

    return max(follow(0), follow(1)) if left > 0 and not mdp.terminal[state] else follow(0)


def simulate(mdp: SwitchingMDP, call: np.ndarray, start: int, episodes: int) -> tuple[float, float, int]:
    """Mean return, mean calls and most calls of sampled episodes under a (T, N+1, S) policy."""
    rng = np.random.default_rng(5)
    state = rng.choice(mdp.num_states, size=episodes, p=mdp.initial)
    left, total = np.full(episodes, start), np.zeros(episodes)
    for t in range(len(call)):
        choice = call[t, left, state].astype(int)
        total += mdp.reward[choice, state]
        left = left - choice
        cumulative = mdp.transition[choice, state].cumsum(axis=1)
        state = (rng.random((episodes, 1)) < cumulative).argmax(axis=1)
    return float(total.mean()), float((start - left).mean()), int((start - left).max())


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_budget_recursion_is_brute_force(seed: int, gamma: float) -> None:
    mdp = garnet(seed, 3, gamma)
    values, call = solve_budgets(mdp, 4, 2)
    assert values.shape == (5, 3, 3)
    assert call.shape == (4, 3, 3)
    expected = [[best_by_hand(mdp, 4, x, s) for s in range(3)] for x in range(3)]
    np.testing.assert_allclose(values[0], expected, atol=1e-12)
    assert call.any()
    assert not call[:, 0].any()
    assert not call[:, :, -1].any()


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_price_recursion_is_brute_force(gamma: float) -> None:
    mdp = garnet(7, 3, gamma)
    values, _ = solve_price(mdp, 4, 0.3)
    expected = [best_by_hand(mdp, 4, 4, s, price=0.3) for s in range(3)]
    np.testing.assert_allclose(values[0], expected, atol=1e-12)


def test_evaluation_agrees_with_simulation() -> None:
    mdp = garnet(2)
    _, call = solve_budgets(mdp, T, 3)
    for cap in (1, 3):
        value, calls = evaluate_policy(mdp, T, call, cap)
        mean, mean_calls, most = simulate(mdp, call, cap, episodes=40_000)
        assert mean == pytest.approx(value, abs=0.03)
        assert mean_calls == pytest.approx(calls, abs=0.02)
        assert most <= cap


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_evaluating_the_optimal_policy_gives_its_value(gamma: float) -> None:
    mdp = garnet(3, gamma=gamma)
    values, call = solve_budgets(mdp, T, 4)
    for n in range(5):
        assert evaluate_policy(mdp, T, call, n)[0] == pytest.approx(mdp.initial @ values[0, n], abs=1e-12)
    assert evaluate_policy(mdp, T, call) == evaluate_policy(mdp, T, call, 4)


def test_price_is_paid_for_every_call() -> None:
    mdp = garnet(4)
    values, call = solve_price(mdp, T, 0.2)
    value, calls = evaluate_policy(mdp, T, call)
    assert calls > 0
    assert value - 0.2 * calls == pytest.approx(mdp.initial @ values[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_more_calls_never_hurt_and_the_ends_are_quick_and_deepthink(seed: int) -> None:
    mdp = garnet(seed)
    values, _ = solve_budgets(mdp, T, T + 2)
    assert (np.diff(values, axis=1) >= -1e-12).all()
    never, always = np.zeros((T, 5), bool), np.ones((T, 5), bool)
    quick, _ = evaluate_policy(mdp, T, never)
    assert mdp.initial @ values[0, 0] == pytest.approx(quick)
    deepthink, calls = evaluate_policy(mdp, T, always)
    assert evaluate_policy(mdp, T, always, cap=T) == pytest.approx((deepthink, calls))
    assert calls < T  # the terminal state is reached and needs none
    np.testing.assert_allclose(values[:, T], values[:, T + 1])
    np.testing.assert_allclose(values[0, T], solve_price(mdp, T, 0.0)[0][0])


def test_more_calls_help_at_most_gamma_to_the_budget() -> None:
    gamma, horizon = 0.7, 30
    values = solve_budgets(garnet(6, gamma=gamma), horizon, horizon)[0][0]
    gaps = np.abs(values[-1] - values).max(axis=1)
    assert gaps[0] > 0.1
    assert (gaps <= gamma ** np.arange(horizon + 1) * gaps[0] + 1e-12).all()


def test_price_frontier_is_convex_and_calls_fall() -> None:
    mdp = garnet(1)
    prices = np.linspace(0, 2, 41).tolist()
    frontier = price_frontier(mdp, T, prices)
    assert [price for price, _, _ in frontier] == prices
    net = np.array([value - price * calls for price, value, calls in frontier])
    assert (np.diff(net, 2) >= -1e-12).all()
    assert (np.diff([calls for _, _, calls in frontier]) <= 1e-9).all()
    assert (np.diff([value for _, value, _ in frontier]) <= 1e-9).all()
    assert frontier[0][2] > frontier[-1][2]
    assert price_frontier(mdp, T, [float("inf")])[0][2] == 0


def test_budget_frontier_keeps_the_order_asked_for() -> None:
    mdp = garnet(1)
    frontier = budget_frontier(mdp, T, [3, 0, 1])
    values, _ = solve_budgets(mdp, T, 3)
    assert [n for n, _, _ in frontier] == [3, 0, 1]
    for n, value, calls in frontier:
        assert value == pytest.approx(mdp.initial @ values[0, n])
        assert calls <= n
    assert budget_frontier(mdp, T, []) == []


def test_a_tie_is_no_call() -> None:
    mdp = garnet(0)
    same = SwitchingMDP(mdp.transition[[0, 0]], mdp.reward[[0, 0]], mdp.initial, mdp.terminal)
    assert not solve_budgets(same, T, 3)[1].any()
    assert not solve_price(same, T, 0.0)[1].any()


def test_arrays_are_copied_and_read_only() -> None:
    mdp, reward = garnet(0), np.zeros((2, 5))
    kept = SwitchingMDP(mdp.transition, reward, mdp.initial, mdp.terminal)
    reward[:] = 1.0
    assert not kept.reward.any()
    with pytest.raises(ValueError, match="read-only"):
        kept.reward[0, 0] = 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("transition", np.full((2, 5, 5), 0.3), "summing to 1"),
        ("transition", np.full((2, 5, 5), np.nan), "summing to 1"),
        ("transition", np.tile(np.array([2.0, -1, 0, 0, 0]), (2, 5, 1)), "non-negative"),
        ("transition", np.ones((2, 4, 4)) / 4, "shape"),
        ("transition", np.full((2, 5, 5), 0.2), "terminal state"),
        ("reward", np.zeros((5, 2)), "shape"),
        ("reward", np.full((2, 5), np.inf), "finite"),
        ("reward", np.ones((2, 5)), "terminal state"),
        ("initial", np.zeros(5), "initial"),
        ("initial", np.zeros((0,)), "at least one state"),
        ("terminal", np.zeros(4, bool), "shape"),
    ],
)
def test_a_broken_problem_is_refused(field: str, value: np.ndarray, message: str) -> None:
    mdp = garnet(0)
    fields = {name: getattr(mdp, name) for name in ("transition", "reward", "initial", "terminal")}
    with pytest.raises(ConfigError, match=message):
        SwitchingMDP(**{**fields, field: value})


def test_bad_arguments_are_refused() -> None:
    mdp, wide = garnet(0), np.zeros((T, 3, 5), bool)
    for gamma in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="gamma"):
            replace(mdp, gamma=gamma)
    with pytest.raises(ConfigError, match="max_calls"):
        solve_budgets(mdp, T, -1)
    with pytest.raises(ConfigError, match="budgets"):
        budget_frontier(mdp, T, [2, -1])
    for price in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="price"):
            solve_price(mdp, T, price)
    with pytest.raises(ConfigError, match="horizon"):
        solve_price(mdp, -1, 0.0)
    with pytest.raises(ConfigError, match="bool"):
        evaluate_policy(mdp, T, np.zeros((T, 4), bool))
    with pytest.raises(ConfigError, match="bool"):
        evaluate_policy(mdp, T, np.zeros((T, 5)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no call is left"):
        evaluate_policy(mdp, T, ~wide)
    for cap in (-1, 3):
        with pytest.raises(ConfigError, match="cap"):
            evaluate_policy(mdp, T, wide, cap)
