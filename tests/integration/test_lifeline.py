"""What londi starts in processes of its own ends with it, also where it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from londi import config, jobs
from londi.errors import RunError
from londi.jobs import Job
from londi.lifeline import VARIABLE, Commands
from londi.run import Run
from londi.train import lock, prepare

KEYDOOR = Path(__file__).parents[2] / "experiments" / "keydoor.toml"
RUN = """
import sys
from pathlib import Path
from londi import config, jobs
from londi.interrupts import Terminated

todo = [jobs.Job("", "", config.load(Path("short.toml")), Path(name)) for name in sys.argv[1:]]
try:
    jobs.run_all(todo, len(todo), lambda: None, lambda running: print("ending", running, flush=True))
except Terminated:
    sys.exit(143)
"""
SLOW = """
import time
from pathlib import Path

from londi.envs.keydoor import quick_policy


def quick(prompt):
    try:
        if Path("slow").is_file():
            Path("sleeps").touch()
            time.sleep(float(Path("slow").read_text()))
    except KeyboardInterrupt:
        Path("cut").touch()
        raise
    return quick_policy(prompt)
"""
PLAY = """
import os, time
from dataclasses import replace
from pathlib import Path
from londi import config
from londi.plays import playing
from londi.run import Run

if __name__ == "__main__":
    made = config.load(Path("short.toml"))
    with playing(Run(Path("run"), replace(made, evaluate=replace(made.evaluate, processes=2))), print) as plays:
        print(plays.pool.submit(os.getpid).result(), flush=True)
        time.sleep(120)
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    made = config.load(KEYDOOR)
    train = replace(made.train, num_steps=2_400, checkpoint_steps=10_000, updates_per_step=0.1, learners=("price",))
    few: dict[str, Any] = {"episodes": 10, "selection_episodes": 10, "prices": (0.1,), "budgets": (), "processes": 1}
    evaluate = replace(made.evaluate, random_rates=(), entropy_thresholds=(), **few)
    (tmp_path / "short.toml").write_text(config.dump(replace(made, train=train, evaluate=evaluate)))
    return tmp_path


@pytest.fixture
def slow(short: Path) -> Path:
    """The same with a QUICK that can be made slow on the way, by seconds written into `slow`, and many steps."""
    made = config.load(short / "short.toml")
    train, quick = replace(made.train, num_steps=10**6), replace(made.quick, model="python:slow:quick")
    (short / "short.toml").write_text(config.dump(replace(made, train=train, quick=quick)))
    (short / "slow.py").write_text(SLOW)
    return short


def started(text: str, folder: Path, *names: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(text)
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "script.py", *names],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed,
    )


def wait_for(path: Path, text: str = "") -> None:
    limit = time.monotonic() + 100
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < limit, f"no {path}"
        time.sleep(0.02)


def make_slow(folder: Path, seconds: float) -> None:
    """Once it trains, and until it sleeps."""
    wait_for(folder / "run" / "metrics.jsonl")
    (folder / "slow.part").write_text(str(seconds))
    (folder / "slow.part").rename(folder / "slow")
    wait_for(folder / "sleeps")


def ended(process: subprocess.Popen[str], seconds: float) -> int:
    """Its exit code, within so many seconds; whatever it does, none is left behind."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("it goes on")
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_ends_with_who_started_it_and_goes_on(short: Path, number: int) -> None:
    """A terminal's Ctrl-C, which goes to the whole group, likewise."""
    process = started(RUN, short, "run")
    wait_for(short / "run" / "metrics.jsonl")
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    job = Job("", "", config.load(short / "short.toml"), short / "run")
    jobs.run(job)
    assert job.done
    log = (short / "run.log").read_text()
    assert "interrupted at step" in log
    assert "resuming" in log


def test_an_interrupt_reaches_those_that_run_where_another_has_failed(slow: Path) -> None:
    (slow / "taken").mkdir()
    (slow / "taken" / "something").touch()
    process = started(RUN, slow, "taken", "run")
    wait_for(slow / "taken.log", "is not empty")
    wait_for(slow / "run" / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    assert ended(process, 30) == -signal.SIGINT
    assert "interrupted at step" in (slow / "run.log").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_them_at_once(slow: Path, number: int, code: int) -> None:
    process = started(RUN, slow, "run")
    make_slow(slow, 100)
    process.send_signal(number)
    assert process.stdout
    assert process.stdout.readline() == "ending 1\n"
    process.send_signal(number)
    assert ended(process, 30) == code
    lock.check(slow / "run")


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_signal_to_both_cuts_no_step_off(slow: Path, first: str) -> None:
    """As by a service manager that stops them."""
    process = started(RUN, slow, "run")
    make_slow(slow, 0.2)
    training = int((slow / "run" / lock.NAME).read_text())
    for pid in (process.pid, training) if first == "parent" else (training, process.pid):
        os.kill(pid, signal.SIGTERM)
    assert ended(process, 30) == 143
    assert "interrupted at step" in (slow / "run.log").read_text(), "it is waited for"
    assert not (slow / "cut").exists()


def test_a_second_signal_ends_them_where_nobody_listens(slow: Path) -> None:
    """As `londi reproduce | tee log`, where Ctrl-C ends both: what is told of the end breaks."""
    process = started(RUN, slow, "run")
    make_slow(slow, 100)
    assert process.stdout
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.stdout = None
    assert ended(process, 30) == -signal.SIGINT
    lock.check(slow / "run")


def test_none_begins_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Job] = []

    def fails(job: Job, commands: Commands) -> None:
        begun.append(job)
        raise RunError(f"number {len(begun)}")

    monkeypatch.setattr(jobs, "run", fails)
    todo = [Job("", "", config.load(KEYDOOR), Path(name)) for name in "abcd"]
    with pytest.raises(RunError, match="number 1"):
        jobs.run_all(todo, 1, lambda: None)
    assert begun == todo[:1]


def test_no_command_begins_after_the_end(tmp_path: Path) -> None:
    commands = Commands()
    assert commands.end() == 0
    with (tmp_path / "log").open("w") as log, pytest.raises(KeyboardInterrupt):
        commands.run(["envs"], log)
    assert not (tmp_path / "log").read_text()


def test_what_another_process_has_trained_meanwhile_is_evaluated(short: Path) -> None:
    experiment = config.load(short / "short.toml")
    job = Job("", "", experiment, short / "run")
    prepare(short / "whole", experiment).train()
    Run.create(job.folder, experiment)
    with ThreadPoolExecutor(1) as pool:
        with lock.held(job.folder):
            running = pool.submit(jobs.run, job)
            wait_for(short / "run.log", f"by another process (pid {os.getpid()}): waiting for up to 90 s")
            shutil.copytree(short / "whole", job.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(lock.NAME))
        running.result()
    assert job.done


def test_players_end_with_an_evaluation_that_is_killed(short: Path) -> None:
    process = started(PLAY, short)
    assert process.stdout
    player = int(process.stdout.readline())
    process.kill()
    try:
        process.communicate(timeout=20)  # ends with the last that has its output
    except subprocess.TimeoutExpired:
        pytest.fail("a process was left behind")
    finally:
        with suppress(ProcessLookupError):
            os.kill(player, signal.SIGKILL)


def test_a_command_without_a_lifeline_keeps_its_input(short: Path) -> None:
    """The one that has one finds it empty, as before, and does not hand it on."""
    told = f"print(sys.stdin.read(), {VARIABLE!r} in os.environ)"
    code = f"import os, sys; from londi.cli import main; main(['envs', '--json']); {told}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=short, input="mine", capture_output=True, text=True, check=True)
    assert done.stdout.endswith("mine False\n")
    reading, writing = os.pipe()
    env = os.environ | {VARIABLE: "1"}
    done = subprocess.run(command, cwd=short, stdin=reading, env=env, capture_output=True, text=True, check=True)
    os.close(reading)
    os.close(writing)
    assert done.stdout.endswith("\n False\n")
