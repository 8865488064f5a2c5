"""`londi bench resume`: training that is killed at a random moment and goes on, against training that is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from londi import config
from londi.bench.base import result
from londi.config import Experiment
from londi.errors import RunError
from londi.files import write_text
from londi.run import Run, load_checkpoint

ATTEMPTS = 4
"""Trainings a trial at most: on a machine that is faster than it was at first, many end before they are killed."""


def bench_resume(
    experiment: Experiment, trials: int = 50, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Train once, then `trials` times with a SIGKILL at a random moment, and hold the results against each other.

    A checkpoint is written after every twentieth of the training. Policies must be the same bit for bit, and all
    metrics but the seconds; and half of the trials must have gone on from a checkpoint, for what is killed before the
    first one shows nothing. A training that ends before its moment is compared too, and another takes its place, up to
    `ATTEMPTS` times. Raises `RunError` where training fails.
    """
    often = replace(experiment.train, checkpoint_steps=max(1, experiment.train.num_steps // 20))
    rng = np.random.default_rng(seed)
    killed = resumed = other = 0
    with TemporaryDirectory() as folder:
        source = Path(folder) / "experiment.toml"
        write_text(source, config.dump(replace(experiment, train=often)))
        begun = time.time()
        _train(source, Path(folder) / "whole", None)
        ended = time.time() - begun
        # what comes before the run folder is there is starting Python, and no moment of the training
        first = (Path(folder) / "whole" / "config.toml").stat().st_mtime - begun
        for attempt in range(ATTEMPTS * trials):
            run = Path(folder) / f"trial-{attempt}"
            if not _train(source, run, float(rng.uniform(first, ended))):
                killed += 1
                state = Run.open(run).latest() if (run / "config.toml").is_file() else None
                if not (state or {}).get("done"):  # else it was killed while it was leaving
                    resumed += state is not None
                    _train(source, run, None)
            other += what_came_out(run) != what_came_out(Path(folder) / "whole")
            progress(killed)
            if killed == trials:
                break
    found = {"trials": trials, "killed": killed, "resumed": resumed, "seconds": ended - first}
    return {**result("resume", []), **found, **_verdict(trials, killed, resumed, other)}


def _verdict(trials: int, killed: int, resumed: int, other: int) -> dict[str, Any]:
    missing = max(0, -(-trials // 2) - resumed)
    checks = {
        "trials that ended before they were killed": {"count": trials - killed, "passed": killed == trials},
        "runs that came out otherwise": {"count": other, "passed": other == 0},
        "trials missing to half that went on from a checkpoint": {"count": missing, "passed": missing == 0},
    }
    return {"checks": checks, "passed": all(check["passed"] for check in checks.values())}


def _train(source: Path, run: Path, seconds: float | None) -> bool:
    """Train, or go on; return False where it was killed since it took longer than that."""
    command = [sys.executable, "-m", "londi.cli", "train", str(source), "--run", str(run)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:  # `run` has sent SIGKILL
        return False
    if ended.returncode:
        raise RunError(f"`londi train` failed (exit code {ended.returncode}): {ended.stderr.strip()[-500:]}")
    return True


def what_came_out(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the weights of all policies as bytes, and the metrics without what the clock says."""
    run = Run.open(path)
    weights: dict[str, bytes] = {}
    for learner in run.experiment.train.learners:
        state = load_checkpoint(run.policy(learner))["switcher"]["weights"]
        weights |= {f"{learner} {name}": tensor.numpy().tobytes() for name, tensor in state.items()}
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return weights, [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
