"""Make what an experiment names: its environments, its encoder, its learners."""

from __future__ import annotations

from typing import Any, Literal

from londi import envs
from londi.config import Experiment, TrainConfig
from londi.encoders import TextEncoder
from londi.envs.base import TextEnv
from londi.errors import ConfigError
from londi.learners.base import NetworkLearner
from londi.learners.dqn import DQNConfig, DQNLearner
from londi.learners.ppo import PPOConfig, PPOLearner
from londi.learners.router import RouterLearner
from londi.learners.sac import SACConfig, SACLearner
from londi.switchers.reader import NetworkShape

Phase = Literal["training", "selection", "test"]


def make_envs(experiment: Experiment, count: int, phase: Phase = "training") -> list[TextEnv]:
    """Make the experiment's environments, as they are in training, selection or the test.

    Raises `ConfigError` where selection or test would play the episodes of training, see `TextEnv.listed`.
    """
    own = {"training": {}, "selection": experiment.env.selection, "test": experiment.env.test}[phase]
    made = [envs.make(experiment.env.id, **experiment.env.options | own) for _ in range(count)]
    for env in made[:1]:
        for name, table in (("selection", experiment.env.selection), ("test", experiment.env.test)):
            if env.listed and env.listed not in table:
                raise ConfigError(
                    f"{name} would play the episodes of training: set {env.listed} in env.{name}, "
                    'as in env.selection = { split = "dev" } and env.test = { split = "test" }'
                )
    return made


def make_encoder(experiment: Experiment) -> TextEncoder:
    """Make the experiment's encoder."""
    s = experiment.switcher
    return TextEncoder(s.clauses, s.ngrams, s.buckets, s.hidden, s.quick)


def make_learners(experiment: Experiment, encoder: TextEncoder, env: TextEnv) -> dict[str, NetworkLearner]:
    """Make the learners of `train.learners`, all over networks of the same shape."""
    t, s = experiment.train, experiment.switcher
    actions = None if env.admissible is None else len(env.admissible)
    said = encoder.said(actions)
    shape = NetworkShape(
        encoder.num_dense(actions),
        s.buckets,
        s.reader,
        width=s.width,
        max_calls=t.max_calls,
        budget_input=s.budget_input,
        gated=s.gated,
        readers=s.readers,
        textless=s.textless,
        answers=0 if said is None or actions is None else actions,
        said=said or 0,
    )
    num_updates = max(1, int(t.updates_per_step * (t.num_steps - t.warmup_steps)))
    return {name: _learner(name, t, shape, num_updates, experiment.seed + i) for i, name in enumerate(t.learners)}


def _learner(name: str, t: TrainConfig, shape: NetworkShape, num_updates: int, seed: int) -> NetworkLearner:
    if name == "router":
        return RouterLearner(shape, t.lr, t.batch_size, num_updates, seed, t.text_dropout)
    one_price: dict[str, Any] = {"price": t.price, "gamma": t.gamma, "lr": t.lr, "price_unit": t.price_unit}
    if name == "sac":
        config = SACConfig(batch_size=t.batch_size, tau=t.tau, text_dropout=t.text_dropout, **one_price)
        return SACLearner(config, shape, num_updates, seed)
    if name == "ppo":
        return PPOLearner(PPOConfig(**one_price), shape, num_updates, seed)
    settings = DQNConfig(
        "budget" if name == "budget" else "price",
        gamma=0.0 if name == "myopic" else t.gamma,
        batch_size=t.batch_size,
        lr=t.lr,
        tau=t.tau,
        call_price=t.call_price,
        lowest_price=t.lowest_price,
        highest_price=t.highest_price,
        price_unit=t.price_unit,
        text_dropout=t.text_dropout,
        n_step=t.n_step,
        relabel=t.relabel,
    )
    return DQNLearner(settings, shape, num_updates, seed)
