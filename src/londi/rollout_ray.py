"""The same rollout over Ray: environments in worker processes, language models in replicas that batch what they ask.

The learner stays where it is. Workers play in step with a copy of what explores; a copy is sent when the learners have
moved on. QUICK and DEEPTHINK have replicas of their own, so that each is scaled by its load. What is lost with a worker
or a replica is at most the episodes at hand: they are begun anew, and `lost` counts them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError

from londi import lms
from londi.agent import Agent
from londi.cluster import connect
from londi.config import Experiment, ModelConfig
from londi.episode import Episode
from londi.errors import ConfigError, RunError
from londi.learners.replay import Trajectory
from londi.lms.replicas import RESTARTS, RemoteLM, replicate, result
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, Rollout
from londi.switchers import Never, Switcher

Ended = list[tuple[Episode, Trajectory]]


@dataclass(frozen=True)
class Cluster:
    """How an experiment is spread over Ray.

    Raises `ConfigError` for counts below 1.
    """

    address: str = "local"
    """`local` starts Ray on this machine; `auto` or an address joins a cluster, whose nodes have londi installed."""
    workers: int = 2
    """Processes that share `train.num_envs` environments. With one, training is what it is without Ray."""
    quick_replicas: int = 1
    """Processes that hold QUICK; a model behind a server needs none, workers ask it themselves."""
    deepthink_replicas: int = 1
    broadcast: int = 20
    """Updates of the learners after which workers get what was learned; with one worker they get it at every step."""

    def __post_init__(self) -> None:
        if min(self.workers, self.quick_replicas, self.deepthink_replicas, self.broadcast) < 1:
            raise ConfigError("a cluster needs at least 1 worker, 1 replica of each model, and broadcast >= 1")


class _Worker:
    """Some of the environments, and an agent that plays in them."""

    def __init__(
        self, experiment: Experiment, num_envs: int, quick: RemoteLM | None, deepthink: RemoteLM | None
    ) -> None:
        import torch

        torch.set_num_threads(experiment.train.threads)
        models = [
            given or lms.CachedLM(lms.load(config))
            for given, config in ((quick, experiment.quick), (deepthink, experiment.deepthink))
        ]
        self.agent = Agent(models[0], models[1], make_encoder(experiment), Never(), experiment.env.prompt)
        self.given: deque[Assignment] = deque()
        envs, measure = make_envs(experiment, num_envs), experiment.train.price_measure
        self.rollout = Rollout(envs, self.agent, _Drain(self.given), experiment.env.id, measure)

    def step(self, assignments: Sequence[Assignment], switcher: Switcher | None) -> tuple[Ended, int]:
        """Take a step; return what ended, and how many environments are idle now."""
        self.given += assignments
        if switcher is not None:
            self.agent.switcher = switcher
        ended = list(self.rollout.step() or ())
        return ended, self.rollout.num_idle

    def where(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def state(self) -> list[dict[str, Any]]:
        return self.rollout.state()

    def restore(self, state: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
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


@dataclass
class _Seat:
    """Where a worker sits: the process that is there now, and what the driver knows of it."""

    actor: Any
    num_envs: int
    idle: int
    version: int = -1
    pending: Any = None
    failures: int = 0
    held: dict[int, Assignment] = field(default_factory=dict)
    """What it was handed and has not played to the end, by seed."""


class RayRollout:
    """Plays assignments in the workers of a cluster; used like `londi.rollout.Rollout`.

    `version` counts what the learners have done; the `switcher` is sent again when it has moved on. Raises `RunError`
    where there is no such cluster, and what a model or an environment raises.
    """

    def __init__(
        self,
        experiment: Experiment,
        switcher: Switcher,
        version: Callable[[], int],
        assignments: Iterator[Assignment],
        cluster: Cluster,
    ) -> None:
        self.experiment, self.switcher, self.cluster = experiment, switcher, cluster
        self._version, self._waiting = version, assignments
        self._sent: tuple[int, Any] = (-1, None)
        """What workers were last given: its version, and the copy."""
        if cluster.workers > experiment.train.num_envs:
            raise ConfigError(
                f"{cluster.workers} workers share {experiment.train.num_envs} environments (train.num_envs): take fewer"
            )
        self._started = not ray.is_initialized()
        if self._started:
            connect(cluster.address)
        self._lost: set[int] = set()
        self._again: deque[Assignment] = deque()
        self.quick = self._replicas(experiment.quick, cluster.quick_replicas)
        self.deepthink = self._replicas(experiment.deepthink, cluster.deepthink_replicas)
        share, more = divmod(experiment.train.num_envs, cluster.workers)
        self._seats = [self._seat(share + (i < more)) for i in range(cluster.workers)]
        self._early: Ended = []
        """What ended while a checkpoint was written, and..."""
        self._undelivered: list[Assignment] = []
        """...of which assignments."""

    @property
    def lost(self) -> int:
        """Episodes that were begun anew since the worker that played them died."""
        return len(self._lost)

    def _replicas(self, config: ModelConfig, count: int) -> RemoteLM | None:
        return None if config.model.startswith("openai:") else replicate(config, count, self.experiment.train.threads)

    def _seat(self, num_envs: int) -> _Seat:
        made = ray.remote(_Worker).options(scheduling_strategy="SPREAD", num_cpus=0)
        return _Seat(made.remote(self.experiment, num_envs, self.quick, self.deepthink), num_envs, num_envs)

    def __enter__(self) -> RayRollout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self._seats:
            ray.kill(seat.actor)
        for model in (self.quick, self.deepthink):
            for replica in model.replicas if model else ():
                ray.kill(replica)
        if self._started:
            ray.shutdown()

    def step(self) -> Ended:
        """Set every worker that rests going, and return the episodes that ended in the first that has taken a step."""
        if self._early:
            early, self._early, self._undelivered = self._early, [], []
            return early
        for seat in self._seats:
            if seat.pending is None:
                self._go(seat)
        pending = {seat.pending: seat for seat in self._seats}
        (ready, *_), _ = ray.wait(list(pending), num_returns=1)
        return self._answer(pending[ready])

    def _go(self, seat: _Seat) -> None:
        now, stale = self._version(), 1 if len(self._seats) == 1 else self.cluster.broadcast
        if self._sent[1] is None or now - self._sent[0] >= stale:
            self._sent = now, ray.put(self.switcher)
        version, sent = self._sent
        new = [self._again.popleft() for _ in range(min(seat.idle, len(self._again)))]
        new += islice(self._waiting, seat.idle - len(new))
        seat.held |= {assignment.seed: assignment for assignment in new}
        seat.pending = seat.actor.step.remote(new, sent if seat.version != version else None)
        seat.version = version

    def _answer(self, seat: _Seat) -> Ended:
        try:
            ended, seat.idle = result(seat.pending)
            seat.pending, seat.failures = None, 0
            for episode, _ in ended:
                del seat.held[episode.seed]
            return list(ended)
        except RayActorError as error:
            self._lost |= seat.held.keys()
            self._again += seat.held.values()
            if seat.failures == RESTARTS:
                raise RunError(f"a worker died {RESTARTS + 1} times in a row: {error}") from error
            if seat.failures:  # Ray may place it on a node of which it does not know yet that it is gone
                time.sleep(min(5.0, 0.2 * 2**seat.failures))
            replaced, failures = self._seat(seat.num_envs), seat.failures + 1
            self._seats[self._seats.index(seat)] = replaced
            replaced.failures = failures
            return []

    def state(self) -> list[dict[str, Any]]:
        """Return the episodes that are being played, for a checkpoint; waits for all workers to take their step.

        Those that end meanwhile, or whose worker died, are written down as ones to be begun.
        """
        found: list[dict[str, Any]] = []
        for seat in list(self._seats):
            if seat.pending is not None:
                before = dict(seat.held)
                self._early += self._answer(seat)
                self._undelivered += [a for number, a in before.items() if number not in seat.held]
        anew = [*self._undelivered, *self._again]
        for seat in self._seats:
            try:
                found += result(seat.actor.state.remote())
            except RayActorError:  # noticed again, and counted, at its next step
                anew += seat.held.values()
        return found + [{"assignment": asdict(a), "begun": False} for a in anew]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> int:
        """Go on with the episodes of `state`; returns how many begin anew."""
        anew, rest = 0, list(state)
        for seat in self._seats:
            mine, rest = rest[: seat.num_envs], rest[seat.num_envs :]
            again, seat.idle = result(seat.actor.restore.remote(mine))
            anew += again
            seat.held = {each["assignment"]["seed"]: Assignment(**each["assignment"]) for each in mine}
        self._again += [Assignment(**each["assignment"]) for each in rest]
        return anew + len(rest)
