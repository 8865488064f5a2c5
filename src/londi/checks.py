"""Ranges of an experiment's values, beyond their types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from londi.errors import ConfigError

if TYPE_CHECKING:
    from londi.config import EvaluateConfig, Experiment, ModelConfig, TrainConfig


TEST_SEEDS = 50_000_000
"""Test episodes are numbered from here on, those of selection before it."""
_DEMONSTRATIONS = 1_000_000_000
"""The built-in models of BabyAI were cloned from episodes that are numbered from here on."""


def check(experiment: Experiment) -> None:
    """Raise `ConfigError` for the first value that is out of its range."""
    name = experiment.name
    wrong = [
        *_training(experiment.train),
        *_evaluation(experiment.evaluate),
        *_prices(experiment.train, experiment.evaluate),
        *_model("quick", experiment.quick),
        *_model("deepthink", experiment.deepthink),
    ]
    if experiment.seed < 0:
        wrong.append(f"seed must be at least 0, not {experiment.seed}")
    if not name or "/" in name or name.startswith("."):
        wrong.append(f"name must be the name of a folder, not {name!r}")
    if wrong:
        raise ConfigError(wrong[0])


def _training(t: TrainConfig) -> list[str]:
    least = {"num_steps": t.num_steps, "num_envs": t.num_envs, "max_calls": t.max_calls, "batch_size": t.batch_size}
    least |= {"replay": t.replay, "checkpoint_steps": t.checkpoint_steps, "threads": t.threads, "n_step": t.n_step}
    wrong = [f"train.{key} must be at least 1, not {value}" for key, value in least.items() if value < 1]
    shares = {"on_policy": t.on_policy, "guided": t.guided, "epsilon": t.epsilon}
    wrong += [f"train.{key} must lie in [0, 1], not {value}" for key, value in shares.items() if not 0 <= value <= 1]
    if not 0 < t.price_unit < math.inf:
        wrong.append(f"train.price_unit must be above 0, not {t.price_unit}")
    if t.snapshots < 0:
        wrong.append(f"train.snapshots must be at least 0, not {t.snapshots}")
    if t.warmup_steps < 0:
        wrong.append(f"train.warmup_steps must be at least 0, not {t.warmup_steps}")
    if t.warmup_steps >= t.num_steps:
        wrong.append(f"train.warmup_steps ({t.warmup_steps}) must be below train.num_steps ({t.num_steps})")
    if not t.learners:
        wrong.append("train.learners is empty: name 'budget', 'price' or both")
    if len(set(t.learners)) < len(t.learners):
        wrong.append(f"train.learners names one twice: {', '.join(t.learners)}")
    if "ppo" in t.learners and len(t.learners) > 1:
        wrong.append("train.learners: 'ppo' learns only from episodes of its own, so it must be alone")
    if not t.price >= 0:
        wrong.append(f"train.price must be at least 0, not {t.price}")
    if t.budget is not None and not 0 <= t.budget <= t.max_calls:
        wrong.append(f"train.budget must lie in 0 to train.max_calls ({t.max_calls}), not at {t.budget}")
    if not 0 < t.lowest_price <= t.highest_price:
        wrong.append(f"train.lowest_price ({t.lowest_price}) must be above 0, and at most highest_price")
    if not 0 < t.gamma <= 1:
        wrong.append(f"train.gamma must lie in (0, 1], not {t.gamma}")
    if not 0 <= t.text_dropout < 1:
        wrong.append(f"train.text_dropout must lie in [0, 1), not {t.text_dropout}")
    if not t.updates_per_step >= 0:
        wrong.append(f"train.updates_per_step must be at least 0, not {t.updates_per_step}")
    return wrong


def _evaluation(e: EvaluateConfig) -> list[str]:
    counts = {"episodes": e.episodes, "selection_episodes": e.selection_episodes, "num_envs": e.num_envs}
    counts |= {"processes": e.processes, "snapshot_episodes": e.snapshot_episodes}
    wrong = [f"evaluate.{key} must be at least 1, not {value}" for key, value in counts.items() if value < 1]
    last = _DEMONSTRATIONS - e.episodes
    if not TEST_SEEDS <= e.first_test_seed <= last:
        wrong.append(
            f"evaluate.first_test_seed must lie in {TEST_SEEDS:,} to {last:,}, beyond the episodes of selection and "
            f"before those that models were cloned from, not at {e.first_test_seed:,}"
        )
    if e.selection_limit and e.selection_limit < e.selection_episodes:
        wrong.append(
            f"evaluate.selection_limit must be 0 or at least evaluate.selection_episodes ({e.selection_episodes:,}), "
            f"not {e.selection_limit:,}"
        )
    if e.budget_measure == "dollars":
        wrong += [f"evaluate.budgets: a budget is an amount of dollars >= 0, not {n}" for n in e.budgets if not n >= 0]
    else:
        what = f"a number of {e.budget_measure}"
        wrong += [f"evaluate.budgets: a budget is {what} >= 0, not {n:g}" for n in e.budgets if not _count(n)]
    wrong += [f"evaluate.prices: a price is > 0, not {c}" for c in e.prices if not c > 0]
    wrong += [f"evaluate.random_rates: a rate lies in [0, 1], not {p}" for p in e.random_rates if not 0 <= p <= 1]
    shares = {"margins": e.margins, "router_thresholds": e.router_thresholds}
    wrong += [f"evaluate.{key}: {h} is outside [0, 1]" for key, some in shares.items() for h in some if not 0 <= h <= 1]
    wrong += [f"evaluate.every: a period is at least 1 step, not {k}" for k in e.every if k < 1]
    wrong += [f"evaluate.first: a number of first steps is at least 1, not {n}" for n in e.first if n < 1]
    wrong += [f"evaluate.myopic_prices: a price is > 0, not {c}" for c in e.myopic_prices if not c > 0]
    lists = {"budgets": e.budgets, "prices": e.prices, "random_rates": e.random_rates, "margins": e.margins}
    lists |= {"entropy_thresholds": e.entropy_thresholds, "router_thresholds": e.router_thresholds}
    lists |= {"myopic_prices": e.myopic_prices, "every": e.every, "first": e.first}
    for key, values in lists.items():
        if len({f"{value:g}" for value in values}) < len(values):
            wrong.append(f"evaluate.{key} names one twice (six digits count): {', '.join(map(str, values))}")
    return wrong


def _prices(t: TrainConfig, e: EvaluateConfig) -> list[str]:
    if "price" not in t.learners:
        return []
    low, high = t.lowest_price, t.highest_price
    outside = [c for c in e.prices if c > 0 and not low <= c <= high]
    wrong = [f"evaluate.prices: {c} lies outside what is learned, {low} to {high}" for c in outside]
    if not e.prices and ("budget" not in t.learners or e.capped):
        wrong.append("evaluate.prices is empty: a price Switcher is measured at prices")
    return wrong


def _model(role: str, model: ModelConfig) -> list[str]:
    sizes = {"max_batch": model.max_batch, "max_new_tokens": model.max_new_tokens}
    sizes |= {"local.max_batch_tokens": model.local.max_batch_tokens}
    sizes |= {"server.concurrency": model.server.concurrency, "server.attempts": model.server.attempts}
    return [f"{role}.{key} must be at least 1, not {n}" for key, n in sizes.items() if n is not None and n < 1]


def _count(number: float) -> bool:
    return math.isfinite(number) and number >= 0 and number == int(number)
