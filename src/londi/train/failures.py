"""DEEPTHINK calls that fail while Switchers are trained: counted, and warned of where most of them do."""

from __future__ import annotations

import warnings
from collections import deque

from londi.episode import Episode

RECENT = 20
"""Calls that are looked at: more than half of them must have failed for a warning."""


class Failures:
    """How many DEEPTHINK calls failed, so that QUICK acted; `name` is what DEEPTHINK is called in the warning."""

    def __init__(self, name: str) -> None:
        self.name, self.count, self.warned = name, 0, False
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def note(self, episode: Episode) -> None:
        """Count what failed in an episode; warns once, the first time that most of the last calls failed."""
        self.count += episode.num_failed
        for step in episode.steps:
            if step.deepthink is not None:
                self._recent.append(bool(step.deepthink.error))
                if step.deepthink.error:
                    self._warn(step.deepthink.error)

    def _warn(self, error: str) -> None:
        failed = sum(self._recent)
        if self.warned or len(self._recent) < RECENT or 2 * failed <= RECENT:
            return
        self.warned = True
        warnings.warn(
            f"{failed} of the last {RECENT} calls of DEEPTHINK ({self.name}) failed, the last with '{error}'. "
            "Training goes on, QUICK acts, and what is learned is that such calls gain nothing",
            stacklevel=2,
        )
