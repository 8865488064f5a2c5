"""Keys and values of prompts that were read, so that the next step of an episode reads only what is new."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SHORTEST = 64
"""Tokens below which reading anew costs less than keeping."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt that was read."""

    ids: NDArray[np.int64]
    """(T,)"""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, each (heads, T, d)."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.numel() * part.element_size() for pair in self.layers for part in pair)


class PrefixStore:
    """What was read lately, up to `capacity` bytes; the one that was not used for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._kept: OrderedDict[int, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, ids: Sequence[int]) -> tuple[Prefix, int] | None:
        """Return what begins most like `ids`, and how many tokens are the same; None below 64.

        One token is always left to read: its output is what is asked for.
        """
        new = np.asarray(ids)[:-1]
        best, same = None, SHORTEST - 1
        for number, prefix in self._kept.items():
            length = min(len(new), len(prefix.ids))
            if length > same:
                differ = np.flatnonzero(new[:length] != prefix.ids[:length])
                common = int(differ[0]) if len(differ) else length
                if common > same:
                    best, same = number, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        return self._kept[best], same

    def add(self, prefix: Prefix) -> None:
        """Keep a prompt; what it continues is dropped."""
        size, length = prefix.num_bytes, len(prefix.ids)
        if length < SHORTEST or size > self.capacity:
            return
        within = [
            number
            for number, old in self._kept.items()
            if len(old.ids) <= length and np.array_equal(old.ids, prefix.ids[: len(old.ids)])
        ]
        for number in within:
            self.used -= self._kept.pop(number).num_bytes
        while self.used + size > self.capacity:
            self.used -= self._kept.popitem(last=False)[1].num_bytes
        self._kept[id(prefix)] = prefix
        self.used += size
