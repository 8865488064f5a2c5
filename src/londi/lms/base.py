"""`LanguageModel`: a batch of prompts in, a batch of `Decision`s out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from londi.usage import Usage


@dataclass(frozen=True, slots=True)
class Decision:
    """What a language model decided for one prompt."""

    action: str
    usage: Usage
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each candidate, normalised over the candidates (nats); None where none were scored."""
    thought: str = ""
    """What it wrote before the action."""
    hidden: NDArray[np.float32] | None = None
    """(d,) last hidden state at the end of the prompt, where the model shows it."""
    error: str = ""
    """Why there is no action, where the model failed after its retries; `action` is empty then, and `usage` is what
    the attempts cost. In the place of DEEPTHINK it leaves the step to QUICK."""
    logprob: float | None = None
    """Log-probability (nats) of the text that it wrote, thoughts included; None where it wrote none or doesn't tell."""
    entropy: float | None = None
    """Mean entropy (nats) of the next token along that text."""


@runtime_checkable
class LanguageModel(Protocol):
    """Anything that decides on a text action.

    Implementations: deterministic (greedy) unless they say otherwise; a batch gives what its prompts would give
    one at a time; `usage` is positive in every decision.
    """

    name: str

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt.

        Parameters: `prompts`, B texts; `candidates`, the closed set of actions, or None where the action is
        free text. With candidates, `action` is one of them.
        """
        ...


@runtime_checkable
class Bounded(Protocol):
    """A language model that knows the most a decision can cost: what budgets in tokens or dollars need."""

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return, for each prompt, a usage that `decide` never exceeds in tokens or dollars, retries included."""
        ...


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise scores over the last axis; (..., K) to (..., K), in nats."""
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def split_thought(text: str) -> tuple[str, str]:
    """Split a reply into what a reasoning model thought, up to `</think>`, and the rest; the first is often empty.

    A thought that was cut off before its end is all thought.
    """
    before, mark, after = text.rpartition("</think>")
    if not mark:
        if text.lstrip().startswith("<think>"):
            return text.replace("<think>", "").strip(), ""
        return "", text.strip()
    return before.replace("<think>", "").strip(), after.strip()


def naming(candidate: str) -> re.Pattern[str]:
    """What finds a candidate in a text without capitals, and not within a word: `go` is not in `the goal`."""
    return re.compile(rf"(?<!\w){re.escape(candidate.strip().lower())}(?!\w)", re.ASCII)


def closest_candidate(text: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate with which `text` ends, or the one named last in it; None where none is named."""
    text, best, best_end = text.lower(), None, -1
    for candidate in candidates:
        end = max((match.end() for match in naming(candidate).finditer(text)), default=-1)
        if end >= 0 and (end, len(candidate)) > (best_end, len(best or "")):
            best, best_end = candidate, end
    return best
