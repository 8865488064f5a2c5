"""The same rollout over Ray: environments in worker processes, language models in replicas that batch what they ask.

The learner stays where it is. Each worker plays by itself until an episode has ended, with a copy of what explores; a
copy is sent when the learners have moved on. QUICK and DEEPTHINK have replicas of their own, so that each can have as
many as its load asks for. What is lost with a worker or a replica is at most the episodes at hand: they are begun anew.
`lost` counts them, `restarts` what died.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import Any

import ray

from londi.cluster import Cluster, check_gpus, connect, served
from londi.cluster.broadcast import pack
from londi.cluster.worker import Worker
from londi.config import Experiment, ModelConfig
from londi.episode import Episode
from londi.errors import ConfigError, RunError
from londi.learners.replay import Trajectory
from londi.lms.replicas import (
    GONE,
    PLACED_S,
    RESTARTS,
    RemoteLM,
    Watch,
    answer_of,
    answers_of,
    check_placed,
    replicas,
    why,
)
from londi.rollout import Assignment
from londi.switchers import Switcher

LAST_LOOK_S = 2.0
"""Seconds that the end of a training waits to be told of replicas that died."""
HANGS = f"no worker has answered for {PLACED_S:.0f} s: a model, its server or an environment may hang; training waits"


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
    """Plays assignments, each of another seed, in the workers of a cluster; used like `londi.rollout.Rollout`.

    Workers make environments and agents themselves, from the `experiment`. `version` counts what the learners have
    done; the `switcher` is sent again when it has moved on. All workers and models have started when it is made. Raises
    `RunError` where there is no such cluster, `ConfigError` where it has too few GPUs, and what a model or an
    environment raises.
    """

    def __init__(
        self,
        experiment: Experiment,
        switcher: Switcher,
        version: Callable[[], int],
        assignments: Iterable[Assignment],
        cluster: Cluster,
    ) -> None:
        self.switcher, self.cluster = switcher, cluster
        self._version, self._waiting = version, iter(assignments)
        self._sent: tuple[int, Any] = (-1, None)
        """What workers were last given: its version, and the copy."""
        self._lost: set[int] = set()
        """Seeds of what was played in workers that died."""
        self._lost_there = 0
        """Episodes that workers began anew since their environments lost them."""
        self.given_up: list[int] = []
        """Seeds of those that were left out, since their environments lost them again and again."""
        self._replaced = 0
        """Workers."""
        self._again: deque[Assignment] = deque()
        self._ended: deque[tuple[_Seat, Assignment, Episode, Trajectory]] = deque()
        """What has ended and was not yielded yet, and where."""
        self._failed: Exception | None = None
        """What a worker raised, until a step raises it."""
        self._seats: list[_Seat] = []
        self._replicas: list[Any] = []
        self._started = connect(cluster.address)
        try:
            workers = self._workers = cluster.workers(experiment)
            shares = [_share(model, workers) for model in (experiment.quick, experiment.deepthink)]
            self.experiment = replace(experiment, quick=shares[0], deepthink=shares[1])
            """As workers play it."""
            check_gpus(experiment, cluster)
            self.quick, self.deepthink = self._models()
            self._watch = Watch(self._replicas)
            share, more = divmod(experiment.train.num_envs, workers)
            self._seats += [self._seat(i, share + (i < more)) for i in range(workers)]
            answers_of([seat.actor.start.remote() for seat in self._seats])
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """Episodes that were begun anew since the worker that played them died, or their environment lost them."""
        return len(self._lost) + self._lost_there

    @property
    def num_idle(self) -> int:
        """Environments in which nothing is played, as far as workers have told."""
        return sum(seat.idle for seat in self._seats)

    @property
    def num_waiting(self) -> int:
        """Episodes that have ended and were not yielded yet: they wait to be learned from."""
        return len(self._ended)

    @property
    def restarts(self) -> tuple[int, int]:
        """How many workers were replaced, and how many replicas started again, since they died."""
        return self._replaced, self._watch.count

    def _models(self) -> tuple[RemoteLM | None, RemoteLM | None]:
        """QUICK and DEEPTHINK in their replicas; None for one behind a server."""
        made, cluster = self.experiment, self.cluster
        parts = (made.quick, cluster.quick_replicas), (made.deepthink, cluster.deepthink_replicas)
        gpus, own = cluster.gpus(made), [list[Any](), list[Any]()]
        for i in sorted((0, 1), key=lambda i: -gpus[i]):  # whole GPUs first, while none is shared yet
            model, count = parts[i]
            if not served(model):
                own[i] = replicas(model, count, made.train.threads, gpus[i])
                self._replicas += own[i]
        check_placed(self._replicas)
        answers_of([replica.name.remote() for replica in self._replicas])
        quick, deepthink = (RemoteLM(each, answer_of(each[0].name.remote())) if each else None for each in own)
        return quick, deepthink

    def _seat(self, number: int, num_envs: int) -> _Seat:
        made = ray.remote(Worker).options(scheduling_strategy="SPREAD", num_cpus=0)
        models = [each and each.share(number, self._workers) for each in (self.quick, self.deepthink)]
        return _Seat(made.remote(self.experiment, num_envs, *models), num_envs, num_envs)

    def __enter__(self) -> RayRollout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End workers and replicas, and Ray where it was started for them."""
        if ray.is_initialized():
            if self._seats:
                self._watch.last(LAST_LOOK_S)
            for actor in (*(seat.actor for seat in self._seats), *self._replicas):
                ray.kill(actor)
            if self._started:
                ray.shutdown()
        self._started, self._seats, self._replicas = False, [], []

    def step(self) -> Iterator[tuple[Episode, Trajectory]] | None:
        """Set every worker that rests going, and yield the episodes that have ended, once one has answered.

        None where nothing is left to play. What is not taken from the iterator is yielded by the next step. What a
        model or an environment raises is raised after what had ended was yielded; `state` still has every other
        episode.
        """
        if not self._ended or len(self._seats) > 1:
            self._go_on()
            if not self._ended and not self._failed:
                if not self._pending():
                    return None
                self._wait()
            self._look()
            if self._failed and not self._ended:
                failed, self._failed = self._failed, None
                raise failed
        return self._deliver()

    def _wait(self) -> None:
        """Wait until a worker answers, and warn where none does for long.

        Raises `ConfigError` where a replica that died finds no place any more.
        """
        while not ray.wait(self._pending(), num_returns=1, timeout=PLACED_S)[0]:
            try:
                check_placed(self._replicas)
                warnings.warn(HANGS, stacklevel=2)
            except ConfigError:
                for replica in self._replicas:  # workers would wait for it, and the checkpoint for them
                    ray.kill(replica)
                raise

    def _look(self) -> None:
        """Take in every answer; what a worker's models or environments raised is raised by a later step."""
        self._watch.look()
        seats = {seat.pending: seat for seat in self._seats}
        for ended in _answered(self._pending(), 0):
            try:
                self._answer(seats[ended])
            except Exception as error:
                self._failed = self._failed or error

    def _pending(self) -> list[Any]:
        return [seat.pending for seat in self._seats if seat.pending is not None]

    def _deliver(self) -> Iterator[tuple[Episode, Trajectory]]:
        """Yield what has ended by now; workers go on meanwhile."""
        for _ in range(len(self._ended)):
            _, _, episode, trajectory = self._ended.popleft()
            yield episode, trajectory
            if len(self._seats) > 1:
                self._look()
                self._go_on()

    def _go_on(self) -> None:
        """Set every worker going that rests and has something to play, but for those whose episodes wait to be learned
        from: what they begin next depends on it."""
        for seat in self._seats if not self._failed else ():
            if seat.pending is None and not any(seat is there for there, *_ in self._ended):
                self._go(seat)

    def _go(self, seat: _Seat) -> None:
        new = [self._again.popleft() for _ in range(min(seat.idle, len(self._again)))]
        new += islice(self._waiting, seat.idle - len(new))
        seat.idle -= len(new)
        seat.held |= {assignment.seed: assignment for assignment in new}
        if not seat.held:
            return
        now, stale = self._version(), 1 if len(self._seats) == 1 else self.cluster.broadcast_updates
        if self._sent[1] is None or now - self._sent[0] >= stale:
            self._sent = now, ray.put(pack(self.switcher))
        version, sent = self._sent
        seat.pending = seat.actor.step.remote(new, sent if seat.version != version else None)
        seat.version = version

    def _answer(self, seat: _Seat) -> None:
        """Take in what a worker has to say of its step; raises what its models or environments raised."""
        try:
            ended, seat.idle, lost, given_up = answer_of(seat.pending)
        except GONE as error:
            self._replace(seat, error)
        except Exception:
            seat.pending = None  # the worker lives, and has its episodes as far as they came
            raise
        else:
            seat.pending, seat.failures = None, 0
            self._lost_there += lost
            self.given_up += given_up
            for seed in given_up:
                del seat.held[seed]
            self._ended += [(seat, seat.held.pop(episode.seed), episode, trajectory) for episode, trajectory in ended]

    def _replace(self, seat: _Seat, error: Exception) -> None:
        """Put another worker in a seat, and what was played there back; raises `RunError` after `RESTARTS` deaths."""
        self._lost |= seat.held.keys()
        self._again += seat.held.values()
        seat.held, seat.pending = {}, None
        ray.kill(seat.actor)  # its answer may be lost, and itself alive
        if seat.failures >= RESTARTS:
            raise RunError(f"a worker died {RESTARTS + 1} times in a row: {why(error)}") from error
        if seat.failures:  # Ray may place it on a node of which it does not know yet that it is gone
            time.sleep(min(5.0, 0.2 * 2**seat.failures))
        number = self._seats.index(seat)
        replaced = self._seat(number, seat.num_envs)
        replaced.failures = seat.failures + 1
        self._replaced += 1
        self._seats[number] = replaced

    def drain(self) -> Iterator[tuple[Episode, Trajectory]]:
        """Yield what has ended when all workers have answered, without setting any going: before a `state`, in which
        they would be ones to be begun."""
        self._gather(None)
        while self._ended:
            _, _, episode, trajectory = self._ended.popleft()
            yield episode, trajectory

    def _gather(self, patience: float | None) -> None:
        """Take in what workers answer within `patience` seconds; what they raise is raised by the next step."""
        in_time = _answered(self._pending(), patience)
        for seat in list(self._seats):
            if seat.pending in in_time:
                try:
                    self._answer(seat)
                except Exception as error:
                    self._failed = self._failed or error

    def state(self, patience: float | None = None) -> list[dict[str, Any]]:
        """Return the episodes that are being played, for a checkpoint; waits for all workers to answer, `PLAYS_S` and a
        step, or for `patience` seconds.

        Those that ended and were not yielded, whose worker died, or has not answered by then, are written down as ones
        to be begun. What a worker raises meanwhile is raised by the next step.
        """
        self._gather(patience)
        found: list[dict[str, Any]] = []
        anew = [*(assignment for _, assignment, _, _ in self._ended), *self._again]
        states = [seat.actor.state.remote() if seat.pending is None else None for seat in self._seats]
        in_time = _answered([state for state in states if state is not None], patience)
        for seat, state in zip(self._seats, states, strict=True):
            try:
                there = answer_of(state) if state in in_time else []
            except GONE:  # noticed again, and counted, at its next step
                there = []
            found += there
            seeds = {each["assignment"]["seed"] for each in there}
            anew += [assignment for seed, assignment in seat.held.items() if seed not in seeds]
        return found + [{"assignment": asdict(a), "begun": False} for a in anew]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> int:
        """Go on with the episodes of `state`; returns how many begin anew."""
        anew, rest = 0, list(state)
        asked: list[tuple[_Seat, Any]] = []
        for seat in self._seats:
            mine, rest = rest[: seat.num_envs], rest[seat.num_envs :]
            seat.held = {each["assignment"]["seed"]: Assignment(**each["assignment"]) for each in mine}
            asked.append((seat, seat.actor.restore.remote(mine)))
        for seat, answer in asked:
            try:
                again, seat.idle = answer_of(answer)
                anew += again
            except GONE as error:
                self._replace(seat, error)
        self._again += [Assignment(**each["assignment"]) for each in rest]
        return anew + len(rest)


def _answered(calls: Sequence[Any], seconds: float | None) -> list[Any]:
    """Return those calls that are answered within so many seconds; all, where one may wait for their answers."""
    if seconds is None or not calls:
        return list(calls)
    return list(ray.wait(list(calls), num_returns=len(calls), timeout=seconds)[0])


def _share(model: ModelConfig, workers: int) -> ModelConfig:
    """A model as each of the workers asks it: all together keep to the `concurrency` of its server."""
    if not served(model):
        return model
    return replace(model, server=replace(model.server, concurrency=max(1, model.server.concurrency // workers)))
