"""Exact stationary solutions: a price, the whole frontier in the price, every budget.

Chen, Du and Mguni, "All Language Models Large and Small", arXiv 2402.12061: value iteration is theorem 1, the set of
states where it is best to call theorem 2, budgets are section LONDI-B. Problems may be dense or sparse and are solved
from their own gamma; at gamma = 1 every Switcher must reach a terminal state (`with_step_limit` sees to that).
Letters in shapes: S the number of states, N the largest budget in calls, K a number of prices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from londi.errors import ConfigError
from londi.theory.linear import chain_solver
from londi.theory.mdp import QUICK, BoolArray, FloatArray, SwitchingMDP
from londi.theory.operators import backup, bellman, intervene

MAX_ITERATIONS, MAX_IMPROVEMENTS = 1_000_000, 1_000
"""Of value iteration and of policy iteration, which needs about ten."""
TIE = 1e-12
"""A call must gain more than this, in units of the largest value: sums equal on paper differ in their last bits."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The best values and the Switcher that earns them."""

    values: FloatArray
    """(S,), or (K, S) for K prices, or (N+1, S) for the budgets 0..N."""
    call: BoolArray
    """The same shape: where DEEPTHINK is called, the switch set. A tie is no call."""
    iterations: int


def value_iteration(mdp: SwitchingMDP, price: float | FloatArray, tolerance: float = 1e-10) -> Solution:
    """Apply the Bellman operator until the values are within `tolerance` of the fixed point, in the largest state.

    `price` >= 0 (infinity: never call) may be one number or an array (K,), solved together. At gamma = 1 it stops
    where a step changes nothing by more than `tolerance`.
    Raises `ConfigError` for a negative price, and where gamma = 1 and a million steps were not enough.
    """
    prices = np.asarray(price, dtype=np.float64)
    _check(prices)
    values = np.zeros((*prices.shape, mdp.num_states))
    enough = tolerance * (1 - mdp.gamma) / mdp.gamma if 0 < mdp.gamma < 1 else tolerance
    for i in range(1, MAX_ITERATIONS + 1):
        following = bellman(mdp, values, prices[..., None])
        change = np.abs(following - values).max()
        values = following
        if change <= enough:
            gain = intervene(mdp, values, prices[..., None]) - backup(mdp, QUICK, values)
            return Solution(values, gain > _tie(values), i)
    raise ConfigError("no fixed point found: at gamma = 1 every Switcher must reach a terminal state")


def policy_iteration(mdp: SwitchingMDP, price: float, start: BoolArray | None = None) -> Solution:
    """Howard's policy iteration: solve for the values of a Switcher, call where that is better, until it stays.

    `start` (S,) is where to begin; default nowhere. Raises `ConfigError` as `value_iteration` does.
    """
    _check(np.asarray(price, dtype=np.float64))
    call = np.zeros(mdp.num_states, bool) if start is None or np.isinf(price) else start & ~mdp.terminal
    for i in range(1, MAX_IMPROVEMENTS + 1):
        returns, calls = policy_values(mdp, call)
        values = returns if np.isinf(price) else returns - price * calls
        gain = intervene(mdp, values, price) - backup(mdp, QUICK, values)
        tie = _tie(values)
        better = np.where(np.abs(gain) <= tie, call, gain > 0)
        if (better == call).all():
            return Solution(values, gain > tie, i)
        call = better
    raise ConfigError("policy iteration did not end")  # pragma: no cover


def policy_values(mdp: SwitchingMDP, call: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return the expected discounted return and the expected discounted calls (S,) of a Switcher without a limit.

    `call` is (S,). The return is without the price of calls: at price c the Switcher is worth `returns - c calls`.
    """
    matrix, reward = mdp.mixed(call)
    both = chain_solver(mdp, matrix)(np.stack([reward, call & ~mdp.terminal], -1))
    return both[:, 0], both[:, 1]


def solve_budgets(mdp: SwitchingMDP, max_calls: int, price: float = 0.0) -> Solution:
    """Solve LONDI-B for every budget 0..N: a chain of optimal stopping problems.

    With x calls left, "stop" means to call: it pays M V_{x-1}, known from the step before. In row 0 there is no call.
    A `price` > 0 is charged for each call besides. Values are (N+1, S).
    Raises `ConfigError` for a negative count or price.
    """
    if max_calls < 0:
        raise ConfigError(f"max_calls must be at least 0, not {max_calls}")
    _check(np.asarray(price, dtype=np.float64))
    values = np.zeros((max_calls + 1, mdp.num_states))
    call = np.zeros((max_calls + 1, mdp.num_states), bool)
    values[0] = policy_values(mdp, call[0])[0]
    iterations = 1
    for x in range(1, max_calls + 1):
        obstacle = intervene(mdp, values[x - 1], price)
        values[x], call[x], steps = _stop(mdp, obstacle, call[x - 1])
        iterations += steps
    return Solution(values, call, iterations)


def _stop(mdp: SwitchingMDP, obstacle: FloatArray, start: BoolArray) -> tuple[FloatArray, BoolArray, int]:
    """Optimal stopping of QUICK's chain for `obstacle` (S,): values, where to stop, iterations."""
    stop = start
    for i in range(1, MAX_IMPROVEMENTS + 1):
        going = (~stop & ~mdp.terminal).astype(np.float64)
        solve = chain_solver(mdp, mdp.transition[QUICK], going)
        values = solve(np.where(stop, obstacle, mdp.reward[QUICK]))
        gain = obstacle - backup(mdp, QUICK, values)
        tie = _tie(values)
        better = np.where(np.abs(gain) <= tie, stop, gain > 0) & ~mdp.terminal
        if (better == stop).all():
            return values, (gain > tie) & ~mdp.terminal, i
        stop = better
    raise ConfigError("optimal stopping did not end")  # pragma: no cover


def _tie(values: FloatArray) -> float:
    return TIE * max(1.0, float(np.abs(values).max()))


def _check(price: FloatArray) -> None:
    if not (price >= 0).all():
        raise ConfigError(f"price must be at least 0, not {price}")
