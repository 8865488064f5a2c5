"""An environment that loses an episode: nothing of it is learned or measured, and it is played anew."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest

from londi import config
from londi.bench.resume import what_came_out
from londi.cli import main
from londi.cli.runs import _mishaps
from londi.config import Experiment
from londi.envs.keydoor import KeyDoorEnv
from londi.envs.recall import Memory, RecallingEnv
from londi.episode import Episode
from londi.errors import EnvError
from londi.evaluate import evaluate
from londi.rollout import LOSSES
from londi.run import load_checkpoint
from londi.train import Trainer, prepare

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


class LosingRoom(KeyDoorEnv):
    """Loses every so many seeds' episodes at their second step, each so many times."""

    every: ClassVar[int] = 3
    times: ClassVar[int] = 0
    so_far: ClassVar[Counter[int]] = Counter()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.playing = seed or 0
        return super().reset(seed=seed, options=options)

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        if self._num_steps == 2 and self.playing % self.every == 0 and self.so_far[self.playing] < self.times:
            self.so_far[self.playing] += 1
            self.world_lost = True
            return "The world is gone.", 0.0, False, False
        return super()._apply(action)


@pytest.fixture(autouse=True)
def losing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register("made-up/Losing-v0", lambda **options: LosingRoom(**options), disable_env_checker=True)
    monkeypatch.setattr("londi.train.METRICS_STEPS", 100)
    monkeypatch.setattr(LosingRoom, "so_far", Counter())
    yield
    del gymnasium.registry["made-up/Losing-v0"]


def room(**train: Any) -> Experiment:
    steps: dict[str, Any] = {"num_steps": 400, "warmup_steps": 100, "updates_per_step": 0.1, "num_envs": 1}
    few: dict[str, Any] = {"episodes": 9, "selection_episodes": 9, "processes": 1, "num_envs": 4, "budgets": (1,)}
    few |= {"prices": (), "random_rates": (), "entropy_thresholds": (), "capped": False}
    return replace(
        KEYDOOR,
        env=replace(KEYDOOR.env, id="made-up/Losing-v0"),
        train=replace(KEYDOOR.train, learners=("budget",), **steps | train),
        evaluate=replace(KEYDOOR.evaluate, **few),
    )


def noted(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    """What is learned from."""
    seen: list[Episode] = []
    take = trainer._take

    def note(episode: Episode, trajectory: Any) -> None:
        seen.append(episode)
        take(episode, trajectory)

    monkeypatch.setattr(trainer, "_take", note)
    return seen


def test_training_comes_to_what_it_would_have_come_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / "calm", room()).train()
    monkeypatch.setattr(LosingRoom, "times", LOSSES)
    trainer = prepare(tmp_path / "run", room())
    trainer.train()
    weights, rows = what_came_out(tmp_path / "run")
    lost = [row.pop("lost") for row in rows]
    calm, calm_rows = what_came_out(tmp_path / "calm")
    assert lost[-1] >= LOSSES
    assert lost[-1] % LOSSES == 0
    assert not any(row.pop("lost") for row in calm_rows)
    assert (weights, rows) == (calm, calm_rows)


def test_what_is_lost_again_and_again_is_not_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LosingRoom, "times", 10**6)
    trainer = prepare(tmp_path / "run", room(num_envs=4))
    seen = noted(trainer, monkeypatch)

    def interrupt(now: Any) -> None:
        if now.step >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(interrupt)
    before = trainer.num_given_up
    resumed = prepare(tmp_path / "run", room(num_envs=4))
    assert (resumed.num_given_up, resumed.num_lost) == (before, trainer.num_lost)
    seen += noted(resumed, monkeypatch)
    resumed.train()
    assert all(episode.seed % 3 for episode in seen)
    assert not any("gone" in step.observation for episode in seen for step in episode.steps)
    assert resumed.num_given_up > before > 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["given_up"] <= resumed.num_given_up
    assert LOSSES * last["given_up"] <= last["lost"]


def test_a_world_that_is_always_lost_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LosingRoom, "times", 10**6)
    monkeypatch.setattr(LosingRoom, "every", 1)
    (tmp_path / "room.toml").write_text(config.dump(room(num_envs=4)))
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "room.toml"), "--run", str(tmp_path / "run")])
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("londi: made-up/Losing-v0 lost the episode with seed 42949672")
    assert f" {LOSSES + 1} times, the last time at '" in last
    playing = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["playing"]
    assert not any(each["begun"] and each["episode"]["steps"] for each in playing)
    monkeypatch.setattr(LosingRoom, "times", 0)
    main(["train", str(tmp_path / "room.toml"), "--run", str(tmp_path / "run")])


def test_evaluation_measures_what_was_played_anew_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = prepare(tmp_path / "run", room())
    trainer.train()
    calm = evaluate(trainer.run)
    monkeypatch.setattr(LosingRoom, "times", LOSSES)
    assert measured(evaluate(trainer.run)) == measured(calm)
    assert LosingRoom.so_far
    monkeypatch.setattr(LosingRoom, "times", 10**6)
    written = (tmp_path / "run" / "frontier.json").read_bytes()
    with pytest.raises(EnvError, match="lost the episode with seed"):
        evaluate(trainer.run)
    assert (tmp_path / "run" / "frontier.json").read_bytes() == written


def measured(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an evaluation, without seconds."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in found["policies"] + found["selection"]]


def test_an_episode_that_was_lost_is_not_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    first, second = (RecallingEnv(LosingRoom(), memory) for _ in range(2))
    monkeypatch.setattr(LosingRoom, "times", 2)
    actions = list(first.admissible or ())[:2]

    def ended(env: RecallingEnv, count: int) -> tuple[bool, bool]:
        env.reset(seed=0)
        _, _, terminated, _, info = [env.step(actions[i % 2]) for i in range(count)][-1]
        return terminated, info.get("world_lost", False)

    assert ended(first, 2) == (True, True)
    assert ended(second, 2) == (True, True)
    assert ended(first, 2) == (False, False)
    monkeypatch.setattr(LosingRoom, "times", 3)
    assert ended(second, 2) == (False, False), "as it was the last time"
    assert ended(second, 3) == (True, True), "lost while it caught up"
    assert ended(first, 3) == (False, False)


def test_what_was_lost_is_said() -> None:
    assert _mishaps(3, 0, 0, 0) == "3 episodes were lost by the environment and begun anew"
    assert _mishaps(1, 0, 0, 1).endswith("; 1 episode was given up, lost by the environment every time")
