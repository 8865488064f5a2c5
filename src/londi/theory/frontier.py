"""The best value as a function of the price of a call, exactly: every breakpoint, not a grid.

Each Switcher is a line in the price c, its return less c times its calls, and J*(c) is the highest of them: convex,
piecewise linear and falling. The lines are found by asking, where two known ones cross, whether a third lies above
(Eisner and Severance 1976). Returns and calls are discounted, from the initial distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from londi.theory.mdp import DEEPTHINK, QUICK, BoolArray, FloatArray, SwitchingMDP
from londi.theory.operators import backup
from londi.theory.solve import policy_iteration, policy_values

_GAIN = 1e-10
"""A line must lie higher than this at the crossing, in units of the largest value."""


@dataclass(frozen=True, slots=True)
class PriceFrontier:
    """The K best Switchers, from the lowest price to the highest; the last one never calls."""

    breakpoints: FloatArray
    """(K,): Switcher k is best for prices from `breakpoints[k]` (the first is 0) to the next one."""
    returns: FloatArray
    """(K,) expected discounted return of each, without the price; falling."""
    calls: FloatArray
    """(K,) expected discounted calls of each; falling, 0 at last."""
    switch_sets: BoolArray
    """(K, S) where each calls."""

    def value(self, price: float | FloatArray) -> FloatArray:
        """J*(c) for prices of any shape."""
        c = np.asarray(price, dtype=np.float64)[..., None]
        return np.asarray((self.returns - c * self.calls).max(axis=-1))

    def bound(self, budget: float) -> float:
        """No Switcher with at most `budget` calls earns more: min over c >= 0 of J*(c) + c n (weak duality)."""
        return float((self.value(self.breakpoints) + self.breakpoints * budget).min())


def price_frontier(mdp: SwitchingMDP) -> PriceFrontier:
    """Find every breakpoint of J*(c) for c >= 0; two exact solutions for each.

    Lines that rise above the others by less than 1e-10 of the largest value are left out.
    Raises `ConfigError` where gamma = 1 and a Switcher never ends its episodes.
    """
    free = policy_iteration(mdp, 0.0)
    never = np.zeros(mdp.num_states, bool)
    gain = _GAIN * max(1.0, float(np.abs(free.values).max()))
    # beyond this price a call can't pay, even if all that follows were free
    dear = float(np.max(backup(mdp, DEEPTHINK, free.values) - backup(mdp, QUICK, policy_values(mdp, never)[0])))
    lines = [_line(mdp, free.call), _line(mdp, never)]
    pending = [(0, 1)]
    while pending:
        left, right = pending.pop()
        (r0, n0, call), (r1, n1, _) = lines[left], lines[right]
        if n0 - n1 <= 1e-12:
            continue
        price = float(np.clip((r0 - r1) / (n0 - n1), 0.0, max(dear, 0.0)))
        found = policy_iteration(mdp, price, call)
        if mdp.initial @ found.values > max(r0 - price * n0, r1 - price * n1) + gain:
            lines.append(_line(mdp, found.call))
            pending += [(left, len(lines) - 1), (len(lines) - 1, right)]
    return _upper(lines, gain)


def _line(mdp: SwitchingMDP, call: BoolArray) -> tuple[float, float, BoolArray]:
    returns, calls = policy_values(mdp, call)
    return float(mdp.initial @ returns), float(mdp.initial @ calls), call


def _upper(lines: list[tuple[float, float, BoolArray]], gain: float) -> PriceFrontier:
    """Sort by calls and keep what is best somewhere at a price >= 0."""
    kept: list[tuple[float, float, BoolArray]] = []
    starts: list[float] = []
    for line in sorted(lines, key=lambda line: (-line[1], -line[0])):
        while kept:
            fewer = kept[-1][1] - line[1]
            start = (kept[-1][0] - line[0]) / fewer if fewer > 1e-12 else (np.inf if kept[-1][0] >= line[0] else 0.0)
            if start > starts[-1] + gain:
                break
            del kept[-1], starts[-1]
        if kept and np.isinf(start):
            continue
        starts.append(start if kept else 0.0)
        kept.append(line)
    returns, calls, sets = zip(*kept, strict=True)
    return PriceFrontier(np.array(starts), np.array(returns), np.array(calls), np.stack(sets))
