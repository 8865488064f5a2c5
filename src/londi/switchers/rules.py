"""Switchers that are rules: the baselines every learned Switcher has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
        if len(query.states) != len(query):
            raise ConfigError("calling every so many steps needs to know the step: the query has no states")
        due = [state.moment.step % self.period == 0 for state in query.states]
        return choose_with_probability(np.array(due, np.float64), query)
