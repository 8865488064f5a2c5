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
"""Trainings a trial at most: on a machine that gets faster or slower, many are killed too late or too early."""


def bench_resume(
    experiment: Experiment, trials: int = 50, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Train once, then `trials` times with a SIGKILL at a random moment, and hold the results against each other.

    A checkpoint is written after every twentieth of the training. Policies must be the same bit for bit, and all
    metrics but the seconds; and half of the trials must have gone on from a checkpoint, for what is killed before the
    first one shows nothing. A training that ends before its moment is compared too, and another takes its place; so
    does another where too few went on from a checkpoint, up to `ATTEMPTS` times `trials` in all. Raises `RunError`
    where training fails.
    """
    often = replace(experiment.train, checkpoint_steps=max(1, experiment.train.num_steps // 20))
    rng = np.random.default_rng(seed)
    killed = resumed = other = 0
    with TemporaryDirectory() as folder:
        source = Path(folder) / "experiment.toml"
        write_text(source, config.dump(replace(experiment, train=often)))
        _train(source, Path(folder) / "whole", None)
        took = time.time() - (Path(folder) / "whole" / "config.toml").stat().st_mtime
        for attempt in range(ATTEMPTS * trials):
            run = Path(folder) / f"trial-{attempt}"
            if not _train(source, run, float(rng.uniform(0, took))):
                killed += 1
                state = Run.open(run).latest() if (run / "config.toml").is_file() else None
                if not (state or {}).get("done"):  # else it was killed while it was leaving
                    resumed += state is not None
                    _train(source, run, None)
            other += what_came_out(run) != what_came_out(Path(folder) / "whole")
            progress(min(killed, trials))
            if killed >= trials and resumed >= _half(trials):
                break
    found = {"trials": trials, "killed": killed, "resumed": resumed, "seconds": took}
    return {**result("resume", []), **found, **_verdict(trials, killed, resumed, other)}


def _verdict(trials: int, killed: int, resumed: int, other: int) -> dict[str, Any]:
    missing = max(0, _half(trials) - resumed)
    checks = {
        "trials that ended before they were killed": {"count": max(0, trials - killed), "passed": killed >= trials},
        "runs that came out otherwise": {"count": other, "passed": other == 0},
        "trials missing to half that went on from a checkpoint": {"count": missing, "passed": missing == 0},
    }
    return {"checks": checks, "passed": all(check["passed"] for check in checks.values())}


def _half(trials: int) -> int:
    return -(-trials // 2)


def _train(source: Path, run: Path, seconds: float | None) -> bool:
    """Train, or go on; return False where it was killed since it took longer than that, counted from when the run's
    folder was there: what comes before is starting Python, and no moment of the training."""
    command = [sys.executable, "-m", "londi.cli", "train", str(source), "--run", str(run)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as training:
        while seconds is not None and not (run / "config.toml").is_file() and training.poll() is None:
            time.sleep(0.01)
        try:
            _, errors = training.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            training.kill()
    if training.returncode:
        raise RunError(f"`londi train` failed (exit code {training.returncode}): {errors.strip()[-500:]}")
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
