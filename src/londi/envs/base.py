"""`TextEnv`: a Gymnasium environment that speaks; observations and actions are `str`.

A subclass says what happens (`_begin`, `_apply`); this base keeps what every text task shares: the step limit,
the latched end of an episode, and `info` with the goal, the admissible actions and success.
"""

from __future__ import annotations

import string
from abc import abstractmethod
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from londi.errors import ConfigError, EpisodeOverError


def check_number(name: str, value: Any, least: int) -> None:
    """Raise `ConfigError` where an option is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


class TextEnv(gymnasium.Env[str, str]):
    """A text task with a step limit; reward 1 and `info["success"]` on success.

    `reset` and `step` return `info` with `goal` (str), `admissible` (tuple of actions, or None where the action
    is free text), `success` (bool) and `valid` (False where the last action was not understood: it costs a step
    and changes nothing). Reaching `max_steps` truncates. After the end `step` raises `EpisodeOverError`.

    Where the world was lost in the middle of an episode (its simulator died, say), so that what follows says nothing of
    who acts, the episode is terminated and `info["world_lost"]` is True: no such episode is learned from or measured,
    it is played anew (`londi.rollout`). Otherwise `world_lost` is False or left out.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (declared so by Gymnasium)
    admissible: tuple[str, ...] | None = None
    """The closed set of actions, the same in every state; None where the action is free text."""
    waits: bool = False
    """Whether an action waits for another process: such environments are stepped side by side, in threads."""
    reproducible: bool = False
    """Whether the same seed and the same actions always lead to the same: then evaluation, in which many policies play
    the same seeds, need not play anew what they do alike. An environment is that draws from `self.np_random` alone and
    keeps nothing from one episode to the next."""
    listed: str | None = None
    """The option that says from which list of episodes (training's, the test's) they come, where a new seed alone
    brings no new episode; None where it does."""

    def __init__(self, max_steps: int) -> None:
        check_number("max_steps", max_steps, 1)
        self.max_steps = max_steps
        self.observation_space = Text(max_length=8192, min_length=0, charset=string.printable)
        self.action_space = Text(max_length=1024, min_length=0, charset=string.printable)
        self.goal = ""
        self._num_steps = 0
        self._over = True
        self._refused = False
        self.world_lost = False

    @property
    def settings(self) -> dict[str, Any]:
        """What is played, beyond the id: recorded with every episode. Plain JSON types."""
        return {}

    @abstractmethod
    def _begin(self, seed: int | None) -> str:
        """Start an episode, set `self.goal`, return the first observation."""

    @abstractmethod
    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        """Carry out an action; return (observation, reward, terminated, success).

        Where actions are free text, set `self._refused` for one that was not understood. Set `self.world_lost` where
        the world was lost: that ends the episode.
        """

    @abstractmethod
    def _observe(self) -> str:
        """Describe the present state."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; the same seed gives the same episode."""
        super().reset(seed=seed)
        self._num_steps, self._over, self.world_lost = 0, True, False
        observation = self._begin(seed)
        self._over = False
        return observation, self._info(success=False, valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one text action; raises `EpisodeOverError` after the end."""
        if self._over:
            raise EpisodeOverError("the episode is over: call reset() first")
        self._num_steps += 1
        valid = self.admissible is None or action in self.admissible
        if valid:
            self._refused = False
            observation, reward, terminated, success = self._apply(action)
            valid, terminated = not self._refused, terminated or self.world_lost
        else:
            observation, reward, terminated, success = self._observe(), 0.0, False, False
        truncated = not terminated and self._num_steps >= self.max_steps
        self._over = terminated or truncated
        return observation, reward, terminated, truncated, self._info(success=success, valid=valid)

    def _info(self, *, success: bool, valid: bool) -> dict[str, Any]:
        found = {"goal": self.goal, "admissible": self.admissible, "success": success, "valid": valid}
        return found | {"world_lost": True} if self.world_lost else found
