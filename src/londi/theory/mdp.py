"""`SwitchingMDP`: what is left of a task once QUICK and DEEPTHINK are fixed, two Markov chains to switch between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

QUICK, DEEPTHINK = 0, 1
"""The two values of the Switcher's choice g, first axis of `transition` and `reward`."""

_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class SwitchingMDP:
    """The decision problem of the Switcher over S states (arXiv 2402.12061, section "Bellman operator").

    Arrays are copied to float64 (bool for `terminal`) and made read-only. Raises `ConfigError` where shapes
    disagree, a value is not finite, a distribution does not sum to 1, or a terminal state can be left or pays.
    """

    transition: FloatArray
    """(2, S, S): `transition[g, s, s']` is the probability of s' after choice g in s."""
    reward: FloatArray
    """(2, S): expected immediate reward of choice g in s, without the price of a call."""
    initial: FloatArray
    """(S,): distribution of the first state."""
    terminal: BoolArray
    """(S,): states where the episode is over; absorbing, reward 0."""

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "initial"):
            self._keep(name, np.array(getattr(self, name), dtype=np.float64))
        self._keep("terminal", np.array(self.terminal, dtype=np.bool_))
        self._check_shapes()
        self._check_values()

    @property
    def num_states(self) -> int:
        """S, the number of states, terminal ones included."""
        return int(self.initial.shape[0])

    def _keep(self, name: str, array: NDArray[np.generic]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _check_shapes(self) -> None:
        if self.initial.ndim != 1 or not self.initial.size:
            raise ConfigError(f"initial must be a vector of at least one state, not of shape {self.initial.shape}")
        S = self.num_states
        for name, shape in (("transition", (2, S, S)), ("reward", (2, S)), ("terminal", (S,))):
            found = getattr(self, name).shape
            if found != shape:
                raise ConfigError(f"{name} must have shape {shape} to go with {S} initial states, not {found}")

    def _check_values(self) -> None:
        if not np.isfinite(self.reward).all():
            raise ConfigError("reward must be finite")
        for name in ("transition", "initial"):
            rows = getattr(self, name)
            sums = rows.sum(axis=-1)
            if not ((rows >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all()):
                raise ConfigError(f"{name} must hold probabilities: each row non-negative and summing to 1")
        ends = np.flatnonzero(self.terminal)
        if (self.transition[:, ends, ends] < 1 - _SUM_TOLERANCE).any() or self.reward[:, ends].any():
            raise ConfigError("a terminal state must stay where it is with probability 1 and reward 0")
