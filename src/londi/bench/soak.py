"""`londi bench soak`: training on and on in one process; does its memory grow?"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from londi.bench.base import memory_mb, result
from londi.config import Experiment
from londi.train import Progress, prepare

STEEPEST = 0.005
"""Growth from one training to the next that passes, as a share of the memory in use."""


def bench_soak(
    experiment: Experiment, minutes: float, progress: Callable[[float], None] = lambda minutes: None
) -> dict[str, Any]:
    """Train the experiment from its beginning to its end, again and again, until the minutes are over.

    Within a training memory grows: the replay fills, and what the models said is kept. From one to the next it must
    not. Reports the peak of each, what is in use after it (where the C library can, what it keeps for later is given
    back first), and the slope of a line through the latter, the first left out (what is loaded once).
    """
    begun = time.perf_counter()
    peaks: list[float] = []
    used: list[float] = []
    ends: list[float] = []
    steps = 0
    seed = 0
    while len(peaks) < 3 or time.perf_counter() - begun < 60 * minutes:
        peak = 0.0

        def watch(now: Progress) -> None:
            nonlocal peak
            peak = max(peak, memory_mb())
            progress((time.perf_counter() - begun) / 60)

        with TemporaryDirectory() as folder:
            trainer = prepare(Path(folder) / "run", replace(experiment, seed=seed))
            trainer.train(watch)
        steps += trainer.step
        seed += 1
        del trainer
        peaks.append(peak)
        used.append(_in_use())
        ends.append((time.perf_counter() - begun) / 60)
    slope = float(np.polyfit(ends[1:], used[1:], 1)[0])  # MB a minute
    each = slope * (ends[-1] - ends[0]) / (len(ends) - 1) / float(np.mean(used[1:]))
    checks = {"growth from one training to the next": {"count": round(each, 4), "passed": each < STEEPEST}}
    return {
        **result("soak", []),
        "minutes": ends[-1],
        "trainings": len(peaks),
        "env_steps": steps,
        "peak_mb": peaks,
        "used_mb": used,
        "slope_mb_per_hour": 60 * slope,
        "checks": checks,
        "passed": each < STEEPEST,
    }


def _in_use() -> float:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return memory_mb()
