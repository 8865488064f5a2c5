"""Environments that remember: what many policies do alike is played once.

Policies that are compared on the same seeds begin with the same actions, and part where one of them first acts
otherwise. `RecallingEnv` keeps what came of every sequence of actions, until its memory is cleared, and asks the
environment for new ones alone.
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
        return self.turn[2] or self.turn[3] or self.lost

    @property
    def lost(self) -> bool:
        return bool(self.turn[4].get("world_lost"))


class Memory:
    """What came of actions, by seed; several `RecallingEnv` of the same environment may share one."""

    def __init__(self) -> None:
        self.beginnings: dict[int, _Node] = {}

    def clear(self) -> None:
        """Forget everything, but for what is being played."""
        self.beginnings.clear()


class RecallingEnv(TextEnv):
    """A reproducible environment, which is left where it is as long as what comes of the actions is known.

    At the first action that is not, it takes all that it missed. Raises `EnvError` where one of these does not lead to
    what it led to before: then it is not reproducible, whatever it says. An episode without a seed, or with options, is
    not remembered, and the end of one that the environment lost neither: it may come out otherwise the next time.
    """

    def __init__(self, env: TextEnv, memory: Memory) -> None:
        super().__init__(env.max_steps)
        self.env, self.memory = env, memory
        self.admissible, self.waits, self.listed = env.admissible, env.waits, env.listed
        self.reproducible = True
        self._seed: int | None = None
        self._path: list[_Node] = []
        """The beginning of the episode, and what came of each action."""
        self._actions: list[str] = []
        self._taken = -1
        """Actions that the environment has taken in this episode; -1 where it has not begun it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The environment's own."""
        return self._path[-1].settings if self._path else self.env.settings

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Start an episode, in the environment where it is a new one."""
        self._seed, self._actions, self._taken = seed, [], -1
        known = None if seed is None or options else self.memory.beginnings.get(seed)
        if known is None:
            known = self._begun(options)
            if seed is not None and not options:
                known = self.memory.beginnings.setdefault(seed, known)
        self._path = [known]
        self.goal = str(known.turn[4]["goal"])
        return known.turn[0], dict(known.turn[4])

    def step(self, action: str) -> Turn:
        """Take one text action; raises `EpisodeOverError` after the end."""
        if not self._path or self._path[-1].over:
            raise EpisodeOverError("the episode is over: call reset() first")
        here = self._path[-1]
        known = here.following.get(action)
        if known is None:
            known = self._catch_up() or self._taken_one(action)
            if not known.lost:
                known = here.following.setdefault(action, known)
        self._actions.append(action)
        self._path.append(known)
        return (*known.turn[:4], dict(known.turn[4]))

    def _begun(self, options: dict[str, Any] | None = None) -> _Node:
        observation, info = self.env.reset(seed=self._seed, options=options)
        self._taken = 0
        return _Node((observation, 0.0, False, False, info), dict(self.env.settings))

    def _taken_one(self, action: str) -> _Node:
        turn = self.env.step(action)
        self._taken += 1
        return _Node(turn, dict(self.env.settings))

    def _catch_up(self) -> _Node | None:
        """Have the environment take the actions that it missed; return where it lost the episode on the way."""
        if self._taken < 0:
            self._compare(self._begun())
        while self._taken < len(self._actions):
            try:
                found = self._taken_one(self._actions[self._taken])
            except EpisodeOverError as error:
                raise self._wrong(self._taken + 1) from error
            if found.lost:
                return found
            self._compare(found)
        return None

    def _compare(self, found: _Node) -> None:
        known = self._path[self._taken]
        if (found.turn, found.settings) != (known.turn, known.settings):
            raise self._wrong(self._taken)

    def _wrong(self, actions: int) -> EnvError:
        return EnvError(
            f"seed {self._seed} and the same {actions} actions did not lead to the same as before: "
            f"{type(self.env).__name__} is not reproducible, so it must not say so"
        )

    def _begin(self, seed: int | None) -> str:
        return self.reset(seed=seed)[0]

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        observation, reward, terminated, _, info = self.step(action)
        return observation, reward, terminated, bool(info["success"])

    def _observe(self) -> str:
        return self._path[-1].turn[0]
