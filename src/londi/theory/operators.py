"""The operators of the switching problem (arXiv 2402.12061, section "Bellman operator" and section LONDI-B).

Values are arrays (..., S): one row of S states for each price or each budget, S the number of states.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from londi.theory.mdp import DEEPTHINK, QUICK, FloatArray, SwitchingMDP

Price: TypeAlias = "float | FloatArray"
"""A number, or one per row of values, shape (K, 1); infinity means never call."""


def backup(mdp: SwitchingMDP, choice: int, values: FloatArray) -> FloatArray:
    """Look one step of choice g ahead: R_g + gamma P_g v, for values (..., S)."""
    ahead: FloatArray = (mdp.transition[choice] @ values.T).T
    found: FloatArray = mdp.reward[choice] + mdp.gamma * ahead
    return found


def intervene(mdp: SwitchingMDP, values: FloatArray, price: Price) -> FloatArray:
    """The intervention operator M: let DEEPTHINK act now, pay `price`, and go on with `values` (..., S)."""
    return backup(mdp, DEEPTHINK, values) - price


def bellman(mdp: SwitchingMDP, values: FloatArray, price: Price) -> FloatArray:
    """The Bellman operator T: the better of M v and QUICK's backup, in every state, for values (..., S)."""
    return np.maximum(intervene(mdp, values, price), backup(mdp, QUICK, values))


def budget_bellman(mdp: SwitchingMDP, values: FloatArray, price: Price = 0.0) -> FloatArray:
    """The Bellman operator of LONDI-B, for values (N+1, S): row x is the value with x calls left.

    A call leads from row x to row x - 1; in row 0 there is none.
    """
    ahead = backup(mdp, QUICK, values)
    ahead[1:] = np.maximum(ahead[1:], intervene(mdp, values[:-1], price))
    return ahead
