"""The command line from end to end, in real processes, on the key-door room."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from londi import config, lms
from londi.agent import Agent
from londi.cli import main, terminal
from londi.episode import read_episodes, write_episodes
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.run import Run

ROOT = Path(__file__).parents[2]
SMALL = """
name = "small"
[env]
id = "londi/KeyDoor-v0"
[quick]
model = "builtin:keydoor-quick"
[deepthink]
model = "builtin:keydoor-deepthink"
[train]
num_steps = {steps}
warmup_steps = 200
gamma = 0.99
[evaluate]
episodes = 60
selection_episodes = 60
budgets = [0, 1, 2, 4]
prices = [0.05]
random_rates = [0.3]
entropy_thresholds = [0.5]
"""


def londi(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "londi.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(SMALL.format(steps=2_000))
    done = londi("train", "small.toml", "--run", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = londi("evaluate", "run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "run" / "frontier.json").read_text())
    return folder


def test_the_frontier_is_complete_and_true(trained: Path) -> None:
    result = json.loads((trained / "run" / "frontier.json").read_text())
    rows = {row["name"]: row for row in result["policies"]}
    names = {"QUICK", "DEEPTHINK", "random 0.3", "entropy 0.5", "disagreement oracle", "budget 0", "budget 4"}
    assert names <= set(rows)
    assert rows["budget 0"]["success"] == rows["QUICK"]["success"]
    assert rows["QUICK"]["calls"]["max"] == 0
    assert rows["DEEPTHINK"]["call_share"] == 1
    assert rows["DEEPTHINK"]["success"]["mean"] > rows["QUICK"]["success"]["mean"] + 0.5
    for n in (0, 1, 2, 4):
        assert rows[f"budget {n}"]["calls"]["max"] <= n
    assert result["metrics"]["violations"] == 0
    assert 0 < result["training_calls"] < result["env_steps"]
    assert rows["disagreement oracle"]["calls"]["mean"] < rows["DEEPTHINK"]["calls"]["mean"]


def test_episodes_with_a_spent_budget_are_written_and_read(trained: Path, tmp_path: Path) -> None:
    run = Run.open(trained / "run")
    quick, deepthink = lms.load(run.experiment.quick), lms.load(run.experiment.deepthink)
    agent = Agent(quick, deepthink, make_encoder(run.experiment), run.load_switchers()["budget"])
    jobs = [Assignment(seed, "budget 1", 1, epsilon=0.5) for seed in range(8)]
    episodes = [episode for episode, _ in rollout(make_envs(run.experiment, 8), agent, jobs)]
    spent = [step for episode in episodes for step in episode.steps if step.remaining == 0]
    assert spent
    assert all(math.isnan(step.advantage) for step in spent)
    write_episodes(tmp_path / "budget.jsonl", episodes)
    assert [e.to_dict() for e in read_episodes(tmp_path / "budget.jsonl")] == [e.to_dict() for e in episodes]


def test_report_and_watch(trained: Path) -> None:
    done = londi("report", "run", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "run" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    page = (trained / "run" / "report.html").read_text()
    assert "DEEPTHINK" in page
    assert "<script" not in page
    assert "http-equiv" not in page
    done = londi("watch", "run", "--delay", "0", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "DEEPTHINK" in done.stdout


def test_summary_and_envs(trained: Path) -> None:
    done = londi("summary", "run", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["measures"]["violations"] == {"mean": 0, "std": None, "each": [0]}
    twice = londi("summary", "run", "run", cwd=trained)
    assert twice.returncode == 2
    assert "same training seed" in twice.stderr
    assert "londi/KeyDoor-v0" in londi("envs", cwd=trained).stdout


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    before = (trained / "run" / "checkpoints" / "budget.pt").read_bytes()
    done = londi("train", "small.toml", "--run", "run", cwd=trained)
    assert done.returncode == 2
    assert "trained already" in done.stderr
    assert (trained / "run" / "checkpoints" / "budget.pt").read_bytes() == before


def test_the_same_seed_gives_the_same_switcher(trained: Path) -> None:
    import torch

    assert londi("train", "small.toml", "--run", "again", cwd=trained).returncode == 0
    weights = [
        torch.load(trained / run / "checkpoints" / "budget.pt", weights_only=True)["switcher"]["weights"]
        for run in ("run", "again")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_ctrl_c_leaves_a_usable_run_that_resumes(tmp_path: Path) -> None:
    small = SMALL.format(steps=4_000).replace("gamma", "updates_per_step = 0.05\ngamma")
    (tmp_path / "small.toml").write_text(small)
    command = [sys.executable, "-m", "londi.cli", "train", "small.toml", "--run", "run"]
    heed = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background jobs ignore it, and pass that on
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    metrics = tmp_path / "run" / "metrics.jsonl"
    limit = time.monotonic() + 120
    while not metrics.is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted at step" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoints" / "budget.pt").is_file()
    assert 0 < Run.open(tmp_path / "run").trained_steps() < 4_000
    with metrics.open("a") as file:  # a run that is killed has written more than its checkpoint holds
        file.write('{"step": 3999, "killed": true}\n{"step": 39')
    done = londi("train", "small.toml", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming run at step" in done.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 4_000
    assert "killed" not in metrics.read_text()
    assert Run.open(tmp_path / "run").trained_steps() == 4_000


def _replaced(old: str, new: str) -> str:
    text = SMALL.format(steps=2_000)
    assert old in text
    return text.replace(old, new)


WRONG = {
    "unknown level": (_replaced("londi/KeyDoor-v0", "BabyAI-GoToLocl-v0"), "did you mean 'BabyAI-GoToLocal-v0'"),
    "unknown environment": (_replaced("londi/KeyDoor-v0", "londi/KeyDor-v0"), "did you mean 'londi/KeyDoor-v0'"),
    "misspelt key": (_replaced("num_steps", "num_step"), "unknown key 'train.num_step'; did you mean 'num_steps'?"),
    "missing model folder": (
        _replaced("builtin:keydoor-quick", "./no/such/model"),
        "no model folder at ./no/such/model",
    ),
    "no such device": (
        _replaced('"builtin:keydoor-quick"', '"builtin:babyai-quick"\ndevice = "cuda:99"'),
        "there is no device 'cuda:99'",
    ),
    "unknown built-in": (_replaced("builtin:keydoor-quick", "builtin:keydor-quick"), "did you mean 'keydoor-quick'"),
    "budget -1": (_replaced("[0, 1, 2, 4]", "[-1]"), "a budget is a number of calls >= 0, not -1"),
    "no TOML": ("name = ", "is no TOML"),
    "a missing table": ('name = "x"', "is missing"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_input_gives_one_line_and_exit_code_2(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    (tmp_path / "x.toml").write_text(text)
    done = londi("train", "x.toml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists(), "nothing in the way of the corrected file"


def test_wrong_run_folders_give_one_line_and_exit_code_2(trained: Path) -> None:
    def fails(command: str, run: Path, message: str) -> None:
        done = londi(command, run, cwd=trained)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    fails("evaluate", Path("nowhere"), "is no run folder")
    copy = trained / "copy"
    subprocess.run(["cp", "-r", trained / "run", copy], check=True)
    policy = copy / "checkpoints" / "budget.pt"
    policy.write_bytes(policy.read_bytes()[: policy.stat().st_size // 2])
    fails("evaluate", copy, "is damaged")
    environment = copy / "environment.json"
    environment.write_text(environment.read_text().replace('"schema": 1', '"schema": 99'))
    fails("evaluate", copy, "another version of londi")
    environment.write_text(environment.read_text().replace('"schema": 99', '"schema": 1'))
    (copy / "episodes" / "chosen.jsonl").write_text("")
    fails("watch", copy, "holds no episode")
    (copy / "frontier.json").unlink()
    fails("report", copy, "londi evaluate")


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("torch", ["train", "small.toml"], "torch"),
        ("scipy", ["verify", "--quick"], "theory"),
        ("matplotlib", ["verify", "--quick"], "plots"),
        ("minigrid", ["lm", "train"], "babyai"),
    ],
)
def test_a_missing_extra_is_named(package: str, command: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL.format(steps=2_000))
    hide = f"import sys; sys.modules['{package}'] = None; from londi.cli import main; main({command!r})"
    done = subprocess.run(
        [sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"londi: {package} is not installed: pip install 'londi[{extra}]'\n"


def test_every_claim_of_the_theory_holds(tmp_path: Path) -> None:
    done = londi("verify", "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every claim holds" in done.stdout
    result = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert result["passed"]
    assert len(result["checks"]) >= 30
    page = (tmp_path / "out" / "verification.md").read_text(encoding="utf-8")
    for picture in ("convergence", "efficiency", "deep"):
        assert f"(verification-{picture}.png)" in page
        assert (tmp_path / "out" / f"verification-{picture}.png").stat().st_size > 10_000


def test_budgets_of_tokens_and_prices_of_flops(tmp_path: Path) -> None:
    """From training to the report, in other measures than calls."""
    text = SMALL.format(steps=1_500).replace("gamma = 0.99", 'gamma = 0.99\nprice_measure = "flops"\nprice_unit = 5e9')
    text = text.replace("budgets = [0, 1, 2, 4]", 'budgets = [0, 60, 300]\nbudget_measure = "tokens"')
    (tmp_path / "tokens.toml").write_text(text)
    for command in (["train", "tokens.toml", "--run", "run"], ["evaluate", "run"], ["report", "run"]):
        done = londi(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    frontier = json.loads((tmp_path / "run" / "frontier.json").read_text())
    assert frontier["budget_measure"] == "tokens"
    assert frontier["metrics"]["violations"] == 0
    rows = {row["name"]: row for row in frontier["policies"]}
    none, few, many = (rows[f"budget {n} tokens"] for n in (0, 60, 300))
    assert none["calls"]["max"] == 0
    assert 0 < few["calls"]["max"] < many["calls"]["max"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert " tokens" in page


def test_a_short_run_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SMALL.format(steps=400))
    for command in (["train", "short.toml", "--run", "run"], ["evaluate", "run"], ["report", "run"]):
        done = londi(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


def test_a_price_in_dollars_needs_a_price(tmp_path: Path) -> None:
    text = SMALL.format(steps=1_500).replace("gamma = 0.99", 'gamma = 0.99\nprice_measure = "dollars"')
    (tmp_path / "dollars.toml").write_text(text)
    done = londi("train", "dollars.toml", "--run", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "server.prices" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_demo_shows_no_other_experiment(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL.format(steps=400))
    made = config.load(tmp_path / "small.toml")
    Run.create(tmp_path / "run", replace(made, seed=made.seed + 1))
    (tmp_path / "run" / "frontier.json").write_text("{}")
    done = londi("demo", "--folder", "run", "--experiment", "small.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another experiment" in done.stderr


def test_what_others_print_during_long_work_stays_out_of_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.bar("work", 2) as move:
        move(1)
        sys.stdout.write("(raylet) WARNING: so many workers")
    terminal.print_json({"done": 1})
    told = capfd.readouterr()
    assert json.loads(told.out) == {"done": 1}
    assert "so many workers" in told.err


@pytest.mark.parametrize(("terminal_there", "track", "lines"), [(False, [], 3), (True, [], 0), (True, ["console"], 3)])
def test_training_tells_of_itself_where_no_bar_moves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal_there: bool,
    track: list[str],
    lines: int,
) -> None:
    monkeypatch.setattr("londi.cli.runs.moves", lambda: terminal_there)
    (tmp_path / "small.toml").write_text(SMALL.format(steps=2_100).replace("warmup_steps = 200", "warmup_steps = 2000"))
    chosen = ["--track", *track] if track else []
    main(["train", str(tmp_path / "small.toml"), "--run", str(tmp_path / "run"), *chosen])
    told = capsys.readouterr()
    assert len([line for line in told.err.splitlines() if "steps/s" in line]) == lines
    assert ("training" in told.err) == terminal_there, "the bar"
    assert told.out.startswith("trained:")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3


def test_a_bar_moves_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with open(theirs, "w") as there, (tmp_path / "log").open("w") as log:  # noqa: PTH123
        for file, found in ((there, True), (log, False)):
            monkeypatch.setattr(terminal, "err", Console(file=file, force_terminal=True))
            assert terminal.moves() == found
    os.close(ours)
