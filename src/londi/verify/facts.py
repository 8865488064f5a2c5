"""Small problems on which everything is known by hand or by counting: tightness, counterexamples, brute force."""

from __future__ import annotations

import itertools

import numpy as np

from londi.envs.keydoor import KeyDoorEnv
from londi.theory import operators, solve
from londi.theory.frontier import price_frontier
from londi.theory.generate import FAMILIES, with_step_limit
from londi.theory.mdp import SwitchingMDP
from londi.theory.policies import call_distribution
from londi.verify.base import Claim, Part, Settings, Suite

_OURS = "added: docs/theory.md"
BRUTE = Claim(
    "brute-force",
    "no Switcher beats v*, and the frontier is the upper envelope of all Switchers",
    "arXiv 2402.12061, theorems 1 and 2",
    "all 2^|S| Switchers of small problems",
    1e-10,
)
TIGHT = Claim(
    "budget-error-tight",
    "the bound γ^x is reached",
    _OURS,
    "a deterministic ring where only DEEPTHINK earns: ‖V_∞ − V_x‖ / ‖V_∞ − V_0‖ against γ^x",
    1e-12,
)
NESTED = Claim(
    "not-nested",
    "the switch set need not be nested, in the price or in the budget",
    _OURS,
    "three states: a preventive call pays only at prices in (.2, .8), and only with one call left",
    1e-12,
)
HIDDEN = Claim(
    "no-price-reaches",
    "a budget can earn what no price does",
    _OURS,
    "two states: one call earns .2, two earn 1; no price makes one call",
    1e-12,
)
UNSAFE = Claim(
    "price-unsafe",
    "a price keeps no budget: some episodes make more calls than the mean, rounded up",
    _OURS,
    "key-door room, every Switcher of its frontier: largest share of such episodes",
    0.14,
    "at least",
)


def ring(num_states: int, gamma: float) -> SwitchingMDP:
    """A ring that both models walk round; only DEEPTHINK is paid, 1 a step."""
    walk = np.roll(np.eye(num_states), 1, axis=1)
    reward = np.stack([np.zeros(num_states), np.ones(num_states)])
    return SwitchingMDP(np.stack([walk, walk]), reward, np.eye(num_states)[0], np.zeros(num_states, bool), gamma)


def preventive() -> SwitchingMDP:
    """Call at once and earn .8 with one call, or let QUICK go on and earn 1 with two.

    States: start, first and second hard step, end. QUICK walks from the start to the hard steps, where it fails;
    DEEPTHINK at the start goes round them for .8, and masters each of them, the second for 1.
    """
    quick = [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    deepthink = [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    reward = [[0, 0, 0, 0], [0.8, 0, 1, 0]]
    return _episodic(quick, deepthink, reward)


def all_or_little() -> SwitchingMDP:
    """Two steps: with DEEPTHINK at both it earns 1, with DEEPTHINK at the first alone .2, else nothing."""
    quick = [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    deepthink = [[0, 1, 0], [0, 0, 1], [0, 0, 1]]
    return _episodic(quick, deepthink, [[0, 0.2, 0], [0, 1, 0]])


def _episodic(quick: object, deepthink: object, reward: object) -> SwitchingMDP:
    """gamma = 1; the first state is the start, the last the end."""
    matrices = np.array([quick, deepthink], dtype=np.float64)
    S = matrices.shape[1]
    states = np.arange(S)
    return SwitchingMDP(matrices, np.array(reward, dtype=np.float64), states == 0, states == S - 1, 1.0)


def _tight(part: Part) -> None:
    for states, gamma in itertools.product((1, 3, 10), (0.5, 0.8, 0.95, 0.99)):
        mdp = ring(states, gamma)
        free, found = solve.policy_iteration(mdp, 0.0), solve.solve_budgets(mdp, 12)
        gaps = np.abs(free.values - found.values).max(axis=1)
        part.note(TIGHT, np.abs(gaps / gaps[0] - gamma ** np.arange(13)).max())


def _not_nested(part: Part) -> None:
    mdp = preventive()
    for price, called, value in ((0.1, False, 0.8), (0.5, True, 0.3), (0.9, False, 0.0)):
        found = solve.policy_iteration(mdp, price)
        part.note(NESTED, np.inf if found.call[0] != called else abs(found.values[0] - value))
    budgets = solve.solve_budgets(mdp, 2)
    part.note(NESTED, np.abs(budgets.values[:, 0] - [0, 0.8, 1]).max())
    part.note(NESTED, 0.0 if budgets.call[:, 0].tolist() == [False, True, False] else np.inf)
    breakpoints = price_frontier(mdp).breakpoints
    part.note(NESTED, np.abs(breakpoints - [0, 0.2, 0.8]).max() if len(breakpoints) == 3 else np.inf)


def _hidden(part: Part) -> None:
    mdp = all_or_little()
    frontier = price_frontier(mdp)
    part.note(HIDDEN, np.abs(frontier.calls - [2, 0]).max() if len(frontier.calls) == 2 else np.inf)
    part.note(HIDDEN, np.abs(solve.solve_budgets(mdp, 2).values[:, 0] - [0, 0.2, 1]).max())
    part.note(HIDDEN, abs(frontier.bound(1) - 0.5))


def _unsafe(part: Part) -> None:
    mdp = with_step_limit(KeyDoorEnv().switching_mdp(), 40)
    frontier, largest = price_frontier(mdp), 0.0
    for calls, call in zip(frontier.calls, frontier.switch_sets, strict=True):
        chances = call_distribution(mdp, call, 40)
        largest = max(largest, 1 - chances[: int(np.ceil(calls)) + 1].sum())
    part.note(UNSAFE, largest)


def _brute(settings: Settings, part: Part) -> None:
    rng = settings.rng("facts", 0)
    states = 7 if settings.quick else 9
    for family in FAMILIES.values():
        mdp = family(states, float(rng.choice([0.8, 0.95])), rng)
        S = mdp.num_states
        lines = [solve.policy_values(mdp, np.array(bits)) for bits in itertools.product([False, True], repeat=S)]
        returns, calls = np.stack([line[0] for line in lines]), np.stack([line[1] for line in lines])
        frontier = price_frontier(mdp)
        for price in (0.0, 0.05, 0.2, *frontier.breakpoints[1:4]):
            values = (returns - price * calls).max(axis=0)
            part.note(BRUTE, np.abs(solve.policy_iteration(mdp, float(price)).values - values).max())
            part.note(BRUTE, np.abs(operators.bellman(mdp, values, float(price)) - values).max())
            start = ((returns - price * calls) @ mdp.initial).max()
            part.note(BRUTE, abs(float(frontier.value(price)) - start))


def _run(settings: Settings, job: int) -> Part:
    part = Part()
    _brute(settings, part)
    _tight(part)
    _not_nested(part)
    _hidden(part)
    _unsafe(part)
    return part


SUITE = Suite("facts", (BRUTE, TIGHT, NESTED, HIDDEN, UNSAFE), lambda settings: 1, _run)
