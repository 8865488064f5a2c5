"""`PromptTemplate`: how an episode so far becomes the `Prompt` of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from londi.errors import ConfigError


class Prompt(str):
    """A text that knows its parts, so that what is too long loses its oldest observation and nothing else.

    `instructions` and `head` come first, then the `turns`, oldest first, then `end`.
    """

    instructions: str
    """The same for the whole task; encoders leave it out."""
    head: str
    turns: tuple[str, ...]
    end: str

    def __new__(cls, instructions: str, head: str, turns: Sequence[str], end: str) -> Prompt:  # noqa: D102
        self = super().__new__(cls, f"{instructions}{head}{''.join(turns)}{end}")
        self.instructions, self.head, self.turns, self.end = instructions, head, tuple(turns), end
        return self

    def __getnewargs__(self) -> tuple[str, str, tuple[str, ...], str]:  # type: ignore[override]
        return self.instructions, self.head, self.turns, self.end

    def without_oldest(self, count: int = 1) -> Prompt | None:
        """Return the prompt without its oldest turns; None where not even the present one would be left."""
        left = self.turns[count:]
        return Prompt(self.instructions, self.head, left, self.end) if left else None


@dataclass(frozen=True)
class PromptTemplate:
    """How goal, actions and observations become the prompt of a language model.

    `recent`: `goal: ...`, `last: ...` (actions, oldest first, or `none`), one `obs: ...` line for each observation
    shown (the last one is now), `act:`. Short; what the built-in pair was trained on.

    `transcript`: `goal: ...`, then `obs: ...` and `act: ...` of each step so far, `obs: ...`, `act:`. Each prompt
    continues the one before, so that local models read only what is new, and servers find the rest in their cache.
    """

    layout: Literal["recent", "transcript"] = "recent"
    """`recent` actions and observations, or the whole `transcript`."""
    actions: int = 4
    """`recent`: executed actions shown; more lets a memoryless model remember what left its view. Typical 2 to 8."""
    observations: int = 1
    """`recent`: observations shown, the current one included; more costs prompt tokens. Typical 1 to 3."""
    instructions: str = ""
    """What comes first: the task, the form of the answer. `{actions}` stands for the permitted actions."""

    def __post_init__(self) -> None:
        if self.layout not in ("recent", "transcript"):
            raise ConfigError(f"the layout of a prompt is 'recent' or 'transcript', not {self.layout!r}")
        if self.actions < 0 or self.observations < 1:
            raise ConfigError("a prompt shows actions >= 0 and observations >= 1")

    def render(
        self,
        goal: str,
        observations: Sequence[str],
        actions: Sequence[str],
        admissible: Sequence[str] | None = None,
    ) -> Prompt:
        """Return the prompt; `observations` and `actions` are the episode so far, oldest first."""
        permitted = "any text" if admissible is None else ", ".join(admissible)
        instructions = self.instructions.replace("{actions}", permitted)
        if instructions and not instructions.endswith("\n"):
            instructions += "\n"
        if self.layout == "transcript":
            steps = zip(observations[:-1], actions, strict=True)
            turns = [f"obs: {text}\nact: {action}\n" for text, action in steps]
            return Prompt(instructions, f"goal: {goal}\n", [*turns, f"obs: {observations[-1]}\n"], "act:")
        last = ", ".join(actions[-self.actions :] if self.actions else ()) or "none"
        turns = [f"obs: {text}\n" for text in observations[-self.observations :]]
        return Prompt(instructions, f"goal: {goal}\nlast: {last}\n", turns, "act:")
