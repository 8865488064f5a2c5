"""`Usage`: what a language-model call really cost; adds up, and can be read in the measure of a price or a budget."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Measure = Literal["calls", "tokens", "dollars", "flops", "seconds", "device_seconds", "joules"]
"""What a price is charged for. `calls` is the paper's: each call costs one, whatever it took."""
BudgetMeasure = Literal["calls", "tokens", "dollars"]
"""What a budget counts."""
BUDGET_MEASURES: tuple[BudgetMeasure, ...] = get_args(BudgetMeasure)


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of one or more language-model calls."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt tokens that were served from a cache."""
    completion_tokens: int = 0
    flops: float = 0.0
    """Floating-point operations of the forward passes."""
    seconds: float = 0.0
    """Wall time; a call in a batch of B bears 1/B of the batch's."""
    dollars: float = 0.0
    device_seconds: float = 0.0
    """Time a GPU worked, by its own events; 0 without one. Shared in a batch like `seconds`."""
    joules: float = 0.0
    """Energy the GPU took, by its counter; 0 where it has none. Shared in a batch like `seconds`."""
    requests: int = 0
    """Requests that reached a server, failed ones included; 0 for local models."""

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def of(self, measure: Measure) -> float:
        """Return the cost of one call in a measure; in `calls` that is 1."""
        return 1 if measure == "calls" else float(getattr(self, measure))


def budget_text(number: float, measure: BudgetMeasure = "calls") -> str:
    """Write an amount: `1 call`, `2,000 tokens`, `$0.02`."""
    if measure == "dollars":
        return f"${number:,.4f}".rstrip("0").rstrip(".")
    return f"{number:,g} {measure[:-1] if number == 1 else measure}"
