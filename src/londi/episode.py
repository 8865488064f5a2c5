"""`Episode` of `Step`s: the one record that training, evaluation, plots and replay read and write.

Stored as JSON Lines, one episode a line, with a schema number; None stands for "no limit".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from londi.errors import RunError
from londi.files import write_text
from londi.usage import BudgetMeasure, Usage

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What a language model said in a step, and what that cost."""

    action: str
    thought: str
    usage: Usage
    error: str = ""
    """Why there is no action, where the model failed; QUICK acted then."""

    @property
    def charged(self) -> bool:
        """Whether it counts as a call: not if it failed before anything reached the model."""
        return not self.error or self.usage != Usage()


@dataclass(frozen=True, slots=True)
class Step:
    """One decision and what came of it."""

    observation: str
    prompt: str
    quick: Reply
    deepthink: Reply | None
    """DEEPTHINK's reply, where it was called."""
    probabilities: tuple[float, ...]
    """QUICK's probability of each admissible action; empty where the action is free text."""
    entropy: float
    """Entropy of QUICK's probabilities, in nats."""
    wished: bool
    """Whether the Switcher asked for DEEPTHINK."""
    called: bool
    """Whether the budget permitted it, so that DEEPTHINK was called; it acted, unless its reply is an error."""
    propensity: float
    """Probability with which the Switcher chose what it chose."""
    advantage: float
    """The Switcher's estimate of Q(call) - Q(no call), in units of return; NaN for rules that have none."""
    remaining: int | None
    """Calls left before this step, in a budget of tokens or dollars an estimate; None for no limit."""
    action: str
    reward: float
    valid: bool
    """Whether the environment understood the action."""

    @property
    def usage(self) -> Usage:
        """QUICK's cost, always paid, and DEEPTHINK's where it was called."""
        return self.quick.usage + self.deepthink.usage if self.deepthink else self.quick.usage


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode."""

    env: str
    seed: int
    goal: str
    policy: str
    budget: float | None
    """DEEPTHINK permitted, in `budget_measure`; None for no limit."""
    price: float
    """Price of a call that the Switcher was asked to respect, in units of return."""
    steps: tuple[Step, ...]
    success: bool
    truncated: bool
    """True where the step limit ended it."""
    budget_measure: BudgetMeasure = "calls"
    settings: dict[str, Any] = field(default_factory=dict)
    """What the environment says was played, beyond its id."""

    @property
    def total_reward(self) -> float:
        """The undiscounted return, without prices."""
        return sum(step.reward for step in self.steps)

    @property
    def num_calls(self) -> int:
        """DEEPTHINK calls made; one that failed counts where it cost something."""
        return sum(step.called and (step.deepthink is None or step.deepthink.charged) for step in self.steps)

    @property
    def usage(self) -> Usage:
        """Cost of the whole episode."""
        return sum((step.usage for step in self.steps), Usage())

    @property
    def num_switches(self) -> int:
        """How often the acting model changed from one step to the next."""
        return sum(one.called != other.called for one, other in pairwise(self.steps))

    @property
    def num_failed(self) -> int:
        """DEEPTHINK calls that failed, so that QUICK acted."""
        return sum(step.deepthink is not None and bool(step.deepthink.error) for step in self.steps)

    @property
    def spent(self) -> float:
        """What the calls took of the budget, in its measure."""
        if self.budget_measure == "calls":
            return self.num_calls
        return sum(step.deepthink.usage.of(self.budget_measure) for step in self.steps if step.deepthink)

    @property
    def violated(self) -> bool:
        """Whether the calls took more than the budget permits (must never happen)."""
        return self.budget is not None and self.spent > self.budget * (1 + 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the schema number."""
        return {"schema": SCHEMA, **_plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Episode:
        """Read what `to_dict` wrote; raises `RunError` for another schema or a damaged record."""
        if not isinstance(data, dict):
            raise RunError(f"damaged episode record: {type(data).__name__} in place of an object")
        data = dict(data)
        schema = data.pop("schema", None)
        if schema != SCHEMA:
            raise RunError(f"episode schema {schema} is not {SCHEMA}: it was written by another version of londi")
        try:
            steps = tuple(_read_step(step) for step in data.pop("steps"))
            return cls(steps=steps, **data)
        except (TypeError, KeyError) as error:
            raise RunError(f"damaged episode record: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def _read_reply(data: dict[str, Any]) -> Reply:
    return Reply(data["action"], data["thought"], Usage(**data["usage"]), data.get("error", ""))


def _read_step(data: dict[str, Any]) -> Step:
    deepthink = None if data["deepthink"] is None else _read_reply(data["deepthink"])
    fixed: dict[str, Any] = {"quick": _read_reply(data["quick"]), "deepthink": deepthink}
    fixed["probabilities"] = tuple(data["probabilities"])
    advantage = float("nan") if data["advantage"] is None else data["advantage"]
    return Step(**{**data, **fixed, "advantage": advantage})


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Write episodes as JSON Lines, replacing the file as a whole; raises `WriteError`."""
    write_text(path, lines_of(episodes))


def lines_of(episodes: Iterable[Episode]) -> str:
    """Return episodes as JSON Lines."""
    return "".join(json.dumps(episode.to_dict(), allow_nan=False) + "\n" for episode in episodes)


def read_episodes(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a JSON Lines file; raises `RunError` where a line can't be read."""
    if not path.is_file():
        raise RunError(f"no episodes at {path}: run `londi evaluate` first")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                data = json.loads(line)
            except ValueError as error:
                raise RunError(f"{path}:{number} is no JSON (cut off?): run `londi evaluate` again") from error
            try:
                episode = Episode.from_dict(data)
            except RunError as error:
                raise RunError(f"{path}:{number}: {error}") from error
            yield episode
