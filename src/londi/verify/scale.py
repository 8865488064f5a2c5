"""A large sparse problem solved to the last digits within a minute."""

from __future__ import annotations

import time

import numpy as np

from londi.theory import operators, solve
from londi.theory.generate import garnet
from londi.verify.base import Claim, Part, Settings, Suite

FAST = Claim(
    "large-seconds",
    "10,000 sparse states, 21 prices and budgets 0..20, within a minute on one core",
    "added: docs/theory.md",
    "Garnet, 4 successors, gamma .99: seconds of policy iteration and of the budget chain",
    60.0,
)
ACCURATE = Claim(
    "large-accurate",
    "and every value is within 1e-9 of the fixed point",
    "added: docs/theory.md",
    "‖Tv − v‖ / (1 − γ), relative to the largest value",
    1e-9,
)


def _run(settings: Settings, job: int) -> Part:
    part = Part()
    mdp = garnet(10_000, 4, 0.99, settings.rng("scale", job), sparse=True)
    prices = np.linspace(0, float(np.ptp(mdp.reward)), 21)
    begun = time.perf_counter()
    best = [solve.policy_iteration(mdp, float(price)) for price in prices]
    budgets = solve.solve_budgets(mdp, 20)
    part.note(FAST, time.perf_counter() - begun)
    for price, found in zip(prices, best, strict=True):
        gap = np.abs(operators.bellman(mdp, found.values, float(price)) - found.values).max()
        part.note(ACCURATE, gap / (1 - mdp.gamma) / np.abs(found.values).max())
    gap = np.abs(operators.budget_bellman(mdp, budgets.values) - budgets.values).max()
    part.note(ACCURATE, gap / (1 - mdp.gamma) / np.abs(budgets.values).max())
    return part


SUITE = Suite("scale", (FAST, ACCURATE), lambda settings: 1, _run)
