"""What londi starts in processes of its own ends with it, also where it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from londi import config, jobs
from londi.jobs import Job
from londi.lifeline import VARIABLE

KEYDOOR = Path(__file__).parents[2] / "experiments" / "keydoor.toml"
RUN = """
import sys
from pathlib import Path
from londi import config, jobs

job = jobs.Job("", "", config.load(Path("short.toml")), Path("run"))
jobs.run_all([job], 1, lambda: None)
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


def started(text: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(text)
    command, heed = [sys.executable, "script.py"], partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_ends_with_who_started_it_and_goes_on(short: Path, number: int) -> None:
    """A terminal's Ctrl-C, which goes to the whole group, likewise."""
    process, limit = started(RUN, short), time.monotonic() + 100
    while not (short / "run" / "metrics.jsonl").is_file() and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    job = Job("", "", config.load(short / "short.toml"), short / "run")
    jobs.run(job)
    assert job.done
    log = (short / "run.log").read_text()
    assert "interrupted at step" in log
    assert "resuming" in log


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
