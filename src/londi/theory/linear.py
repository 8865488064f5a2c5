"""Linear systems (I - gamma D P) x = b of Markov chains, dense by factors and sparse by iteration."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from londi.errors import ConfigError, MissingExtraError
from londi.theory.mdp import FloatArray, Matrix, SwitchingMDP

try:
    from scipy.linalg import LinAlgWarning, lu_factor, lu_solve
    from scipy.sparse import csr_array, diags_array, eye_array
    from scipy.sparse.linalg import bicgstab, gmres, splu
except ImportError as error:
    raise MissingExtraError("scipy", "theory") from error

_RESIDUAL = 1e-13
_LONGEST = 1e10
"""Expected steps of an episode beyond which it is held to be endless."""
_SINGULAR = "this Switcher never ends its episodes: at gamma = 1 every state must lead to a terminal one"


def chain_solver(
    mdp: SwitchingMDP, matrix: Matrix, going: FloatArray | None = None
) -> Callable[[FloatArray], FloatArray]:
    """Return a function that solves (I - gamma D P) x = b for b (S,) or (S, k).

    `matrix` (S, S) is P; `going` (S,) the diagonal of D, by default 1 wherever the episode goes on.
    Calling the function raises `ConfigError` where the system is singular.
    """
    weight = mdp.gamma * (~mdp.terminal if going is None else going)
    if not mdp.sparse:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", LinAlgWarning)  # `_checked` says it in our words
            factors = lu_factor(np.eye(mdp.num_states) - weight[:, None] * matrix, check_finite=False)
        return lambda right: _checked(lu_solve(factors, right), right)
    iterative = _Iterative(csr_array(eye_array(mdp.num_states) - diags_array(weight) @ matrix))
    return lambda right: _checked(iterative.solve(right), right)


def _checked(found: FloatArray, right: FloatArray) -> FloatArray:
    """Refuse what only a singular system gives: values as if episodes lasted for ever."""
    if not np.isfinite(found).all() or np.abs(found).max() > _LONGEST * np.abs(right).max():
        raise ConfigError(_SINGULAR)
    return found


class _Iterative:
    """BiCGSTAB, or GMRES where it breaks down, to machine precision; where both stall, a sparse factorisation."""

    def __init__(self, system: csr_array) -> None:
        self.system = system
        self.factors: Any = None

    def solve(self, right: FloatArray) -> FloatArray:
        if right.ndim == 2:
            return np.stack([self.solve(column) for column in right.T], -1)
        if self.factors is None:
            found = self._refine(right)
            if found is not None:
                return found
            try:
                self.factors = splu(self.system.tocsc())
            except RuntimeError as error:
                raise ConfigError(_SINGULAR) from error
        return np.asarray(self.factors.solve(right))

    def _refine(self, right: FloatArray) -> FloatArray | None:
        """Solve, then solve for what is left over, until nothing is; None where that does not happen."""
        found, scale = np.zeros_like(right), np.abs(right).max()
        for _ in range(5):
            left = right - self.system @ found
            if np.abs(left).max() <= _RESIDUAL * max(scale, np.abs(found).max()):
                return found
            step = self._krylov(left)
            if step is None:
                return None
            found = found + step
        return None

    def _krylov(self, right: FloatArray) -> FloatArray | None:
        step, failed = bicgstab(self.system, right, rtol=1e-10, atol=0.0, maxiter=300)
        if failed or not np.isfinite(step).all():
            step, failed = gmres(self.system, right, rtol=1e-10, atol=0.0, restart=100, maxiter=5)
        return None if failed or not np.isfinite(step).all() else np.asarray(step)
