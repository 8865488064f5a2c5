"""Runs all suites and puts what they found into one result."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing import active_children, get_context
from typing import Any

from londi import provenance
from londi.errors import ConfigError, did_you_mean
from londi.lifeline import end_with_parent
from londi.verify import budgets, deep, efficiency, facts, learning, linear, random_mdps, scale
from londi.verify.base import Claim, Part, Settings, Suite

SCHEMA = 1
SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        random_mdps.SUITE,
        facts.SUITE,
        scale.SUITE,
        budgets.SUITE,
        linear.SUITE,
        learning.SUITE,
        efficiency.SUITE,
        deep.SUITE,
    )
}
"""In the order of the table. They are begun from the last one on, because that takes longest."""


def verify(
    quick: bool = False,
    seed: int = 0,
    processes: int = 1,
    only: Sequence[str] = (),
    progress: Callable[[int, str], None] = lambda done, suite: None,
) -> dict[str, Any]:
    """Measure every claim, or those of some suites; return what is written to verification.json.

    `processes` > 1 does jobs side by side, with the same result. `progress` is told jobs done and
    the suite of the last one. Raises `ConfigError` for an unknown suite, a negative seed or no process.
    """
    if seed < 0 or processes < 1:
        raise ConfigError(f"a seed is at least 0 and processes at least 1, not {seed} and {processes}")
    settings, begun = Settings(quick, seed), time.perf_counter()
    jobs = plan(settings, only)
    chosen = [suite for name, suite in SUITES.items() if not only or name in only]
    parts: dict[tuple[str, int], tuple[Part, float]] = {}
    for done, (key, part) in enumerate(_results(jobs, settings, processes), start=1):
        parts[key] = part
        progress(done, key[0])
    checks: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    for suite in chosen:
        done_jobs = [parts[suite.name, job] for job in range(suite.jobs(settings))]
        found, seconds = [part for part, _ in done_jobs], sum(spent for _, spent in done_jobs)
        data[suite.name] = [part.data for part in found if part.data]
        found.append(suite.combine(found))
        claims = [claim.asked(quick) for claim in suite.claims if not (quick and claim.full_only)]
        checks += [_check(suite, claim, found, seconds) for claim in claims]
    return {
        "schema": SCHEMA,
        "passed": all(check["passed"] for check in checks),
        "quick": quick,
        "seed": seed,
        "suites": [suite.name for suite in chosen],
        "seconds": time.perf_counter() - begun,
        "machine": provenance.describe(),
        "checks": checks,
        "data": data,
    }


def plan(settings: Settings, only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Return the jobs, (suite, number), in the order in which they are begun; raises `ConfigError` as `verify` does."""
    for name in only:
        if name not in SUITES:
            guess = did_you_mean(name, SUITES) or "."
            raise ConfigError(f"there is no suite '{name}'{guess} They are: {', '.join(SUITES)}")
    chosen = [suite for name, suite in SUITES.items() if not only or name in only]
    return [(suite.name, job) for suite in reversed(chosen) for job in range(suite.jobs(settings))]


def _results(jobs: list[tuple[str, int]], settings: Settings, processes: int) -> Any:
    """Yield ((suite, job), (part, seconds)) as jobs are done."""
    if processes == 1:
        for name, job in jobs:
            yield (name, job), _do(name, settings, job)
        return
    # workers inherit this: numeric libraries that start threads of their own would fight for the same cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        pending: dict[Future[tuple[Part, float]], tuple[str, int]] = {
            pool.submit(_do, name, settings, job): (name, job) for name, job in jobs
        }
        while pending:
            done, _ = wait_for(pending, return_when="FIRST_COMPLETED")
            for future in done:
                yield pending.pop(future), future.result()
    except BaseException:  # interrupted, or a job failed: the others can take minutes, and nobody waits for them
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _do(name: str, settings: Settings, job: int) -> tuple[Part, float]:
    begun = time.perf_counter()
    part = SUITES[name].run(settings, job)
    return part, time.perf_counter() - begun


def _check(suite: Suite, claim: Claim, parts: list[Part], seconds: float) -> dict[str, Any]:
    worst = claim.worst(part.worst[claim.key] for part in parts if claim.key in part.worst)
    return {
        "key": claim.key,
        "claim": claim.claim,
        "source": claim.source,
        "method": claim.method,
        "cases": sum(part.cases.get(claim.key, 0) for part in parts),
        "worst": worst if math.isfinite(worst) else None,
        "tolerance": claim.tolerance,
        "bound": claim.bound,
        "passed": claim.holds(worst),
        "suite": suite.name,
        "seconds": round(seconds, 3),
    }
