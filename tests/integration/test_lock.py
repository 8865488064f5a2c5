"""Two trainings into one folder: the second is told so, and changes nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from londi import config
from londi.bench.resume import what_came_out
from londi.cli import main
from londi.config import Experiment
from londi.errors import RunError
from londi.train import Progress, lock, prepare

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")
HOLD = """
import sys, time
from pathlib import Path
from londi.train import lock

with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def short(**train: Any) -> Experiment:
    steps: dict[str, Any] = {"num_steps": 300, "warmup_steps": 100, "checkpoint_steps": 100, "updates_per_step": 0.1}
    return replace(KEYDOOR, train=replace(KEYDOOR.train, learners=("router",), **steps | train))


def interrupted(now: Progress) -> None:
    if now.step >= 150:
        raise KeyboardInterrupt


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_training_is_refused_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path / "whole", short()).train()
    run, source = tmp_path / "run", tmp_path / "short.toml"
    source.write_text(config.dump(short()))
    with pytest.raises(KeyboardInterrupt):
        prepare(run, short()).train(interrupted)
    with (run / "metrics.jsonl").open("a") as file:  # what the other one has measured since its checkpoint
        file.write('{"step": 290}\n')
    with another(run) as process:
        before = contents(run)
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(source), "--run", str(run)])
        assert capsys.readouterr().err == (
            f"londi: {run} is being trained by another process (pid {process.pid}): wait, or choose another folder "
            "with --run\n"
        )
        assert contents(run) == before
        process.send_signal(signal.SIGKILL)
        process.wait()
        main(["train", str(source), "--run", str(run)])
    assert what_came_out(run) == what_came_out(tmp_path / "whole")


def test_a_training_may_wait_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source = tmp_path / "run", tmp_path / "short.toml"
    source.write_text(config.dump(short()))
    with pytest.raises(KeyboardInterrupt):
        prepare(run, short()).train(interrupted)
    with another(run) as process:
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(source), "--run", str(run), "--wait", "0.2"])
        capsys.readouterr()
        ending = Timer(1, process.kill)
        ending.start()
        main(["train", str(source), "--run", str(run), "--wait", "100"])
        ending.join()
    said = capsys.readouterr()
    assert said.err.count(f"by another process (pid {process.pid}): waiting for up to 100 s") == 1
    assert "trained: " in said.out
    for wrong in ("-1", "nan"):
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(source), "--run", str(run), "--wait", wrong])
        assert f"--wait must be at least 0 seconds, not {wrong}" in capsys.readouterr().err


def test_a_training_that_was_prepared_meanwhile_is_refused(tmp_path: Path) -> None:
    first, second = (prepare(tmp_path / "run", short()) for _ in range(2))

    def look(now: Progress) -> None:
        with pytest.raises(RunError, match=f"by another process .pid {os.getpid()}"):
            prepare(tmp_path / "run", short())

    first.train(look)
    before = contents(tmp_path)
    with pytest.raises(RunError, match="was trained on by another process: run the same command again"):
        second.train()
    assert contents(tmp_path) == before | {tmp_path / "run" / lock.NAME: f"{os.getpid()}\n".encode()}


def test_the_lock_is_let_go_however_a_training_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, short()).train(interrupted)
    (tmp_path / "checkpoints" / "last.pt.1.part").write_bytes(b"half")
    lock.check(tmp_path)
    again = prepare(tmp_path, short())
    again.train()
    assert again.step >= 300
    assert not list(tmp_path.rglob("*.part")), "what a killed training left behind"
    lock.check(tmp_path)


def test_who_only_looks_stands_in_nobodys_way(tmp_path: Path) -> None:
    with lock.held(tmp_path):
        pass
    with (tmp_path / lock.NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `check` does, for a moment
        letting_go = Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN))
        letting_go.start()
        with lock.held(tmp_path):
            assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()}\n"
        letting_go.join()


@pytest.mark.parametrize("number", [None, errno.ENOLCK, errno.ENOSYS])
def test_where_there_are_no_locks_training_does_without(
    tmp_path: Path, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(number, "no locks")

    if number is None:
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", flock)
    with lock.held(tmp_path), lock.held(tmp_path):
        lock.check(tmp_path)
