"""Training while servers break and clocks jump; and damaged records."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from londi import config
from londi.bench.resume import what_came_out
from londi.bench.server import FAULTS, Script, ScriptedServer
from londi.bench.soak import bench_soak, growth, line
from londi.cli import main
from londi.config import Experiment, ModelConfig, ServerConfig
from londi.episode import Episode
from londi.errors import ModelError
from londi.run import Run
from londi.train import Trainer, prepare

ROOT = Path(__file__).parents[2]
KEYDOOR = config.load(ROOT / "experiments" / "keydoor.toml")


def short(**train: Any) -> Experiment:
    steps: dict[str, Any] = {"num_steps": 400, "warmup_steps": 100, "checkpoint_steps": 200, "num_envs": 8}
    return replace(KEYDOOR, train=replace(KEYDOOR.train, updates_per_step=0.1, **steps | train))


def actions() -> tuple[str, ...]:
    from londi import envs

    return tuple(envs.make("londi/KeyDoor-v0").admissible or ())


def noting(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    seen: list[Episode] = []
    take = trainer._note

    def note(episode: Episode) -> None:
        seen.append(episode)
        take(episode)

    monkeypatch.setattr(trainer, "_note", note)
    return seen


@pytest.mark.filterwarnings("ignore:.* of the last 20 calls of DEEPTHINK")
def test_a_server_that_breaks_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails leaves its step to QUICK, and is paid for by the budget all the same."""
    faults = dict.fromkeys(FAULTS, 0.05)
    with ScriptedServer(Script(actions(), plan=[None] * 20, faults=faults)) as server:
        served = ServerConfig(server.url, "", timeout=0.3, attempts=1, concurrency=16, choose="generate", api="chat")
        made = replace(short(num_steps=800, on_policy=1.0), deepthink=ModelConfig("openai:toy", server=served))
        trainer = prepare(tmp_path / "run", made)
        seen = noting(trainer, monkeypatch)
        trainer.train()
        assert {entry.fault for entry in server.ledger} == {None, *FAULTS}
    assert trainer.step >= 800
    failed = sum(episode.num_failed for episode in seen)
    assert failed > 5
    for episode in seen:
        assert not episode.violated
        for step in episode.steps:
            if step.deepthink is not None and step.deepthink.error:
                assert step.action == step.quick.action
    assert any(episode.budget is not None for episode in seen)


class Telling:
    """A tracker that keeps what it was told last."""

    def __init__(self, told: dict[str, float]) -> None:
        self.told = told

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.told.update(values)

    def close(self, outcome: str = "finished") -> None:
        self.told["closed"] = 1


def test_a_server_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a training QUICK goes on alone; at its beginning that is an error."""
    server = ScriptedServer(Script(actions())).__enter__()
    served = ServerConfig(server.url, "", timeout=1.0, attempts=1, choose="generate", api="chat")
    made = replace(short(num_steps=1_000), deepthink=ModelConfig("openai:toy", server=served))
    trainer = prepare(tmp_path / "run", made)
    seen = noting(trainer, monkeypatch)
    before = 0

    def stop(now: Any) -> None:
        nonlocal before
        if now.step > 200 and not before:
            before = len(seen)
            server.__exit__(None, None, None)

    told: dict[str, float] = {}
    trainer.trackers.append(Telling(told))
    with pytest.warns(UserWarning, match=r"of the last 20 calls of DEEPTHINK \(openai:toy\) failed.*connect") as warned:
        trainer.train(stop)
    assert len(warned) == 1, "once is enough"
    assert trainer.step >= 1_000
    assert before > 0
    assert not any(episode.num_failed for episode in seen[:before])
    failed = sum(episode.num_failed for episode in seen)
    assert failed > 20
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["failed"] == told["failed"] == trainer.failures.count == failed
    with pytest.raises(ModelError, match="is it running"):
        prepare(tmp_path / "other", made)
    assert not (tmp_path / "other").exists()


def serving(server: ScriptedServer, **changes: Any) -> ModelConfig:
    settings: dict[str, Any] = {"timeout": 0.5, "attempts": 2, "choose": "generate", "api": "chat"}
    return ModelConfig("openai:toy", server=ServerConfig(server.url, "", **settings | changes))


def breaking(server: ScriptedServer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server break in the middle of the next training, and stay so."""
    note = Trainer._note

    def and_break(trainer: Trainer, episode: Episode) -> None:
        note(trainer, episode)
        if trainer.step > 200 and how in FAULTS:
            server.script.faults = {how: 1.0}
        elif trainer.step > 200:
            server.script.reply = how

    monkeypatch.setattr(Trainer, "_note", and_break)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("broken", "status 500: out of memory"),
        ("reset", "the connection broke"),
        ("slow", "no answer within 0.5 s"),
        ("no JSON", "the answer is damaged"),
        ("no idea", "the reply names no action: 'no idea'"),
    ],
)
def test_quick_can_not_be_asked_for_a_while(
    tmp_path: Path, how: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training ends with one error and a checkpoint; the same command then comes to what it would have come to."""
    whole, failed = (["train", str(tmp_path / "x.toml"), "--run", str(tmp_path / run)] for run in ("whole", "failed"))
    with ScriptedServer(Script(actions())) as server:
        made = replace(short(checkpoint_steps=10_000), quick=serving(server))
        (tmp_path / "x.toml").write_text(config.dump(made))
        main(whole)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            breaking(server, how, patch)
            with pytest.raises(SystemExit, match="2"):
                main(failed)
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith(f"londi: QUICK (toy) failed: {message}")
        assert said.count("QUICK (toy) failed") == 1
        assert "Traceback" not in said
        assert "training failed at step" in said
        state = Run.open(tmp_path / "failed").latest()
        assert state is not None
        assert 200 < state["step"] < 400
        server.script.faults, server.script.reply = {}, ""
        main(failed)
        assert f"at step {state['step']}" in " ".join(capsys.readouterr().err.split())
    assert what_came_out(tmp_path / "failed") == what_came_out(tmp_path / "whole")


def test_failed_calls_are_said_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(Script(actions())) as server:
        made = replace(short(num_steps=1_000), deepthink=serving(server, attempts=1))
        (tmp_path / "x.toml").write_text(config.dump(made))
        breaking(server, "broken", monkeypatch)
        with pytest.warns(UserWarning, match="status 500: out of memory"):
            main(["train", str(tmp_path / "x.toml"), "--run", str(tmp_path / "run")])
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['failed']} DEEPTHINK calls failed" in capsys.readouterr().err
    assert last["failed"] > 20


SILENT = """
from londi import Decision, Usage


class Silent:
    name = "silent"

    def decide(self, prompts, candidates=None):
        return [Decision("", Usage(), error="gone") for _ in prompts]


silent = Silent()
"""


@pytest.mark.filterwarnings("ignore:.* of the last 20 calls of DEEPTHINK")
def test_a_deepthink_that_answered_no_call_is_no_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "never_answers.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    measured = replace(KEYDOOR.evaluate, episodes=8, selection_episodes=8, selection_limit=8, processes=1)
    made = replace(short(learners=("price",)), deepthink=ModelConfig("python:never_answers:silent"), evaluate=measured)
    (tmp_path / "x.toml").write_text(config.dump(made))
    main(["train", str(tmp_path / "x.toml"), "--run", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run")])
    assert "DEEPTHINK answered no call: nothing can be a share of its" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "frontier.json").read_text())
    assert found["choices"] == {"at_99": None, "at_95": None}
    assert found["metrics"]["hypervolume"]["price"] is None
    assert next(row for row in found["policies"] if row["name"] == "DEEPTHINK")["failed"] > 0
    main(["report", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("served", [False, True])
def test_clocks_that_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: bool) -> None:
    """What is learned does not depend on the time of day, forwards or backwards; nor does a wait for a server."""
    jumps, now = itertools.cycle((0.0, 9e8, -9e8, 3600.0)), time.time
    with ScriptedServer(Script(actions(), faults={"busy, says when": 0.02})) as server:
        model = serving(server, attempts=8, timeout=20.0)
        made = replace(short(num_steps=200), deepthink=model) if served else short()
        prepare(tmp_path / "calm", made).train()
        monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
        prepare(tmp_path / "jumping", made).train()
        monkeypatch.undo()
        refused = [entry.fault for entry in server.ledger]
    assert what_came_out(tmp_path / "jumping") == what_came_out(tmp_path / "calm")
    assert ("busy, says when" in refused) == served


@pytest.mark.parametrize("damage", ["cut off", "no JSON", "another schema"])
def test_a_damaged_episode_file(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    from londi.agent import Agent
    from londi.encoders import TextEncoder
    from londi.envs import make
    from londi.episode import write_episodes
    from londi.lms.builtin import load_builtin
    from londi.rollout import Assignment, rollout
    from londi.run import Run
    from londi.switchers import Never

    Run.create(tmp_path / "run", KEYDOOR)
    quick = load_builtin("keydoor-quick")
    agent = Agent(quick, quick, TextEncoder(), Never())
    played = [episode for episode, _ in rollout([make("londi/KeyDoor-v0")], agent, [Assignment(0), Assignment(1)])]
    path = tmp_path / "run" / "episodes" / "chosen.jsonl"
    write_episodes(path, played)
    text = path.read_text()
    path.write_text(
        {"cut off": text[:-40], "no JSON": text + "nonsense\n", "another schema": text.replace('"schema"', '"scheme"')}[
            damage
        ]
    )
    with pytest.raises(SystemExit, match="2"):
        main(["watch", str(tmp_path / "run"), "--delay", "0"])
    said = capsys.readouterr().err
    assert "chosen.jsonl" in said
    assert said.count("\n") == 1


def test_memory_that_grows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench_soak(short(num_steps=200), 0.001, long=1_000)
    assert found["trainings"] >= 4
    assert len(found["peak_mb"]) == len(found["used_mb"]) == len(found["ends"]) == found["trainings"]
    assert found["env_steps"] >= 800
    assert np.isfinite([found["slope_mb_per_hour"], found["slope_se_mb_per_hour"]]).all()
    within = found["within"]
    assert len(within["steps"]) == len(within["used_mb"]) > 10
    assert min(within["steps"]) >= within["replay"] == 250
    assert 0 < within["answers"][0] <= within["answers"][1]
    grown = itertools.count(500, 2)
    monkeypatch.setattr("londi.bench.soak.memory_mb", lambda: float(next(grown)))
    found = bench_soak(short(num_steps=200), 0.001)
    assert not found["passed"]
    assert found["slope_mb_per_hour"] > 0


def test_growth_is_bounded_by_the_hour() -> None:
    """What passes does not depend on how many trainings an hour holds."""
    noise = np.random.default_rng(0).normal(0, 0.5, 70)
    ends = np.arange(70) * 30 / 69

    def along(mb_per_hour: float, scale: float = 1.0) -> dict[str, Any]:
        return growth(ends.tolist(), (460 + ends / 60 * mb_per_hour + scale * noise).tolist())

    flat, slow, leaking, unclear = along(0), along(7), along(40), along(0, scale=50)
    assert [each["passed"] for each in (flat, slow, leaking, unclear)] == [True, True, False, False]
    assert [check["passed"] for check in leaking["checks"].values()] == [False, True]
    assert not unclear["checks"]["two standard errors of that"]["passed"], "too noisy, or too short"
    assert abs(leaking["slope_mb_per_hour"] - 40) < 3 * leaking["slope_se_mb_per_hour"]
    assert slow["slope_mb_per_hour"] > 2 * slow["slope_se_mb_per_hour"], "it passes since it is slow"
    loaded = growth([1, 2, 3, 4], [100, 300, 300, 300])
    assert loaded["slope_mb_per_hour"] == 0, "the first training loads things"


def test_the_line_is_that_of_least_squares() -> None:
    x, y = [0.0, 1.0, 2.0, 5.0, 7.0], [1.0, 0.5, 3.0, 4.0, 8.0]
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    assert line(x, y) == pytest.approx((coefficients[0], np.sqrt(covariance[0, 0])))
