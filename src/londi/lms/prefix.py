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
_TAIL = 16
"""Tokens that a chat template writes after a prompt, and that the next prompt therefore does not continue, at most."""


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
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, ids: Sequence[int]) -> tuple[Prefix, int] | None:
        """Return what begins most like `ids`, and how many tokens are the same; None below 64.

        One token is always left to read: its output is what is asked for.
        """
        new = np.asarray(ids)[:-1]
        best, same = None, SHORTEST - 1
        for key, prefix in reversed(self._kept.items()):  # an episode's latest prompt is among the last
            length = min(len(new), len(prefix.ids))
            if length > same and prefix.ids[same] == new[same]:  # or it can't have more in common
                differ = np.flatnonzero(new[:length] != prefix.ids[:length])
                common = int(differ[0]) if len(differ) else length
                if common > same:
                    best, same = key, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        return self._kept[best], same

    def add(self, prefix: Prefix, after: tuple[Prefix, int] | None = None) -> None:
        """Keep a prompt, in the place of the one it was read `after` if it continues that, a chat's tail aside."""
        size = prefix.num_bytes
        if len(prefix.ids) < SHORTEST or size > self.capacity:
            return
        self._drop(prefix.ids)
        if after is not None and after[1] >= len(after[0].ids) - _TAIL:
            self._drop(after[0].ids)
        while self.used + size > self.capacity:
            self.used -= self._kept.popitem(last=False)[1].num_bytes
        self._kept[prefix.ids.tobytes()] = prefix
        self.used += size

    def clear(self) -> None:
        """Forget all, where memory is short."""
        self._kept.clear()
        self.used = 0

    def _drop(self, ids: NDArray[np.int64]) -> None:
        old = self._kept.pop(ids.tobytes(), None)
        self.used -= 0 if old is None else old.num_bytes
