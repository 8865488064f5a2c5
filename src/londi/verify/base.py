"""Claims, the suites that measure them, and what one job of a suite found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Bound = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement that a suite measures."""

    key: str
    """Its anchor in docs/theory.md."""
    claim: str
    source: str
    method: str
    tolerance: float
    bound: Bound = "at most"
    """Whether the worst measurement must lie below or above the tolerance."""
    full_only: bool = False
    """Left out of quick runs: it needs more work than they have time for."""
    quick_tolerance: float | None = None
    """What a quick run asks for instead, where it does half the work."""

    def worst(self, found: Iterable[float]) -> float:
        """Return the measurement that is farthest on the wrong side; NaN where there is none, or one is NaN."""
        values = [float(value) for value in found]
        if not values or any(math.isnan(value) for value in values):
            return math.nan
        return max(values) if self.bound == "at most" else min(values)

    def asked(self, quick: bool) -> Claim:
        """The claim as a quick or a full run checks it."""
        return replace(self, tolerance=self.quick_tolerance) if quick and self.quick_tolerance is not None else self

    def holds(self, worst: float) -> bool:
        """Whether a worst measurement is within the tolerance; NaN is not."""
        return worst <= self.tolerance if self.bound == "at most" else worst >= self.tolerance


@dataclass(frozen=True, slots=True)
class Settings:
    """What a job of a suite is told."""

    quick: bool
    """A minute or two in all, for continuous integration."""
    seed: int

    def rng(self, suite: str, job: int) -> np.random.Generator:
        """Return the generator of one job: the same for the same seed, whatever runs beside it."""
        return np.random.default_rng((self.seed, *suite.encode(), job))


@dataclass(slots=True)
class Part:
    """What one job found: the worst deviation from each claim, how many cases were looked at, and data for plots."""

    worst: dict[str, float] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def note(self, claim: Claim, value: float, cases: int = 1) -> None:
        """Note what was measured of a claim, the worst of some cases."""
        old = self.worst.get(claim.key)
        self.worst[claim.key] = float(value) if old is None else claim.worst((old, float(value)))
        self.cases[claim.key] = self.cases.get(claim.key, 0) + cases


@dataclass(frozen=True, slots=True)
class Suite:
    """Claims that are measured together, in jobs that can run side by side."""

    name: str
    claims: Sequence[Claim]
    jobs: Callable[[Settings], int]
    """How many jobs there are."""
    run: Callable[[Settings, int], Part]
    """Do one of them."""
    combine: Callable[[list[Part]], Part] = lambda parts: Part()
    """Measure what needs all of them."""
