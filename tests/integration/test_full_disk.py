"""What happens where there is no room to write: one clear error, or a warning and another try; nothing is lost."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import config
from londi.config import Experiment
from londi.errors import WriteError
from londi.evaluate import evaluate
from londi.train import prepare

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
