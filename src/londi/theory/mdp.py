"""`SwitchingMDP`: what is left of a task once QUICK and DEEPTHINK are fixed, two Markov chains to switch between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Matrix: TypeAlias = Any
"""(S, S): a numpy array or a `scipy.sparse.csr_array`; both answer `matrix @ values` and `matrix.T`."""

QUICK, DEEPTHINK = 0, 1
"""The two values of the Switcher's choice g, first axis of `transition` and `reward`."""

_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class SwitchingMDP:
    """The decision problem of the Switcher over S states (arXiv 2402.12061, section "Bellman operator").

    Arrays are copied to float64 (bool for `terminal`) and made read-only; a pair of scipy sparse matrices is kept
    sparse. Raises `ConfigError` where shapes disagree, a value is not finite, a distribution does not sum to 1, a
    terminal state can be left or pays, or gamma lies outside [0, 1].
    """

    transition: Any
    """(2, S, S), or a pair of sparse (S, S): `transition[g][s, s']` is the probability of s' after choice g in s."""
    reward: FloatArray
    """(2, S): expected immediate reward of choice g in s, without the price of a call."""
    initial: FloatArray
    """(S,): distribution of the first state."""
    terminal: BoolArray
    """(S,): states where the episode is over; absorbing, reward 0."""
    gamma: float = 1.0
    """Discount in [0, 1]. Read as survival: an episode also ends with probability 1 - gamma after each step."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"gamma must lie in [0, 1], not {self.gamma}")
        object.__setattr__(self, "transition", _kept(self.transition))
        self._keep("reward", np.array(self.reward, dtype=np.float64))
        self._keep("initial", np.array(self.initial, dtype=np.float64))
        self._keep("terminal", np.array(self.terminal, dtype=np.bool_))
        self._check_shapes()
        self._check_values()

    @property
    def num_states(self) -> int:
        """S, the number of states, terminal ones included."""
        return int(self.initial.shape[0])

    @property
    def sparse(self) -> bool:
        """Whether the transition matrices are sparse."""
        return isinstance(self.transition, tuple)

    def mixed(self, call: BoolArray) -> tuple[Matrix, FloatArray]:
        """Return the transition matrix (S, S) and the rewards (S,) of the Switcher that calls where `call` (S,)."""
        reward = np.where(call, self.reward[DEEPTHINK], self.reward[QUICK])
        if not self.sparse:
            return np.where(call[:, None], self.transition[DEEPTHINK], self.transition[QUICK]), reward
        from scipy.sparse import diags_array

        chosen = call.astype(np.float64)
        quick, deepthink = diags_array(1 - chosen) @ self.transition[QUICK], diags_array(chosen)
        return (quick + deepthink @ self.transition[DEEPTHINK]).tocsr(), reward

    def _keep(self, name: str, array: NDArray[np.generic]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _check_shapes(self) -> None:
        if self.initial.ndim != 1 or not self.initial.size:
            raise ConfigError(f"initial must be a vector of at least one state, not of shape {self.initial.shape}")
        S = self.num_states
        found = (len(self.transition), *self.transition[0].shape) if self.sparse else self.transition.shape
        shapes = {"transition": (found, (2, S, S)), "reward": (self.reward.shape, (2, S))}
        shapes["terminal"] = (self.terminal.shape, (S,))
        for name, (shape, wanted) in shapes.items():
            if shape != wanted:
                raise ConfigError(f"{name} must have shape {wanted} to go with {S} initial states, not {shape}")
        if self.sparse and self.transition[1].shape != (S, S):
            raise ConfigError(f"transition[1] must have shape {(S, S)}, not {self.transition[1].shape}")

    def _check_values(self) -> None:
        if not np.isfinite(self.reward).all():
            raise ConfigError("reward must be finite")
        for name, rows in (("transition", self.transition[0]), ("transition", self.transition[1]), ("initial", None)):
            matrix = self.initial if rows is None else rows
            smallest, sums = matrix.min(), np.asarray(matrix.sum(axis=-1))
            if not (smallest >= 0 and (np.abs(sums - 1) <= _SUM_TOLERANCE).all()):
                raise ConfigError(f"{name} must hold probabilities: each row non-negative and summing to 1")
        ends = np.flatnonzero(self.terminal)
        stay = np.stack([matrix.diagonal()[ends] for matrix in self.transition])
        if (stay < 1 - _SUM_TOLERANCE).any() or self.reward[:, ends].any():
            raise ConfigError("a terminal state must stay where it is with probability 1 and reward 0")


def _kept(transition: Any) -> Any:
    """A read-only (2, S, S) array, or a pair of csr arrays."""
    if isinstance(transition, tuple | list) and any(hasattr(matrix, "tocsr") for matrix in transition):
        from scipy.sparse import csr_array

        return tuple(csr_array(matrix, dtype=np.float64) for matrix in transition)
    array = np.array(transition, dtype=np.float64)
    array.setflags(write=False)
    return array
