"""`Encoder`: prompts and QUICK's own decisions become phi(s), what the Switcher sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from londi.lms.base import Decision

ENTROPY, MARGIN = 0, 1
"""Columns of `Features.dense` that every encoder fills: entropy of QUICK's probabilities (nats), and the difference
of its two largest probabilities. Where actions are free text: mean entropy of the tokens that QUICK wrote, and the
probability of its text."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an episode stands, as far as the text does not show it."""

    step: int
    max_steps: int
    actions: tuple[str, ...]
    """Executed actions, oldest first."""
    times_seen: int
    """How often the present observation was seen before in this episode: a memoryless model that comes back to a
    text is in a loop."""
    since_seen: int
    """Steps since it was last seen; 0 where `times_seen` is 0."""
    overrode_then: bool
    """Whether DEEPTHINK overrode QUICK when it was last seen."""
    revisits: int
    """Earlier steps of the episode whose observation had been seen before them."""
    overrides: int
    """Steps so far on which DEEPTHINK acted and said something else than QUICK. A call that agreed leaves no trace
    here: the state is the same as if QUICK had acted, which is what lets the learners count it as both."""
    since_override: int
    """Steps since the last of them (1: the step before this one); 0 where there was none."""
    refused: bool = False
    """Whether the last action was not understood."""
    since_progress: int = 0
    """Steps since the score last rose, or a reward came where the environment keeps no score; since the beginning
    where neither did."""


@dataclass(frozen=True, slots=True)
class Features:
    """phi for B states: `text` (B, C, W) int16 hashed n-grams of C clauses, `fields` (B, C) int16 the line each
    clause stands in, `dense` (B, D) float32."""

    text: NDArray[np.int16]
    fields: NDArray[np.int16]
    dense: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, rows: Any) -> Features:
        return Features(self.text[rows], self.fields[rows], self.dense[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Join along the first axis."""
        return cls(
            np.concatenate([p.text for p in parts]),
            np.concatenate([p.fields for p in parts]),
            np.concatenate([p.dense for p in parts]),
        )


class Encoder(Protocol):
    """Turns B states into `Features`; has no trainable parts (those live in the Switcher's network)."""

    def encode(
        self,
        prompts: Sequence[str],
        decisions: Sequence[Decision],
        moments: Sequence[Moment],
        admissible: tuple[str, ...] | None,
    ) -> Features:
        """Return phi for B states."""
        ...
