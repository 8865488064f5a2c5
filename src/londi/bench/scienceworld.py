"""`londi bench scienceworld`: steps a second against the package's own wrapper, and episodes with killed simulators."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from scienceworld import ScienceWorldEnv as Wrapper

from londi.bench.base import memory_mb, result, row
from londi.envs.jvm import POOL
from londi.envs.scienceworld import ScienceWorldEnv

TASKS = ("find-living-thing", "boil", "chemistry-mix")
STEPS = 40


def bench_scienceworld(
    rounds: int = 3,
    episodes: int = 100,
    kill_every: int = 50,
    seed: int = 0,
    progress: Callable[[int, str], None] = lambda done, what: None,
) -> dict[str, Any]:
    """Steps a second, look and inventory included on both sides; then `episodes` of random actions.

    Every `kill_every` episodes the simulator is killed in the middle of one. `checks` say what must be 0.
    """
    rows = []
    for number, task in enumerate(TASKS):
        progress(number, task)
        rows.append(_speed(task, rounds, seed))
    soak = _soak(episodes, kill_every, seed, lambda done: progress(len(TASKS) + done, "episodes"))
    POOL.clear()
    return result("scienceworld", rows) | soak


def _actions(env: ScienceWorldEnv, rng: np.random.Generator, count: int) -> list[str]:
    known = [action for action in env.valid_actions() if not action.startswith(("focus", "reset"))]
    return [str(action) for action in rng.choice(known, count)]


def _speed(task: str, rounds: int, seed: int) -> dict[str, Any]:
    env = ScienceWorldEnv(task, simplification="easy", max_steps=10 * STEPS, max_moves=10 * STEPS)
    _, info = env.reset(seed=seed)
    actions = _actions(env, np.random.default_rng(seed), STEPS)
    wrapper = Wrapper("", envStepLimit=10 * STEPS)
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        env.reset(seed=seed)
        speeds[0].append(_rate(lambda action: env.step(action)[2], actions))
        wrapper.load(task, info["variation"], "easy")
        wrapper.reset()
        speeds[1].append(_rate(lambda action: wrapper.step(action)[2], actions))
    _end(wrapper)
    env.close()
    return row(f"{task}: against the package's own step", median(speeds[0]), median(speeds[1]), "steps a second")


def _end(wrapper: Any) -> None:
    """What the wrapper's own `close` leaves open: its process' input, and a folder."""
    process = wrapper._gateway.java_process
    wrapper.close()
    process.stdin.close()
    process.kill()
    process.wait()
    wrapper._obj_tree_tempdir.cleanup()


def _rate(step: Callable[[str], bool], actions: list[str]) -> float:
    begun = time.perf_counter()
    done = 0
    for action in actions:
        done += 1
        if step(action):
            break
    return done / (time.perf_counter() - begun)


def _soak(episodes: int, kill_every: int, seed: int, progress: Callable[[int], None]) -> dict[str, Any]:
    POOL.clear()
    before = _children()
    env, rng = ScienceWorldEnv(TASKS[0], max_steps=12, heap_mb=256), np.random.default_rng(seed)
    wrong = lost = killed = 0
    memory: list[float] = []
    for episode in range(episodes):
        env.reset(seed=episode)
        actions = _actions(env, rng, env.max_steps)
        killing = episode % kill_every == kill_every - 1
        for number, action in enumerate(actions):
            if killing and number == 6:
                killed += 1
                _kill(env)
            _, reward, ended, truncated, info = env.step(action)
            wrong += bool(reward) != info["success"] or not 0 <= info["score"] <= 100
            if ended or truncated:
                break
        lost += info["world_lost"]
        memory.append(memory_mb())
        progress(episode + 1)
    processes = _children()
    env.close()
    POOL.clear()
    grown = memory[-1] - memory[len(memory) // 4]
    counts = {"wrong scores": wrong, "simulators left behind": max(0, _children() - before)}
    return {
        "episodes": episodes,
        "killed": killed,
        "lost": lost,
        "processes": processes,
        "rss_mb": memory[-1],
        "rss_growth_mb": grown,
        "checks": {what: {"count": count, "passed": count == 0} for what, count in counts.items()},
        "passed": not any(counts.values()),
    }


def _kill(env: ScienceWorldEnv) -> None:
    if env.simulator is not None:
        os.kill(env.simulator.pid, signal.SIGKILL)


def _children() -> int:
    """Java processes that this one started and that still run."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
        pids = file.read().split()
    return sum("java" in _name(pid) for pid in pids)


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
