"""Demonstrations of the BabyAI bot, labelled with the thought that explains each action.

The bot of minigrid sees more than the text shows. `ReadableBot` keeps to what a reader of the text can know in two
kinds of task: it fetches the key before it walks to a locked door (the stock bot turns back only at the lock), and
it goes on carrying the object in "pick up, then go to" (the stock bot drops it). Elsewhere it is the stock bot.
A share of the executed actions is random, the bot's own suggestion staying the label, so that the clones see how
to recover from mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from minigrid.envs.babyai.core.verifier import BeforeInstr, ObjDesc, OpenInstr
from minigrid.utils.baby_ai_bot import (
    BabyAIBot,
    DisappearedBoxError,
    DropSubgoal,
    GoNextToSubgoal,
    OpenSubgoal,
    PickupSubgoal,
)

from londi.envs.babyai import ACTIONS, BabyAITextEnv
from londi.lifeline import end_with_parent

VERBS = ("get", "reach", "bring", "unlock", "leave")
"""What a thought can want: get an object, reach a thing, bring the carried object to one, unlock a door, leave
the carried object."""


@dataclass(frozen=True)
class Demonstration:
    """One labelled step: what the prompt shows, the thought, and the bot's action."""

    goal: str
    observation: str
    last: tuple[str, ...]
    thought: str
    action: str


class ReadableBot(BabyAIBot):  # type: ignore[misc]
    """The BabyAI bot, planning only on what the text shows (see the module's docstring)."""

    stack: list[Any]

    def _process_instr(self, instr: Any) -> None:
        if isinstance(instr, OpenInstr) and any(door.is_locked for door in instr.desc.obj_set):
            key = ObjDesc("key", instr.desc.color)
            key.find_matching_objs(self.mission)
            self.stack += [OpenSubgoal(self), GoNextToSubgoal(self, instr.desc, reason="Open"), PickupSubgoal(self)]
            self.stack.append(GoNextToSubgoal(self, key))
        elif isinstance(instr, BeforeInstr):
            super()._process_instr(instr.instr_b)
            super()._process_instr(instr.instr_a)
            self.stack = [goal for goal in self.stack if not isinstance(goal, DropSubgoal)]
        else:
            super()._process_instr(instr)


_THING = r"(?:a|an|the) (\w+ (?:ball|box|key|door))"
_GOALS = {
    re.compile(f"^go to {_THING}$"): "go to",
    re.compile(f"^pick up {_THING}$"): "pick up",
    re.compile(f"^put {_THING} next to {_THING}$"): "put next",
    re.compile(f"^pick up {_THING}, then go to {_THING}$"): "pick up then go to",
    re.compile(f"^open {_THING}$"): "open door",
}


def _wish(goal: str, carried: str | None) -> tuple[str, str]:
    """Return (verb, object wanted now) from the goal and what is carried, e.g. ("get", "red ball")."""
    matches = [(kind, match) for pattern, kind in _GOALS.items() if (match := pattern.match(goal))]
    if not matches:
        raise ValueError(f"no thought is known for the goal '{goal}'")
    kind, match = matches[0]
    first, second = match.group(1), match.groups()[-1]
    if kind == "go to":
        return "reach", first
    wanted = first.replace("door", "key") if kind == "open door" else first
    if carried != wanted:
        return ("leave", carried) if carried else ("get", wanted)
    return {"put next": "bring", "pick up then go to": "reach", "open door": "unlock"}.get(kind, "get"), second


def think(goal: str, observation: str) -> str:
    """Return the thought of DEEPTHINK, computed from the visible text and the goal alone.

    A verb, and the wanted object as the text shows it ("get red ball 2 steps left"; nearest first), or its bare
    name where it is out of view.
    """
    carried = re.search(r"You carry an? (\w+ \w+)\.", observation)
    verb, wanted = _wish(goal, carried.group(1) if carried else None)
    seen = []
    for state, where in re.findall(rf"You see an? (\w+ )?{wanted} ([^.]*)\.", observation):
        numbers = [int(n) for n in re.findall(r"\d+", where)]
        seen.append((sum(numbers), f"{state}{wanted} {where}"))
    return f"{verb} {min(seen)[1] if seen else wanted}"


def play(env: BabyAITextEnv, seed: int, noise: float, memory: int) -> list[Demonstration]:
    """Return the demonstrations of one episode; `noise` is the share of random actions, in [0, 1]."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    bot = ReadableBot(env.level)
    demos: list[Demonstration] = []
    executed: list[str] = []
    action = None
    over = False
    while not over:
        try:
            suggestion = int(bot.replan(action))
        except (DisappearedBoxError, AssertionError, IndexError):
            break  # the stock bot gives up on a few perturbed episodes; what it did so far is good
        if suggestion >= len(ACTIONS):
            break
        last = tuple(executed[-memory:])
        thought = think(info["goal"], observation)
        demos.append(Demonstration(info["goal"], observation, last, thought, ACTIONS[suggestion]))
        action = env.level.actions(int(rng.integers(len(ACTIONS))) if rng.random() < noise else suggestion)
        executed.append(ACTIONS[action])
        observation, _, terminated, truncated, _ = env.step(ACTIONS[action])
        over = terminated or truncated
    return demos


def _play_many(job: tuple[Sequence[str], Sequence[int], int, float, int]) -> list[Demonstration]:
    kinds, seeds, max_steps, noise, memory = job
    env = BabyAITextEnv(kinds=kinds, max_steps=max_steps)
    return [demo for seed in seeds for demo in play(env, seed, noise, memory)]


def collect(
    kinds: Sequence[str],
    num_episodes: int,
    *,
    seed: int,
    max_steps: int = 64,
    noise: float = 0.12,
    memory: int = 4,
    processes: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[Demonstration]:
    """Return the demonstrations of `num_episodes` episodes, in the order of their seeds.

    The result depends on `seed` alone, not on `processes`. `progress` is told how many episodes are done.
    """
    first = 1_000_000_000 + seed * 10_000_000  # far from the seeds that experiments use
    size = 100
    jobs = [
        (tuple(kinds), range(first + i, first + min(i + size, num_episodes)), max_steps, noise, memory)
        for i in range(0, num_episodes, size)
    ]
    demos: list[Demonstration] = []
    for job, part in zip(jobs, _map(jobs, processes), strict=True):
        demos += part
        if progress:
            progress(len(job[1]))
    return demos


def _map(jobs: list[Any], processes: int) -> Iterator[list[Demonstration]]:
    if processes <= 1:
        yield from map(_play_many, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        yield from pool.map(_play_many, jobs)
