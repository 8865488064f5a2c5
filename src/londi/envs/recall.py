"""Environments that remember: what many policies do alike is played once.

Policies that are compared on the same seeds begin with the same actions, and part where one of them first acts
otherwise. `RecallingEnv` keeps what came of every sequence of actions, and asks the environment for new ones alone.
"""

from __future__ import annotations

from typing import Any

from londi.envs.base import TextEnv
from londi.errors import EnvError, EpisodeOverError

Reset = tuple[str, dict[str, Any]]
Turn = tuple[str, float, bool, bool, dict[str, Any]]


class _Node:
    """What came of the actions so far, and what followed."""

    __slots__ = ("following", "settings", "turn")

    def __init__(self, turn: Turn, settings: dict[str, Any]) -> None:
        self.turn, self.settings = turn, settings
        self.following: dict[str, _Node] = {}

    @property
    def over(self) -> bool:
        return self.turn[2] or self.turn[3]


class Memory:
    """What came of actions, by seed; several `RecallingEnv` of the same environment may share one."""

    def __init__(self) -> None:
        self.beginnings: dict[int, _Node] = {}

    def clear(self) -> None:
        """Forget everything, but for what is being played."""
        self.beginnings.clear()


class RecallingEnv(TextEnv):
    """A reproducible environment, which is left where it is as long as what comes of the actions is known.

    At the first action that is not, it takes all that it missed. Raises `EnvError` where it does not come to what it
    came to before: then it is not reproducible, whatever it says. An episode without a seed, or with options, is not
    remembered.
    """

    def __init__(self, env: TextEnv, memory: Memory) -> None:
        super().__init__(env.max_steps)
        self.env, self.memory = env, memory
        self.admissible, self.waits, self.listed = env.admissible, env.waits, env.listed
        self.reproducible = True
        self._seed: int | None = None
        self._here: _Node | None = None
        self._actions: list[str] = []
        self._taken = -1
        """Actions that the environment has taken in this episode; -1 where it has not begun it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The environment's own."""
        return self.env.settings if self._here is None else self._here.settings

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Start an episode, in the environment where it is a new one."""
        self._seed, self._actions, self._taken = seed, [], -1
        known = None if seed is None or options else self.memory.beginnings.get(seed)
        if known is None:
            observation, info = self.env.reset(seed=seed, options=options)
            self._taken = 0
            known = _Node((observation, 0.0, False, False, info), self.env.settings)
            if seed is not None and not options:
                known = self.memory.beginnings.setdefault(seed, known)
        self._here = known
        self.goal = str(known.turn[4]["goal"])
        return known.turn[0], dict(known.turn[4])

    def step(self, action: str) -> Turn:
        """Take one text action; raises `EpisodeOverError` after the end."""
        if self._here is None or self._here.over:
            raise EpisodeOverError("the episode is over: call reset() first")
        known = self._here.following.get(action)
        if known is None:
            self._catch_up()
            turn = self.env.step(action)
            self._taken += 1
            known = self._here.following.setdefault(action, _Node(turn, self.env.settings))
        self._actions.append(action)
        self._here = known
        return (*known.turn[:4], dict(known.turn[4]))

    def _catch_up(self) -> None:
        """Have the environment take the actions that it missed."""
        assert self._here is not None
        told: tuple[Any, ...] | None = None
        if self._taken < 0:
            told = (self.env.reset(seed=self._seed)[0],)
            self._taken = 0
        for action in self._actions[self._taken :]:
            told = self.env.step(action)[:4]
            self._taken += 1
        if told is not None and told != self._here.turn[: len(told)]:
            raise EnvError(
                f"seed {self._seed} and the same {len(self._actions)} actions did not lead to the same text and reward "
                f"as before: {type(self.env).__name__} is not reproducible, so it must not say so"
            )

    def _begin(self, seed: int | None) -> str:
        return self.reset(seed=seed)[0]

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        observation, reward, terminated, _, info = self.step(action)
        return observation, reward, terminated, bool(info["success"])

    def _observe(self) -> str:
        return "" if self._here is None else self._here.turn[0]
