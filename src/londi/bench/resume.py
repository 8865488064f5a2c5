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


def bench_resume(
    experiment: Experiment, trials: int = 50, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Train once, then `trials` times with a SIGKILL at a random moment, and hold the results against each other.

    A checkpoint is written after every twentieth of the training. Policies must be the same bit for bit, and all
    metrics but the seconds. Raises `RunError` where training fails.
    """
    often = replace(experiment.train, checkpoint_steps=max(1, experiment.train.num_steps // 20))
    rng = np.random.default_rng(seed)
    killed = resumed = other = 0
    with TemporaryDirectory() as folder:
        source = Path(folder) / "experiment.toml"
        write_text(source, config.dump(replace(experiment, train=often)))
        begun = time.perf_counter()
        _train(source, Path(folder) / "whole", None)
        needed = time.perf_counter() - begun
        for trial in range(trials):
            run = Path(folder) / f"killed-{trial}"
            if not _train(source, run, float(rng.uniform(0, needed))):
                killed += 1
                state = Run.open(run).latest() if (run / "config.toml").is_file() else None
                resumed += state is not None
                if not (state or {}).get("done"):  # killed while it was leaving
                    _train(source, run, None)
            other += what_came_out(run) != what_came_out(Path(folder) / "whole")
            progress(trial + 1)
    checks = {"runs that came out otherwise": {"count": other, "passed": other == 0}}
    found = {"trials": trials, "killed": killed, "resumed": resumed, "checks": checks, "passed": other == 0}
    return {**result("resume", []), **found}


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
