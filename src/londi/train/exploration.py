"""Who plays the training episodes, and how they explore."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from londi.config import TrainConfig
from londi.rollout import Assignment
from londi.switchers import Choice, Query, Switcher

TRAINING_SEEDS = 2**32
"""Training with seed k plays episodes from (k + 1) times this on; evaluation's seeds lie below all of them."""


class Behaviour:
    """What training episodes are played by: the price Switcher where a price is set, else the budget Switcher; or what
    explores for the learner that is alone."""

    def __init__(self, explorers: Mapping[str, Switcher]) -> None:
        self.explorers = explorers

    def choose(self, query: Query) -> Choice:
        """Choose for B states."""
        if len(self.explorers) == 1:
            return next(iter(self.explorers.values())).choose(query)
        p, b = (self.explorers[name].choose(query) for name in ("price", "budget"))
        by_price = query.price > 0
        return Choice(
            np.where(by_price, p.call, b.call),
            np.where(by_price, p.propensity, b.propensity),
            np.where(by_price, p.advantage, b.advantage),
            np.mean([choice.disagree for choice in (p, b) if choice.disagree is not None], axis=0),
        )


def players(learners: Sequence[str]) -> tuple[str, ...]:
    """Return those of the learners that play training episodes; the others learn from what these play.

    `budget` and `price` where they are among them, else `sac` or `ppo`; with none of them all calls are random.
    """
    universal = tuple(name for name in learners if name in ("budget", "price"))
    return universal or tuple(name for name in learners if name in ("sac", "ppo"))[:1]


def assignment(t: TrainConfig, seed: int, number: int, step: int) -> Assignment:
    """Return a training episode: decided by the seed of the training, its number, and the step at which it begins."""
    playing, own = players(t.learners), TRAINING_SEEDS * (seed + 1) + number
    rng = np.random.default_rng((own, 1))
    kind = ("random", *playing)[int(rng.integers(len(playing))) + 1 if playing else 0]
    if kind == "ppo" or (kind == "sac" and step >= t.warmup_steps):
        return Assignment(own, "training", price=t.price, stream=2)
    return _explored(t, own, kind, step, rng)


def _explored(t: TrainConfig, seed: int, kind: str, step: int, rng: np.random.Generator) -> Assignment:
    """Return an episode of random calls, or of a learned Switcher with some."""
    learned = step > t.num_steps / 2 and rng.random() < t.on_policy and kind in ("budget", "price")
    price = math.exp(rng.uniform(math.log(t.lowest_price), math.log(t.highest_price)))
    budget = int(rng.integers(t.max_calls + 1)) if t.budget is None else t.budget
    cap = budget if kind == "budget" else None
    if learned:
        return Assignment(seed, "training", cap, price if kind == "price" else 0.0, epsilon=t.epsilon, stream=2)
    rate, guided = float(rng.random()), bool(rng.random() < t.guided)
    if t.relabel:
        cap, price = None, 0.0
    return Assignment(seed, "training", cap, price, random_rate=rate, guided=guided, stream=2)
