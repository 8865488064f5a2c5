"""Training that is interrupted, killed or damaged goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from londi import config
from londi.bench import resume
from londi.bench.resume import what_came_out
from londi.budget import Budget
from londi.cli import main
from londi.config import EnvConfig, Experiment, ModelConfig
from londi.episode import Episode
from londi.errors import BudgetError, CheckpointError, EnvError, ModelError, RunError, WriteError
from londi.interrupts import Terminated, held_back
from londi.lms import CachedLM, Decision, ScriptedLM
from londi.prompt import PromptTemplate
from londi.run import load_checkpoint, previous, save_checkpoint
from londi.train import Trainer, prepare
from londi.usage import Usage

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

    def and_copy(patience: float | None = None) -> None:
        nonlocal saved
        save(patience)
        saved += 1
        if saved == checkpoint:
            shutil.copytree(trainer.run.path, to)

    monkeypatch.setattr(trainer, "save", and_copy)


@pytest.mark.parametrize(
    "experiment",
    [
        short(KEYDOOR),
        short(KEYDOOR, learners=("ppo",), num_steps=1_300),
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


def test_killed_at_any_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.toml").write_text(config.dump(short(KEYDOOR, num_steps=1_500)))
    main(["bench", "resume", "--experiment", str(tmp_path / "short.toml"), "--trials", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"], found
    assert found["trials"] == found["resumed"] == 1
    assert found["killed"] >= 1
    assert found["seconds"] > 0


def test_another_takes_the_place_of_one_that_ends_before_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, moments = resume._train, list[float | None]()

    def at_first_not_killed(source: Path, run: Path, seconds: float | None) -> bool:
        moments.append(seconds)
        return train(source, run, None if len(moments) == 2 else seconds and 0.01)

    monkeypatch.setattr(resume, "_train", at_first_not_killed)
    monkeypatch.setattr(resume, "ATTEMPTS", 2)
    found = resume.bench_resume(short(KEYDOOR, num_steps=60, warmup_steps=50), trials=1)
    assert found["killed"] == 1
    whole, ended, killed, again = moments
    assert whole is again is None
    assert ended
    assert killed
    assert ended != killed


def test_what_is_killed_before_a_checkpoint_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.toml").write_text(config.dump(short(KEYDOOR, num_steps=60, warmup_steps=50)))
    train = resume._train
    monkeypatch.setattr(resume, "_train", lambda source, run, seconds: train(source, run, seconds and 0.01))
    monkeypatch.setattr(resume, "ATTEMPTS", 2)
    with pytest.raises(SystemExit, match="1"):
        main(["bench", "resume", "--experiment", str(tmp_path / "short.toml"), "--trials", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["killed"], found["resumed"], found["passed"]) == (2, 0, False)
    assert [check["count"] for check in found["checks"].values()] == [0, 0, 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path: Path, number: int, code: int) -> None:
    experiment = short(KEYDOOR, num_steps=2_400, checkpoint_steps=10_000, updates_per_step=0.1)
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
    assert resumed.step < 1_400
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
    with pytest.warns(UserWarning, match="going on from last-previous.pt instead"):
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
    with pytest.warns(UserWarning, match="going on"), pytest.raises(CheckpointError, match="damaged"):
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

    def full(state: Any, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path / "last.pt", {"step": 1})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match=r"last\.pt .is the disk full.*No space left on device"):
        save_checkpoint(tmp_path / "last.pt", {"step": 2}, keep=True)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    experiment = short(KEYDOOR, num_steps=1_200, updates_per_step=0.02, checkpoint_steps=10_000)
    prepare(tmp_path / "whole", experiment).train()
    prepare(tmp_path / "killed", experiment)
    (tmp_path / "killed" / "metrics.jsonl").write_text('{"step": 1013, "killed": true}\n')
    prepare(tmp_path / "killed", experiment).train()
    assert what_came_out(tmp_path / "killed") == what_came_out(tmp_path / "whole")


def test_a_folder_that_was_begun_is_taken_up(tmp_path: Path) -> None:
    for name in ("checkpoints", "episodes"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "environment.json.part").touch()
    assert prepare(tmp_path / "run", short(KEYDOOR)).step == 0
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints" / "mine.pt").touch()
    with pytest.raises(RunError, match="not empty"):
        prepare(tmp_path / "other", short(KEYDOOR))


@pytest.mark.parametrize(("where", "call"), [("reset", 3), ("step", 30)])
def test_an_environment_that_fails_loses_no_episode(
    tmp_path: Path, where: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in which an environment failed, and which went on, plays the episodes of a run without a failure."""
    experiment = short(KEYDOOR, learners=("router",), warmup_steps=600, num_steps=700)

    def noting(trainer: Trainer, seen: list[tuple[int, int]]) -> Trainer:
        note = trainer._note

        def keep(episode: Episode) -> None:
            seen.append((episode.seed, len(episode.steps)))
            note(episode)

        monkeypatch.setattr(trainer, "_note", keep)
        return trainer

    whole: list[tuple[int, int]] = []
    noting(prepare(tmp_path / "whole", experiment), whole).train()
    seen: list[tuple[int, int]] = []
    failing = noting(prepare(tmp_path / "failed", experiment), seen)
    method, calls = getattr(failing.envs[3], where), 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise EnvError("the simulator is gone")
        return method(*args, **kwargs)

    monkeypatch.setattr(failing.envs[3], where, fail)
    with pytest.raises(EnvError, match="gone"):
        failing.train()
    resumed = noting(prepare(tmp_path / "failed", experiment), seen)
    assert 0 < resumed.step < 700
    resumed.train()
    assert sorted(seen)[:60] == sorted(whole)[:60]


def test_a_model_that_fails_at_the_first_step_loses_no_episode(tmp_path: Path) -> None:
    """What is begun and has not taken a step is part of a checkpoint too."""
    made = short(KEYDOOR)
    trainer = prepare(tmp_path / "run", made)

    def fail(prompt: str) -> str:
        raise ModelError("it is broken")

    trainer.agent.quick = ScriptedLM(fail)
    with pytest.raises(ModelError, match="broken"):
        trainer.train()
    resumed = prepare(tmp_path / "run", made)
    assert (len(resumed.rollout.state()), resumed.begun_anew) == (made.train.num_envs, 0)


def test_numbers_of_numpy_come_back(tmp_path: Path) -> None:
    usage = Usage(np.int64(3), flops=np.float64(2.5))  # type: ignore[arg-type]
    one = Decision("go", usage, (np.float64(-0.5), -1.0), hidden=np.ones(2, np.float32))
    said, heard = (CachedLM(ScriptedLM(lambda prompt: "go")) for _ in range(2))
    said._known[PromptTemplate().render("g", ["o"], []), ("go", "stay")] = one
    said._known["other", None] = replace(one, hidden=np.ones(3, np.float32), logprobs=None)
    said._known["plain", None] = replace(one, hidden=None)
    save_checkpoint(tmp_path / "last.pt", {"said": said.state()})
    heard.restore(load_checkpoint(tmp_path / "last.pt")["said"])
    assert list(said._known) == list(heard._known)
    for ours, theirs in zip(said._known.values(), heard._known.values(), strict=True):
        assert replace(ours, hidden=None) == replace(theirs, hidden=None)
        np.testing.assert_array_equal(ours.hidden, theirs.hidden)


def test_a_budget_that_was_exceeded_does_not_open_again() -> None:
    budget = Budget(100, "tokens")
    reservation = budget.reserve(90)
    assert reservation is not None
    reservation.settle(120)
    again = Budget(100, "tokens")
    again.charge(120)
    for each in (budget, again):
        assert (each.spent, each.remaining, each.calls_left(1)) == (120, 0, 0)
    with pytest.raises(BudgetError):
        again.charge(-1)


def test_metrics_that_could_not_be_written_are_written_later(tmp_path: Path) -> None:
    experiment = short(KEYDOOR, num_steps=1_200, updates_per_step=0.02, checkpoint_steps=10_000)
    trainer = prepare(tmp_path / "run", experiment)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.mkdir()
    with pytest.warns(UserWarning, match="metrics.*training goes on"), pytest.raises(WriteError, match="directory"):
        trainer.train()
    assert trainer.step >= 1_200
    metrics.rmdir()
    prepare(tmp_path / "run", experiment).train()
    first, last = (row["step"] for row in what_came_out(tmp_path / "run")[1])
    assert 1_000 <= first < last == trainer.step


@pytest.fixture
def defaults() -> Iterator[None]:
    """The handlers of a program in the foreground, wherever the tests run."""
    mine: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_signal_waits_for_the_learners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defaults: None
) -> None:
    """They may be in the middle of an update: it is neither saved by half nor lost."""
    experiment = short(KEYDOOR, checkpoint_steps=10_000)
    prepare(tmp_path / "whole", experiment).train()
    trainer = prepare(tmp_path / "run", experiment)
    catch_up, save = trainer._catch_up, trainer.save
    ended, at_save = list[str](), list[int]()

    def slow(name: str, due: int) -> dict[str, float]:
        if name == "price" and trainer.step > 300 and not ended:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            found = catch_up(name, due)
            ended.append(name)
            return found
        return catch_up(name, due)

    def note(patience: float | None = None) -> None:
        at_save.append(len(ended))
        save(patience)

    monkeypatch.setattr(trainer, "_catch_up", slow)
    monkeypatch.setattr(trainer, "save", note)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert at_save == [1], "saved once, after the update"
    resumed = prepare(tmp_path / "run", experiment)
    assert resumed.step == trainer.step > 300
    resumed.train()
    assert resumed.begun_anew == 0
    assert what_came_out(tmp_path / "run")[0] == what_came_out(tmp_path / "whole")[0]


def test_signals_are_held_back(defaults: None) -> None:
    for number, error in ((signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)):
        with held_back() as check:
            check()
            signal.raise_signal(number)
            with pytest.raises(error):
                check()
            with pytest.raises(error):  # a second one does not wait
                signal.raise_signal(number)
    with held_back(every=True) as check:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert check.urgent
        with pytest.raises(Terminated):
            check()
    with held_back() as check:
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)

    def elsewhere() -> None:
        with held_back() as check:
            check()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
