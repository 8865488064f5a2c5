"""Streams of transitions from a known problem, for the learners that do not know it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError
from londi.learners.qlearning import Transition
from londi.theory.mdp import FloatArray, SwitchingMDP


class Sampler:
    """R processes side by side, each calling at random; each is its own stream of transitions.

    After every step a process starts anew from `initial` with probability `restart`, and always where it ended.
    `call_rate` is the chance of a call, one number or (R,). Raises `ConfigError` for a sparse problem.
    """

    def __init__(
        self,
        mdp: SwitchingMDP,
        processes: int,
        rng: np.random.Generator,
        *,
        restart: float = 0.0,
        initial: FloatArray | None = None,
        call_rate: float | FloatArray = 0.5,
    ) -> None:
        if mdp.sparse:
            raise ConfigError("transitions are drawn from dense problems only: this one's matrices are sparse")
        self.mdp, self.rng, self.restart, self.call_rate = mdp, rng, restart, call_rate
        self._initial = np.cumsum(mdp.initial if initial is None else initial)
        self._cumulative = np.cumsum(mdp.transition, axis=-1)
        self.state = self._start(processes)

    def step(self) -> Transition:
        """Take one step in each process."""
        mdp, state = self.mdp, self.state
        call = self.rng.random(len(state)) < self.call_rate
        g = call.astype(np.int64)
        following = draw(self._cumulative[g, state], self.rng)
        done = mdp.terminal[following]
        new = done | (self.rng.random(len(state)) < self.restart)
        self.state = np.where(new, self._start(len(state)), following)
        return Transition(state, call, mdp.reward[g, state], following, done)

    def _start(self, count: int) -> NDArray[np.int64]:
        return draw(np.broadcast_to(self._initial, (count, len(self._initial))), self.rng)


def draw(cumulative: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """One index from each row of cumulative probabilities (R, S)."""
    drawn = (cumulative <= rng.random((len(cumulative), 1)) * cumulative[:, -1:]).sum(axis=1)
    return np.asarray(drawn, np.int64)
