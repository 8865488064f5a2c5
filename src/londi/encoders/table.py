"""`TableEncoder`: the number of a state, for tasks with few states that a prompt names in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from londi.encoders.base import Features, Moment
from londi.encoders.text import entropy, probabilities
from londi.errors import ConfigError
from londi.lms.base import Decision

STATE = 2
"""Column of `Features.dense` that holds the state's number; beside it only entropy and margin are filled."""

_LARGEST = 2**24
"""float32 counts no further."""


class TableEncoder:
    """Numbers the states of a task: what `TabularSwitcher` reads.

    `index` gives the number of the state that a prompt describes, from 0 to `num_states` - 1; another number raises
    `ConfigError`, as does a `num_states` below 1 or above 2**24.
    """

    def __init__(self, index: Callable[[str], int], num_states: int) -> None:
        if not 1 <= num_states <= _LARGEST:
            raise ConfigError(f"a table has 1 to {_LARGEST:,} states, not {num_states:,}")
        self.index, self.num_states = index, num_states

    def num_dense(self, num_actions: int | None) -> int:
        """Columns of `Features.dense`, whatever the actions."""
        return STATE + 1

    def encode(
        self,
        prompts: Sequence[str],
        decisions: Sequence[Decision],
        moments: Sequence[Moment],
        admissible: tuple[str, ...] | None,
    ) -> Features:
        """Return phi for B states: no text, dense (B, 3)."""
        dense = np.zeros((len(prompts), STATE + 1), np.float32)
        for row, (prompt, decision) in enumerate(zip(prompts, decisions, strict=True)):
            p = np.sort(probabilities(decision))[::-1]
            dense[row] = entropy(p), p[0] - p[1] if len(p) > 1 else 0.0, self._number(prompt)
        return Features(np.zeros((len(prompts), 0, 0), np.int16), np.zeros((len(prompts), 0), np.int16), dense)

    def _number(self, prompt: str) -> int:
        number = self.index(prompt)
        if not 0 <= number < self.num_states:
            raise ConfigError(f"state {number} is not among the {self.num_states} of the table")
        return number
