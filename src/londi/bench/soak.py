"""`londi bench soak`: training on and on in one process; does its memory grow?"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from londi.bench.base import memory_mb, result
from londi.config import Experiment
from londi.train import Progress, Trainer, prepare

STEEPEST = 0.02
"""Growth an hour that passes, as a share of the memory in use; and its uncertainty likewise."""
FEWEST = 4
"""Trainings, at least: one to warm up, and three for a line and its error."""
SAMPLES = 100
"""Of memory in the long training, before its replay is full and after."""


def bench_soak(
    experiment: Experiment, minutes: float, long: int = 0, progress: Callable[[float], None] = lambda minutes: None
) -> dict[str, Any]:
    """Train the experiment from its beginning to its end, again and again, until the minutes are over.

    Within a training memory grows: the replay fills, and what the models said is kept. From one to the next it must
    not. Reports the peak of each, what is in use after it (where the C library can, what it keeps for later is given
    back first), and the slope of a line through the latter with its standard error, see `growth`. Then, with `long`,
    one training of so many steps, with a replay of a quarter of them: how memory grows once that is full (`within`).
    """
    begun = time.perf_counter()
    peaks: list[float] = []
    used: list[float] = []
    ends: list[float] = []
    steps = 0
    while len(peaks) < FEWEST or time.perf_counter() - begun < 60 * minutes:
        peak = 0.0

        def watch(trainer: Trainer) -> None:
            nonlocal peak
            peak = max(peak, memory_mb())
            progress((time.perf_counter() - begun) / 60)

        steps += _train(replace(experiment, seed=len(peaks)), watch)
        peaks.append(peak)
        used.append(_in_use())
        ends.append((time.perf_counter() - begun) / 60)
    sizes = {"minutes": ends[-1], "trainings": len(peaks), "env_steps": steps, "ends": ends}
    within = _within(experiment, long) if long else None
    return {**result("soak", []), **sizes, "peak_mb": peaks, "used_mb": used, **growth(ends, used), "within": within}


def growth(minutes: Sequence[float], used: Sequence[float]) -> dict[str, Any]:
    """Return the slope of the memory in use (MB) over the ends of trainings (minutes), and whether it passes.

    The line is that of least squares, without the first tenth of the trainings (one at least), in which things are
    loaded once. It passes where no more than `STEEPEST` an hour is added, and two standard errors are no more than that
    either: a soak too short to tell does not pass.
    """
    warm = max(1, len(used) // 10)
    slope, error = (60 * value for value in line(minutes[warm:], used[warm:]))
    bound = STEEPEST * float(np.mean(used[warm:]))
    checks = {
        "MB an hour that memory grows": {"count": round(slope, 1), "passed": slope <= bound},
        "two standard errors of that": {"count": round(2 * error, 1), "passed": 2 * error <= bound},
    }
    measured = {"slope_mb_per_hour": slope, "slope_se_mb_per_hour": error, "bound_mb_per_hour": bound}
    return {**measured, "checks": checks, "passed": all(check["passed"] for check in checks.values())}


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the least-squares line through three points or more, and its standard error."""
    dx = np.asarray(x, float) - np.mean(x)
    dy = np.asarray(y, float) - np.mean(y)
    slope = float(dx @ dy / (dx @ dx))
    rest = dy - slope * dx
    return slope, float(np.sqrt(rest @ rest / (len(dx) - 2) / (dx @ dx)))


def _within(experiment: Experiment, steps: int) -> dict[str, Any]:
    """Memory along one training: at which steps, MB, and how many answers of the models are kept by then."""
    train = replace(experiment.train, num_steps=steps, replay=max(1, steps // 4))
    samples: list[tuple[int, float, int]] = []

    def watch(trainer: Trainer) -> None:
        if trainer.step >= (len(samples) + 1) * steps / SAMPLES:
            samples.append((trainer.step, memory_mb(), sum(model.misses for model in trainer.models.values())))

    _train(replace(experiment, train=train), watch)
    at, used, kept = zip(*(sample for sample in samples if sample[0] >= train.replay), strict=True)
    slope, error = (1_000 * value for value in line(at, used))
    measured = {"mb_per_1000_steps": slope, "se_mb_per_1000_steps": error, "answers": [kept[0], kept[-1]]}
    return {"steps": at, "used_mb": used, "replay": train.replay, **measured}


def _train(experiment: Experiment, watch: Callable[[Trainer], None]) -> int:
    """Train into a folder that is removed; `watch` is called after each episode. Returns the steps."""
    with TemporaryDirectory() as folder:
        trainer = prepare(Path(folder) / "run", experiment)

        def watched(now: Progress) -> None:
            watch(trainer)

        trainer.train(watched)
    return trainer.step


def _in_use() -> float:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return memory_mb()
