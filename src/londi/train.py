"""Train the Switchers of an experiment: one stream of episodes, from which every learner learns."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from londi import envs, lms
from londi.agent import Agent
from londi.config import Experiment
from londi.encoders import TextEncoder
from londi.envs.base import TextEnv
from londi.episode import Episode
from londi.errors import CheckpointError, ConfigError, RunError
from londi.learners.dqn import DQNConfig, DQNLearner
from londi.learners.replay import Replay
from londi.rollout import Assignment, rollout
from londi.run import Run, load_checkpoint, save_checkpoint, write_text
from londi.switchers import Choice, Query, parse_rule
from londi.switchers.network import NetworkShape, NetworkSwitcher

TRAINING_SEEDS = 2**32
"""Training with seed k plays episodes from (k + 1) times this on; evaluation's seeds lie below all of them."""
METRICS_STEPS = 1_000
Phase = Literal["training", "selection", "test"]


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    step: int
    num_steps: int
    success: float
    """Share of the last 200 episodes that succeeded, exploration included."""
    calls: float
    """Their mean number of DEEPTHINK calls."""


class _Behaviour:
    """Asks the price Switcher where a price is set, else the budget Switcher; what training episodes are played by."""

    def __init__(self, switchers: dict[str, NetworkSwitcher]) -> None:
        self.switchers = switchers

    def choose(self, query: Query) -> Choice:
        choices = {name: switcher.choose(query) for name, switcher in self.switchers.items()}
        if len(choices) == 1:
            return next(iter(choices.values()))
        by_price, p, b = query.price > 0, choices["price"], choices["budget"]
        return Choice(
            np.where(by_price, p.call, b.call),
            np.where(by_price, p.propensity, b.propensity),
            np.where(by_price, p.advantage, b.advantage),
            np.mean([choice.disagree for choice in choices.values() if choice.disagree is not None], axis=0),
        )


def make_envs(experiment: Experiment, count: int, phase: Phase = "training") -> list[TextEnv]:
    """Make the experiment's environments, as they are in training, selection or the test."""
    own = {"training": {}, "selection": experiment.env.selection, "test": experiment.env.test}[phase]
    return [envs.make(experiment.env.id, **experiment.env.options | own) for _ in range(count)]


def make_encoder(experiment: Experiment) -> TextEncoder:
    """Make the experiment's encoder."""
    s = experiment.switcher
    return TextEncoder(clauses=s.clauses, ngrams=s.ngrams, buckets=s.buckets, hidden=s.hidden)


def make_learners(experiment: Experiment, encoder: TextEncoder, env: TextEnv) -> dict[str, DQNLearner]:
    """Make one learner for each of `train.learners`."""
    t, s = experiment.train, experiment.switcher
    actions = None if env.admissible is None else len(env.admissible)
    shape = NetworkShape(encoder.num_dense(actions), s.buckets, reader=s.reader, width=s.width, max_calls=t.max_calls)
    settings: dict[str, Any] = {"gamma": t.gamma, "batch_size": t.batch_size, "lr": t.lr, "tau": t.tau}
    settings |= {"call_price": t.call_price, "lowest_price": t.lowest_price, "highest_price": t.highest_price}
    settings |= {"price_unit": t.price_unit, "text_dropout": t.text_dropout}
    num_updates = max(1, int(t.updates_per_step * (t.num_steps - t.warmup_steps)))
    return {
        kind: DQNLearner(DQNConfig(kind, relabel=t.relabel, **settings), shape, num_updates, experiment.seed + i)
        for i, kind in enumerate(t.learners)
    }


class Trainer:
    """Plays, stores, learns; can be stopped at any moment and resumed from its checkpoint."""

    def __init__(self, run: Run) -> None:
        self.run, self.experiment = run, run.experiment
        t = self.experiment.train
        torch.set_num_threads(t.threads)
        self.envs = make_envs(self.experiment, t.num_envs)
        encoder = make_encoder(self.experiment)
        self.learners = make_learners(self.experiment, encoder, self.envs[0])
        pair = lms.load_pair(self.experiment.quick, self.experiment.deepthink)
        quick, deepthink = (lms.CachedLM(model) for model in pair)
        if t.price_measure == "dollars" and not _has_price(deepthink, self.experiment, self.envs[0]):
            raise ConfigError(
                f"train.price_measure is dollars, but DEEPTHINK ({deepthink.name}) has no price: name a table in "
                "server.prices, or take another measure"
            )
        switchers = {name: learner.switcher for name, learner in self.learners.items()}
        self.agent = Agent(quick, deepthink, encoder, _Behaviour(switchers), self.experiment.env.prompt)
        self.replay = Replay(t.replay)
        self.pool = ThreadPoolExecutor(len(self.learners), initializer=torch.set_num_threads, initargs=(t.threads,))
        self.step = self.started = 0
        self.seconds = 0.0
        self.recent: deque[tuple[bool, int]] = deque(maxlen=200)
        self.losses: dict[str, float] = {}

    def assignments(self) -> Iterator[Assignment]:
        """Yield training episodes without end; each is decided by the seed and its number alone, and by the step."""
        t = self.experiment.train
        while True:
            number = self.started
            self.started += 1
            seed = TRAINING_SEEDS * (self.experiment.seed + 1) + number
            rng = np.random.default_rng((seed, 1))
            kind = t.learners[int(rng.integers(len(t.learners)))]
            learned = self.step > t.num_steps / 2 and rng.random() < t.on_policy
            price = math.exp(rng.uniform(math.log(t.lowest_price), math.log(t.highest_price)))
            budget = int(rng.integers(t.max_calls + 1)) if kind == "budget" else None
            if learned:
                price = price if kind == "price" else 0.0
                yield Assignment(seed, "training", budget, price, epsilon=t.epsilon, stream=2)
            else:
                cap, cost = (budget, 0.0) if not t.relabel else (None, 0.0)
                rate, guided = float(rng.random()), bool(rng.random() < t.guided)
                yield Assignment(
                    seed, "training", cap, cost if t.relabel else price, random_rate=rate, guided=guided, stream=2
                )

    def train(self, progress: Callable[[Progress], None] | None = None) -> None:
        """Train to the end; on KeyboardInterrupt save a checkpoint and policies, and raise it on."""
        t = self.experiment.train
        last_metrics = last_saved = self.step
        begun = time.perf_counter() - self.seconds
        try:
            for episode, trajectory in rollout(
                self.envs, self.agent, self.assignments(), self.experiment.env.id, t.price_measure
            ):
                self.replay.add(trajectory)
                self._note(episode)
                self._learn()
                self.seconds = time.perf_counter() - begun
                if progress:
                    progress(self._progress())
                if self.step - last_metrics >= METRICS_STEPS:
                    last_metrics = self.step
                    self._write_metrics()
                if self.step >= t.num_steps:
                    break
                if self.step - last_saved >= t.checkpoint_steps:
                    last_saved = self.step
                    self.save()
            if last_metrics == 0:  # a run too short for its first line: the report wants one
                self._write_metrics()
        finally:
            self.pool.shutdown(wait=True)  # after an interrupt, learners may still be in the middle of an update
            self.save()

    def _note(self, episode: Episode) -> None:
        self.step += len(episode.steps)
        self.recent.append((episode.success, episode.num_calls))

    def _learn(self) -> None:
        t = self.experiment.train
        due = int(t.updates_per_step * (min(self.step, t.num_steps) - t.warmup_steps))
        # learners share nothing but the replay, which they only read: side by side they do what they would in turn
        for losses in self.pool.map(lambda name: self._catch_up(name, due), self.learners):
            self.losses |= losses

    def _catch_up(self, name: str, due: int) -> dict[str, float]:
        losses = {key: value for key, value in self.losses.items() if key.startswith(name)}
        while self.learners[name].updates < due:
            for key, value in self.learners[name].update(self.replay).items():
                losses[f"{name}_{key}"] = 0.99 * losses.get(f"{name}_{key}", value) + 0.01 * value
        return losses

    def _progress(self) -> Progress:
        success, calls = np.mean(np.array(self.recent, float), axis=0).tolist()
        return Progress(self.step, self.experiment.train.num_steps, success, calls)

    def _write_metrics(self) -> None:
        now = self._progress()
        row = {"step": self.step, "episodes": self.started, "seconds": round(self.seconds, 3)}
        row |= {"success": now.success, "calls": now.calls, **self.losses}
        with (self.run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _forget_later_metrics(self) -> None:
        """Drop what was written after the checkpoint by a run that was killed: those steps are taken again."""
        path = self.run.path / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if _step(line) <= self.step))

    def save(self) -> None:
        """Write the policies, and the checkpoint from which training goes on (without replay once it is done)."""
        done = self.step >= self.experiment.train.num_steps
        for name, learner in self.learners.items():
            save_checkpoint(self.run.policy(name), {"switcher": learner.switcher.state(), "step": self.step})
        state: dict[str, Any] = {"step": self.step, "started": self.started, "seconds": self.seconds, "done": done}
        state["learners"] = {name: learner.state_dict() for name, learner in self.learners.items()}
        if not done:
            replay = self.replay.state()
            replay["columns"] = {name: torch.from_numpy(column) for name, column in replay["columns"].items()}
            state["replay"] = replay
        save_checkpoint(self.run.checkpoint, state)

    def restore(self) -> None:
        """Go on from the run's checkpoint; episodes that were being played are begun anew, under new seeds."""
        state = load_checkpoint(self.run.checkpoint)
        try:
            for name, learner in self.learners.items():
                learner.load_state_dict(state["learners"][name])
            self.step, self.started, self.seconds = state["step"], state["started"], state["seconds"]
            replay = state["replay"]
            replay["columns"] = {name: column.numpy() for name, column in replay["columns"].items()}
            self.replay.restore(replay)
            self._forget_later_metrics()
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.run.checkpoint} does not fit this experiment: train into another folder"
            ) from error


def _has_price(model: lms.CachedLM, experiment: Experiment, env: TextEnv) -> bool:
    observation, info = env.reset(seed=0)
    prompt = experiment.env.prompt.render(str(info["goal"]), [observation], [], env.admissible)
    return model.worst_case([prompt], env.admissible)[0].dollars > 0


def _step(line: str) -> float:
    """The step of a line of metrics; infinite for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


def prepare(path: Path, experiment: Experiment) -> Trainer:
    """Return a trainer for the folder: new, or resumed from its checkpoint.

    Raises `RunError` where the folder holds another experiment or is trained to the end already, and what evaluation
    would raise for a rule or an option of the environment that is not known.
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
        if path.exists() and any(path.iterdir()):
            raise RunError(f"{path} is not empty and no run folder: choose another with --run")
        trainer = Trainer(Run(path, experiment))  # before the folder: what can't be loaded leaves none behind
        Run.create(path, experiment)
        return trainer
    run = Run.open(path)
    if run.experiment != experiment:
        raise RunError(f"{path} holds another experiment (its config.toml differs): choose another with --run")
    if not run.checkpoint.is_file():
        return Trainer(run)
    if load_checkpoint(run.checkpoint).get("done"):
        raise RunError(
            f"{path} is trained already ({experiment.train.num_steps:,} steps): `londi evaluate {path}`, "
            "or train into another folder with --run"
        )
    trainer = Trainer(run)
    trainer.restore()
    return trainer
