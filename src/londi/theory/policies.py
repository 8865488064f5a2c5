"""What any Switcher earns and costs, exactly: its value, its expected calls, the distribution of its calls.

A Switcher without a limit is a bool array (S,), one with a budget a bool array (N+1, S) whose row x holds with x calls
left, row 0 all False. A discount gamma < 1 is read as survival: an episode also ends with probability 1 - gamma after
each step, so that discounted calls are the expected calls of such episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from londi.errors import ConfigError
from londi.theory.linear import chain_solver
from londi.theory.mdp import DEEPTHINK, QUICK, BoolArray, FloatArray, SwitchingMDP
from londi.theory.operators import backup
from londi.theory.solve import policy_values


def evaluate(mdp: SwitchingMDP, call: BoolArray, budget: int | None = None) -> tuple[float, float]:
    """Return `(expected return, expected calls)` from the initial distribution, both discounted.

    `call` is (S,) or (N+1, S); `budget` the calls an episode starts with: None is no limit for (S,) and N for
    (N+1, S); under a budget an (S,) Switcher acts as QUICK once it is spent. The return is without prices.
    Raises `ConfigError` for other shapes, a call in row 0, or a budget out of range.
    """
    table = _table(mdp, call, budget)
    if np.ndim(call) == 1 and budget is None:
        returns, calls = policy_values(mdp, np.asarray(call))
    else:
        returns, calls = (values[-1] for values in budget_policy_values(mdp, table))
    return float(mdp.initial @ returns), float(mdp.initial @ calls)


def budget_policy_values(mdp: SwitchingMDP, call: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return the expected discounted return and calls, each (N+1, S), of a Switcher (N+1, S) with a budget."""
    call = _table(mdp, call, None)
    returns, calls = np.zeros(call.shape), np.zeros(call.shape)
    for x, row in enumerate(call):
        going = (~row & ~mdp.terminal).astype(np.float64)
        earned, counted = mdp.reward[QUICK], np.zeros(mdp.num_states)
        if x:
            earned = np.where(row, backup(mdp, DEEPTHINK, returns[x - 1]), earned)
            counted = np.where(row, 1 + backup(mdp, DEEPTHINK, calls[x - 1]) - mdp.reward[DEEPTHINK], 0.0)
        both = chain_solver(mdp, mdp.transition[QUICK], going)(np.stack([earned, counted], -1))
        returns[x], calls[x] = both[:, 0], both[:, 1]
    return returns, calls


def call_distribution(mdp: SwitchingMDP, call: BoolArray, max_calls: int, budget: int | None = None) -> FloatArray:
    """Return the probabilities (max_calls+1,) that an episode makes 0, 1, ..., `max_calls` calls.

    What they lack to 1 is the probability of more. `call` and `budget` are as in `evaluate`.
    Raises `ConfigError` as `evaluate` does, and for a negative `max_calls`.
    """
    if max_calls < 0:
        raise ConfigError(f"max_calls must be at least 0, not {max_calls}")
    free = np.ndim(call) == 1 and budget is None
    checked = _table(mdp, call, budget)
    table = (np.asarray(call)[None] if free else checked) & ~mdp.terminal
    solvers = [chain_solver(mdp, mdp.transition[QUICK], (~row & ~mdp.terminal).astype(float)) for row in table]
    found = np.zeros((len(table), max_calls + 1, mdp.num_states))  # [x, k, s]: k more calls, from s with x left
    for x in range(len(table)):
        for k in range(max_calls + 1):
            before = None if k == 0 else found[x if free else x - 1, k - 1]
            found[x, k] = _exactly(mdp, table[x], solvers[x], k, before)
    return np.asarray(found[-1] @ mdp.initial)


def _exactly(
    mdp: SwitchingMDP, row: BoolArray, solve: Callable[[FloatArray], FloatArray], k: int, before: FloatArray | None
) -> FloatArray:
    """P(k more calls | s): the episode ends here, or one call is made and `before` follows, or QUICK goes on."""
    ends = np.zeros(mdp.num_states)
    if k == 0:
        ends = np.where(mdp.terminal, 1.0, np.where(row, 0.0, 1 - mdp.gamma))
    elif before is not None:
        ahead = mdp.gamma * (mdp.transition[DEEPTHINK] @ before) + (1 - mdp.gamma) * (k == 1)
        ends = np.where(row, ahead, 0.0)
    return solve(ends)


def _table(mdp: SwitchingMDP, call: BoolArray, budget: int | None) -> BoolArray:
    """The Switcher as (N+1, S), whose last row is where an episode starts."""
    call = np.asarray(call)
    if call.dtype != np.bool_ or call.ndim not in (1, 2) or call.shape[-1] != mdp.num_states or not call.size:
        raise ConfigError(
            f"call must be bool, (S,) or (N+1, S) with S = {mdp.num_states}, not {call.dtype} {call.shape}"
        )
    if budget is not None and budget < 0:
        raise ConfigError(f"a budget is at least 0, not {budget}")
    if call.ndim == 1:
        table = np.repeat(call[None], 1 + (budget or 0), axis=0)
        table[0] = False
        return table
    if call[0].any():
        raise ConfigError("call[0] must be all False: no call is left there")
    if budget is not None and budget >= len(call):
        raise ConfigError(f"budget {budget} lies outside a Switcher for at most {len(call) - 1} calls")
    return call if budget is None else call[: budget + 1]
