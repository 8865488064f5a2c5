"""Environment steps for the whole frontier: one universal learner against one run for each price or budget."""

from __future__ import annotations

import numpy as np

from londi.learners.qlearning import Budgets, Prices, QLearning
from londi.theory.generate import garnet
from londi.theory.mdp import FloatArray, SwitchingMDP
from londi.theory.sample import Sampler
from londi.verify.base import Claim, Part, Settings, Suite
from londi.verify.learning import RESTART, errors, exact_budgets, exact_prices

N, ERROR, LIMIT = 20, 0.05, 3_000_000
"""Largest budget (21 rows, as there are 21 prices); the error to reach; steps after which a run has failed."""
_METHOD = (
    "tables, the same random calls on both sides; steps until every row of Q is within 5 % of Q*, "
    "summed over the separate runs: smallest ratio of all seeds"
)
PRICES = Claim(
    "universal-prices",
    "21 prices in one run take 10 times fewer steps",
    "added: docs/theory.md",
    _METHOD,
    10.0,
    "at least",
)
BUDGETS = Claim(
    "universal-budgets",
    "21 budgets in one run take 20 times fewer steps",
    "added: docs/theory.md",
    _METHOD + "; a separate run keeps x in its state and moves one row at a time, x drawn evenly",
    20.0,
    "at least",
)


def steps_needed(
    learner: QLearning,
    exact: FloatArray,
    sampler: Sampler,
    rows: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Return the steps (R,) until each learner's rows are all within the error; checked at steps 2 % apart.

    `exact` is (K, S, 2), or (R, K, S, 2) with NaN in rows that a learner need not learn. `rows` (R,) is the budget of
    each separate run: it moves one row at a time, drawn from 0..n. NaN where the limit is reached first.
    """
    needed = np.full(len(learner.q), np.nan)
    step, check = 0, 100
    while np.isnan(needed).any() and step < LIMIT:
        for _ in range(check - step):
            transition = sampler.step()
            row = None
            if rows is not None and rng is not None:
                lowest = transition.call.astype(np.int64)  # a call needs one left
                row = np.minimum(rng.integers(lowest, rows.astype(np.int64) + 1), rows.astype(np.int64))
            learner.update(transition, row)
        step, check = check, check + max(20, check // 50)
        near = (errors(learner.q[:, : exact.shape[-3]], exact) <= ERROR).all(axis=1)
        needed[near & np.isnan(needed)] = step
    return needed


def _prices(mdp: SwitchingMDP, rng: np.random.Generator) -> tuple[float, FloatArray]:
    """Steps of the universal run, and of each of the 21."""
    prices = np.linspace(0, float(np.ptp(mdp.reward)), N + 1)
    exact = exact_prices(mdp, prices)
    S = mdp.num_states
    one = QLearning(Prices(prices), S, mdp.gamma)
    universal = steps_needed(one, exact, Sampler(mdp, 1, rng, restart=RESTART))
    each = QLearning(Prices(prices[:, None]), S, mdp.gamma, N + 1)
    separate = steps_needed(each, exact[:, None], Sampler(mdp, N + 1, rng, restart=RESTART))
    return float(universal[0]), separate


def _budgets(mdp: SwitchingMDP, rng: np.random.Generator) -> tuple[float, FloatArray]:
    exact, S = exact_budgets(mdp, N), mdp.num_states
    one = QLearning(Budgets(N), S, mdp.gamma)
    universal = steps_needed(one, exact, Sampler(mdp, 1, rng, restart=RESTART))
    budgets = np.arange(N + 1)
    each = QLearning(Budgets(N), S, mdp.gamma, N + 1)
    asked = np.broadcast_to(exact, (N + 1, *exact.shape)).copy()
    asked[np.arange(N + 1)[None, :] > budgets[:, None]] = np.nan  # run n learns rows 0..n
    sampler = Sampler(mdp, N + 1, rng, restart=RESTART, call_rate=np.where(budgets > 0, 0.5, 0.0))
    asked[0, 0, :, 1] = np.nan
    return float(universal[0]), steps_needed(each, asked, sampler, budgets.astype(np.float64), rng)


def _run(settings: Settings, job: int) -> Part:
    part, rng = Part(), settings.rng("efficiency", job)
    mdp = garnet(8, 3, 0.8, rng) if settings.quick else garnet(20, 3, 0.9, rng)
    claim, measure = ((PRICES, _prices), (BUDGETS, _budgets))[job % 2]
    universal, separate = measure(mdp, rng)
    ratio = float(separate.sum() / universal)
    part.note(claim, ratio)
    steps = np.nan_to_num([universal, *separate], nan=LIMIT).tolist()
    part.data = {"claim": claim.key, "universal": steps[0], "separate": steps[1:], "limit": LIMIT}
    part.data["ratio"] = ratio if np.isfinite(ratio) else None
    return part


SUITE = Suite("efficiency", (PRICES, BUDGETS), lambda settings: 2 if settings.quick else 10, _run)
