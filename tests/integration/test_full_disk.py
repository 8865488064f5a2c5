"""What happens where there is no room to write: one clear error, or a warning and another try; nothing is lost."""

from __future__ import annotations

import errno
import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import config
from londi.bench.resume import what_came_out
from londi.cli import main
from londi.config import Experiment
from londi.errors import WriteError
from londi.evaluate import evaluate
from londi.run import load_checkpoint
from londi.train import Progress, prepare
from londi.train.metrics import MetricsFile

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


def short(**train: Any) -> Experiment:
    steps: dict[str, Any] = {"num_steps": 500, "warmup_steps": 100, "checkpoint_steps": 100, "updates_per_step": 0.1}
    return replace(KEYDOOR, train=replace(KEYDOOR.train, learners=("router",), **steps | train))


class NoRoom(io.FileIO):
    """A file of which half can be written."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Has no room for files whose names begin with one of `full`."""

    def __init__(self) -> None:
        self.full: Iterable[str] = ()
        self.open = Path.open

    def opened(self, path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        """What `Path.open` returns, `write_text` and `write_bytes` with it."""
        if mode[0] not in "wa" or not path.name.startswith(tuple(self.full)):
            return self.open(path, mode, *args, **options)
        if options.get("buffering") == 0:
            return NoRoom(path, mode[0])
        file = io.BufferedWriter(NoRoom(path, mode[0]))
        return file if "b" in mode else io.TextIOWrapper(file, options.get("encoding"))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(Path, "open", lambda path, *args, **options: made.opened(path, *args, **options))
    monkeypatch.setattr("londi.train.METRICS_STEPS", 100)
    return made


@pytest.mark.parametrize(
    "name", ["environment.json", "config.toml", "training.lock", "metrics.jsonl", "router.pt", "last.pt"]
)
def test_a_full_disk_ends_the_command_with_one_line_and_it_goes_on_later(
    name: str, tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path / "whole", short()).train()
    (tmp_path / "short.toml").write_text(config.dump(short()))
    command = ["train", str(tmp_path / "short.toml"), "--run", str(tmp_path / "run")]
    disk.full = [name]
    with warnings.catch_warnings(record=True, action="always") as told, pytest.raises(SystemExit, match="2"):
        main(command)
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("londi: can't write ")
    assert last.endswith(f"{name} (is the disk full?): No space left on device")
    assert all(f"{name} (is the disk full?): No space left on device; training goes on" in str(w.message) for w in told)
    assert len(told) == {"metrics.jsonl": 8, "router.pt": 4, "last.pt": 4}.get(name, 0), "one for each failure"
    assert not list((tmp_path / "run").rglob("*.part"))
    disk.full = []
    main(command)
    assert what_came_out(tmp_path / "run") == what_came_out(tmp_path / "whole")


def test_a_full_disk_in_the_middle_of_a_training_loses_nothing_once_there_is_room(tmp_path: Path, disk: Disk) -> None:
    prepare(tmp_path / "whole", short(snapshots=5)).train()
    trainer, kept = prepare(tmp_path / "run", short(snapshots=5)), b""

    def fill(now: Progress) -> None:
        nonlocal kept
        if 150 <= now.step < 350 and not disk.full:
            kept, disk.full = trainer.run.checkpoint.read_bytes(), ["metrics.jsonl", "router", "last"]
        if now.step >= 350 and disk.full:
            assert trainer.run.checkpoint.read_bytes() == kept
            disk.full = []

    with pytest.warns(UserWarning, match="training goes on from step") as told:
        trainer.train(fill)
    assert {
        word for word in ("metrics.jsonl", "router.pt", "router-2") if any(word in str(w.message) for w in told)
    } == {
        "metrics.jsonl",
        "router.pt",
        "router-2",
    }
    assert what_came_out(tmp_path / "run") == what_came_out(tmp_path / "whole")
    assert len(trainer.run.snapshots()) == 3, "those for which there was no room are left out"


def test_a_run_that_can_not_be_taken_up_says_so(tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(now: Progress) -> None:
        if now.step >= 250:
            raise KeyboardInterrupt

    prepare(tmp_path / "whole", short()).train()
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        prepare(run, short()).train(interrupt)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 400}\n')
    (tmp_path / "short.toml").write_text(config.dump(short()))
    before = load_checkpoint(run / "checkpoints" / "last.pt")["step"]
    disk.full = ["metrics.jsonl"]
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "short.toml"), "--run", str(run)])
    assert "metrics.jsonl (is the disk full?): No space left on device" in capsys.readouterr().err
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == before
    disk.full = []
    main(["train", str(tmp_path / "short.toml"), "--run", str(run)])
    assert what_came_out(run) == what_came_out(tmp_path / "whole")


def test_metrics_that_a_checkpoint_holds_are_written_once(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.waiting = [{"step": 100}]
    file.write()
    file.waiting = [{"step": 200}, {"step": 300}]
    disk.full = ["metrics.jsonl"]
    with pytest.raises(WriteError):
        file.write()
    assert path.read_text() == '{"step": 100}\n', "no half row stays"
    disk.full = []
    resumed = MetricsFile(path)
    resumed.waiting = list(file.waiting)  # as a checkpoint at 350 has it
    file.write()
    resumed.forget_after(350)
    resumed.write()
    assert path.read_text() == '{"step": 100}\n{"step": 200}\n{"step": 300}\n'


@pytest.mark.parametrize("name", ["frontier.json", "chosen.jsonl", "quick.jsonl"])
def test_results_without_room_leave_those_that_were_there(name: str, tmp_path: Path, disk: Disk) -> None:
    few: dict[str, Any] = {"episodes": 4, "selection_episodes": 4, "processes": 1, "num_envs": 8, "budgets": ()}
    few |= {"prices": (), "random_rates": (0.3,), "entropy_thresholds": ()}
    trainer = prepare(tmp_path / "run", replace(short(), evaluate=replace(KEYDOOR.evaluate, **few)))
    trainer.train()
    evaluate(trainer.run)
    files = [trainer.run.path / "frontier.json", *(trainer.run.path / "episodes").iterdir()]
    before = [path.read_bytes() for path in files]
    disk.full = [name]
    with pytest.raises(WriteError, match=rf"{name} \(is the disk full\?\): No space left on device"):
        evaluate(trainer.run)
    assert [path.read_bytes() for path in files] == before
    assert not list((tmp_path / "run").rglob("*.part"))
