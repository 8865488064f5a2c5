"""A million simulated episodes: does any budget break?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from londi.budget import Budget
from londi.encoders import STATE, Features
from londi.switchers import Always, Query, RandomRate, Switcher
from londi.switchers.tabular import TabularSwitcher
from londi.theory import operators, solve
from londi.theory.generate import garnet
from londi.theory.mdp import DEEPTHINK, QUICK, SwitchingMDP
from londi.theory.sample import draw
from londi.verify.base import Claim, Part, Settings, Suite

STEPS, N = 16, 6
"""Steps of an episode, largest budget."""

KEPT = Claim(
    "budget-kept",
    "a budget holds in every episode",
    "arXiv 2402.12061, theorem 4",
    "episodes of four Switchers through `Budget`, which is asked at every step once nothing is left: "
    "most calls beyond n, n = 0..6",
    0.0,
)
MASKED = Claim(
    "budget-masked",
    "no Switcher asks for a call when none is left",
    "arXiv 2402.12061, section LONDI-B",
    "the same episodes: calls asked for at x = 0",
    0.0,
)


def play(
    mdp: SwitchingMDP, switcher: Switcher, budgets: NDArray[np.int64], rng: np.random.Generator
) -> tuple[int, int]:
    """Play one episode for each budget; return the most calls beyond it, and the calls asked for with none left."""
    count = len(budgets)
    held = [Budget(int(n)) for n in budgets]
    made, asked_at_zero = np.zeros(count, np.int64), 0
    cumulative = np.cumsum(mdp.transition, axis=-1)
    state = rng.choice(mdp.num_states, count, p=mdp.initial)
    dense = np.zeros((count, STATE + 1), np.float32)
    empty = np.zeros((count, 0, 0), np.int16), np.zeros((count, 0), np.int16)
    for _ in range(STEPS):
        dense[:, STATE] = state
        left = budgets - made
        query = Query(Features(*empty, dense), left.astype(np.float64), np.full(count, 0.1), rng.random(count))
        asked = switcher.choose(query).call
        asked_at_zero += int((asked & (left <= 0)).sum())
        granted = np.zeros(count, bool)
        for i in np.flatnonzero(asked | (left <= 0)).tolist():  # a Switcher may forget its mask: `Budget` must refuse
            reservation = held[i].reserve()
            if reservation is not None:
                reservation.settle()
                granted[i] = True
        made += granted
        state = draw(cumulative[np.where(granted, DEEPTHINK, QUICK), state], rng)
    return int((made - budgets).max()), asked_at_zero


def switchers(mdp: SwitchingMDP) -> list[Switcher]:
    """The exact budget Switcher, the exact price Switcher, one that calls at random and one that always does."""
    found = solve.solve_budgets(mdp, N)
    ahead = operators.backup(mdp, QUICK, found.values)
    called = np.concatenate([ahead[:1], operators.backup(mdp, DEEPTHINK, found.values[:-1])])
    by_budget = np.concatenate([called - ahead, (called - ahead)[-1:]])
    values = solve.policy_iteration(mdp, 0.1).values
    by_price = operators.intervene(mdp, values, 0.1) - operators.backup(mdp, QUICK, values)
    return [
        TabularSwitcher("budget", by_budget),
        TabularSwitcher("price", by_price[None], np.array([0.1])),
        RandomRate(0.5),
        Always(),
    ]


def _run(settings: Settings, job: int) -> Part:
    part, rng = Part(), settings.rng("budgets", job)
    mdp = garnet(30, 4, 0.95, rng)
    for switcher in switchers(mdp):
        count = 2_500 if settings.quick else 25_000
        beyond, asked = play(mdp, switcher, rng.integers(N + 1, size=count), rng)
        part.note(KEPT, max(0, beyond), count)
        part.note(MASKED, asked, count)
    return part


SUITE = Suite("budgets", (KEPT, MASKED), lambda settings: 2 if settings.quick else 10, _run)
