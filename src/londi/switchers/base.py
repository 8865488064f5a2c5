"""`Switcher`: the policy that says in which states DEEPTHINK should act. It can ask; only a `Budget` permits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from londi.encoders.base import Features, Moment

FAILED = -2
"""In place of what DEEPTHINK did: it was called and failed, so that nothing is known of what it would do."""


@dataclass(frozen=True, slots=True)
class State:
    """A state as text."""

    observation: str
    action: str
    """What QUICK would do."""
    moment: Moment


@dataclass(frozen=True, slots=True)
class Query:
    """What a Switcher decides on, for B states."""

    features: Features
    remaining: NDArray[np.float64]
    """(B,) calls left; `inf` for no limit."""
    price: NDArray[np.float64]
    """(B,) price of a call, in units of return."""
    uniform: NDArray[np.float64]
    """(B,) numbers drawn from U[0, 1), each from its episode's own generator: Switchers have no randomness of
    their own, so a batch chooses what its states would one at a time."""

    states: tuple[State, ...] = ()
    """The same states as text, for rules that read; empty where they are not known."""

    def __len__(self) -> int:
        return len(self.remaining)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a Switcher chose, for B states."""

    call: NDArray[np.bool_]
    """(B,) whether it asks for DEEPTHINK; never at 0 remaining."""
    propensity: NDArray[np.float64]
    """(B,) probability of that choice."""
    advantage: NDArray[np.float64]
    """(B,) its estimate of Q(call) - Q(no call); NaN where it has none, or no call is left. Never infinite."""
    disagree: NDArray[np.float64] | None = None
    """(B,) its estimate of the probability that DEEPTHINK would act otherwise; None where it makes none."""


class Switcher(Protocol):
    """A policy over calls; it holds no environment, no language model and no optimiser."""

    def choose(self, query: Query) -> Choice:
        """Choose for B states; `call` is False wherever `query.remaining` is 0."""
        ...


def budget_rows(remaining: NDArray[np.floating[Any]], max_calls: int) -> NDArray[np.int64]:
    """Return the row of Q for each remaining budget (B,); above N a finite budget is worth N's row."""
    finite = np.where(np.isinf(remaining), 0, np.minimum(remaining, max_calls))
    return np.where(np.isinf(remaining), max_calls + 1, finite).astype(np.int64)


def choose_with_probability(probability: NDArray[np.float64], query: Query) -> Choice:
    """Call with the given probability (B,) wherever calls remain."""
    probability = np.where(query.remaining > 0, probability, 0.0)
    call = query.uniform < probability
    return Choice(call, np.where(call, probability, 1 - probability), np.full(len(query), np.nan))
