"""Training that is interrupted, killed or damaged goes on as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from londi import config
from londi.bench.resume import bench_resume, what_came_out
from londi.config import EnvConfig, Experiment, ModelConfig
from londi.errors import CheckpointError, RunError
from londi.run import load_checkpoint, previous, save_checkpoint
from londi.train import Trainer, prepare

ROOT = Path(__file__).parents[2]
KEYDOOR = config.load(ROOT / "experiments" / "keydoor.toml")


def short(experiment: Experiment, **train: Any) -> Experiment:
    steps: dict[str, Any] = {"num_steps": 600, "warmup_steps": 100, "checkpoint_steps": 100, "num_envs": 8}
    return replace(experiment, train=replace(experiment.train, **steps | train))


def babyai(**train: Any) -> Experiment:
    models = ModelConfig("builtin:babyai-quick"), ModelConfig("builtin:babyai-deepthink")
    return short(Experiment("babyai", EnvConfig("londi/BabyAI-GoToPickUp-v0", {"max_steps": 32}), *models), **train)


def copied_at(trainer: Trainer, checkpoint: int, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the folder copied right after that checkpoint: what a kill would leave behind."""
    saved, save = 0, trainer.save

    def and_copy() -> None:
        nonlocal saved
        save()
        saved += 1
        if saved == checkpoint:
            shutil.copytree(trainer.run.path, to)

    monkeypatch.setattr(trainer, "save", and_copy)


@pytest.mark.parametrize(
    "experiment",
    [
        short(KEYDOOR),
        short(KEYDOOR, learners=("ppo",), num_steps=1_600),
        short(KEYDOOR, learners=("sac", "router", "myopic")),
        babyai(),
        babyai(on_policy=1.0, guided=0.5, snapshots=3, price_measure="tokens", price_unit=100.0),
    ],
    ids=["keydoor", "ppo", "rivals", "babyai", "babyai-options"],
)
def test_a_checkpoint_is_everything(tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = prepare(tmp_path / "whole", experiment)
    copied_at(trainer, 4, tmp_path / "killed", monkeypatch)
    trainer.train()
    assert trainer.agent.quick.hits > 0  # type: ignore[attr-defined]
    resumed = prepare(tmp_path / "killed", experiment)
    assert 0 < resumed.step < experiment.train.num_steps
    resumed.train()
    assert resumed.begun_anew == 0
    assert what_came_out(tmp_path / "killed") == what_came_out(tmp_path / "whole")
    assert resumed.recent == trainer.recent


def test_killed_at_any_moment(tmp_path: Path) -> None:
    found = bench_resume(short(KEYDOOR, num_steps=1_200), trials=2, seed=3)
    assert found["passed"], found
    assert found["killed"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path: Path, number: int, code: int) -> None:
    experiment = short(KEYDOOR, num_steps=2_500, checkpoint_steps=10_000)
    prepare(tmp_path / "whole", experiment).train()
    (tmp_path / "short.toml").write_text(config.dump(experiment))
    command = [sys.executable, "-m", "londi.cli", "train", str(tmp_path / "short.toml"), "--run", "run"]
    heed = partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    limit = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "interrupted at step" in errors
    resumed = prepare(tmp_path / "run", experiment)
    assert resumed.step < 2_500
    resumed.train()
    assert what_came_out(tmp_path / "run") == what_came_out(tmp_path / "whole")


def test_the_checkpoint_before_the_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = prepare(tmp_path / "whole", short(KEYDOOR))
    copied_at(trainer, 3, tmp_path / "killed", monkeypatch)
    trainer.train()
    assert not previous(trainer.run.checkpoint).exists(), "a finished run needs none"
    last = tmp_path / "killed" / "checkpoints" / "last.pt"
    step = load_checkpoint(last)["step"]
    last.write_bytes(last.read_bytes()[:1000])
    resumed = prepare(tmp_path / "killed", short(KEYDOOR))
    assert 0 < resumed.step < step
    resumed.train()
    assert what_came_out(tmp_path / "killed") == what_came_out(tmp_path / "whole")
    assert not list(last.parent.glob("*.part"))


def test_what_can_not_be_resumed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = prepare(tmp_path / "whole", short(KEYDOOR))
    copied_at(trainer, 2, tmp_path / "killed", monkeypatch)
    trainer.train()
    last = tmp_path / "killed" / "checkpoints" / "last.pt"
    good = load_checkpoint(last)
    for change in ({"format": 1}, {"features": 0}):
        save_checkpoint(last, good | change)
        with pytest.raises(CheckpointError, match="another folder"):
            prepare(tmp_path / "killed", short(KEYDOOR))
    for name in ("playing", "models", "replay", "learners", "started"):
        save_checkpoint(last, {key: value for key, value in good.items() if key != name})
        with pytest.raises(CheckpointError, match="does not fit"):
            prepare(tmp_path / "killed", short(KEYDOOR))
    for path in (last, previous(last)):
        path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="damaged"):
        prepare(tmp_path / "killed", short(KEYDOOR))


def test_an_episode_that_the_world_tells_otherwise_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = prepare(tmp_path / "whole", short(KEYDOOR))
    copied_at(trainer, 2, tmp_path / "killed", monkeypatch)
    trainer.train()
    last = tmp_path / "killed" / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    changed = next(each for each in state["playing"] if len(each["episode"]["steps"]) > 1)
    changed["episode"]["steps"][1]["observation"] = "A wall that was not there."
    save_checkpoint(last, state)
    resumed = prepare(tmp_path / "killed", short(KEYDOOR))
    assert resumed.begun_anew == 1
    resumed.train()
    assert resumed.step >= 600


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path / "last.pt", {"step": 1})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="disk full"):
        save_checkpoint(tmp_path / "last.pt", {"step": 2}, keep=True)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
