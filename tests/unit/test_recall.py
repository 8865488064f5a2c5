"""Environments that remember: the same as without, asked less often, and honest about worlds that answer otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from londi.envs import TextEnv
from londi.envs.recall import Memory, RecallingEnv
from londi.errors import EnvError, EpisodeOverError


class Counted(TextEnv):
    """Counts how often it is asked; says the actions so far."""

    reproducible = True

    def __init__(self, drift: str = "") -> None:
        super().__init__(5)
        self.drift, self.resets, self.steps = drift, 0, 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def _begin(self, seed: int | None) -> str:
        self.seed, self.said = seed, ""
        self.resets += 1
        self.goal = f"goal {self.resets if self.drift == 'goal' else seed}"
        return "begun"

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        self.steps += 1
        self.said += action + (str(self.steps) if self.drift == "text" else "")
        self._refused = action == "x"
        over = action == "end" or (self.drift == "end" and self.steps > 2)
        return self.said, 0.0, over, over

    def _observe(self) -> str:
        return self.said


def play(env: TextEnv, seed: int, actions: str | list[str]) -> list[Any]:
    seen: list[Any] = [env.reset(seed=seed), env.goal, env.settings]
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            break
    return seen


def test_what_is_known_is_not_asked_again() -> None:
    memory = Memory()
    one, two = (RecallingEnv(Counted(), memory) for _ in range(2))
    play(one, 1, "abc")
    assert play(two, 1, "abc") == play(one, 1, "abc")
    counts = [(env.env.resets, env.env.steps) for env in (one, two)]  # type: ignore[attr-defined]
    assert counts == [(1, 3), (0, 0)]
    assert play(two, 1, "abd")[-1][0] == "abd"
    assert (two.env.resets, two.env.steps) == (1, 3), "it takes what it missed, then what is new"  # type: ignore[attr-defined]
    memory.clear()
    play(one, 1, "abc")
    assert one.env.resets == 2  # type: ignore[attr-defined]


def test_what_is_told_can_not_be_spoilt() -> None:
    env = RecallingEnv(Counted(), Memory())
    play(env, 1, "a")[-1][4]["success"] = "spoilt"
    env.reset(seed=1)[1]["goal"] = "spoilt"
    assert play(env, 1, "ax") == play(Counted(), 1, "ax")


def test_an_episode_ends_for_both() -> None:
    env = RecallingEnv(Counted(), Memory())
    for _ in range(2):
        assert play(env, 1, ["a", "end"])[-1][2]
        with pytest.raises(EpisodeOverError):
            env.step("a")
        assert play(env, 2, "aaaaa")[-1][3], "the step limit"
        with pytest.raises(EpisodeOverError):
            env.step("a")


def test_episodes_without_a_seed_are_not_remembered() -> None:
    env = RecallingEnv(Counted(), Memory())
    for resets in (1, 2):
        env.reset()
        env.step("a")
        assert env.env.resets == resets  # type: ignore[attr-defined]


def test_episodes_with_options_are_not_remembered() -> None:
    env = RecallingEnv(Counted(), Memory())
    for resets in (1, 2):
        env.reset(seed=1, options={"any": 1})
        assert env.env.resets == resets  # type: ignore[attr-defined]


@pytest.mark.parametrize("drift", ["text", "goal", "end"])
def test_a_world_that_answers_otherwise_is_found_out(drift: str) -> None:
    env = RecallingEnv(Counted(drift), Memory())
    play(env, 1, "ab")
    with pytest.raises(EnvError, match="not reproducible"):
        play(env, 1, "ac" if drift == "text" else "abc")
