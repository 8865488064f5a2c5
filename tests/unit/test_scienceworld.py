"""ScienceWorld, in its real simulator: rules, scores, and processes that die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import config, envs
from londi.agent import Agent
from londi.cli import main
from londi.config import ModelConfig
from londi.encoders import TextEncoder
from londi.envs.jvm import POOL, Pool, Simulator, SimulatorLostError
from londi.envs.scienceworld import ScienceWorldEnv, _mixed, shorten
from londi.envs.tasks import SCIENCEWORLD
from londi.episode import Episode
from londi.errors import ConfigError, EnvError, EpisodeOverError, LondiError
from londi.lms import ScriptedLM
from londi.making import make_envs
from londi.rollout import Assignment, rollout
from londi.switchers import Never
from londi.train import prepare

ROOT = Path(__file__).parents[2]
TASK = "find-living-thing"


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """Nothing runs on after these tests."""
    yield
    POOL.clear()


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorldEnv]:
    made = make(split="test")
    yield made
    made.close()


def make(**options: Any) -> ScienceWorldEnv:
    found = envs.make(f"londi/ScienceWorld-{TASK}-v0", heap_mb=256, **options)
    assert isinstance(found, ScienceWorldEnv)
    return found


def gold(env: ScienceWorldEnv) -> list[str]:
    """A solution of the variation that is being played."""
    solver = POOL.take(256, 60)
    solver.load(env.task, env.variation, env.simplification, gold=True)
    actions = solver.gold()
    POOL.give(solver)
    return actions


def test_every_task_has_an_id() -> None:
    assert {f"londi/ScienceWorld-{task}-v0" for task in SCIENCEWORLD} <= set(envs.ids())
    assert len(SCIENCEWORLD) == 30


def test_consecutive_seeds_visit_tasks_and_variations_in_turn() -> None:
    tasks = ("lifespan-longest-lived", "chemistry-mix-paint-secondary-color")
    env = envs.make("londi/ScienceWorld-v0", task=tasks, split="dev", heap_mb=256)
    assert isinstance(env, ScienceWorldEnv)
    played = []
    for seed in range(18):
        _, info = env.reset(seed=seed)
        played.append((env.task, info["variation"]))
        assert env.settings["task"] == env.task
    assert [task for task, _ in played] == [*tasks] * 9
    assert len({number for task, number in played if task == tasks[1]}) == 9, "all nine of the split"
    _, info = env.reset(seed=3, options={"variation": 2})
    assert (env.task, info["variation"]) == (tasks[0], 2), "whatever the seed and the split"
    for wrong in (-1, "two"):
        with pytest.raises(ConfigError, match="a variation is a number"):
            env.reset(options={"variation": wrong})
    env.close()
    with pytest.raises(ConfigError, match="at least one"):
        ScienceWorldEnv(())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"simplification": "eesy"}, "did you mean 'easy'"),
        ({"simplification": "openDoors,teleport"}, "did you mean 'teleportAction'"),
        ({"split": "tests"}, "did you mean 'test'"),
        ({"heap_mb": 32}, "heap_mb must be a whole number of at least 64"),
        ({"heap_mb": "256"}, "heap_mb must be a whole number"),
        ({"max_steps": "30"}, "max_steps must be a whole number"),
        ({"recal": True}, "has no option 'recal'; did you mean 'recall'"),
        ({"task": "find-plant"}, "has its own task"),
        ({"variation": 7}, "has no option 'variation'; it has task, split"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(LondiError, match=said):
        envs.make("londi/ScienceWorld-find-animal-v0", **options)


def test_an_experiment_is_not_measured_on_the_variations_of_training() -> None:
    made = config.load(ROOT / "experiments" / "scienceworld" / "find-animal.toml")
    assert make_envs(made, 1)
    for table in ("selection", "test"):
        changes: dict[str, Any] = {table: {}}
        with pytest.raises(ConfigError, match=f"set split in env.{table}"):
            make_envs(replace(made, env=replace(made.env, **changes)), 1)
    explicit = replace(made, env=replace(made.env, test={"split": "train"}))
    assert make_envs(explicit, 1, "test"), "who says so gets it"


def test_a_part_of_a_split_stands_for_all_of_it() -> None:
    for count in (*range(1, 40), 75, 135, 225, 450):
        assert sorted(_mixed(number, count) for number in range(count)) == [*range(count)], "each once"
    places = [_mixed(50_000_000 + number, 225) // 75 for number in range(30)]
    assert all(8 <= places.count(third) <= 12 for third in range(3))


def test_models_that_don_t_know_the_language_are_shown_actions() -> None:
    env = make(list_actions=5)
    observation, _ = env.reset(seed=0)
    listed = observation.split("You can, among other things: ")[1].rstrip(".").split("; ")
    assert len(listed) == 5
    assert "reset task" not in listed
    _, _, _, _, info = env.step(f"\n {listed[0]}\nbecause it is listed")
    assert info["valid"], "the first line is the action"
    env.close()
    with pytest.raises(ConfigError, match="list_actions must be a whole number of at least 0"):
        make(list_actions=-1)


def test_the_first_list_of_actions_is_of_this_goal() -> None:
    def listed(env: Any, seed: int) -> set[str]:
        return set(env.reset(seed=seed)[0].split("among other things: ")[1].rstrip(".").split("; "))

    tasks = ("find-plant", "lifespan-longest-lived")
    used, fresh = (envs.make("londi/ScienceWorld-v0", task=tasks, list_actions=4, heap_mb=256) for _ in range(2))
    first = listed(used, 0)
    assert listed(used, 1) != first
    assert listed(fresh, 1) == listed(used, 1)
    assert listed(used, 0) == first, "whatever was played before"
    used.close()
    fresh.close()


def test_an_episode_begins_with_the_room_and_what_is_carried(env: ScienceWorldEnv) -> None:
    observation, info = env.reset(seed=1)
    assert "In your inventory, you see" in observation
    assert "\n" not in observation
    assert info["goal"].startswith("Your task is to find a(n) living thing")
    assert info["admissible"] is None
    assert info["variation"] in env._variations["find-living-thing"]["test"]
    assert env.settings["variation"] == info["variation"]


def test_the_same_seed_gives_the_same_variation(env: ScienceWorldEnv) -> None:
    first = [env.reset(seed=seed)[1]["variation"] for seed in (1, 2, 3, 1)]
    assert first[0] == first[3]
    assert len(set(first)) == 3
    other = make(split="train")
    assert other.reset(seed=1)[1]["variation"] not in env._variations[TASK]["test"], "train and test share none"
    other.close()


def test_a_variation_that_there_is_not_is_refused(env: ScienceWorldEnv) -> None:
    with pytest.raises(ConfigError, match="did you mean 'variation'"):
        env.reset(options={"variaton": 7})
    with pytest.raises(ConfigError, match="no variation 300: they are 0 to 299"):
        env.reset(options={"variation": 300})
    assert env.reset(options={"variation": 299})[1]["variation"] == 299


@pytest.mark.parametrize("reward", ["success", "score"])
def test_a_solution_scores_100(reward: Any) -> None:
    env = make(reward=reward)
    env.reset(seed=5)
    rewards: list[float] = []
    info: dict[str, Any] = {}
    ended = False
    for action in gold(env):
        assert not ended
        _, paid, ended, truncated, info = env.step(action)
        rewards.append(paid)
        assert not truncated
    assert (ended, info["success"], info["score"]) == (True, True, 100)
    assert sum(rewards) == pytest.approx(1.0)
    assert reward == "score" or rewards[:-1] == [0.0] * (len(rewards) - 1)
    with pytest.raises(EpisodeOverError):
        env.step("look around")
    env.close()


@pytest.mark.parametrize(("failure", "score", "total"), [("zero", 0, 0.0), ("minus", -100, -1.0)])
def test_a_wrong_focus_is_a_failure(failure: Any, score: int, total: float) -> None:
    env = make(reward="score", failure=failure)
    env.reset(seed=5)
    rewards = [env.step("look around")[1]]
    _, paid, ended, _, info = env.step("focus on air")
    assert (ended, info["success"], info["score"]) == (True, False, score)
    assert sum([*rewards, paid]) == pytest.approx(total)
    env.close()


def test_a_failure_can_not_be_wiped_out(env: ScienceWorldEnv) -> None:
    env.reset(seed=5)
    observation, _, ended, _, info = env.step("  Reset   TASK ")
    assert observation.startswith("That is not possible.")
    assert (ended, info["valid"], info["moves"]) == (False, False, 0)


def test_what_is_not_understood_costs_a_step_and_no_move(env: ScienceWorldEnv) -> None:
    env.reset(seed=5)
    observation, _, _, _, info = env.step("dance with me")
    assert observation.startswith("No known action matches that input")
    assert (info["valid"], info["moves"]) == (False, 0)
    assert env.step("wait1")[4]["moves"] > 0


def test_limits_of_steps_and_moves() -> None:
    env = make(max_steps=3, max_moves=2)
    env.reset(seed=5)
    ends = [env.step("look around")[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)], "looking is no move, but a step"
    env.reset(seed=5)
    assert env.step("wait1")[2] or env.step("wait1")[2], "the simulator's moves are used up"
    env.close()


def test_certain_actions_on_request(env: ScienceWorldEnv) -> None:
    env.reset(seed=5)
    assert "look around" in env.valid_actions()


def test_text_is_shortened() -> None:
    text = "In it, you see: \n\tthe agent\n\ta substance called air\n\ta table. On it: a bowl (containing nothing).\n"
    assert shorten(text) == "In it, you see: air; a table. On it: a bowl."


# Processes ------------------------------------------------------------------------------------------------------------


def kill(env: ScienceWorldEnv) -> None:
    assert env.simulator is not None
    os.kill(env.simulator.pid, signal.SIGKILL)
    env.simulator.process.wait()


def test_a_simulator_that_dies_is_replaced_and_the_episode_goes_on() -> None:
    env = make()
    env.reset(seed=5)
    actions, info = gold(env), dict[str, Any]()
    for number, action in enumerate(actions):
        if number % 2:
            kill(env)
        info = env.step(action)[4]
    assert (info["success"], info["score"], info["world_lost"]) == (True, 100, False)
    kill(env)
    assert env.reset(seed=5)[1]["goal"], "between episodes too"
    env.close()


def test_what_was_played_before_is_recalled_and_what_is_new_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    env, plain = make(recall=True), make()
    env.reset(seed=1)
    actions = [*gold(env)[:6], "sing", "look around"]
    ways = [actions, [*actions[:4], "go to kitchen", "go to hallway"], ["reset task", *actions]]

    def play(played: ScienceWorldEnv, way: list[str]) -> list[Any]:
        observation, info = played.reset(seed=1)
        return [unordered(observation), info["goal"], *(said(*played.step(action)) for action in way)]

    def said(observation: str, *rest: Any) -> Any:
        return unordered(observation), *rest

    def unordered(text: str) -> list[str]:  # the simulator lists what is in a room in any order
        return sorted(re.findall(r"\w+", text))

    first = [play(env, way) for way in ways]
    assert [play(plain, way) for way in ways] == first
    asked: list[str] = []
    monkeypatch.setattr(Simulator, "step", lambda self, action: asked.append(action))
    assert [play(env, way) for way in (*ways, *ways)] == [*first, *first]
    assert not asked
    monkeypatch.undo()
    play(env, actions[:3])
    kill(env)
    plain.reset(seed=1)
    for action in (*actions[:3], "go to bedroom"):
        expected = said(*plain.step(action))
    assert said(*env.step("go to bedroom")) == expected, "what is new is played after what was recalled"
    play(plain, actions[:3])
    play(env, actions[:3])
    assert sorted(env.valid_actions()) == sorted(plain.valid_actions()), "where the episode is, not the simulator"
    env.close()
    for closed in (env.valid_actions, lambda: env.step(actions[3])):
        with pytest.raises(EnvError, match="closed"):
            closed()
    plain.close()


def test_a_simulator_that_is_lost_while_it_catches_up_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(recall=True)
    env.reset(seed=3)
    actions = gold(env)[:5]
    scores = [env.step(action)[-1]["score"] for action in actions]
    env.reset(seed=3)
    assert [env.step(action)[-1]["score"] for action in actions[:4]] == scores[:4]
    own, faults = Simulator.step, iter([True])

    def step(self: Simulator, action: str) -> str:
        if action == actions[2] and next(faults, False):
            self.close()
            raise SimulatorLostError("lost on the way")
        return own(self, action)

    monkeypatch.setattr(Simulator, "step", step)
    env.step("reset task")
    assert env.score == scores[3]
    _, _, ended, _, info = env.step("look at the floor")
    assert (ended, info["world_lost"], info["score"]) == (False, False, scores[3])
    env.close()


def test_what_can_be_done_after_a_failure_that_was_recalled() -> None:
    env = make(recall=True, failure="zero")
    for _ in range(2):
        env.reset(seed=0)
        _, _, ended, _, info = env.step("focus on air")
        assert (ended, info["score"]) == (True, 0)
        assert "look around" in env.valid_actions()
    env.close()


def test_a_reset_that_was_refused_leaves_no_episode(env: ScienceWorldEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ConfigError):
        env.reset(options={"variation": 10_000})
    with pytest.raises(EpisodeOverError):
        env.step("look around")


def test_an_episode_that_can_not_be_replayed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    env.reset(seed=5)
    env.step("look around")
    monkeypatch.setattr(env, "_replay", lambda actions, score: False)
    kill(env)
    _, reward, ended, _, info = env.step("look around")
    assert (reward, ended, info["success"], info["world_lost"]) == (0.0, True, False, True)
    env.close()


def test_training_plays_anew_what_was_lost_with_its_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looking.py").write_text("def look(prompt):\n    return 'look around'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("londi.envs.scienceworld._REPLAYS", 0)
    made = config.load(ROOT / "experiments" / "scienceworld" / "demo.toml")
    looking = ModelConfig("python:looking:look")
    steps: dict[str, Any] = {"num_steps": 24, "warmup_steps": 20, "num_envs": 2, "snapshots": 0}
    task = {"task": TASK, "heap_mb": 256, "max_steps": 4}
    trainer = prepare(
        tmp_path / "run",
        replace(
            made,
            env=replace(made.env, id="londi/ScienceWorld-v0", options=task),
            quick=looking,
            deepthink=looking,
            train=replace(made.train, **steps),
        ),
    )
    seen: list[Episode] = []
    note = trainer._note

    def noted(episode: Episode) -> None:
        seen.append(episode)
        note(episode)

    monkeypatch.setattr(trainer, "_note", noted)
    assert trainer.rollout.step() is not None
    kill(trainer.envs[0])  # type: ignore[arg-type]
    trainer.train()
    assert trainer.num_lost == 1
    assert [len(episode.steps) for episode in seen] == [4] * 6
    assert {episode.seed for episode in seen} == {2**32 + number for number in range(6)}
    for env in trainer.envs:
        env.close()


def test_a_simulator_that_hangs_is_ended() -> None:
    simulator = Simulator(256, timeout=5.0)
    simulator.load(TASK, 0, "easy")
    os.kill(simulator.pid, signal.SIGSTOP)
    begun = time.perf_counter()
    with pytest.raises(SimulatorLostError):
        simulator.step("look around")
    assert time.perf_counter() - begun < 20
    assert not simulator.alive


def test_simulators_are_used_again_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    monkeypatch.setattr("londi.envs.jvm._memory_mb", lambda: 2.2 * (256 + 160))
    first = pool.take(256, 60)
    with pytest.raises(EnvError, match="lower num_envs"):
        pool.take(256, 60)
    pool.give(first)
    assert pool.take(256, 60) is first
    pool.give(first)
    pool.clear()
    assert not first.alive


def test_idle_simulators_make_room_and_keep_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, heap_mb: int, timeout: float) -> None:
            self.heap_mb, self.timeout, self.alive = heap_mb, timeout, True

        def close(self) -> None:
            self.alive = False

    monkeypatch.setattr("londi.envs.jvm.Simulator", Fake)
    monkeypatch.setattr("londi.envs.jvm._memory_mb", lambda: 1.3 * (256 + 160))  # one
    pool = Pool()
    first = pool.take(256, 60)
    pool.give(first)
    other = pool.take(256, 5)
    assert (other.timeout, other.alive, first.alive) == (5, True, False), "not that of the other timeout"
    with pytest.raises(EnvError, match="lower num_envs"):
        pool.take(256, 60)


@pytest.mark.parametrize("end", ["env.close()", "sys.exit(3)", "os._exit(3)", "os.kill(os.getpid(), 9)", "1 / 0"])
def test_none_is_left_behind(end: str) -> None:
    code = f"""
import os, sys
from londi import config, envs
env = envs.make("londi/ScienceWorld-{TASK}-v0", heap_mb=256)
env.reset(seed=0)
print(env.simulator.pid, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} ran on")


def test_many_episodes_with_simulators_that_are_killed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "scienceworld", "--rounds", "1", "--episodes", "6", "--kill-every", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["killed"], found["lost"], found["passed"]) == (3, 0, True)
    assert len(found["rows"]) == 3
    assert all(row["ratio"] > 1 for row in found["rows"])


# As a task ------------------------------------------------------------------------------------------------------------


def test_an_episode_records_what_was_played() -> None:
    env = make(split="dev", max_steps=3)
    looks = ScriptedLM(lambda prompt: "look around")
    agent = Agent(looks, looks, TextEncoder(), Never())
    ((episode, _),) = rollout([env], agent, [Assignment(4)], "x")
    assert episode.truncated
    assert episode.settings["split"] == "dev"
    assert episode.settings["scienceworld"]
    assert Episode.from_dict(episode.to_dict()).settings == episode.settings
    env.close()


@pytest.mark.parametrize(
    "wrong", [{"task": "boyl"}, {"split": "all"}, {"reward": "x"}, {"failure": "x"}, {"max_moves": 0}, {"max_steps": 0}]
)
def test_options_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ScienceWorldEnv(**{"task": TASK, **wrong})
