"""Remember the decisions of a deterministic language model.

Evaluation runs many policies over the same episodes, so the same prompts come back. The usage of a remembered
decision is that of the call it stands for: a policy is charged as if it had asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from londi.errors import ModelError
from londi.lms.base import Bounded, Decision, LanguageModel
from londi.usage import Usage


class CachedLM:
    """A `LanguageModel` that asks `inner` once for each prompt; at most `capacity` are kept, the oldest go first."""

    def __init__(self, inner: LanguageModel, capacity: int = 200_000) -> None:
        self.inner, self.capacity, self.name = inner, capacity, inner.name
        self.hits = self.misses = 0
        self._known: dict[tuple[str, tuple[str, ...] | None], Decision] = {}

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the worst cases of `inner`; raises `ModelError` where it knows none."""
        if not isinstance(self.inner, Bounded):
            raise ModelError(f"{self.name} doesn't know the most a call can cost (it has no worst_case): count calls")
        return self.inner.worst_case(prompts, candidates)

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt, asking `inner` only for new ones."""
        closed = None if candidates is None else tuple(candidates)
        new = list(dict.fromkeys(prompt for prompt in prompts if (prompt, closed) not in self._known))
        self.misses += len(new)
        self.hits += len(prompts) - len(new)
        fresh = dict(zip(new, self.inner.decide(new, candidates), strict=True)) if new else {}
        decisions = [fresh.get(prompt) or self._known[prompt, closed] for prompt in prompts]
        for prompt, decision in fresh.items():
            if not decision.error:  # the next time it may work
                self._known[str(prompt), closed] = decision
        while len(self._known) > self.capacity:
            del self._known[next(iter(self._known))]
        return decisions

    def state(self) -> dict[str, Any]:
        """Return the decisions that are kept, in plain types and arrays, for a checkpoint."""
        sets = list(dict.fromkeys(closed for _, closed in self._known))
        which = {closed: number for number, closed in enumerate(sets)}
        rows = [
            (prompt, which[closed], d.action, d.thought, astuple(d.usage), d.logprobs, d.logprob, d.entropy)
            for (prompt, closed), d in self._known.items()
        ]
        shown = [d.hidden for d in self._known.values()]
        hidden = [np.asarray(h, np.float32) for h in shown if h is not None]
        return {
            "sets": sets,
            "rows": rows,
            "widths": [None if h is None else len(h) for h in shown],
            "hidden": np.concatenate(hidden) if hidden else np.empty(0, np.float32),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; raises KeyError, TypeError or ValueError where it is damaged."""
        hidden, start = np.asarray(state["hidden"]), 0
        for row, width in zip(state["rows"], state["widths"], strict=True):
            prompt, which, action, thought, usage, logprobs, logprob, entropy = row
            kept = None if width is None else hidden[start : start + width]
            start += width or 0
            self._known[prompt, state["sets"][which]] = Decision(
                action, Usage(*usage), logprobs, thought, kept, logprob=logprob, entropy=entropy
            )
