"""Finite-horizon dynamic programming for the Switcher: the best value of every budget and price, and its policy.

Chen, Du and Mguni, "All Language Models Large and Small", arXiv 2402.12061: the maximum of QUICK's backup and
the intervention operator (section "Bellman operator"), and the budget carried in the state (section LONDI-B).
Letters in shapes: T the horizon in steps, N the largest budget in calls, S the number of states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from londi.errors import ConfigError
from londi.theory.mdp import DEEPTHINK, QUICK, BoolArray, FloatArray, SwitchingMDP
from londi.theory.operators import backup

_TIE = 1e-12
"""A call must gain more than this: sums that are equal on paper differ in their last bits."""


def solve_budgets(mdp: SwitchingMDP, horizon: int, max_calls: int) -> tuple[FloatArray, BoolArray]:
    """Solve LONDI-B for all budgets 0..N at once by backward induction.

    Parameters: `horizon` T in steps, `max_calls` N. A problem with gamma = 1 counts success on finite episodes.
    Returns `(values, call)`: `values` of shape (T+1, N+1, S), the best expected return from step t with x calls
    left; `call` of shape (T, N+1, S), True where DEEPTHINK is called. `call[:, 0]` is False; a tie is no call.
    Raises `ConfigError` for a negative count.
    """
    _check(horizon)
    if max_calls < 0:
        raise ConfigError(f"max_calls must be at least 0, not {max_calls}")
    values = np.zeros((horizon + 1, max_calls + 1, mdp.num_states))
    call = np.zeros((horizon, max_calls + 1, mdp.num_states), dtype=np.bool_)
    for t in reversed(range(horizon)):
        quick = backup(mdp, QUICK, values[t + 1])  # (N+1, S)
        called = backup(mdp, DEEPTHINK, values[t + 1, :-1])  # (N, S): row x-1 belongs to x calls left
        call[t, 1:] = called > quick[1:] + _TIE
        values[t, 0] = quick[0]
        values[t, 1:] = np.where(call[t, 1:], called, quick[1:])
    return values, call


def solve_price(mdp: SwitchingMDP, horizon: int, price: float) -> tuple[FloatArray, BoolArray]:
    """Solve the switching problem where each call costs `price` >= 0 in units of reward (infinity: never call).

    Returns `(values, call)`: `values` of shape (T+1, S), the best expected return less the (discounted) price of
    the calls; `call` of shape (T, S), True where DEEPTHINK is called; a tie is no call.
    Raises `ConfigError` for a negative horizon or price.
    """
    _check(horizon)
    if not price >= 0:
        raise ConfigError(f"price must be at least 0, not {price}")
    values = np.zeros((horizon + 1, mdp.num_states))
    call = np.zeros((horizon, mdp.num_states), dtype=np.bool_)
    for t in reversed(range(horizon)):
        quick = backup(mdp, QUICK, values[t + 1])  # (S,)
        called = backup(mdp, DEEPTHINK, values[t + 1]) - price  # (S,)
        call[t] = called > quick + _TIE
        values[t] = np.where(call[t], called, quick)
    return values, call


def evaluate_policy(mdp: SwitchingMDP, horizon: int, call: BoolArray, cap: int | None = None) -> tuple[float, float]:
    """Follow a call policy from the initial distribution, exactly.

    Parameters: `call` of shape (T, S), or (T, N+1, S) with the calls left as second index (row 0 all False);
    `cap` is the number of calls an episode starts with: None means no limit for (T, S) and N for (T, N+1, S).
    A (T, S) policy under a cap acts as QUICK once the cap is spent.
    Returns `(expected return, expected calls)`: the return discounted and without the price of calls,
    the calls counted plainly and not in terminal states.
    Raises `ConfigError` where `call` has another shape, calls with none left, or `cap` lies outside it.
    """
    _check(horizon)
    call = np.asarray(call)
    table = _with_budget(mdp, horizon, call, cap) & ~mdp.terminal  # (T, X, S)
    limited = not (call.ndim == 2 and cap is None)
    mass = np.zeros(table.shape[1:])  # (X, S): probability of x calls left and state s
    mass[-1] = mdp.initial
    expected_return = expected_calls = 0.0
    for t in range(horizon):
        called = np.where(table[t], mass, 0.0)  # (X, S)
        quick = mass - called
        reward = quick.sum(axis=0) @ mdp.reward[QUICK] + called.sum(axis=0) @ mdp.reward[DEEPTHINK]
        expected_return += mdp.gamma**t * float(reward)
        expected_calls += float(called.sum())
        mass = quick @ mdp.transition[QUICK]
        after_call = called @ mdp.transition[DEEPTHINK]
        if limited:
            mass[:-1] += after_call[1:]
        else:
            mass += after_call
    return expected_return, expected_calls


def budget_frontier(mdp: SwitchingMDP, horizon: int, budgets: Sequence[int]) -> list[tuple[int, float, float]]:
    """Return `(n, expected return, expected calls)` of the optimal policy for each hard budget n, in order.

    Raises `ConfigError` as `solve_budgets` does.
    """
    if any(n < 0 for n in budgets):
        raise ConfigError(f"budgets must be at least 0, not {min(budgets)}")
    _, call = solve_budgets(mdp, horizon, max(budgets, default=0))
    return [(n, *evaluate_policy(mdp, horizon, call, n)) for n in budgets]


def price_frontier(mdp: SwitchingMDP, horizon: int, prices: Sequence[float]) -> list[tuple[float, float, float]]:
    """Return `(price, expected return, expected calls)` of the optimal policy for each price, in order.

    The return does not include the price. Raises `ConfigError` as `solve_price` does.
    """
    policies = ((price, solve_price(mdp, horizon, price)[1]) for price in prices)
    return [(price, *evaluate_policy(mdp, horizon, call, None)) for price, call in policies]


def _check(horizon: int) -> None:
    if horizon < 0:
        raise ConfigError(f"horizon must be at least 0 steps, not {horizon}")


def _with_budget(mdp: SwitchingMDP, horizon: int, call: BoolArray, cap: int | None) -> BoolArray:
    """Give the policy an axis of calls left, (T, X, S), whose last row is where an episode starts."""
    S = mdp.num_states
    if call.dtype != np.bool_ or call.ndim not in (2, 3) or (call.shape[0], call.shape[-1]) != (horizon, S):
        raise ConfigError(
            f"call must be bool, ({horizon}, {S}) or ({horizon}, N+1, {S}), not {call.dtype} {call.shape}"
        )
    if cap is not None and cap < 0:
        raise ConfigError(f"cap must be at least 0, not {cap}")
    if call.ndim == 2:
        if cap is None:
            return call[:, None]
        table = np.repeat(call[:, None], cap + 1, axis=1)
        table[:, 0] = False
        return table
    if call.shape[1] == 0 or call[:, 0].any():
        raise ConfigError("call[:, 0] must be all False: no call is left there")
    if cap is None:
        return call
    if cap >= call.shape[1]:
        raise ConfigError(f"cap {cap} lies outside a policy for at most {call.shape[1] - 1} calls")
    return call[:, : cap + 1]
