"""Many episodes in step: each vector step asks QUICK once for all of them, and DEEPTHINK once for those that call.

What is being played can be written down and gone on with: an episode is its assignment, the steps taken so far, and
where its generator stands. The environment comes back to where it was by taking the same actions.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np

from londi.agent import Agent, History
from londi.budget import Budget
from londi.encoders import Features
from londi.envs.base import TextEnv
from londi.episode import Episode, Reply, Step
from londi.errors import EnvError
from londi.learners.replay import Trajectory
from londi.switchers.base import FAILED
from londi.usage import BudgetMeasure, Measure

LOSSES = 3
"""Times that an episode begins anew which its environment lost; and how many in a row may be given up after that."""


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

    def assign(self, assignment: Assignment) -> _Slot:
        """Take an episode to play, which `start` begins."""
        self.assignment, self.begun, self.over, self.losses = assignment, False, False, 0
        return self

    def begin_anew(self) -> None:
        """Have an episode that the environment lost begin anew."""
        self.begun, self.over, self.losses = False, False, self.losses + 1

    def start(self) -> None:
        assignment = self.assignment
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
        self.success = self.truncated = self.over = self.lost = False
        self.mark()
        self.begun = True

    def mark(self) -> None:
        """Note where the generator stands before a step: from there one goes on that was not finished."""
        self.drawn = self.history.rng.bit_generator.state

    def advance(self, draft: Step, features: Features, agreed: bool) -> bool:
        """Carry out the action; return whether the episode ended."""
        reward, valid = self._move(draft.action)
        self.steps.append(dataclasses.replace(draft, reward=reward, valid=valid))
        self.features.append(features)
        self.agreed.append(agreed)
        self.mark()
        return self.over

    def _move(self, action: str) -> tuple[float, bool]:
        observation, reward, terminated, self.truncated, info = self.env.step(action)
        self.success, self.lost = bool(info["success"]), bool(info.get("world_lost", False))
        self.over = terminated or self.truncated or self.lost
        score, valid = float(info.get("score", reward)), bool(info["valid"])
        self.history.see(observation, score - self.score, valid)
        self.score = score if "score" in info else 0.0
        return float(reward), valid

    def episode(self, env_id: str = "") -> Episode:
        """Return what was played so far."""
        a = self.assignment
        return Episode(
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

    def finish(self, env_id: str, price_measure: Measure) -> tuple[Episode, Trajectory]:
        replies = [step.deepthink for step in self.steps]
        remaining = [np.inf if step.remaining is None else step.remaining for step in self.steps]
        numbers = {action: number for number, action in enumerate(self.history.admissible or ())}
        trajectory = Trajectory(
            Features.concatenate(self.features),
            np.array([step.called for step in self.steps]),
            np.array(self.agreed),
            np.array([step.reward for step in self.steps], np.float32),
            np.array(remaining, np.float32),
            np.full(len(self.steps), self.assignment.price, np.float32),
            np.array([0.0 if reply is None else reply.usage.of(price_measure) for reply in replies], np.float32),
            np.array([_answer(reply, numbers) for reply in replies], np.int16),
        )
        return self.episode(env_id), trajectory

    def state(self) -> dict[str, Any]:
        """Return the episode so far, for a checkpoint; a step that was begun and not finished is not in it."""
        found: dict[str, Any] = {"assignment": dataclasses.asdict(self.assignment), "begun": self.begun}
        if not self.begun:
            return found
        seen = self.history.observations[: len(self.steps) + 1]
        found |= {
            "episode": self.episode().to_dict(),
            "observation": seen[-1],
            "rng": self.drawn,
            "agreed": list(self.agreed),
            "features": None,
        }
        if self.features:
            f = Features.concatenate(self.features)
            found["features"] = {"text": f.text, "fields": f.fields, "dense": f.dense}
        return found

    def resume(self, state: Mapping[str, Any]) -> bool:
        """Take the steps of `state` again; where the world answers otherwise, begin anew and return False."""
        self.assign(Assignment(**state["assignment"])).start()
        if not state["begun"]:
            return True
        steps = Episode.from_dict(state["episode"]).steps
        after = [*(step.observation for step in steps), state["observation"]][1:]
        if self.history.observation != (steps[0].observation if steps else state["observation"]):
            return False
        for step, observation in zip(steps, after, strict=True):
            if self.over or not self._again(step, observation):
                self.start()
                return False
        if steps:
            f = Features(*(np.asarray(state["features"][name]) for name in ("text", "fields", "dense")))
            self.features = [f[i : i + 1] for i in range(len(f))]
        self.steps, self.agreed = list(steps), [bool(each) for each in state["agreed"]]
        self.history.rng.bit_generator.state = state["rng"]
        self.mark()
        return True

    def _again(self, step: Step, observation: str) -> bool:
        """Take a step that was taken before; return whether it came to the same."""
        self.history.repeat(step)
        told = self._move(step.action)
        return told == (step.reward, step.valid) and self.history.observation == observation


def _answer(reply: Reply | None, numbers: Mapping[str, int]) -> int:
    if reply is None:
        return -1
    return FAILED if reply.error else numbers.get(reply.action, -1)


class Rollout:
    """Plays assignments, as many at a time as there are environments, one vector step after the other.

    All environments must have the same closed set of actions. `price_measure` is what the trajectories say that calls
    cost. A context manager: environments that wait (for a simulator, a server) are stepped in threads.

    An episode that its environment lost (`info["world_lost"]`) begins anew, `LOSSES` times at most. After that it is
    left out with `gives_up`, as in training, but for more than `LOSSES` in a row; otherwise `step` raises `EnvError`.
    """

    def __init__(
        self,
        envs: Sequence[TextEnv],
        agent: Agent,
        assignments: Iterable[Assignment],
        env_id: str = "",
        price_measure: Measure = "calls",
        *,
        gives_up: bool = False,
    ) -> None:
        self.agent, self.env_id, self.price_measure, self.gives_up = agent, env_id, price_measure, gives_up
        self._waiting = iter(assignments)
        self._idle = [_Slot(env) for env in envs]
        self._playing: list[_Slot] = []
        self._ended: deque[_Slot] = deque()
        self._pool = ThreadPoolExecutor(len(envs)) if any(env.waits for env in envs) else None
        self.lost = 0
        """Episodes that were begun anew since their environment lost them."""
        self.given_up: list[int] = []
        """Seeds of those that were left out, since it lost them again and again."""
        self._in_a_row = 0  # of these, since an episode ended
        self.restarts = (0, 0)
        """Workers and replicas that were started again since they died: here there is none."""

    @property
    def num_idle(self) -> int:
        """Environments in which nothing is played."""
        return len(self._idle)

    @property
    def num_waiting(self) -> int:
        """Episodes that have ended and were not yielded yet."""
        return len(self._ended)

    def __enter__(self) -> Rollout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown()

    def step(self) -> Iterator[tuple[Episode, Trajectory]] | None:
        """Begin episodes where an environment is idle, take a step of each, and yield those that ended.

        None where nothing is left to play. What is not taken from the iterator is yielded by the next step. Where a
        model or an environment raises, `state` still has every episode, as far as it came.
        """
        if not self._ended:
            self._playing += [self._idle.pop().assign(a) for a in islice(self._waiting, len(self._idle))]
            self._each(_Slot.start, [(slot,) for slot in self._playing if not slot.begun])
            self._sort()
        if not self._ended:
            if not self._playing:
                return None
            decided = self.agent.act([slot.history for slot in self._playing])
            answers = [
                (slot, decided.drafts[i], decided.features[i : i + 1], bool(decided.agreed[i]))
                for i, slot in enumerate(self._playing)
            ]
            self._each(_Slot.advance, answers)
            self._sort()
        return self._deliver()

    def _sort(self) -> None:
        """Take out what has ended: in this step, or in one that an exception cut off."""
        lost = [slot for slot in self._playing if slot.over and slot.lost]
        for slot in lost:
            slot.begin_anew()
        ended = [slot for slot in self._playing if slot.over]
        self._playing = [slot for slot in self._playing if not slot.over]
        self._ended += ended
        self._in_a_row = 0 if ended else self._in_a_row
        for slot in lost:
            if slot.losses > LOSSES:
                self._give_up(slot)
            else:
                self.lost += 1

    def _give_up(self, slot: _Slot) -> None:
        """Leave out what was lost again and again; raises `EnvError` where that may not be, or leads nowhere."""
        if not self.gives_up or self._in_a_row >= LOSSES:
            raise EnvError(
                f"{self.env_id or type(slot.env).__name__} lost the episode with seed {slot.assignment.seed} "
                f"{slot.losses} times, the last time at '{slot.steps[-1].action[:60]}', and can't be played: see "
                "whether its simulator has the memory and the time that it needs (env.options)"
            )
        self._in_a_row += 1
        self.given_up.append(slot.assignment.seed)
        self._playing.remove(slot)
        self._idle.append(slot)

    def _deliver(self) -> Iterator[tuple[Episode, Trajectory]]:
        while self._ended:
            slot = self._ended.popleft()
            self._idle.append(slot)
            yield slot.finish(self.env_id, self.price_measure)

    def drain(self) -> Iterator[tuple[Episode, Trajectory]]:
        """Yield what has ended and was not yielded; nothing goes on meanwhile."""
        return self._deliver()

    def state(self, patience: float | None = None) -> list[dict[str, Any]]:
        """Return the episodes that are being played or have ended and were not yielded, for a checkpoint.

        There is nothing to be patient with here.
        """
        return [slot.state() for slot in (*self._ended, *self._playing)]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> int:
        """Go on with the episodes of `state`, to be called before the first step.

        Returns how many had to be begun anew, since the environment answered otherwise than it did. Raises `RunError`,
        `KeyError`, `TypeError` or `ValueError` where the state is damaged or there are too few environments.
        """
        if self._playing or len(state) > len(self._idle):
            raise ValueError(f"{len(state)} episodes to go on with, and {len(self._idle)} idle environments")
        slots = [self._idle.pop() for _ in state]
        same = self._each(_Slot.resume, list(zip(slots, state, strict=True)))
        self._playing = slots
        self._sort()
        return sum(not each for each in same)

    def _each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function with each of several arguments: in threads where environments wait."""
        if not self._pool:
            return [function(*each) for each in arguments]
        return list(self._pool.map(lambda each: function(*each), arguments))


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
    what the trajectories say that calls cost. Raises `EnvError` for an episode that its environment lost again and
    again.
    """
    with Rollout(envs, agent, assignments, env_id, price_measure) as playing:
        while (ended := playing.step()) is not None:
            yield from ended
