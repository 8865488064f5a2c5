"""Exact answers on small switching-control problems; numpy only, and no environment is imported here."""

from __future__ import annotations

from londi.theory.mdp import SwitchingMDP
from londi.theory.solve import budget_frontier, evaluate_policy, price_frontier, solve_budgets, solve_price

__all__ = [
    "SwitchingMDP",
    "budget_frontier",
    "evaluate_policy",
    "price_frontier",
    "solve_budgets",
    "solve_price",
]
