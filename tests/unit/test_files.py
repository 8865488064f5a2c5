"""Files are on the disk before they have their name, and their name is in the end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import config
from londi.errors import WriteError
from londi.files import write_text
from londi.run import Run, load_checkpoint, previous, save_checkpoint
from londi.train import prepare
from londi.train.metrics import MetricsFile

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


def named(descriptor: int, folder: Path) -> str:
    """The name of an open file in a folder, or beside it; processes' own names without their number."""
    found = os.fstat(descriptor).st_ino
    (path,) = (each for each in (folder, folder.parent, *folder.rglob("*")) if each.stat().st_ino == found)
    return "part" if path.suffix == ".part" else path.name


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order."""
    told: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        told.append(f"sync {named(descriptor, tmp_path)}")
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        name = "part" if Path(source).suffix == ".part" else Path(source).name
        told.append(f"{name} to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return told


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, disk: list[str]) -> None:
    write_text(tmp_path / "config.toml", "new")
    assert disk == ["sync part", "part to config.toml", f"sync {tmp_path.name}"]


def test_the_checkpoint_before_stays_until_the_new_one_is_on_the_disk(tmp_path: Path, disk: list[str]) -> None:
    path = tmp_path / "last.pt"
    for step in (1, 2):
        disk.clear()
        save_checkpoint(path, {"step": step}, keep=True)
    moved = "last.pt to last-previous.pt"
    assert disk == ["sync part", moved, "part to last.pt", f"sync {tmp_path.name}"]
    assert [load_checkpoint(each)["step"] for each in (path, previous(path))] == [2, 1]


def test_a_new_run_folder_is_on_the_disk(tmp_path: Path, disk: list[str]) -> None:
    Run.create(tmp_path / "run", KEYDOOR)
    assert disk[0] == f"sync {tmp_path.name}", "in which the run folder is"
    assert disk[1:] == [
        "sync part",
        "part to environment.json",
        "sync run",
        "sync part",
        "part to config.toml",
        "sync run",
    ]


def test_rows_of_metrics_wait_for_the_disk_when_they_are_told_to(tmp_path: Path, disk: list[str]) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.sync()
    metrics.waiting = [{"step": 1}]
    metrics.write()
    assert disk == []
    metrics.sync()
    assert disk == ["sync metrics.jsonl", f"sync {tmp_path.name}"]


def test_metrics_are_on_the_disk_before_the_checkpoint_that_comes_after_them(tmp_path: Path, disk: list[str]) -> None:
    train = replace(KEYDOOR.train, num_steps=200, warmup_steps=190, checkpoint_steps=1_000)
    trainer = prepare(tmp_path / "run", replace(KEYDOOR, train=train))
    disk.clear()
    trainer.train()
    assert disk.index("sync metrics.jsonl") < disk.index("part to budget.pt") < disk.index("part to last.pt")


def failing(code: int, kind: Callable[[int], bool]) -> Callable[[int], None]:
    """An `os.fsync` that fails for files of a kind."""

    def fsync(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    return fsync


def test_what_is_not_on_the_disk_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC, stat.S_ISREG))
    with pytest.raises(WriteError, match=r"config\.toml .*No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_can_not_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL, stat.S_ISDIR))
    write_text(tmp_path / "config.toml", "new")
    assert (tmp_path / "config.toml").read_text() == "new"
