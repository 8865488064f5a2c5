"""`londi sweep`: experiments, settings and seeds over Ray Tune, one table and one picture at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray.tune")

from londi import config
from londi.cli import main
from londi.cli.tables import _print_sweep
from londi.errors import ConfigError
from londi.sweep import points

ROOT = Path(__file__).parents[2]
KEYDOOR = ROOT / "experiments" / "keydoor.toml"
SHORT = {
    "train": {"num_steps": 600, "warmup_steps": 100, "num_envs": 8, "threads": 1, "updates_per_step": 0.1},
    "evaluate": {
        "episodes": 10,
        "selection_episodes": 10,
        "budgets": [0, 2],
        "prices": [0.01, 0.1],
        "random_rates": [0.5],
        "entropy_thresholds": [0.5],
        "processes": 1,
    },
}


@pytest.fixture
def short(tmp_path: Path) -> Path:
    plain = config.plain(config.load(KEYDOOR))
    for section, values in SHORT.items():
        plain[section] |= values
    path = tmp_path / "short.toml"
    path.write_text(config.dump(config.parse(plain)))
    return path


def sweep(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "londi.cli", "sweep", "short.toml", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)


def test_it_is_stopped_and_goes_on(tmp_path: Path, short: Path) -> None:
    args = ["--seeds", "0", "1", "--vary", "train.gamma=0.9,0.97", "--json"]
    command = [sys.executable, "-m", "londi.cli", "sweep", "short.toml", *args]
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    folder, limit = tmp_path / "runs" / "sweep", time.monotonic() + 200
    while not list(folder.glob("*/frontier.json")) and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    first = sorted(folder.glob("*/frontier.json"))
    times = [path.stat().st_mtime_ns for path in first]
    assert not (folder / "sweep.json").exists()

    done = sweep(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.stat().st_mtime_ns for path in first] == times
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "sweep.json").read_text())
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert list(found["points"]) == ["keydoor train.gamma=0.9", "keydoor train.gamma=0.97"]
    for label, gamma in zip(found["points"], (0.9, 0.97), strict=True):
        for seed in (0, 1):
            made = json.loads((folder / f"keydoor-train.gamma={gamma}-{seed}" / "frontier.json").read_text())
            each = found["points"][label]["hypervolume price"]["each"]
            assert each[seed] == made["metrics"]["hypervolume"]["price"]


SLOW = """
import time
from itertools import count
from pathlib import Path

from londi.envs.keydoor import quick_policy

asked = count()


def quick(prompt):
    slow = Path(__file__).with_name("slow")
    if next(asked) > 120 and slow.is_file():  # the first episodes have ended by then
        slow.write_text("now")
        time.sleep(0.2)
    return quick_policy(prompt)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_to_all_of_it_costs_nothing(tmp_path: Path, short: Path, number: int, code: int) -> None:
    """As a terminal's Ctrl-C, which its whole group gets; run again, it goes on and prints its table."""
    made = config.load(short)
    train = replace(made.train, checkpoint_steps=10_000)
    short.write_text(config.dump(replace(made, quick=replace(made.quick, model="python:slow:quick"), train=train)))
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "londi.cli", "sweep", "short.toml", "--seeds", "0"]
    heed, folder = partial(signal.signal, signal.SIGINT, signal.default_int_handler), tmp_path / "runs" / "sweep"
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed
    )
    limit = time.monotonic() + 200
    while not (tmp_path / "slow").read_text() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert ("ending the runs: trainings write checkpoints, for up to 60 s" in errors) == (number == signal.SIGINT)

    log = folder / "keydoor-0.log"
    while "interrupted at step" not in log.read_text():  # the training outlives the sweep that SIGTERM ends
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.05)
    (tmp_path / "slow").unlink()
    done = sweep("--seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming" in log.read_text()
    measured = json.loads((folder / "sweep.json").read_text())["points"]["keydoor"]
    shown = [f"{measured[name]['mean']:.3f}" for name in ("hypervolume price", "hypervolume budget")]
    row = next(line for line in done.stdout.splitlines() if "keydoor" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:3] == ["keydoor", *shown]
    assert "picture: runs/sweep/sweep.png" in done.stdout


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    volumes = {"hypervolume price": {"each": [0.5, 0.7]}, "hypervolume budget": {"each": [0.25, None]}}
    _print_sweep({"seeds": [3, 4], "points": {"slow": volumes, "fast": {"at_99 calls_ratio": {"each": [0.2, 0.2]}}}})
    said = capsys.readouterr().out
    assert "mean ± std over training seeds 3, 4" in said
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line[0] == "│"]
    assert rows == [
        ["slow", "0.600 ± 0.141", "0.250 (1 of 2)", "-", "-"],
        ["fast", "-", "-", "-", "0.200 ± 0.000"],
    ]


def test_what_fails_is_named_and_the_rest_is_kept(tmp_path: Path, short: Path) -> None:
    (tmp_path / "runs" / "sweep" / "keydoor-1").mkdir(parents=True)
    (tmp_path / "runs" / "sweep" / "keydoor-1" / "something").touch()
    done = sweep("--seeds", "0", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "1 of 2 runs failed" in done.stderr
    assert "keydoor-1.log" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "keydoor-1" in line]) == 1, "a line for each"
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs" / "sweep" / "keydoor-0" / "frontier.json").is_file()


DYING = """
import os
import signal
import time
from pathlib import Path

from londi.envs.keydoor import quick_policy


def quick(prompt):
    deaths = Path(__file__).with_name("deaths")
    if not deaths.is_file():
        deaths.touch()
        for pid in LOST:
            os.kill(pid, signal.SIGKILL)
        source, limit = Path("runs/sweep/keydoor-0.toml"), time.monotonic() + 60
        last = source.stat().st_mtime_ns
        while source.stat().st_mtime_ns == last and time.monotonic() < limit:
            time.sleep(0.1)
        time.sleep(8)  # what is left takes a step that is longer than the next attempt needs to begin
    return quick_policy(prompt)
"""


@pytest.mark.parametrize("lost", ["os.getppid(), os.getpid()", "os.getppid(),"], ids=["trial and training", "trial"])
def test_what_is_lost_is_started_again(tmp_path: Path, short: Path, lost: str) -> None:
    (tmp_path / "dying.py").write_text(DYING.replace("LOST", lost))
    made = config.load(short)
    short.write_text(config.dump(replace(made, quick=replace(made.quick, model="python:dying:quick"))))
    done = sweep("--seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deaths").is_file()
    assert (tmp_path / "runs" / "sweep" / "keydoor-0" / "frontier.json").is_file()
    log = (tmp_path / "runs" / "sweep" / "keydoor-0.log").read_text()
    assert ("interrupted at step" in log) == ("getpid" not in lost), "a training that lost its trial ends in good order"
    assert all("waiting" in line for line in log.splitlines() if "is being trained by another process" in line)


def test_points(tmp_path: Path, short: Path) -> None:
    jobs = points([short], (3, 4), {"train.gamma": (0.9, 1), "evaluate.budgets": ([0, 1], [2])}, tmp_path)
    assert [job.folder.name for job in jobs][:2] == [
        f"keydoor-train.gamma=0.9-evaluate.budgets=-0--1--{seed}" for seed in (3, 4)
    ]
    assert [job.experiment.train.gamma for job in jobs] == [0.9] * 4 + [1.0] * 4
    assert list(jobs[-1].experiment.evaluate.budgets) == [2]
    assert jobs[-1].experiment.seed == 4
    with pytest.raises(ConfigError, match="same name"):
        points([short, short], (0,), {}, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        points([short], (0,), {"train.gama": (1,)}, tmp_path)
    with pytest.raises(ConfigError, match="each once"):
        points([short], (0, 0), {}, tmp_path)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--vary", "train.gamma"], "KEY=VALUE,VALUE"),
        (["--cpus", "0"], "--cpus must be above 0"),
        (["--vary", "train.gamma=two"], "train.gamma"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster"),
    ],
)
def test_wrong_input(
    tmp_path: Path, short: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(short), "--folder", str(tmp_path / "runs"), *args])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
