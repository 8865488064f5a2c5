"""Measure every budget, every price and the baselines on fresh seeds, and write `frontier.json`.

Budget and price are chosen on selection seeds and measured on test seeds; the two sets are disjoint from each
other and from training's. All policies play the same episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from londi import frontier, lms
from londi.agent import Agent, OracleAgent
from londi.config import Experiment
from londi.envs.base import TextEnv
from londi.episode import Episode, write_episodes
from londi.frontier import Outcome
from londi.rollout import Assignment, rollout
from londi.run import Run, write_text
from londi.switchers import (
    Always,
    EntropyThreshold,
    EveryStep,
    MarginThreshold,
    Never,
    RandomRate,
    Switcher,
    parse_rule,
)
from londi.train import Phase, make_encoder, make_envs

TEST_SEEDS, SELECTION_SEEDS = 50_000_000, 20_000_000
CHUNK = 50
KEPT_EPISODES = 200
"""Episodes of QUICK, DEEPTHINK and the chosen policy that are stored for the report and `watch`."""


@dataclass(frozen=True)
class Policy:
    """One row of the table."""

    name: str
    kind: str
    value: float | None = None
    budget: float | None = None
    """The cap it plays under."""
    price: float = 0.0
    """The price it plays under."""


QUICK, DEEPTHINK = Policy("QUICK", "model"), Policy("DEEPTHINK", "model")


def learned_policies(experiment: Experiment) -> list[Policy]:
    """Return the policies that the experiment has learned, at every setting that it measures."""
    e, t = experiment.evaluate, experiment.train
    policies = []
    if "budget" in t.learners:
        unit = "" if e.budget_measure == "calls" else f" {e.budget_measure}"
        policies += [Policy(f"budget {n:g}{unit}", "budget", n, budget=_whole(n)) for n in e.budgets]
        policies.append(Policy("budget unlimited", "budget"))
    swept = {"price": e.prices, "myopic": e.myopic_prices, "router": e.router_thresholds}
    swept |= {"sac": (t.price,), "ppo": (t.price,)}
    for kind, values in swept.items():
        if kind in t.learners:
            policies += [Policy(f"{kind} {c:g}", kind, c, price=c) for c in values]
    return policies


def capped_policies(experiment: Experiment, price: float) -> list[Policy]:
    """Return a price under every finite budget that the experiment measures: the best price, then stop."""
    budgets = experiment.evaluate.budgets
    return [Policy(f"price {price:g} up to {n:g}", "capped", n, _whole(n), price) for n in budgets]


def baselines(experiment: Experiment) -> list[Policy]:
    """Return the rules and the oracle that the experiment measures."""
    e = experiment.evaluate
    rules = [Policy(f"random {p:g}", "random", p) for p in e.random_rates]
    rules += [Policy(f"every {k}", "every", k) for k in e.every]
    rules += [Policy(f"entropy {h:g}", "entropy", h) for h in e.entropy_thresholds]
    rules += [Policy(f"margin {h:g}", "margin", h) for h in e.margins]
    rules += [Policy(text, "rule") for text in e.rules]
    return [QUICK, DEEPTHINK, *rules, Policy("disagreement oracle", "oracle")]


_RULES: dict[str, Callable[[float], Switcher]] = {
    "random": RandomRate,
    "every": lambda period: EveryStep(int(period)),
    "entropy": EntropyThreshold,
    "margin": MarginThreshold,
}


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


@dataclass(frozen=True)
class _Job:
    run: Path
    phase: Phase
    first_seed: int
    count: int
    policies: tuple[Policy, ...]
    keep: frozenset[str] = field(default_factory=frozenset)


class _Worker:
    """The models of a run, loaded once in each process."""

    def __init__(self, path: Path) -> None:
        import torch

        self.experiment = Run.open(path).experiment
        torch.set_num_threads(self.experiment.train.threads)
        self.switchers = Run.open(path).load_switchers()
        self.quick, self.deepthink = (
            lms.CachedLM(model) for model in lms.load_pair(self.experiment.quick, self.experiment.deepthink)
        )
        self.encoder = make_encoder(self.experiment)
        self.phase: Phase | None = None
        self.envs: list[TextEnv] = []

    def agent(self, policy: Policy) -> Agent:
        """Return the agent that plays a policy."""
        kind: type[Agent] = OracleAgent if policy.kind == "oracle" else Agent
        return kind(self.quick, self.deepthink, self.encoder, self._switcher(policy), self.experiment.env.prompt)

    def _switcher(self, policy: Policy) -> Switcher:
        kind, value = policy.kind, policy.value or 0.0
        if kind in self.switchers or kind == "capped":
            return self.switchers["price" if kind == "capped" else kind]
        if kind == "rule":
            return parse_rule(policy.name)
        if kind in _RULES:
            return _RULES[kind](value)
        return Always() if policy == DEEPTHINK else Never()

    def enter(self, phase: Phase) -> None:
        """Make the environments of a phase, and close those of another."""
        if phase != self.phase:
            for env in self.envs:
                env.close()
            self.phase, self.envs = phase, make_envs(self.experiment, self.experiment.evaluate.num_envs, phase)

    def play(self, policy: Policy, first_seed: int, count: int) -> Iterator[Episode]:
        """Play episodes of a policy, in the order in which they finish."""
        measure = self.experiment.evaluate.budget_measure
        jobs = [
            Assignment(first_seed + i, policy.name, policy.budget, policy.price, budget_measure=measure)
            for i in range(count)
        ]
        for episode, _ in rollout(self.envs, self.agent(policy), jobs, self.experiment.env.id):
            yield episode


@cache
def _worker(path: Path) -> _Worker:
    return _Worker(path)


def _play(job: _Job) -> dict[str, tuple[list[Outcome], list[Episode]]]:
    """Play the job's seeds under each policy; return outcomes and kept episodes by name, in the order of seeds."""
    worker = _worker(job.run)
    worker.enter(job.phase)
    results = {}
    for policy in job.policies:
        episodes = sorted(worker.play(policy, job.first_seed, job.count), key=lambda e: e.seed)
        outcomes = [_outcome(episode) for episode in episodes]
        results[policy.name] = (outcomes, episodes if policy.name in job.keep else [])
    return results


def _outcome(episode: Episode) -> Outcome:
    usage = episode.usage
    replies = [reply for step in episode.steps for reply in (step.quick, step.deepthink) if reply]
    known = all(reply.usage.flops for reply in replies)  # of a served model they are not: then the sum says nothing
    return Outcome(
        episode.success,
        episode.total_reward,
        episode.num_calls,
        len(episode.steps),
        usage.tokens,
        usage.flops if known else 0.0,
        usage.seconds,
        episode.violated,
        usage.dollars,
        usage.device_seconds,
        usage.joules,
        episode.num_failed,
        episode.num_switches,
        float(episode.spent),
    )


def _measure(
    run: Run,
    phase: Phase,
    count: int,
    policies: Sequence[Policy],
    keep: frozenset[str],
    pool: ProcessPoolExecutor | None,
    progress: Callable[[int], None],
) -> tuple[list[dict[str, Any]], dict[str, list[Episode]]]:
    first = SELECTION_SEEDS if phase == "selection" else TEST_SEEDS
    none: frozenset[str] = frozenset()
    jobs = [
        _Job(run.path, phase, first + i, min(CHUNK, count - i), tuple(policies), keep if i < KEPT_EPISODES else none)
        for i in range(0, count, CHUNK)
    ]
    outcomes: dict[str, list[Outcome]] = {policy.name: [] for policy in policies}
    kept: dict[str, list[Episode]] = {name: [] for name in keep}
    for job, result in zip(jobs, pool.map(_play, jobs) if pool else map(_play, jobs), strict=True):
        for name, (some, episodes) in result.items():
            outcomes[name] += some
            if name in keep:
                kept[name] += episodes
        progress(job.count * len(policies))
    return [frontier.summarise(p.name, p.kind, p.value, outcomes[p.name]) for p in policies], kept


def num_plays(experiment: Experiment) -> int:
    """Return how many episodes an evaluation plays, for a progress bar."""
    learned, rules = len(learned_policies(experiment)), len(baselines(experiment))
    e = experiment.evaluate
    capped = len(e.budgets) if _capped(experiment) else 0
    return e.selection_episodes * (learned + 2) + e.episodes * (learned + rules + capped)


def _capped(experiment: Experiment) -> bool:
    return experiment.evaluate.capped and "price" in experiment.train.learners


def evaluate(run: Run, progress: Callable[[int], None] = lambda plays: None) -> dict[str, Any]:
    """Evaluate a run, write `frontier.json` and `episodes/`, and return the frontier.

    Raises `RunError` where nothing was trained. `progress` is told how many more episodes were played.
    """
    e = run.experiment.evaluate
    run.load_switchers()  # before any process starts: complain here
    learned, rules = learned_policies(run.experiment), baselines(run.experiment)
    pool = ProcessPoolExecutor(e.processes, mp_context=get_context("spawn")) if e.processes > 1 else None
    try:
        selection, _ = _measure(
            run, "selection", e.selection_episodes, [QUICK, DEEPTHINK, *learned], frozenset(), pool, progress
        )
        chosen = frontier.choose(selection, 0.99) or frontier.choose(selection, 0.95)
        shown = str(chosen["name"]) if chosen else learned[-1].name
        keep = frozenset({"QUICK", "DEEPTHINK", shown})
        capped = capped_policies(run.experiment, frontier.best_price(selection)) if _capped(run.experiment) else []
        test, kept = _measure(run, "test", e.episodes, [*rules, *learned, *capped], keep, pool, progress)
    finally:
        _worker.cache_clear()  # its environments may hold processes, and the run may be trained on before the next time
        if pool:
            pool.shutdown(cancel_futures=True)
    for file, name in (("chosen", shown), ("quick", "QUICK"), ("deepthink", "DEEPTHINK")):
        write_episodes(run.path / "episodes" / f"{file}.jsonl", kept[name][:KEPT_EPISODES])
    result = _frontier(run, selection, test)
    write_text(run.path / "frontier.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _frontier(run: Run, selection: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, Any]:
    from importlib.metadata import version

    e = run.experiment.evaluate
    choices = {key: frontier.choice(selection, test, level) for key, level in (("at_99", 0.99), ("at_95", 0.95))}
    return {
        "schema": frontier.SCHEMA,
        "londi": version("londi"),
        "experiment": run.experiment.name,
        "env": run.experiment.env.id,
        "training_seed": run.experiment.seed,
        "env_steps": run.trained_steps(),
        "episodes": e.episodes,
        "seeds": {"selection": [SELECTION_SEEDS, e.selection_episodes], "test": [TEST_SEEDS, e.episodes]},
        "budget_measure": e.budget_measure,
        "policies": test,
        "selection": selection,
        "choices": choices,
        "metrics": frontier.metrics(test, choices),
    }
