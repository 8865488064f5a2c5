"""`Usage`: what a language-model call really cost; adds up."""

from __future__ import annotations

from dataclasses import dataclass, fields


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

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens
