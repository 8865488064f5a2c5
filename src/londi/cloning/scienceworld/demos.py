"""Demonstrations for ScienceWorld: solutions without their detours, played with mistakes and put right again.

A solution of the simulator walks roundabout, opens doors that are open, looks around and waits. What remains of it
is a plan: what to do, and in which room. Between two of its actions the demonstrator walks the shortest way. A share
of its moves is random, its own choice staying the label, so that a clone sees how to find back.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from londi.cloning.scienceworld.gold import Gold, append
from londi.cloning.scienceworld.tidy import tidy
from londi.envs.jvm import POOL
from londi.envs.scienceworld import ScienceWorldEnv

HOUSE = {
    "hallway": ("art studio", "bedroom", "greenhouse", "kitchen", "living room", "workshop"),
    "kitchen": ("bathroom", "hallway", "outside"),
    "outside": ("foundry", "greenhouse", "kitchen"),
    "greenhouse": ("hallway", "outside"),
    **dict.fromkeys(("art studio", "bedroom", "living room", "workshop"), ("hallway",)),
    "bathroom": ("kitchen",),
    "foundry": ("outside",),
}
"""The rooms, and where their doors lead."""
NOISE, COPIES = 0.12, 2
"""Share of random steps, and how often a solution is played with them, besides once without."""
_VERSION = 1
"""Of what this file and `tidy` make of a solution: what was made by another is made again."""
_ROOM = re.compile(r"(?:room|outside location) is called the ([\w ]+?)\.")
_LEAST = (
    re.compile(r"open door to|go to|look around$|wait\d*$|examine |open (?!blast|freezer|glass|cupboard)|read "),
    re.compile(r"open door to|go to|look around$|examine "),
    re.compile(r"open door to|go to|look around$"),
    re.compile(r"open door to|go to"),
)
"""What is left out of a solution: as much as first leads to the goal all the same."""


@dataclass(frozen=True)
class Demonstration:
    """One labelled step: what the prompt shows, the next action of the plan and its room, and what to do now."""

    task: str
    variation: int
    goal: str
    observation: str
    last: tuple[str, ...]
    room: str
    next: str
    action: str


@dataclass(frozen=True)
class Plan:
    """What to do, and in which room."""

    gold: Gold
    steps: tuple[tuple[str, str], ...]


def room_of(observation: str) -> str:
    """Return the room that an observation describes; empty where it names none."""
    found = _ROOM.findall(observation)
    return found[-1] if found else ""


def toward(room: str, goal: str) -> str:
    """Return the first door on the shortest way from one room to another."""
    before = {room: ""}
    queue = deque([room])
    while queue:
        here = queue.popleft()
        for there in HOUSE[here]:
            if there not in before:
                before[there] = here
                queue.append(there)
    there = goal
    while before[there] != room:
        there = before[there]
    return there


def plan(env: ScienceWorldEnv, gold: Gold) -> Plan | None:
    """Return the shortest of the plans in a solution that leads to the goal; None where none does."""
    observation, _ = env.reset(options={"variation": gold.variation})
    start = room_of(observation)
    for pattern in _LEAST:
        steps, room = [], start
        for action in gold.actions:
            if action.startswith("go to "):
                room = action.removeprefix("go to ")
            if not pattern.match(action):
                steps.append((room, action))
        shown = play(env, Plan(gold, tuple(steps)))
        if shown is not None:
            steps, seen = steps[: shown[1]], [demo.observation for demo in shown[0] if demo.action == demo.next]
            better = Plan(gold, tuple(tidy(gold.task, steps, seen)))
            return better if play(env, better) is not None else Plan(gold, tuple(steps))
    return None


def play(
    env: ScienceWorldEnv, plan: Plan, noise: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[list[Demonstration], int] | None:
    """Carry out a plan; return the labelled steps and how many of the plan were needed, or None without success.

    `noise` is the share of steps, in [0, 1], on which a random door is taken instead.
    """
    observation, info = env.reset(options={"variation": plan.gold.variation})
    demos: list[Demonstration] = []
    executed: list[str] = []
    at, over = 0, False
    while at < len(plan.steps) and not over:
        room, action = plan.steps[at]
        here = room_of(observation)
        if here not in HOUSE or room not in HOUSE:
            return None
        chosen = action if here == room else f"go to {toward(here, room)}"
        demos.append(
            Demonstration(
                plan.gold.task, plan.gold.variation, env.goal, observation, tuple(executed), room, action, chosen
            )
        )
        if rng is not None and rng.random() < noise:
            chosen = f"go to {HOUSE[here][int(rng.integers(len(HOUSE[here])))]}"
        elif here == room:
            at += 1
        executed.append(chosen)
        observation, _, terminated, truncated, info = env.step(chosen)
        over = terminated or truncated
    return (demos, at) if info["success"] else None


def demonstrate(env: ScienceWorldEnv, gold: Gold, noise: float, copies: int, seed: int) -> list[Demonstration]:
    """Return the steps of a solution, played once without noise and `copies` times with it.

    What noise led astray is left out.
    """
    found = plan(env, gold)
    if found is None:
        return []
    demos: list[Demonstration] = []
    for copy in range(copies + 1):
        rng = np.random.default_rng((seed, gold.variation, copy)) if copy else None
        played = play(env, found, noise, rng)
        demos += played[0] if played else []
    return demos


def collect(
    folder: Path,
    golds: Sequence[Gold],
    *,
    seed: int,
    noise: float = NOISE,
    copies: int = COPIES,
    processes: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Play solutions and write their demonstrations, a line each, into one file a task; what is there is not replayed.

    `progress` is told how many are done.
    """
    lock, local = Lock(), threading.local()

    def one(gold: Gold) -> None:
        if getattr(local, "task", None) != (gold.task, gold.simplification):
            if hasattr(local, "env"):
                local.env.close()
            local.env = ScienceWorldEnv(gold.task, "train", gold.simplification, max_steps=300, max_moves=300)
            local.task = gold.task, gold.simplification
        steps = [asdict(demo) for demo in demonstrate(local.env, gold, noise, copies, seed)]
        if not steps and local.env.world_lost:
            return  # its simulator was lost, mostly by Ctrl-C: that says nothing about the solution
        with lock:
            append(path_of(folder, gold.task), {"variation": gold.variation, **made, "steps": steps})

    made = {"seed": seed, "noise": noise, "copies": copies, "version": _VERSION}
    known = {(task, number) for task in {gold.task for gold in golds} for number in _lines(folder, task, **made)}
    new = [gold for gold in golds if (gold.task, gold.variation) not in known]
    progress(len(golds) - len(new))
    with ThreadPoolExecutor(processes) as pool:
        try:
            for done, _ in enumerate(pool.map(one, new), start=len(golds) - len(new) + 1):
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    POOL.clear()


def path_of(folder: Path, task: str) -> Path:
    """The file of a task's demonstrations."""
    return folder / f"{task}-demonstrations.jsonl"


def read(
    folder: Path, tasks: Sequence[str], seed: int, noise: float = NOISE, copies: int = COPIES
) -> list[Demonstration]:
    """Return the demonstrations of these tasks that were made so, in the order of tasks and variations."""
    found = []
    for task in tasks:
        lines = _lines(folder, task, seed=seed, noise=noise, copies=copies, version=_VERSION)
        steps = (step for number in sorted(lines) for step in lines[number])
        found += [Demonstration(**{**step, "last": tuple(step["last"])}) for step in steps]
    return found


def _lines(folder: Path, task: str, **made: float) -> dict[int, list[dict[str, Any]]]:
    """Steps by variation; a line that was cut off, or made otherwise, is left out."""
    path = path_of(folder, task)
    found: dict[int, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            data = json.loads(line)
            if made.items() <= data.items():
                found[data["variation"]] = data["steps"]
        except (ValueError, KeyError, TypeError):
            continue
    return found
