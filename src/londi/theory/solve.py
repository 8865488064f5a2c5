"""Finite-horizon dynamic programming for the Switcher: the best value of every budget and price, and its policy.

Chen, Du and Mguni, "All Language Models Large and Small", arXiv 2402.12061: the maximum of QUICK's backup and
the intervention operator (section "Bellman operator"), and the budget carried in the state (section LONDI-B).
Letters in shapes: T the horizon in steps, N the largest budget in calls, S the number of states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from londi.errors import ConfigError
from londi.theory.mdp import DEEPTHINK, QUICK, BoolArray, FloatArray, SwitchingMDP

_TIE = 1e-12
"""A call must gain more than this: sums that are equal on paper differ in their last bits."""


def solve_budgets(mdp: SwitchingMDP, horizon: int, max_calls: int, gamma: float = 1.0) -> tuple[FloatArray, BoolArray]:
    """Solve LONDI-B for all budgets 0..N at once by backward induction.

    Parameters: `horizon` T in steps, `max_calls` N, `gamma` in [0, 1] (1 counts success on finite episodes).
    Returns `(values, call)`: `values` of shape (T+1, N+1, S), the best expected return from step t with x calls
    left; `call` of shape (T, N+1, S), True where DEEPTHINK is called. `call[:, 0]` is False; a tie is no call.
    Raises `ConfigError` for a negative count or gamma outside [0, 1].
    """
    _check(horizon, gamma)
    if max_calls < 0:
        raise ConfigError(f"max_calls must be at least 0, not {max_calls}")
    values = np.zeros((horizon + 1, max_calls + 1, mdp.num_states))
    call = np.zeros((horizon, max_calls + 1, mdp.num_states), dtype=np.bool_)
    for t in reversed(range(horizon)):
        quick = _backup(mdp, QUICK, values[t + 1], gamma)  # (N+1, S)
        called = _backup(mdp, DEEPTHINK, values[t + 1, :-1], gamma)  # (N, S): row x-1 belongs to x calls left
        call[t, 1:] = called > quick[1:] + _TIE
        values[t, 0] = quick[0]
        values[t, 1:] = np.where(call[t, 1:], called, quick[1:])
    return values, call


def solve_price(mdp: SwitchingMDP, horizon: int, price: float, gamma: float = 1.0) -> tuple[FloatArray, BoolArray]:
    """Solve the switching problem where each call costs `price` >= 0 in units of reward (infinity: never call).

    Returns `(values, call)`: `values` of shape (T+1, S), the best expected return less the (discounted) price of
    the calls; `call` of shape (T, S), True where DEEPTHINK is called; a tie is no call.
    Raises `ConfigError` for a negative horizon or price, or gamma outside [0, 1].
    """
    _check(horizon, gamma)
    if not price >= 0:
        raise ConfigError(f"price must be at least 0, not {price}")
    values = np.zeros((horizon + 1, mdp.num_states))
    call = np.zeros((horizon, mdp.num_states), dtype=np.bool_)
    for t in reversed(range(horizon)):
        quick = _backup(mdp, QUICK, values[t + 1], gamma)  # (S,)
        called = _backup(mdp, DEEPTHINK, values[t + 1], gamma) - price  # (S,)
        call[t] = called > quick + _TIE
        values[t] = np.where(call[t], called, quick)
    return values, call


def evaluate_policy(
    mdp: SwitchingMDP, horizon: int, call: BoolArray, cap: int | None = None, gamma: float = 1.0
) -> tuple[float, float]:
    """Follow a call policy from the initial distribution, exactly.

    Parameters: `call` of shape (T, S), or (T, N+1, S) with the calls left as second index (row 0 all False);
    `cap` is the number of calls an episode starts with: None means no limit for (T, S) and N for (T, N+1, S).
    A (T, S) policy under a cap acts as QUICK once the cap is spent.
    Returns `(expected return, expected calls)`: the return discounted by `gamma` and without the price of calls,
    the calls counted plainly and not in terminal states.
    Raises `ConfigError` where `call` has another shape, calls with none left, or `cap` lies outside it.
    """
    _check(horizon, gamma)
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
        expected_return += gamma**t * float(reward)
        expected_calls += float(called.sum())
        mass = quick @ mdp.transition[QUICK]
        after_call = called @ mdp.transition[DEEPTHINK]
        if limited:
            mass[:-1] += after_call[1:]
        else:
            mass += after_call
    return expected_return, expected_calls


def budget_frontier(
    mdp: SwitchingMDP, horizon: int, budgets: Sequence[int], gamma: float = 1.0
) -> list[tuple[int, float, float]]:
    """Return `(n, expected return, expected calls)` of the optimal policy for each hard budget n, in order.

    Raises `ConfigError` as `solve_budgets` does.
    """
    if any(n < 0 for n in budgets):
        raise ConfigError(f"budgets must be at least 0, not {min(budgets)}")
    _, call = solve_budgets(mdp, horizon, max(budgets, default=0), gamma)
    return [(n, *evaluate_policy(mdp, horizon, call, n, gamma)) for n in budgets]


def price_frontier(
    mdp: SwitchingMDP, horizon: int, prices: Sequence[float], gamma: float = 1.0
) -> list[tuple[float, float, float]]:
    """Return `(price, expected return, expected calls)` of the optimal policy for each price, in order.

    The return does not include the price. Raises `ConfigError` as `solve_price` does.
    """
    policies = ((price, solve_price(mdp, horizon, price, gamma)[1]) for price in prices)
    return [(price, *evaluate_policy(mdp, horizon, call, None, gamma)) for price, call in policies]


def _backup(mdp: SwitchingMDP, choice: int, values: FloatArray, gamma: float) -> FloatArray:
    """One step of choice g ahead of `values` (..., S): reward plus discounted expected value, same shape."""
    backup: FloatArray = mdp.reward[choice] + gamma * (values @ mdp.transition[choice].T)
    return backup


def _check(horizon: int, gamma: float) -> None:
    if horizon < 0:
        raise ConfigError(f"horizon must be at least 0 steps, not {horizon}")
    if not (math.isfinite(gamma) and 0 <= gamma <= 1):
        raise ConfigError(f"gamma must lie in [0, 1], not {gamma}")


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
