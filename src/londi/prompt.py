"""`PromptTemplate`: how an episode so far becomes the prompt of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from londi.errors import ConfigError


@dataclass(frozen=True)
class PromptTemplate:
    """How goal, recent actions and recent observations become the prompt of a language model.

    The text is `goal: ...`, `last: ...` (actions, oldest first, or `none`), then one `obs: ...` line per
    observation (oldest first; the last one is now), then `act:`.
    """

    actions: int = 4
    """Executed actions shown; more lets a memoryless model remember what left its view. Typical 2 to 8."""
    observations: int = 1
    """Observations shown, the current one included; more costs prompt tokens. Typical 1 to 3."""

    def __post_init__(self) -> None:
        if self.actions < 0 or self.observations < 1:
            raise ConfigError("a prompt shows actions >= 0 and observations >= 1")

    def render(self, goal: str, observations: Sequence[str], actions: Sequence[str]) -> str:
        """Return the prompt; `observations` and `actions` are the episode so far, oldest first."""
        last = ", ".join(actions[-self.actions :] if self.actions else ()) or "none"
        shown = "".join(f"obs: {text}\n" for text in observations[-self.observations :])
        return f"goal: {goal}\nlast: {last}\n{shown}act:"
