"""Replay of whole episodes: phi(s), the call, the reward. Prices and budgets play no part.

The price enters the reward linearly and the remaining budget moves deterministically, so a stored transition is an
exact sample for every price and every budget. And where DEEPTHINK, once called, said what QUICK had said, it is an
exact sample for both choices. What budget and price a step was made under is kept for the ablation alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi.encoders.base import Features


@dataclass(frozen=True, slots=True)
class Later:
    """The steps of B n-step transitions after the first, in which the episode went on as it was played."""

    reward: NDArray[np.float32]
    """(B,) their rewards, discounted to the first step."""
    cost: NDArray[np.float32]
    """(B,) what those of their calls cost, discounted likewise, in which DEEPTHINK did otherwise than QUICK had said:
    without the others they would have come to the same."""
    calls: NDArray[np.int64]
    """(B,) how many these are: no smaller budget would get there."""
    discount: NDArray[np.float32]
    """(B,) of the value of the state after them, to the first step."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch of B transitions (s, g, r, s', done), of one step or of several."""

    features: Features
    next_features: Features
    """phi(s'); any row where `done`."""
    called: NDArray[np.bool_]
    """(B,) g: whether DEEPTHINK acted."""
    agreed: NDArray[np.bool_]
    """(B,) whether DEEPTHINK acted and said what QUICK had said."""
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    remaining: NDArray[np.float32]
    """(B,) calls that were left (inf: no limit) and..."""
    price: NDArray[np.float32]
    """...the price it was made under; only the no-relabel ablation looks at them."""
    cost: NDArray[np.float32]
    """(B,) what the call cost in the measure of the price, 0 where none was made."""
    answer: NDArray[np.int16]
    """(B,) which of a closed set of actions DEEPTHINK took; -1 where there is no such set, or it was not called, and
    `londi.switchers.base.FAILED` where the call failed."""
    later: Later | None = None
    """The steps after the first, where a transition has more than one."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The T steps of a finished episode, as a learner sees them."""

    features: Features
    called: NDArray[np.bool_]
    agreed: NDArray[np.bool_]
    reward: NDArray[np.float32]
    remaining: NDArray[np.float32]
    price: NDArray[np.float32]
    cost: NDArray[np.float32]
    answer: NDArray[np.int16]

    def state(self) -> dict[str, Any]:
        """Return its arrays, for a checkpoint."""
        rest = {name: getattr(self, name) for name in _PLAIN if name != "done"}
        return {**{name: getattr(self.features, name) for name in _FEATURES}, **rest}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Trajectory:
        """Read what `state` returned; raises KeyError where it is damaged."""
        features = Features(*(np.asarray(state[name]) for name in _FEATURES))
        return cls(features, **{name: np.asarray(state[name]) for name in _PLAIN if name != "done"})


_FEATURES = ("text", "fields", "dense")
_PLAIN = ("called", "agreed", "reward", "done", "remaining", "price", "cost", "answer")


class Replay:
    """A ring of `capacity` steps; the oldest are overwritten."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._next = 0
        self._size = 0
        self._columns: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._size

    def add(self, trajectory: Trajectory) -> None:
        """Append an episode; its last step is terminal (a step limit is part of the task)."""
        steps = len(trajectory.reward)
        done = np.zeros(steps, bool)
        done[-1] = True
        parts: dict[str, NDArray[Any]] = trajectory.state() | {"done": done}
        if not self._columns:
            self._columns = {name: np.zeros((self.capacity, *p.shape[1:]), p.dtype) for name, p in parts.items()}
        rows = (self._next + np.arange(steps)) % self.capacity
        for name, part in parts.items():
            self._columns[name][rows] = part
        self._next = int((self._next + steps) % self.capacity)
        self._size = min(self.capacity, self._size + steps)

    def sample(self, batch: int, rng: np.random.Generator, steps: int = 1, gamma: float = 1.0) -> Transitions:
        """Draw `batch` transitions uniformly, with replacement: of so many steps, fewer where the episode ends."""
        rows = rng.integers(self._size, size=batch)
        c = self._columns
        rest: dict[str, Any] = {name: c[name][rows] for name in _PLAIN}
        if steps == 1:
            return Transitions(self._features(rows), self._features((rows + 1) % self.capacity), **rest)
        later, last = self._later(rows, steps, gamma)
        rest["done"] = c["done"][last]
        return Transitions(self._features(rows), self._features((last + 1) % self.capacity), **rest, later=later)

    def _later(self, rows: NDArray[np.int64], steps: int, gamma: float) -> tuple[Later, NDArray[np.int64]]:
        """What came after the steps at `rows`, and where the last of each n-step transition stands."""
        c = self._columns
        reward, cost = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32)
        calls, discount, last = np.zeros(len(rows), np.int64), np.full(len(rows), gamma, np.float32), rows
        for _ in range(steps - 1):
            going = ~c["done"][last]
            last = np.where(going, (last + 1) % self.capacity, last)
            weight = np.where(going, discount, np.float32(0))
            reward += weight * c["reward"][last]
            needed = c["called"][last] & ~c["agreed"][last]
            cost += weight * needed * c["cost"][last]
            calls += going & needed
            discount = np.where(going, discount * np.float32(gamma), discount)
        return Later(reward, cost, calls, discount), last

    def _features(self, rows: NDArray[np.int64]) -> Features:
        c = self._columns
        return Features(c["text"][rows], c["fields"][rows], c["dense"][rows])

    def state(self) -> dict[str, Any]:
        """Return the stored steps, for a checkpoint."""
        return {
            "next": self._next,
            "size": self._size,
            "columns": {name: column[: self._size].copy() for name, column in self._columns.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        missing = {*_PLAIN} - {*state["columns"]}
        if missing and state["size"]:
            raise KeyError(f"stored steps without {', '.join(sorted(missing))}")
        self._next, self._size = state["next"], state["size"]
        self._columns = {}
        for name, column in state["columns"].items():
            part = np.asarray(column)
            self._columns[name] = np.zeros((self.capacity, *part.shape[1:]), part.dtype)
            self._columns[name][: len(part)] = part


def forgetful(batch: Transitions, share: float, buckets: int, rng: np.random.Generator) -> Transitions:
    """Hide a share of all n-grams from a batch: what is known by heart of the texts of the training is of no use on
    others, and with fewer episodes there is more of it."""
    if not share:
        return batch
    kept = rng.random(buckets) >= share
    before, after = batch.features, batch.next_features
    return replace(
        batch,
        features=replace(before, text=before.text * kept[before.text]),
        next_features=replace(after, text=after.text * kept[after.text]),
    )
