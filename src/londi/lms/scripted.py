"""A language model that is a function: for tests, examples and exact experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from londi.errors import ModelError
from londi.lms.base import Decision
from londi.usage import Usage

Script = Callable[[str], Mapping[str, float] | str]


class ScriptedLM:
    """Answers with `script(prompt)`: an action, or a probability for each action (the likeliest is taken).

    Usage counts words as tokens, and `flops_per_token` FLOPs for each; `seconds` a call is reported, not slept.
    """

    def __init__(
        self, script: Script, name: str = "scripted", flops_per_token: float = 1.0, seconds: float = 0.0
    ) -> None:
        self.script, self.name = script, name
        self.flops_per_token, self.seconds = flops_per_token, seconds

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Ask the script for each prompt; raises `ModelError` where it answers outside the candidates."""
        return [self._decide(prompt, candidates) for prompt in prompts]

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the most each answer can cost; the script is asked only where it may answer anything."""
        if candidates is None:
            return [decision.usage for decision in self.decide(prompts)]
        longest = max(candidates, key=lambda candidate: len(candidate.split()), default="")
        return [self._usage(prompt, longest) for prompt in prompts]

    def _decide(self, prompt: str, candidates: Sequence[str] | None) -> Decision:
        answer = self.script(prompt)
        table = {answer: 1.0} if isinstance(answer, str) else dict(answer)
        if not table:
            raise ModelError(f"{self.name} answered with an empty table of probabilities")
        action = max(table, key=lambda name: table[name])
        if candidates is not None and action not in candidates:
            raise ModelError(f"{self.name} answered '{action}', which is none of {', '.join(candidates)}")
        usage = self._usage(prompt, action)
        if candidates is None:
            return Decision(action, usage)
        probabilities = np.array([table.get(name, 0.0) for name in candidates])
        logprobs = np.log(np.maximum(probabilities / probabilities.sum(), 1e-9))
        return Decision(action, usage, tuple(logprobs.tolist()))

    def _usage(self, prompt: str, action: str) -> Usage:
        words, spoken = len(prompt.split()), max(1, len(action.split()))
        return Usage(words, 0, spoken, self.flops_per_token * (words + spoken), self.seconds)
