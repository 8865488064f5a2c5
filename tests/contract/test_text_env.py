"""What every text environment promises, and the words of BabyAI-Text."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from minigrid.core.world_object import Ball, Box, Door, Key, Wall

from londi.cloning.babyai.demos import ReadableBot
from londi.envs import TextEnv, ids, make
from londi.envs.babyai import ACTIONS, KINDS, BabyAITextEnv, TaskLevel, levels, place
from londi.envs.recall import Memory, RecallingEnv
from londi.errors import ConfigError, EnvError, EpisodeOverError

IDS = [
    *(name for name in ids() if "ScienceWorld" not in name),
    "BabyAI-GoToLocal-v0",
]  # it speaks freely: test_scienceworld.py


@pytest.fixture(params=IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def actions_of(env: TextEnv, seed: int, count: int = 200) -> list[str]:
    assert env.admissible is not None
    return [str(action) for action in np.random.default_rng(seed).choice(env.admissible, count)]


def roll(env: TextEnv, seed: int, actions: list[str]) -> list[Any]:
    """Everything that an episode shows under these actions."""
    seen: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            break
    return seen


class TestContract:
    def test_gymnasium_agrees(self, env_id: str) -> None:
        check_env(make(env_id), skip_render_check=True)

    def test_same_seed_and_actions_give_the_same_text(self, env_id: str) -> None:
        env, other = make(env_id), make(env_id)
        first = roll(env, 3, actions_of(env, 0))
        roll(other, 4, actions_of(env, 1))  # a past must not leak into the next episode
        assert first == roll(other, 3, actions_of(env, 0))
        assert first == roll(env, 3, actions_of(env, 0))

    def test_remembering_makes_no_difference(self, env_id: str) -> None:
        plain, memory = make(env_id), Memory()
        assert plain.reproducible
        recalling = [RecallingEnv(make(env_id), memory) for _ in range(2)]
        rng = np.random.default_rng(0)
        actions = actions_of(plain, 0, 60)
        for i in range(20):
            shared = int(rng.integers(30))
            mine = [*actions[:shared], *map(str, rng.permutation(actions[shared:])), "dance"]
            assert roll(recalling[i % 2], i % 3, mine) == roll(plain, i % 3, mine)
            assert recalling[i % 2].settings == plain.settings

    def test_seeds_differ(self, env_id: str) -> None:
        env = make(env_id)
        assert len({env.reset(seed=seed)[0] for seed in range(12)}) > 6

    def test_episodes_without_a_seed_differ(self, env_id: str) -> None:
        env = make(env_id)
        env.reset(seed=0)
        assert len({env.reset()[0] for _ in range(12)}) > 6

    def test_info(self, env_id: str) -> None:
        env = make(env_id)
        for observation, *rest, info in roll(env, 0, actions_of(env, 2)):
            assert isinstance(observation, str)
            assert set(info) == {"goal", "admissible", "success", "valid"}
            assert isinstance(info["goal"], str)
            assert info["goal"] == env.goal
            assert info["goal"]
            assert info["admissible"] == env.admissible
            assert info["valid"] is True
            if rest:
                reward, terminated, truncated = rest
                assert reward == float(info["success"])
                assert not (terminated and truncated)
                assert terminated or not info["success"]

    def test_the_end_is_latched(self, env_id: str) -> None:
        env = make(env_id, max_steps=3)
        with pytest.raises(EpisodeOverError):
            env.step(ACTIONS[0])
        seen = roll(env, 0, actions_of(env, 0))
        assert seen[-1][2] or seen[-1][3]
        for _ in range(2):
            with pytest.raises(EpisodeOverError, match="reset"):
                env.step(actions_of(env, 0)[0])
        env.reset(seed=0)
        env.step(actions_of(env, 0)[0])

    def test_the_step_limit_truncates_exactly(self, env_id: str) -> None:
        for limit in (1, 5):
            env = make(env_id, max_steps=limit)
            env.reset(seed=0)
            ends = [env.step("think hard")[2:4] for _ in range(limit)]
            assert ends == [(False, False)] * (limit - 1) + [(False, True)]

    def test_the_limit_of_a_level_of_its_own_plays_no_part(self, env_id: str) -> None:
        limit = 700
        env = make(env_id, max_steps=limit)
        assert env.admissible is not None
        harmless = "turn left" if "turn left" in env.admissible else "open door"
        env.reset(seed=0)
        ends = [env.step(harmless)[2:4] for _ in range(limit)]
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]

    @pytest.mark.parametrize("action", ["", "go Forward", "dance", " turn left"])
    def test_an_invalid_action_costs_a_step_and_changes_nothing(self, env_id: str, action: str) -> None:
        env, other = make(env_id, max_steps=20), make(env_id, max_steps=20)
        assert env.admissible is not None
        before, _ = env.reset(seed=5)
        other.reset(seed=5)
        text, reward, terminated, truncated, info = env.step(action)
        assert (text, reward, terminated, truncated) == (before, 0.0, False, False)
        assert info["valid"] is False
        assert info["success"] is False
        for number, valid in enumerate(actions_of(env, 0)[:19], start=2):
            one, two = env.step(valid), other.step(valid)
            assert one[:3] == two[:3]
            assert one[3] == (not one[2] and number == 20), "the invalid action was not counted as a step"
            assert one[4]["valid"] is True
            if one[2] or one[3]:
                break

    def test_options_that_do_not_fit(self, env_id: str) -> None:
        with pytest.raises(ConfigError, match="max_steps"):
            make(env_id, max_steps=0)
        with pytest.raises(EnvError, match="colour"):
            make(env_id, colour="red")


@pytest.mark.parametrize("level", levels())
def test_every_babyai_level(level: str) -> None:
    env = make(level)
    text, info = env.reset(seed=0)
    assert info["goal"]
    for action in ("turn left", "go forward", "toggle"):
        text, *_, info = env.step(action)
        assert info["valid"]
        assert text == "" or text.startswith(("You see a", "You carry a"))
        assert env.observation_space.contains(text)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(EnvError, match="did you mean 'londi/BabyAI-GoTo-v0'"):
        make("londi/BabyAI-GoTwo-v0")
    with pytest.raises(EnvError, match="did you mean 'BabyAI-GoToLocal-v0'"):
        make("BabyAI-GoToLokal-v0")
    with pytest.raises(EnvError, match="no text environment"):
        make("CartPole-v1")
    with pytest.raises(ConfigError, match="did you mean 'pick up'"):
        BabyAITextEnv(kinds=("pickup",))
    with pytest.raises(ConfigError, match="kinds is empty"):
        BabyAITextEnv(kinds=())
    with pytest.raises(ConfigError, match="objects"):
        BabyAITextEnv(room_size=5, num_objects=8)


@pytest.mark.parametrize(
    "code",
    [
        "import gymnasium; env = gymnasium.make('londi.envs:londi/BabyAI-GoTo-v0')",
        "import gymnasium, londi.envs; env = gymnasium.make('londi/BabyAI-GoTo-v0')",
    ],
)
def test_gymnasium_finds_them_in_a_fresh_process(code: str) -> None:
    code += "; text, info = env.reset(seed=0); print(info['goal']); print(text)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    observation, info = make("londi/BabyAI-GoTo-v0").reset(seed=0)
    assert done.stdout.splitlines() == [info["goal"], observation]


# The words of BabyAI-Text ---------------------------------------------------------------------------------------------


def room(*things: tuple[int, int, Any], at: tuple[int, int] = (4, 5), facing: int = 3) -> BabyAITextEnv:
    """An empty 8x8 room with these things; the agent looks north (3) unless told (0 east, 1 south, 2 west)."""
    env = BabyAITextEnv(kinds=("go to",))
    env.reset(seed=0)
    level = env.level
    for x in range(1, 7):
        for y in range(1, 7):
            level.grid.set(x, y, None)
    for x, y, thing in things:
        level.grid.set(x, y, thing)
    level.agent_pos, level.agent_dir, level.carrying = at, facing, None
    return env


def words(env: BabyAITextEnv) -> str:
    return str(env.level.gen_obs()["text"])


WALLS = "You see a wall 5 steps forward. You see a wall 3 steps right."
"""From (4, 5) looking north; the left wall is four steps away, out of the 7x7 view."""


def test_an_empty_room() -> None:
    assert words(room()) == WALLS


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ((2, 4), "You see a red ball 2 steps left and 1 step forward."),
        ((3, 5), "You see a red ball 1 step left."),
        ((6, 5), "You see a red ball 2 steps right."),
        ((4, 4), "You see a red ball 1 step forward."),
        ((5, 1), "You see a red ball 1 step right and 4 steps forward."),
    ],
)
def test_where_things_are(cell: tuple[int, int], sentence: str) -> None:
    assert words(room((*cell, Ball("red")))) == f"{WALLS} {sentence}"


@pytest.mark.parametrize(
    ("facing", "sentence"),
    [
        (0, "You see a grey box 1 step left and 2 steps forward."),
        (1, "You see a grey box 2 steps left"),
        (2, "You see a grey box 1 step right"),
        (3, "You see a grey box 2 steps right and 1 step forward."),
    ],
)
def test_left_and_right_turn_with_the_agent(facing: int, sentence: str) -> None:
    text = words(room((6, 4, Box("grey")), at=(4, 5), facing=facing))
    assert (sentence in text) == (facing in (0, 3)), "what lies behind is not seen"


def test_what_is_carried() -> None:
    env = room()
    env.level.carrying = Key("blue")
    assert words(env) == f"You carry a blue key. {WALLS}"


def test_all_things_of_a_view_are_named_far_to_near() -> None:
    text = words(room((4, 2, Ball("red")), (5, 4, Key("yellow")), (3, 4, Box("green"))))
    assert text == (
        f"{WALLS} You see a red ball 3 steps forward. You see a green box 1 step left and 1 step forward. "
        "You see a yellow key 1 step right and 1 step forward."
    )


def test_doors() -> None:
    door = Door("purple", is_locked=True)
    env = room()
    env.level.grid.set(4, 0, door)
    right = "You see a wall 3 steps right."
    assert words(env) == f"{right} You see a locked purple door 5 steps forward."
    door.is_locked = False
    assert words(env) == f"{right} You see a closed purple door 5 steps forward."
    door.is_open = True
    assert words(env).endswith("You see an open purple door 5 steps forward.")


def test_what_a_wall_hides_is_not_told() -> None:
    hidden = room((3, 3, Wall()), (4, 3, Wall()), (5, 3, Wall()), (4, 2, Ball("red")))
    for x in range(1, 7):
        hidden.level.grid.set(x, 3, Wall())
    text = words(hidden)
    assert "ball" not in text
    assert "You see a wall 2 steps forward." in text


def test_places() -> None:
    assert place(-2, 1) == "2 steps left and 1 step forward"
    assert place(1, 0) == "1 step right"
    assert place(0, 3) == "3 steps forward"


def test_acting_changes_the_words() -> None:
    env = room((4, 4, Key("blue")))
    assert "You see a blue key 1 step forward." in words(env)
    assert env.step("pick up")[0] == f"You carry a blue key. {WALLS}"
    assert env.step("go forward")[0] == "You carry a blue key. " + WALLS.replace("5 steps", "4 steps")
    assert env.step("drop")[0].endswith("You see a blue key 1 step forward.")
    assert env.step("go forward")[0].endswith("You see a blue key 1 step forward."), "objects block the way"
    assert "blue key" in env.step("turn right")[0]
    assert env.step("turn left")[0].endswith("You see a blue key 1 step forward.")


# The five kinds of task -----------------------------------------------------------------------------------------------


def solve(env: BabyAITextEnv, seed: int) -> bool:
    env.reset(seed=seed)
    bot, action, over, info = ReadableBot(env.level), None, False, dict[str, Any]()
    while not over:
        suggestion = int(bot.replan(action))
        if suggestion >= len(ACTIONS):
            return False
        action = env.level.actions(suggestion)
        *_, terminated, truncated, info = env.step(ACTIONS[suggestion])
        over = terminated or truncated
    return bool(info["success"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_solved(kind: str) -> None:
    env = BabyAITextEnv(kinds=(kind,))
    assert sum(solve(env, seed) for seed in range(20)) >= 19


GOALS = {
    "go to": r"go to (a|the) \w+ (ball|box|key)",
    "pick up": r"pick up (a|the) \w+ (ball|box|key)",
    "put next": r"put (a|the) \w+ \w+ next to (a|the) \w+ \w+",
    "pick up then go to": r"pick up (a|the) \w+ \w+, then go to (a|the) \w+ \w+",
    "open door": r"open the \w+ door",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_its_goal_and_fills_its_room(kind: str) -> None:
    env = BabyAITextEnv(kinds=(kind,))
    for seed in range(10):
        env.reset(seed=seed)
        assert re.fullmatch(GOALS[kind], env.goal)
        objects = [cell for cell in env.level.grid.grid if cell is not None and cell.type in ("ball", "box", "key")]
        assert len(objects) == 8
        doors = [cell for cell in env.level.grid.grid if cell is not None and cell.type == "door"]
        assert [door.is_locked for door in doors] == [True] * (kind == "open door")


def test_the_mix_holds_every_kind() -> None:
    env = make("londi/BabyAI-Mix-v0")
    goals = [env.reset(seed=seed)[1]["goal"] for seed in range(60)]
    counts = {kind: sum(re.fullmatch(pattern, goal) is not None for goal in goals) for kind, pattern in GOALS.items()}
    assert sum(counts.values()) == 60
    assert min(counts.values()) >= 4


def test_failing_is_no_success() -> None:
    """Of two ordered wishes, the second alone does not end the episode with a reward."""
    env = BabyAITextEnv(kinds=("pick up then go to",))
    for seed in range(15):
        for step in roll(env, seed, actions_of(env, seed))[1:]:
            assert step[1] == float(step[4]["success"]) == float(step[2] and step[4]["success"])


def test_sizes() -> None:
    env = BabyAITextEnv(kinds=("go to",), room_size=12, num_objects=20)
    env.reset(seed=0)
    assert isinstance(env.level, TaskLevel)
    assert env.level.grid.width == 12
    assert sum(cell is not None and cell.type in ("ball", "box", "key") for cell in env.level.grid.grid) == 20
