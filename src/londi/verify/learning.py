"""Q-learning by table converges to the exact solution: a price, all prices at once, all budgets at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from londi.learners.qlearning import Budgets, Prices, QLearning
from londi.theory import operators, solve
from londi.theory.generate import garnet, grid
from londi.theory.mdp import DEEPTHINK, QUICK, FloatArray, SwitchingMDP
from londi.theory.sample import Sampler
from londi.verify.base import Claim, Part, Settings, Suite

RESTART = 0.1
"""Chance that a process starts anew after a step, from any state: every state goes on being visited."""
_METHOD = "Garnet and grid, seeds in step: largest error of Q, relative to the largest Q* of its row, after all samples"

ONE = Claim("q-price", "Q-learning converges to Q* at a price", "arXiv 2402.12061, theorem 3", _METHOD, 0.05)
PRICES = Claim("q-prices", "one stream teaches all 21 prices", "added: docs/theory.md", _METHOD, 0.05)
BUDGETS = Claim(
    "q-budgets", "one stream teaches budgets 0..20", "arXiv 2402.12061, theorem 4; added: docs/theory.md", _METHOD, 0.05
)


def exact_prices(mdp: SwitchingMDP, prices: FloatArray) -> FloatArray:
    """Q* (K, S, 2) at K prices; 0 in terminal states, where nothing is chosen."""
    values = np.stack([solve.policy_iteration(mdp, float(price)).values for price in prices])
    quick = operators.backup(mdp, QUICK, values)
    call = np.where(mdp.terminal, 0.0, operators.intervene(mdp, values, prices[:, None]))
    return np.stack([quick, call], -1)


def exact_budgets(mdp: SwitchingMDP, max_calls: int) -> FloatArray:
    """Q* (N+1, S, 2) for budgets 0..N; -inf for a call in row 0."""
    values = solve.solve_budgets(mdp, max_calls).values
    call = np.full_like(values, -np.inf)
    call[1:] = operators.backup(mdp, DEEPTHINK, values[:-1])
    return np.stack([operators.backup(mdp, QUICK, values), call], -1)


def errors(learned: FloatArray, exact: FloatArray) -> FloatArray:
    """Largest error (R, K) of tables (R, K, S, 2) against (K, S, 2), relative to the largest |Q*| of each row."""
    finite = np.isfinite(exact)
    gap = np.abs(np.subtract(learned, exact, out=np.zeros_like(learned), where=np.broadcast_to(finite, learned.shape)))
    largest = np.abs(np.where(finite, exact, 0)).max(axis=(-1, -2))
    return np.asarray(gap.max(axis=(-1, -2)) / np.where(largest > 0, largest, 1))


def curve(learner: QLearning, exact: FloatArray, sampler: Sampler, checkpoints: FloatArray) -> list[list[float]]:
    """Return the largest error over rows of every learner, at each checkpoint (steps)."""
    found, done = [], 0
    for checkpoint in checkpoints.astype(int).tolist():
        for _ in range(checkpoint - done):
            learner.update(sampler.step())
        done = checkpoint
        found.append(errors(learner.q[:, : len(exact)], exact).max(axis=1).tolist())
    return found


def _run(settings: Settings, job: int) -> Part:
    part, rng = Part(), settings.rng("learning", job)
    claim = (ONE, PRICES, BUDGETS)[job % 3]
    name, mdp = ("Garnet", garnet(20, 3, 0.9, rng)) if job < 3 else ("grid", grid(25, 0.9, rng))
    seeds = 3 if settings.quick else 8
    dearest = float(np.ptp(mdp.reward))
    if claim is BUDGETS:
        learner, exact = QLearning(Budgets(20), mdp.num_states, mdp.gamma, seeds), exact_budgets(mdp, 20)
    else:
        prices = np.array([0.2 * dearest]) if claim is ONE else np.linspace(0, dearest, 21)
        learner, exact = QLearning(Prices(prices), mdp.num_states, mdp.gamma, seeds), exact_prices(mdp, prices)
    starts = np.where(mdp.terminal, 0.0, 1.0)
    sampler = Sampler(mdp, seeds, rng, restart=RESTART, initial=starts / starts.sum())
    checkpoints = np.unique(np.geomspace(300, 40_000 if settings.quick else 200_000, 20).round())
    found = curve(learner, exact, sampler, checkpoints)
    for error in found[-1]:
        part.note(claim, error)
    data: dict[str, Any] = {"problem": name, "claim": claim.key, "samples": checkpoints.tolist(), "errors": found}
    part.data = data
    return part


SUITE = Suite("learning", (ONE, PRICES, BUDGETS), lambda settings: 6, _run)
