"""What a worker of a cluster does: some of the environments, and an agent that plays in them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import ray

from londi import lms
from londi.agent import Agent
from londi.cluster.broadcast import Packed
from londi.config import Experiment
from londi.episode import Episode
from londi.learners.replay import Trajectory
from londi.lms.replicas import RemoteLM
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, Rollout
from londi.switchers import Never

PLAYS_S = 1.0
"""Seconds after which a worker that has ended no episode answers all the same: checkpoints and signals wait for it."""


class Worker:
    """Some of the environments, and an agent that plays in them."""

    def __init__(
        self, experiment: Experiment, num_envs: int, quick: RemoteLM | None, deepthink: RemoteLM | None
    ) -> None:
        self.experiment, self.num_envs, self.models = experiment, num_envs, (quick, deepthink)
        self.given: deque[Assignment] = deque()
        self.told = (0, 0)
        """How many episodes were begun anew and given up, as far as the driver knows."""

    @cached_property
    def rollout(self) -> Rollout:
        """Made when it is first needed: what a constructor raises reaches the driver as the death of its process."""
        import torch

        made = self.experiment
        torch.set_num_threads(made.train.threads)
        quick, deepthink = (
            given or lms.CachedLM(lms.load(config))
            for given, config in zip(self.models, (made.quick, made.deepthink), strict=True)
        )
        agent = Agent(quick, deepthink, make_encoder(made), Never(), made.env.prompt)
        envs = make_envs(made, self.num_envs)
        return Rollout(envs, agent, _Drain(self.given), made.env.id, made.train.price_measure, gives_up=True)

    def start(self) -> None:
        """Make environments and models; raises what they raise."""
        _ = self.rollout

    def step(
        self, assignments: Sequence[Assignment], switcher: Packed | None
    ) -> tuple[list[tuple[Episode, Trajectory]], int, int, list[int]]:
        """Take steps until an episode has ended, or for `PLAYS_S`; return what ended, how many environments are idle
        now, how many episodes were begun anew since they were lost, and the seeds of those that were given up."""
        self.given += assignments
        if switcher is not None:
            self.rollout.agent.switcher = switcher.unpack()
        until = time.monotonic() + PLAYS_S
        ended = self._ended()
        while ended == [] and self._counts() == self.told and time.monotonic() < until:
            ended = self._ended()
        (lost, given_up), self.told = self.told, self._counts()
        return ended or [], self.rollout.num_idle, self.told[0] - lost, self.rollout.given_up[given_up:]

    def _counts(self) -> tuple[int, int]:
        return self.rollout.lost, len(self.rollout.given_up)

    def _ended(self) -> list[tuple[Episode, Trajectory]] | None:
        """Take a step; return what ended, None where nothing is left to play."""
        ended = self.rollout.step()
        return None if ended is None else list(ended)

    def where(self) -> str:
        """Return the id of its node."""
        return str(ray.get_runtime_context().get_node_id())

    def state(self) -> list[dict[str, Any]]:
        """Return the episodes that it plays, see `Rollout.state`."""
        return self.rollout.state()

    def restore(self, state: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Go on with episodes; return how many begin anew, and how many environments are idle."""
        return self.rollout.restore(state), self.rollout.num_idle


class _Drain:
    """What was handed in and is not begun yet; more may come later."""

    def __init__(self, given: deque[Assignment]) -> None:
        self.given = given

    def __iter__(self) -> Iterator[Assignment]:
        return self

    def __next__(self) -> Assignment:
        if not self.given:
            raise StopIteration
        return self.given.popleft()
