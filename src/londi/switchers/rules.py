"""Switchers that are rules: the baselines every learned Switcher has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from londi.encoders.base import ENTROPY
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
