"""Q-learning with a table: a price, all prices, all budgets; and with linear features.

The paper's learner (arXiv 2402.12061, theorem 3 and its linear form) keeps Q[s, g] for one price. The universal form
keeps a row of Q for every price or every budget and moves all of them by each transition, because a transition says
nothing that depends on price or budget. One row is the paper's learner; `relabel = False` moves one row only.

Each object holds R independent learners that take a step together, each on its own transitions: R seeds, or R prices
learnt one by one. Letters in shapes: R learners, K rows (prices, or budgets 0..N and no limit), S states, d features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError
from londi.switchers.tabular import TabularSwitcher

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition for each of R learners."""

    state: IntArray
    """(R,)"""
    call: NDArray[np.bool_]
    """(R,) whether DEEPTHINK acted."""
    reward: FloatArray
    """(R,) without the price of the call."""
    next_state: IntArray
    """(R,)"""
    done: NDArray[np.bool_]
    """(R,) whether the episode is over in `next_state`, by its terminal state."""


@dataclass(frozen=True)
class Prices:
    """Rows for prices: each calls for a price of its own, and goes on at the same price."""

    prices: FloatArray
    """(K,), or (R, K) where the learners have different ones; each at least 0."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.prices) & (self.prices >= 0)).all() or not self.prices.size:
            raise ConfigError(f"prices must be finite and at least 0, not {self.prices}")

    @property
    def num_rows(self) -> int:
        """K."""
        return int(self.prices.shape[-1])

    def targets(self, call: NDArray[np.bool_], reward: FloatArray, best: FloatArray) -> FloatArray:
        """Return the targets (R, K) from the discounted best value (R, K) of the next state, row by row."""
        cost: FloatArray = call[:, None] * self.prices
        return reward[:, None] - cost + best


@dataclass(frozen=True)
class Budgets:
    """Rows for budgets 0..N and, in the last one, no limit: a call leads from row x to row x - 1; row 0 has none."""

    max_calls: int
    """N >= 1."""

    def __post_init__(self) -> None:
        if self.max_calls < 1:
            raise ConfigError(f"max_calls must be at least 1, not {self.max_calls}")

    @property
    def num_rows(self) -> int:
        """K = N + 2."""
        return self.max_calls + 2

    def targets(self, call: NDArray[np.bool_], reward: FloatArray, best: FloatArray) -> FloatArray:
        """Return the targets (R, K) from the discounted best value (R, K) of the next state; a call in row 0: -inf."""
        after_call = np.concatenate([np.full((len(best), 1), -np.inf), best[:, :-2], best[:, -1:]], axis=1)
        found: FloatArray = reward[:, None] + np.where(call[:, None], after_call, best)
        return found


class QLearning:
    """R tables Q (R, K, S, 2), each moved towards the targets of its own transitions.

    The n-th visit of (s, g) moves Q[s, g] by alpha = 1 / (1 + (1 - gamma) (n - 1)), which meets the conditions of
    Robbins and Monro (rescaled linear rate: Wainwright 2019, arXiv 1905.06265).
    Raises `ConfigError` unless 0 <= gamma < 1 and num_states >= 1.
    """

    def __init__(self, rows: Prices | Budgets, num_states: int, gamma: float, learners: int = 1) -> None:
        if not 0 <= gamma < 1 or num_states < 1 or learners < 1:
            raise ConfigError("Q-learning needs 0 <= gamma < 1, and at least one state and one learner")
        self.rows, self.gamma = rows, gamma
        self.q = np.zeros((learners, rows.num_rows, num_states, 2))
        if isinstance(rows, Budgets):
            self.q[:, 0, :, 1] = -np.inf
        self.visits = np.zeros((learners, rows.num_rows, num_states, 2), np.int64)
        self._each = np.arange(learners)

    def update(self, step: Transition, row: IntArray | None = None) -> None:
        """Learn from one transition each: all rows, or only `row` (R,), the one the transition was made under."""
        each, g = self._each, step.call.astype(np.int64)
        following = self.q[each, :, step.next_state].max(axis=-1)  # (R, K)
        best = self.gamma * np.where(step.done[:, None], 0.0, following)
        targets = self.rows.targets(step.call, step.reward, best)
        if row is None:
            where: tuple[Any, ...] = (each, slice(None), step.state, g)
        else:
            where, targets = (each, row, step.state, g), targets[each, row]
        counted = self.visits[where]
        self.visits[where] = counted + 1
        alpha = 1 / (1 + (1 - self.gamma) * counted)
        possible = np.isfinite(targets)
        old = self.q[where]
        gap = np.subtract(targets, old, out=np.zeros_like(targets), where=possible)
        self.q[where] = np.where(possible, old + alpha * gap, old)

    @property
    def values(self) -> FloatArray:
        """(R, K, S): the largest of the two, the learned value of each state."""
        return np.asarray(self.q.max(axis=-1))

    def switcher(self, learner: int = 0) -> TabularSwitcher:
        """Return what one of the learners has learned, as a Switcher. Prices must rise."""
        advantage = self.q[learner, ..., 1] - self.q[learner, ..., 0]
        if isinstance(self.rows, Budgets):
            return TabularSwitcher("budget", np.where(np.isfinite(advantage), advantage, 0.0))
        prices = self.rows.prices if self.rows.prices.ndim == 1 else self.rows.prices[learner]
        return TabularSwitcher("price", advantage, prices)


class LinearQLearning:
    """Q[s, g] = phi(s) . w[g], one w for every row: the paper's linear form, for all prices or budgets at once.

    The t-th update moves the weights by `rate` / (1 + t / `delay`) times the error times phi(s).
    For budgets it converges where states are drawn from the stationary distribution of QUICK's chain; for prices only
    under a condition on how states are drawn (docs/theory.md). Raises `ConfigError` for `phi` that is not (S, d), gamma
    outside [0, 1), and counts or rates that are not positive.
    """

    def __init__(
        self,
        rows: Prices | Budgets,
        phi: FloatArray,
        gamma: float,
        learners: int = 1,
        rate: float = 0.5,
        delay: float = 2e3,
    ) -> None:
        if not 0 <= gamma < 1 or phi.ndim != 2 or learners < 1 or rate <= 0 or delay <= 0:
            raise ConfigError(
                "linear Q-learning needs features (S, d), 0 <= gamma < 1, at least one learner, rate and delay above 0"
            )
        self.rows, self.phi, self.gamma, self.rate, self.delay = rows, phi, gamma, rate, delay
        self.weights = np.zeros((learners, rows.num_rows, 2, phi.shape[1]))
        self.updates = 0
        self._each = np.arange(learners)

    def update(self, step: Transition) -> None:
        """Learn from one transition each, all rows."""
        q = self._q(step.next_state)
        best = self.gamma * np.where(step.done[:, None], 0.0, q.max(axis=-1))
        targets = self.rows.targets(step.call, step.reward, best)
        g, phi = step.call.astype(np.int64), self.phi[step.state]
        chosen = self.weights[self._each, :, g]  # (R, K, d)
        gap = targets - np.einsum("rkd,rd->rk", chosen, phi)
        gap = np.where(np.isfinite(gap), gap, 0.0)
        alpha = self.rate / (1 + self.updates / self.delay)
        self.weights[self._each, :, g] = chosen + alpha * gap[..., None] * phi[:, None]
        self.updates += 1

    def _q(self, state: IntArray) -> FloatArray:
        """Q (R, K, 2) of one state (R,) each."""
        q: FloatArray = np.einsum("rkgd,rd->rkg", self.weights, self.phi[state])
        if isinstance(self.rows, Budgets):
            q[:, 0, 1] = -np.inf
        return q
