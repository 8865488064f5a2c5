"""Exact claims on random problems: all families, |S| from 20 to 500, gamma from .8 to .99."""

from __future__ import annotations

import numpy as np

from londi.learners.qlearning import Budgets, Prices
from londi.theory import operators, policies, solve
from londi.theory.frontier import price_frontier
from londi.theory.generate import FAMILIES
from londi.theory.mdp import DEEPTHINK, QUICK, FloatArray, SwitchingMDP
from londi.verify.base import Claim, Part, Settings, Suite

_PAPER, _OURS = "arXiv 2402.12061, theorem ", "added: docs/theory.md"
_MANY = "random MDPs, every family; worst over all states"
N = 8
"""Largest budget solved for."""

CONTRACTION = Claim(
    "contraction",
    "T contracts by gamma, for prices and for budgets",
    _PAPER + "1",
    "‖Tv − Tw‖ / (γ‖v − w‖) − 1 on pairs v, w of every scale, some a constant apart",
    1e-12,
)
UNIQUE = Claim(
    "unique",
    "value iteration reaches one v* from anywhere, the one of policy iteration",
    _PAPER + "1",
    "T applied from far below and far above, against linear solves: relative to the largest value",
    1e-9,
)
OBSTACLE = Claim(
    "obstacle",
    "it is best to call exactly where M v* exceeds QUICK's backup",
    _PAPER + "2",
    "the Switcher of that set earns v*, and turning round one state loses",
    1e-9,
)
RELABEL = Claim(
    "relabelling",
    "one transition is an exact sample for every price and every budget",
    _OURS,
    "the learners' targets, summed over s' with P(s' | s, g), against the operators",
    1e-12,
)
LADDER = Claim(
    "budget-chain",
    "each V_x solves an optimal stopping problem with obstacle M V_{x-1}; V_0 is QUICK's value",
    _PAPER + "4",
    "the chain's solution against T on (s, x), against QUICK alone, and its Switcher's value by linear solves",
    1e-9,
)
MONOTONE = Claim("budget-monotone", "V_x never falls with x", _PAPER + "4", "largest V_x − V_{x+1}", 1e-9)
GEOMETRIC = Claim(
    "budget-error",
    "‖V_∞ − V_x‖ ≤ γ^x ‖V_∞ − V_0‖",
    _OURS,
    f"x = 0..{N}, in units of ‖V_∞ − V_0‖",
    1e-9,
)
CONVEX = Claim(
    "price-convex",
    "J*(c) is convex and never rises, and discounted calls never rise with c",
    _OURS,
    "21 prices: second differences, differences, and calls of the best Switchers",
    1e-9,
)
LIPSCHITZ = Claim(
    "price-lipschitz",
    "|Q*(·, c) − Q*(·, c')| ≤ |c − c'| / (1 − γ)",
    _OURS,
    "neighbours among 21 prices: ratio to the bound − 1",
    1e-9,
)
FRONTIER = Claim(
    "frontier-exact",
    "the breakpoints give J*(c) at every price",
    _OURS,
    "the frontier's lines against a solution for each of 21 prices (|S| ≤ 150)",
    1e-9,
)
DUALITY = Claim(
    "weak-duality",
    "no budget n earns more than min over c of J*(c) + c n",
    _OURS,
    f"n = 0..{N}: excess over the bound",
    1e-9,
)
BEST_OF_BOTH = Claim(
    "free-calls",
    "with free calls the best Switcher is worth at least as much as either model alone",
    _OURS,
    "largest excess of a model alone",
    1e-9,
)
CALLS = Claim(
    "call-distribution",
    "the distribution of calls sums to 1, keeps the budget, and its mean is the expectation",
    _OURS,
    "linear solves of the distribution against those of the expectation",
    1e-9,
)
CLAIMS = (
    *(CONTRACTION, UNIQUE, OBSTACLE, RELABEL, LADDER, MONOTONE, GEOMETRIC),
    *(CONVEX, LIPSCHITZ, FRONTIER, DUALITY, BEST_OF_BOTH, CALLS),
)
Rng = np.random.Generator


def check_problem(mdp: SwitchingMDP, rng: Rng, part: Part) -> None:
    """Note how far one problem is from every claim."""
    free = solve.policy_iteration(mdp, 0.0)
    scale = max(1e-3, float(np.abs(free.values).max()))
    dear = float(np.ptp(free.values) * mdp.gamma + np.ptp(mdp.reward))  # no call pays more
    prices = np.linspace(0, 1, 21) ** 2 * dear
    best = [solve.policy_iteration(mdp, float(price)) for price in prices]
    _contraction(mdp, prices, rng, part)
    _fixed_point(mdp, float(prices[6]), best[6], scale, part)
    _obstacle(mdp, float(prices[6]), best[6], rng, scale, part)
    _relabelling(mdp, prices, rng, part)
    budgets = _budgets(mdp, free, scale, part)
    _prices(mdp, prices, best, budgets, scale, part)
    _distribution(mdp, budgets, best[6], part)


def _contraction(mdp: SwitchingMDP, prices: FloatArray, rng: Rng, part: Part) -> None:
    for size in (1e-3, 1.0, 1e3):
        v = size * rng.standard_normal((len(prices), mdp.num_states))
        for w in (size * rng.standard_normal(v.shape), v + size, v - size * rng.random((len(v), 1))):
            for price in (None, prices[:, None]):
                image = [
                    operators.budget_bellman(mdp, x) if price is None else operators.bellman(mdp, x, price)
                    for x in (v, w)
                ]
                apart = np.abs(v - w).max()
                part.note(CONTRACTION, np.abs(image[0] - image[1]).max() / (mdp.gamma * apart) - 1)


def _fixed_point(mdp: SwitchingMDP, price: float, best: solve.Solution, scale: float, part: Part) -> None:
    """From the bounds on all values: the iterates enclose every fixed point."""
    far = np.abs(mdp.reward).max() / (1 - mdp.gamma) + price
    values = np.stack([np.full(mdp.num_states, -far), np.full(mdp.num_states, far)])
    steps = int(np.ceil(np.log(1e-13 * scale / far) / np.log(mdp.gamma)))
    for _ in range(steps):
        values = operators.bellman(mdp, values, price)
    part.note(UNIQUE, np.abs(values - best.values).max() / scale)


def _obstacle(mdp: SwitchingMDP, price: float, best: solve.Solution, rng: Rng, scale: float, part: Part) -> None:
    call = operators.intervene(mdp, best.values, price) > operators.backup(mdp, QUICK, best.values)
    gain = operators.intervene(mdp, best.values, price) - operators.backup(mdp, QUICK, best.values)
    clear = np.abs(gain) > 1e-9 * scale
    call &= clear | best.call
    returns, calls = solve.policy_values(mdp, call)
    part.note(OBSTACLE, np.abs(returns - price * calls - best.values).max() / scale)
    where = np.flatnonzero(clear & ~mdp.terminal)
    for state in rng.choice(where, min(4, len(where)), replace=False):
        other = call.copy()
        other[state] = not other[state]
        returns, calls = solve.policy_values(mdp, other)
        # it must lose by the gap at least, since the state is visited at least once
        loss = best.values[state] - (returns[state] - price * calls[state])
        part.note(OBSTACLE, max(0.0, abs(gain[state]) - loss) / scale)


def _relabelling(mdp: SwitchingMDP, prices: FloatArray, rng: Rng, part: Part) -> None:
    for rows in (Prices(prices), Budgets(N)):
        values = rng.standard_normal((rows.num_rows, mdp.num_states))
        wanted = {QUICK: operators.backup(mdp, QUICK, values)}
        if isinstance(rows, Prices):
            wanted[DEEPTHINK] = operators.intervene(mdp, values, prices[:, None])
        else:
            ahead = operators.backup(mdp, DEEPTHINK, values)
            wanted[DEEPTHINK] = np.concatenate([ahead[:-2], ahead[-1:]])
        for state in rng.integers(mdp.num_states, size=3):
            for g in (QUICK, DEEPTHINK):
                after = np.flatnonzero(mdp.transition[g][state])
                chance = mdp.transition[g][state, after]
                called, reward = np.full(len(after), bool(g)), np.full(len(after), mdp.reward[g, state])
                targets = rows.targets(called, reward, mdp.gamma * values[:, after].T)  # (successors, K)
                if isinstance(rows, Budgets) and g == DEEPTHINK:
                    possible = np.isneginf(targets[:, 0]).all()
                    targets = targets[:, 1:] if possible else np.full_like(targets[:, 1:], np.nan)
                part.note(RELABEL, np.abs(chance @ targets - wanted[g][:, state]).max())


def _budgets(mdp: SwitchingMDP, free: solve.Solution, scale: float, part: Part) -> solve.Solution:
    found = solve.solve_budgets(mdp, N)
    residual = np.abs(operators.budget_bellman(mdp, found.values) - found.values).max() / (1 - mdp.gamma)
    earned = policies.budget_policy_values(mdp, found.call)[0]
    quick = solve.policy_values(mdp, np.zeros(mdp.num_states, bool))[0]
    part.note(LADDER, residual / scale)
    part.note(LADDER, np.abs(earned - found.values).max() / scale)
    part.note(LADDER, np.abs(found.values[0] - quick).max() / scale)
    part.note(MONOTONE, -np.diff(found.values, axis=0).min() / scale)
    gaps = np.abs(free.values - found.values).max(axis=1)
    if gaps[0] > 1e-9 * scale:
        part.note(GEOMETRIC, (gaps / gaps[0] - mdp.gamma ** np.arange(N + 1)).max())
    return found


def _prices(
    mdp: SwitchingMDP,
    prices: FloatArray,
    best: list[solve.Solution],
    budgets: solve.Solution,
    scale: float,
    part: Part,
) -> None:
    values = np.stack([solution.values for solution in best])  # (21, S)
    start = values @ mdp.initial
    slopes = np.diff(start) / np.diff(prices)
    part.note(CONVEX, -np.diff(slopes).min() / (1 / (1 - mdp.gamma)))
    part.note(CONVEX, slopes.max())
    calls = np.array([policies.evaluate(mdp, solution.call)[1] for solution in best])
    part.note(CONVEX, np.diff(calls).max())
    quality = np.stack(
        [
            operators.backup(mdp, QUICK, values),
            operators.intervene(mdp, values, prices[:, None]),
        ]
    )
    steepest = np.abs(np.diff(quality, axis=1)).max(axis=(0, 2)) / np.diff(prices)
    part.note(LIPSCHITZ, steepest.max() * (1 - mdp.gamma) - 1)
    n = np.arange(N + 1)
    bound = (start + prices * n[:, None]).min(axis=1)
    if mdp.num_states <= 150:
        frontier = price_frontier(mdp)
        part.note(FRONTIER, np.abs(frontier.value(prices) - start).max() / scale)
        bound = np.array([frontier.bound(budget) for budget in range(N + 1)])
    part.note(DUALITY, float(np.max(budgets.values @ mdp.initial - bound)) / scale)
    alone = [solve.policy_values(mdp, np.full(mdp.num_states, called))[0] for called in (False, True)]
    part.note(BEST_OF_BOTH, (np.stack(alone) - values[0]).max() / scale)


def _distribution(mdp: SwitchingMDP, budgets: solve.Solution, best: solve.Solution, part: Part) -> None:
    for call, budget in ((budgets.call, N), (best.call, 3)):
        chances = policies.call_distribution(mdp, call, N + 2, budget)
        expected = policies.evaluate(mdp, call, budget)[1]
        part.note(CALLS, abs(chances.sum() - 1))
        part.note(CALLS, float(np.abs(chances[budget + 1 :]).max()))
        part.note(CALLS, float(abs(chances @ np.arange(N + 3) - expected)))


def _jobs(settings: Settings) -> int:
    return 4 if settings.quick else 50


def _run(settings: Settings, job: int) -> Part:
    part, rng = Part(), settings.rng("random", job)
    count, largest = (9, 120) if settings.quick else (20, 500)
    families = list(FAMILIES.values())
    for i in range(count):
        gamma = float(rng.choice([0.8, 0.9, 0.95, 0.99]))
        states = round(float(np.exp(rng.uniform(np.log(20), np.log(largest)))))
        check_problem(families[(job * count + i) % len(families)](states, gamma, rng), rng, part)
    part.data = {"problems": count}
    return part


SUITE = Suite("random", CLAIMS, _jobs, _run)
