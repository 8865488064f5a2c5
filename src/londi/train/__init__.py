"""Train the Switchers of an experiment: one stream of episodes, from which every learner learns."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from londi import lms
from londi.agent import Agent
from londi.config import Experiment
from londi.encoders.text import FEATURES
from londi.envs.base import TextEnv
from londi.episode import Episode
from londi.errors import ConfigError, RunError, WriteError
from londi.interrupts import held_back
from londi.learners.replay import Replay, Trajectory
from londi.lms.base import Bounded, LanguageModel
from londi.making import make_encoder, make_envs, make_learners
from londi.rollout import Assignment, Rollout
from londi.run import Run, previous, save_checkpoint
from londi.switchers import Never, parse_rule
from londi.trackers import Tracker, closed_after, tell
from londi.train import checkpoint, lock
from londi.train.exploration import Behaviour, assignment, players
from londi.train.failures import Failures
from londi.train.metrics import MetricsFile

if TYPE_CHECKING:
    from londi.cluster import Cluster
    from londi.rollout_ray import RayRollout

METRICS_STEPS = 1_000
HURRY_S = 5.0
"""Seconds that a second interrupt leaves to workers over Ray to answer."""


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    step: int
    num_steps: int
    success: float
    """Share of the last 200 episodes that succeeded, exploration included."""
    calls: float
    """Their mean number of DEEPTHINK calls."""


class Trainer:
    """Plays, stores, learns; can be stopped at any moment and resumed from its checkpoint."""

    def __init__(self, run: Run, cluster: Cluster | None = None) -> None:
        self.run, self.experiment = run, run.experiment
        self.begun_from = run.stamp()
        """Tells the checkpoint that was read or written here last: nobody else may write one before training begins."""
        self.metrics = MetricsFile(run.path / "metrics.jsonl")
        t = self.experiment.train
        torch.set_num_threads(t.threads)
        self.envs = make_envs(self.experiment, t.num_envs if cluster is None else 1)
        encoder = make_encoder(self.experiment)
        self.learners = make_learners(self.experiment, encoder, self.envs[0])
        explorers = {name: self.learners[name].explorer for name in players(t.learners)}
        behaviour = Behaviour(explorers or {"random": Never()})
        self.step = self.started = self.begun_anew = self.lost = self.given_up = 0
        self.restarted = (0, 0)
        self.calls: int | None = 0
        """DEEPTHINK calls of the episodes that were learned from; None where an earlier version did not count them."""
        self.failures = Failures(self.experiment.deepthink.model)
        self.models: dict[str, lms.CachedLM] = {}
        self.said: dict[str, Any] = {}
        """What models said that are in processes of their own now, as the checkpoint has it."""
        deepthink: LanguageModel | None
        if cluster is None:
            pair = lms.load_pair(self.experiment.quick, self.experiment.deepthink)
            quick, deepthink = (lms.CachedLM(model) for model in pair)
            self.models = {"quick": quick, "deepthink": deepthink}
            self.agent = Agent(quick, deepthink, encoder, behaviour, self.experiment.env.prompt)
            self.rollout: Rollout | RayRollout = Rollout(
                self.envs, self.agent, self.assignments(), self.experiment.env.id, t.price_measure, gives_up=True
            )
        else:
            from londi.rollout_ray import RayRollout

            self.rollout = RayRollout(self.experiment, behaviour, self._updates, self.assignments(), cluster)
            deepthink = self.rollout.deepthink
        if t.price_measure == "dollars":
            with _closing(self.rollout):
                _check_price(deepthink or lms.load(self.experiment.deepthink), self.experiment, self.envs[0])
        self.replay = Replay(t.replay)
        self.pool = ThreadPoolExecutor(len(self.learners), initializer=torch.set_num_threads, initargs=(t.threads,))
        self.updating: list[Future[dict[str, float]]] = []
        """What the learners are at, or were at last."""
        self.updates_held = {name: RLock() for name in self.learners}
        """Each held by who updates that learner; and by the main thread in the end."""
        self.resting = False
        self.last_metrics = self.snapshots = 0
        self.trackers: list[Tracker] = []
        """What else is told the metrics, see `londi.trackers`."""
        self.seconds = 0.0
        self.learning_seconds = 0.0
        """Of this process, in which the learners worked."""
        self.recent: deque[tuple[bool, int]] = deque(maxlen=200)
        self.losses: dict[str, float] = {}

    @property
    def num_lost(self) -> int:
        """Episodes that were begun anew since the worker that played them died, or their environment lost them."""
        return self.lost + self.rollout.lost

    @property
    def num_given_up(self) -> int:
        """Episodes that were left out since their environment lost them again and again."""
        return self.given_up + len(self.rollout.given_up)

    @property
    def num_restarted(self) -> tuple[int, int]:
        """How many workers and replicas were started again since they died, since the run began."""
        workers, replicas = self.rollout.restarts
        return self.restarted[0] + workers, self.restarted[1] + replicas

    def _updates(self) -> int:
        return sum(learner.updates for learner in self.learners.values())

    def assignments(self) -> Iterator[Assignment]:
        """Yield training episodes without end."""
        while True:
            number = self.started
            self.started += 1
            yield assignment(self.experiment.train, self.experiment.seed, number, self.step)

    def train(self, progress: Callable[[Progress], None] | None = None) -> None:
        """Train to the end; on KeyboardInterrupt save a checkpoint and policies, and raise it on.

        Ctrl-C and SIGTERM wait until the episodes have taken their step and the learners have caught up, so that the
        run goes on as if it had not been interrupted; a second one does not wait (over Ray, for `HURRY_S`). Raises
        `RunError` where another process trains into the folder, or did since this run was prepared; and `WriteError`
        where in the end not everything can be written. Before the end, that is a warning.
        """
        t = self.experiment.train
        last_saved, begun = self.step, time.perf_counter() - self.seconds

        def take(ended: Iterable[tuple[Episode, Trajectory]]) -> None:
            for episode, trajectory in ended:
                self._take(episode, trajectory)
                self.seconds = time.perf_counter() - begun
                if progress:
                    progress(self._progress())
                if self.step >= t.num_steps:
                    break

        with held_back() as check, closed_after(self.trackers), self.rollout, self._alone():
            try:
                while self.step < t.num_steps:
                    take(self.rollout.step() or ())
                    due = self.step - last_saved >= t.checkpoint_steps
                    if self.step < t.num_steps and (due or check.arrived):
                        take(self.rollout.drain())
                    if self.step < t.num_steps and due:
                        last_saved = self.step
                        self._attempt(self.save)
                    if self.step < t.num_steps:  # what is done can't go on
                        check()
                if self.step > self.last_metrics:  # what is not told yet
                    self._measure()
            finally:
                try:
                    self._rest()
                    self.save(HURRY_S if check.urgent else None)
                except KeyboardInterrupt:  # while it waited for workers
                    self.save(HURRY_S)
                    raise

    def _rest(self) -> None:
        """Let the learners end what an interrupt caught them at, milliseconds, whoever interrupts meanwhile: half an
        update must not be saved, and what was learned before must be."""
        _patiently(lambda: wait(self.updating))  # waiting for the threads themselves would not outlast an interrupt
        for updated in self.updating:
            if updated.exception() is None:
                self.losses |= updated.result()
        self.resting = True
        for held in self.updates_held.values():  # what was submitted in the moment of the interrupt
            _patiently(held.acquire)
        self.pool.shutdown(wait=False)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the run's lock, and clear away what a training that was killed left behind."""
        with lock.held(self.run.path):
            if self.run.stamp() != self.begun_from:
                raise RunError(f"{self.run.path} was trained on by another process: run the same command again")
            self.metrics.forget_after(self.step)
            for part in self.run.checkpoint.parent.glob("*.part"):
                part.unlink()
            yield

    def _attempt(self, write: Callable[[], None]) -> None:
        """Write, and only warn where that fails: the training is worth more, and room may be made before it ends."""
        try:
            write()
        except WriteError as error:
            warnings.warn(f"{error}; training goes on from step {self.step:,} without it", stacklevel=2)

    def _take(self, episode: Episode, trajectory: Trajectory) -> None:
        """Store an episode, and learn."""
        self.replay.add(trajectory)
        for learner in self.learners.values():
            learner.observe(trajectory)
        self._note(episode)
        self._learn()
        t = self.experiment.train
        passed = t.snapshots * min(self.step, t.num_steps) // t.num_steps
        if passed > self.snapshots:
            self._attempt(lambda: self._save_policies(min(self.step, t.num_steps)))
            self.snapshots = passed
        if self.step - self.last_metrics >= METRICS_STEPS:
            self._measure()
            self._attempt(self.metrics.write)

    def _note(self, episode: Episode) -> None:
        self.step += len(episode.steps)
        self.calls = None if self.calls is None else self.calls + episode.num_calls
        self.recent.append((episode.success, episode.num_calls))
        self.failures.note(episode)

    def _learn(self) -> None:
        t = self.experiment.train
        due, begun = int(t.updates_per_step * (min(self.step, t.num_steps) - t.warmup_steps)), time.perf_counter()
        # learners share nothing but the replay, which they only read: side by side they do what they would in turn
        self.updating = [self.pool.submit(self._catch_up, name, due) for name in self.learners]
        for updated in self.updating:
            self.losses |= updated.result()
        self.learning_seconds += time.perf_counter() - begun

    def _catch_up(self, name: str, due: int) -> dict[str, float]:
        losses = {key: value for key, value in self.losses.items() if key.startswith(name)}
        with self.updates_held[name]:
            while self.learners[name].updates < due and not self.resting:
                for key, value in self.learners[name].update(self.replay).items():
                    losses[f"{name}_{key}"] = 0.99 * losses.get(f"{name}_{key}", value) + 0.01 * value
        return losses

    def _progress(self) -> Progress:
        success, calls = np.mean(np.array(self.recent, float), axis=0).tolist()
        return Progress(self.step, self.experiment.train.num_steps, success, calls)

    def _measure(self) -> None:
        """Make the next row of metrics, which is to be written, and tell the trackers."""
        now = self._progress()
        row = {"step": self.step, "episodes": self.started, "seconds": round(self.seconds, 3)}
        workers, replicas = self.num_restarted
        measured = {"success": now.success, "calls": now.calls, "failed": self.failures.count, "lost": self.num_lost}
        measured |= {"given_up": self.num_given_up, "workers_restarted": workers, "replicas_restarted": replicas}
        measured |= self.losses
        self.metrics.waiting.append(row | measured)
        self.last_metrics = self.step
        tell(self.trackers, self.step, measured)

    def save(self, patience: float | None = None) -> None:
        """Write metrics, policies, and the checkpoint from which training goes on (without replay once it is done).

        `patience` is how many seconds workers have to answer; see `RayRollout.state`. Raises `WriteError`. Metrics
        that can't be written are part of the checkpoint, and the run is not done before they are.
        """
        try:
            self.metrics.write()
            self.metrics.sync()
        finally:
            self._save_policies()
            self._save_checkpoint(patience)

    def _save_checkpoint(self, patience: float | None) -> None:
        done = self.step >= self.experiment.train.num_steps and not self.metrics.waiting
        state = checkpoint.state_of(self, done, patience)
        save_checkpoint(self.run.checkpoint, state, keep=not done)
        self.begun_from = self.run.stamp()
        if done:
            previous(self.run.checkpoint).unlink(missing_ok=True)

    def _save_policies(self, snapshot: int | None = None) -> None:
        actions = self.envs[0].admissible and list(self.envs[0].admissible)
        for name, learner in self.learners.items():
            state = {"switcher": learner.switcher.state(), "step": self.step, "calls": self.calls}
            state |= {"features": FEATURES, "actions": actions}
            save_checkpoint(self.run.policy(name, snapshot), state)


def _patiently(wait: Callable[[], object]) -> None:
    """Wait for something, whoever interrupts meanwhile."""
    waits = True
    while waits:
        with suppress(KeyboardInterrupt):
            wait()
            waits = False


def _check_price(model: LanguageModel, experiment: Experiment, env: TextEnv) -> None:
    """Raise `ConfigError` where a model costs no dollars."""
    observation, info = env.reset(seed=0)
    prompt = experiment.env.prompt.render(str(info["goal"]), [observation], [], env.admissible)
    if not isinstance(model, Bounded) or model.worst_case([prompt], env.admissible)[0].dollars <= 0:
        raise ConfigError(
            f"train.price_measure is dollars, but DEEPTHINK ({model.name}) has no price: name a table in "
            "server.prices, or take another measure"
        )


@contextmanager
def _closing(rollout: Rollout | RayRollout) -> Iterator[None]:
    """Close a rollout, and with it what it started, where something goes wrong before it is used."""
    with ExitStack() as stack:
        stack.enter_context(rollout)
        yield
        stack.pop_all()


def prepare(path: Path, experiment: Experiment, cluster: Cluster | None = None) -> Trainer:
    """Return a trainer for the folder: new, or resumed from its checkpoint; over Ray where a cluster is given.

    Raises `RunError` where the folder holds another experiment, is trained to the end already, or is being trained by
    another process, and what evaluation would raise for a rule or an option of the environment that is not known.
    """
    for rule in experiment.evaluate.rules:
        parse_rule(rule)
    if experiment.env.selection:
        make_envs(experiment, 1, "selection")
    if experiment.env.test:
        make_envs(experiment, 1, "test")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file: choose a folder with --run")
    if not (path / "config.toml").is_file():
        if path.exists() and not Run.vacant(path):
            raise RunError(f"{path} is not empty and no run folder: choose another with --run")
        trainer = Trainer(Run(path, experiment), cluster)  # before the folder: what can't be loaded leaves none behind
        with _closing(trainer.rollout):
            Run.create(path, experiment)
        return trainer
    run = Run.open(path)
    if run.experiment != experiment:
        raise RunError(f"{path} holds another experiment (its config.toml differs): choose another with --run")
    lock.check(path)
    stamp, state = run.stamp(), run.latest()
    if state and state.get("done"):
        raise RunError(
            f"{path} is trained already ({experiment.train.num_steps:,} steps): `londi evaluate {path}`, "
            "or train into another folder with --run"
        )
    trainer = Trainer(run, cluster)
    trainer.begun_from = stamp
    if state:  # else killed before its first checkpoint
        with _closing(trainer.rollout):
            checkpoint.restore(trainer, state)
    return trainer
