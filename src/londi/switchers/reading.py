"""Rules that read the text: the simple ones that can make a task trivial, and SwiftSage's.

SwiftSage (Lin et al. 2023, arXiv 2305.17390, sec. 3.3) hands over from its small to its large model when it is stuck
(no reward for five steps), when the small one's action is invalid, when the action is critical (it gives an answer or
decides the task), or when what came of the last action is unexpected. Its large model then plans
several actions; here DEEPTHINK acts a step at a time, and the rule is asked again at the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from londi.errors import ConfigError
from londi.switchers.base import Choice, Query, State, Switcher, choose_with_probability

CRITICAL = r"^focus on\b|\b(?:answer|guess)\b|^move .* to .*\b(?:box|answer)"
"""Actions that decide a task of ScienceWorld: what is focused on is the answer, and so is the box."""
EXCEPTION = r"no known action|can't|cannot|not possible|doesn't|isn't|already|nothing happens"
"""What the environment says to an action that did not do what it was for."""


@dataclass(frozen=True)
class Matches:
    """Call where the observation, or what QUICK would do, matches a regular expression.

    Raises `ConfigError` for one that is none.
    """

    pattern: str
    of: str = "action"
    """`action` or `text`."""

    def __post_init__(self) -> None:
        _check(self.pattern)

    def choose(self, query: Query) -> Choice:
        """Call where it matches."""
        return _where(query, self.holds)

    def holds(self, state: State) -> bool:
        """Whether a state matches."""
        return _found(self.pattern, state.action if self.of == "action" else state.observation)


@dataclass(frozen=True)
class Refused:
    """Call after an action that the environment did not understand."""

    def choose(self, query: Query) -> Choice:
        """Call after it."""
        return _where(query, lambda state: state.moment.refused)


@dataclass(frozen=True)
class Seen:
    """Call where the episode has shown this very text so many times before: who remembers nothing is in a loop."""

    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ConfigError(f"a text was seen at least 1 time before, not {self.times}")

    def choose(self, query: Query) -> Choice:
        """Call where it was."""
        return _where(query, lambda state: state.moment.times_seen >= self.times)


@dataclass(frozen=True)
class Stuck:
    """Call when nothing was gained for some steps, or QUICK would repeat itself in a text it has seen."""

    patience: int = 5

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"a rule waits at least 1 step, not {self.patience}")

    def choose(self, query: Query) -> Choice:
        """Call when stuck."""
        return _where(query, self.holds)

    def holds(self, state: State) -> bool:
        """Whether a state is one."""
        return state.moment.since_progress >= self.patience or (state.moment.times_seen > 0 and _repeats(state))


@dataclass(frozen=True)
class SwiftSage:
    """SwiftSage's rule: stuck, invalid, critical or unexpected (see the module)."""

    patience: int = 5
    critical: str = CRITICAL
    exception: str = EXCEPTION
    _stuck: Stuck = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.critical)
        _check(self.exception)
        object.__setattr__(self, "_stuck", Stuck(self.patience))

    def choose(self, query: Query) -> Choice:
        """Call where one of the four holds."""
        return _where(query, self.holds)

    def holds(self, state: State) -> bool:
        """Whether one of them holds in a state."""
        said = state.observation.split(";")[0] if state.moment.step else ""
        unexpected = state.moment.refused or _found(self.exception, said)
        return self._stuck.holds(state) or unexpected or _found(self.critical, state.action)


def parse_rule(text: str) -> Switcher:
    """Return the rule that a text names: `action REGEX`, `text REGEX`, `refused`, `seen K`, `stuck K` or `swiftsage K`.

    Raises `ConfigError` where it names none.
    """
    kind, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if kind in ("action", "text") and rest:
        return Matches(rest, kind)
    if kind == "refused" and not rest:
        return Refused()
    if kind == "seen" and (not rest or rest.isdecimal()):
        return Seen(int(rest or 1))
    if kind in ("stuck", "swiftsage") and (not rest or rest.isdecimal()):
        patience = int(rest or 5)
        return Stuck(patience) if kind == "stuck" else SwiftSage(patience)
    raise ConfigError(
        f"no rule '{text}': 'action REGEX', 'text REGEX', 'refused', 'seen 1', 'stuck 5' or 'swiftsage 5'"
    )


def _repeats(state: State) -> bool:
    return bool(state.moment.actions) and state.moment.actions[-1] == state.action


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"'{pattern}' is no regular expression: {error}") from error


def _where(query: Query, holds: Callable[[State], bool]) -> Choice:
    if len(query.states) != len(query):
        raise ConfigError("this rule reads the text of the states: the query has none")
    return choose_with_probability(np.array([float(holds(state)) for state in query.states]), query)
