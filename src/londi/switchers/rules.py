"""Switchers that are rules: the baselines every learned Switcher has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from londi.encoders.base import ENTROPY, MARGIN
from londi.errors import ConfigError
from londi.switchers.base import Choice, Query, choose_with_probability


@dataclass(frozen=True)
class Never:
    """QUICK alone."""

    def choose(self, query: Query) -> Choice:
        """Never call."""
        return choose_with_probability(np.zeros(len(query)), query)


@dataclass(frozen=True)
class Always:
    """DEEPTHINK alone, as long as the budget lasts."""

    def choose(self, query: Query) -> Choice:
        """Call wherever calls remain."""
        return choose_with_probability(np.ones(len(query)), query)


@dataclass(frozen=True)
class RandomRate:
    """Call with the same probability in every state. Raises `ConfigError` outside [0, 1]."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"a random rate lies in [0, 1], not {self.rate}")

    def choose(self, query: Query) -> Choice:
        """Call at the rate."""
        return choose_with_probability(np.full(len(query), self.rate), query)


@dataclass(frozen=True)
class EntropyThreshold:
    """Call where QUICK is unsure: the entropy of its probabilities (nats) exceeds the threshold."""

    threshold: float

    def choose(self, query: Query) -> Choice:
        """Call above the threshold."""
        unsure = query.features.dense[:, ENTROPY] > self.threshold
        return choose_with_probability(unsure.astype(np.float64), query)


@dataclass(frozen=True)
class MarginThreshold:
    """Call where QUICK hesitates: its two most probable actions differ by less than the threshold in probability.

    Raises `ConfigError` outside [0, 1].
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"a margin lies in [0, 1], not {self.threshold}")

    def choose(self, query: Query) -> Choice:
        """Call below the threshold."""
        unsure = query.features.dense[:, MARGIN] < self.threshold
        return choose_with_probability(unsure.astype(np.float64), query)


@dataclass(frozen=True)
class EveryStep:
    """Call in the first step of an episode and in every `period`-th after it. Raises `ConfigError` below 1."""

    period: int

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ConfigError(f"a period is at least 1 step, not {self.period}")

    def choose(self, query: Query) -> Choice:
        """Call where the number of steps so far is a multiple of the period."""
        return choose_with_probability((_steps(query) % self.period == 0).astype(np.float64), query)


@dataclass(frozen=True)
class FirstSteps:
    """Call in the first `count` steps of an episode and then no more. Raises `ConfigError` below 0."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"a number of first steps is at least 0, not {self.count}")

    def choose(self, query: Query) -> Choice:
        """Call where fewer steps than that were taken."""
        return choose_with_probability((_steps(query) < self.count).astype(np.float64), query)


def _steps(query: Query) -> NDArray[np.int64]:
    """(B,) how many steps were taken."""
    if len(query.states) != len(query):
        raise ConfigError("a rule that counts steps needs to know the step: the query has no states")
    return np.array([state.moment.step for state in query.states], np.int64)
