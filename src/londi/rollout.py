"""Many episodes in step: each vector step asks QUICK once for all of them, and DEEPTHINK once for those that call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from londi.agent import Agent, History
from londi.budget import Budget
from londi.encoders import Features
from londi.envs.base import TextEnv
from londi.episode import Episode, Step
from londi.learners.replay import Trajectory
from londi.usage import BudgetMeasure, Measure

_Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One episode to play: its seed, and what governs its calls."""

    seed: int
    """Decides the environment's episode and, with `stream`, the draws of the policy."""
    policy: str = ""
    budget: float | None = None
    price: float = 0.0
    random_rate: float | None = None
    guided: bool = False
    epsilon: float = 0.0
    budget_measure: BudgetMeasure = "calls"
    stream: int = 1
    """Not 0: the environment draws from `default_rng(seed)`, which numpy makes the same as `default_rng((seed, 0))`."""


class _Slot:
    """An environment and the episode that is being played in it."""

    def __init__(self, env: TextEnv) -> None:
        self.env = env

    def start(self, assignment: Assignment) -> None:
        self.assignment = assignment
        observation, info = self.env.reset(seed=assignment.seed)
        self.goal, self.score = str(info["goal"]), float(info.get("score", 0.0))
        self.history = History(
            goal=self.goal,
            observation=observation,
            admissible=info["admissible"],
            max_steps=self.env.max_steps,
            budget=Budget(assignment.budget, assignment.budget_measure),
            price=assignment.price,
            rng=np.random.default_rng((assignment.seed, assignment.stream)),
            random_rate=assignment.random_rate,
            guided=assignment.guided,
            epsilon=assignment.epsilon,
        )
        self.steps: list[Step] = []
        self.features: list[Features] = []
        self.agreed: list[bool] = []

    def advance(self, draft: Step, features: Features, agreed: bool) -> bool:
        """Carry out the action; return whether the episode ended."""
        observation, reward, terminated, self.truncated, info = self.env.step(draft.action)
        self.success = bool(info["success"])
        score = float(info.get("score", reward))
        self.history.see(observation, score - self.score, bool(info["valid"]))
        self.score = score if "score" in info else 0.0
        self.steps.append(dataclasses.replace(draft, reward=float(reward), valid=bool(info["valid"])))
        self.features.append(features)
        self.agreed.append(agreed)
        return terminated or self.truncated

    def finish(self, env_id: str, price_measure: Measure) -> tuple[Episode, Trajectory]:
        a = self.assignment
        episode = Episode(
            env=env_id,
            seed=a.seed,
            goal=self.goal,
            policy=a.policy,
            budget=a.budget,
            price=a.price,
            steps=tuple(self.steps),
            success=self.success,
            truncated=self.truncated,
            budget_measure=a.budget_measure,
            settings=self.env.settings,
        )
        replies = [step.deepthink for step in self.steps]
        remaining = [np.inf if step.remaining is None else step.remaining for step in self.steps]
        trajectory = Trajectory(
            Features.concatenate(self.features),
            np.array([step.called for step in self.steps]),
            np.array(self.agreed),
            np.array([step.reward for step in self.steps], np.float32),
            np.array(remaining, np.float32),
            np.full(len(self.steps), a.price, np.float32),
            np.array([0.0 if reply is None else reply.usage.of(price_measure) for reply in replies], np.float32),
        )
        return episode, trajectory


def rollout(
    envs: Sequence[TextEnv],
    agent: Agent,
    assignments: Iterable[Assignment],
    env_id: str = "",
    price_measure: Measure = "calls",
) -> Iterator[tuple[Episode, Trajectory]]:
    """Play the assignments, as many at a time as there are environments; yield episodes as they finish.

    An episode depends on its assignment and the agent alone, not on which environment it is played in or beside
    which others, as long as the agent's models keep their contract (a batch is what its prompts are singly) and the
    Switcher is not changed meanwhile. All environments must have the same closed set of actions. `price_measure` is
    what the trajectories say that calls cost.
    """
    waiting = iter(assignments)
    idle = [_Slot(env) for env in envs]
    playing: list[_Slot] = []
    with _side_by_side(envs) as each:
        while True:
            started = [(idle.pop(), a) for a in islice(waiting, len(idle))]
            each(_Slot.start, started)
            playing += [slot for slot, _ in started]
            if not playing:
                return
            decided = agent.act([slot.history for slot in playing])
            answers = [
                (slot, decided.drafts[i], decided.features[i : i + 1], bool(decided.agreed[i]))
                for i, slot in enumerate(playing)
            ]
            ended = each(_Slot.advance, answers)
            finished = [slot for slot, over in zip(playing, ended, strict=True) if over]
            playing = [slot for slot, over in zip(playing, ended, strict=True) if not over]
            for slot in finished:
                yield slot.finish(env_id, price_measure)
                idle.append(slot)


@contextmanager
def _side_by_side(envs: Sequence[TextEnv]) -> Iterator[_Each]:
    """Yield what calls a function with each of several arguments: in threads where environments wait."""
    if not any(env.waits for env in envs):
        yield lambda function, arguments: [function(*each) for each in arguments]
        return
    with ThreadPoolExecutor(len(envs)) as pool:
        yield lambda function, arguments: list(pool.map(lambda each: function(*each), arguments))
