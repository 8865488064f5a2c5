"""Switchers that look the answer up: learned by `londi.learners.qlearning`, or exact by `londi.theory.solve`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from londi.encoders.table import STATE
from londi.errors import ConfigError
from londi.switchers.base import Choice, Query, budget_rows


class TabularSwitcher:
    """Calls where the table says that a call is worth more; reads the states of `TableEncoder`.

    `advantage` (K, S) is Q(call) - Q(no call) for K rows: with `kind` "budget" for 0, 1, ..., N calls left and, in
    the last row, no limit (its row 0 is not looked at), with "price" for the K rising `prices`. Between two prices it
    is interpolated, beyond the last or below the first it is theirs. Raises `ConfigError` where shapes don't fit.
    """

    def __init__(
        self,
        kind: Literal["budget", "price"],
        advantage: NDArray[np.float64],
        prices: NDArray[np.float64] | None = None,
    ) -> None:
        self.kind, self.advantage = kind, np.array(advantage, dtype=np.float64)
        self.prices = None if prices is None else np.array(prices, dtype=np.float64)
        rows = len(self.advantage) if self.advantage.ndim == 2 else 0
        if kind == "budget" and (rows < 3 or prices is not None):
            raise ConfigError("a budget table has rows for 0, 1, ..., N calls left and for no limit, and no prices")
        if kind == "price":
            rising = self.prices is not None and (np.diff(self.prices) > 0).all()
            if not rising or rows == 0 or self.prices is None or self.prices.shape != (rows,):
                raise ConfigError("a price table needs a row for each of its prices, and the prices must rise")

    def choose(self, query: Query) -> Choice:
        """Choose for B states; a budget table ignores the price, a price table the budget (but 0)."""
        state = query.features.dense[:, STATE].astype(np.int64)
        if self.prices is None:
            advantage = self.advantage[budget_rows(query.remaining, len(self.advantage) - 2), state]
        else:
            position = np.interp(query.price, self.prices, np.arange(len(self.prices)))
            below = np.floor(position).astype(np.int64)
            share = position - below
            above = np.minimum(below + 1, len(self.prices) - 1)
            advantage = (1 - share) * self.advantage[below, state] + share * self.advantage[above, state]
        advantage = np.where(query.remaining > 0, advantage, np.nan)
        return Choice(advantage > 0, np.ones(len(advantage)), advantage)

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs to build the same Switcher again."""
        return {"kind": self.kind, "advantage": self.advantage, "prices": self.prices}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TabularSwitcher:
        """Build the Switcher that `state` describes; raises KeyError or `ConfigError` if it is damaged."""
        return cls(state["kind"], state["advantage"], state["prices"])
