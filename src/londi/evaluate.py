"""Measure every budget, every price and the baselines on fresh seeds, and write `frontier.json`.

Budgets, prices, thresholds and rates are chosen on selection seeds and measured on test seeds; the two sets are
disjoint from each other and from training's. All policies play the same test episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from londi import frontier, lms
from londi.agent import Agent, OracleAgent
from londi.config import Experiment
from londi.envs.base import TextEnv
from londi.envs.recall import Memory, RecallingEnv
from londi.episode import Episode, write_episodes
from londi.errors import RunError
from londi.frontier import Outcome
from londi.making import Phase, make_encoder, make_envs
from londi.policies import DEEPTHINK, QUICK, Policy, baselines, capped_policies, learned_policies, switcher_of
from londi.provenance import commit
from londi.rollout import Assignment, rollout
from londi.run import Run, load_checkpoint, write_text
from londi.switchers import Switcher

SELECTION_SEEDS = 20_000_000
CHUNK = 100
"""Most episodes of each policy that a process plays at once; more share what the models said and what came of it."""
KEPT_EPISODES = 200
"""Episodes of QUICK, DEEPTHINK and the chosen policy that are stored for the report and `watch`."""
_NONE: frozenset[str] = frozenset()
PlayProgress = Callable[[int, int], None]
"""Is told how many more episodes were played, and how many more are to be played than was thought."""


@dataclass(frozen=True)
class _Job:
    run: Path
    phase: Phase
    first_seed: int
    count: int
    policies: tuple[Policy, ...]
    keep: frozenset[str] = field(default_factory=frozenset)
    snapshot: int | None = None


class _Worker:
    """The models of a run, loaded once in each process."""

    def __init__(self, path: Path) -> None:
        import torch

        self.run = Run.open(path)
        self.experiment = self.run.experiment
        torch.set_num_threads(self.experiment.train.threads)
        self.switchers: dict[int | None, Mapping[str, Switcher]] = {}
        self.quick, self.deepthink = (
            lms.CachedLM(model) for model in lms.load_pair(self.experiment.quick, self.experiment.deepthink)
        )
        self.encoder = make_encoder(self.experiment)
        self.phase: Phase | None = None
        self.envs: list[TextEnv] = []
        self.memory = Memory()

    def teams(self, policies: Sequence[Policy], snapshot: int | None) -> list[tuple[Agent, list[Policy]]]:
        """Return agents, as they were learned until then, and the policies of each: what it is asked by budgets and
        prices alone plays in step, so that the models are asked for more at once."""
        if snapshot not in self.switchers:
            self.switchers[snapshot] = self.run.load_switchers(snapshot)
        found: dict[tuple[type[Agent], Switcher], tuple[Agent, list[Policy]]] = {}
        for policy in policies:
            kind: type[Agent] = OracleAgent if policy.kind == "oracle" else Agent
            switcher = switcher_of(policy, self.switchers[snapshot])
            agent = kind(self.quick, self.deepthink, self.encoder, switcher, self.experiment.env.prompt)
            found.setdefault((kind, switcher), (agent, []))[1].append(policy)
        return list(found.values())

    def enter(self, phase: Phase) -> None:
        """Make the environments of a phase, and close those of another; forget what came of earlier episodes."""
        self.memory.clear()
        if phase != self.phase:
            for env in self.envs:
                env.close()
            made = make_envs(self.experiment, self.experiment.evaluate.num_envs, phase)
            self.phase, self.envs = phase, [RecallingEnv(e, self.memory) if e.reproducible else e for e in made]

    def play(self, agent: Agent, policies: Sequence[Policy], seeds: Sequence[int]) -> Iterator[Episode]:
        """Play an agent's policies on these seeds, in the order in which episodes finish."""
        measure = self.experiment.evaluate.budget_measure
        jobs = [
            Assignment(seed, policy.name, policy.budget, policy.price, budget_measure=measure)
            for policy in policies
            for seed in seeds
        ]
        for episode, _ in rollout(self.envs, agent, jobs, self.experiment.env.id):
            yield episode


@cache
def _worker(path: Path) -> _Worker:
    return _Worker(path)


def _play(job: _Job) -> dict[str, tuple[list[Outcome], list[Episode]]]:
    """Play the job's seeds under each policy; return outcomes and kept episodes by name, in the order of seeds."""
    worker = _worker(job.run)
    worker.enter(job.phase)
    seeds = range(job.first_seed, job.first_seed + job.count)
    results: dict[str, tuple[list[Outcome], list[Episode]]] = {}
    for agent, policies in worker.teams(job.policies, job.snapshot):
        for policy in policies:
            results[policy.name] = [], []
        for episode in sorted(worker.play(agent, policies, seeds), key=lambda episode: episode.seed):
            outcomes, episodes = results[episode.policy]
            outcomes.append(_outcome(episode))
            if episode.policy in job.keep:
                episodes.append(episode)
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


@dataclass(frozen=True)
class _Plays:
    """What plays the episodes of an evaluation: worker processes, or this one."""

    run: Run
    pool: ProcessPoolExecutor | None
    progress: PlayProgress

    def play(
        self,
        phase: Phase,
        seeds: range,
        policies: Sequence[Policy],
        keep: frozenset[str] = _NONE,
        snapshot: int | None = None,
    ) -> tuple[dict[str, list[Outcome]], dict[str, list[Episode]]]:
        """Return by policy the outcomes of a phase's episodes, in order, and the first episodes of those to keep."""
        e = self.run.experiment.evaluate
        first = SELECTION_SEEDS if phase == "selection" else e.first_test_seed
        rounds = ceil(len(seeds) / (e.processes * CHUNK))
        chunk = ceil(len(seeds) / (e.processes * rounds))  # as much for each process
        jobs = [
            _Job(
                *(self.run.path, phase, first + i, min(chunk, seeds.stop - i), tuple(policies)),
                *(keep if i < KEPT_EPISODES else _NONE, snapshot),
            )
            for i in seeds[::chunk]
        ]
        outcomes: dict[str, list[Outcome]] = {policy.name: [] for policy in policies}
        kept: dict[str, list[Episode]] = {name: [] for name in keep}
        for job, result in zip(jobs, self.pool.map(_play, jobs) if self.pool else map(_play, jobs), strict=True):
            for name, (some, episodes) in result.items():
                outcomes[name] += some
                if name in keep:
                    kept[name] += episodes
            self.progress(job.count * len(policies), 0)
        return outcomes, kept

    def select(self, policies: Sequence[Policy], known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Return the rows of policies on selection seeds; `known` are those of DEEPTHINK and others, where they are
        not among these.

        Each plays `selection_episodes`. Those that may be the ones to choose, or may not, play as many again until that
        is clear or they have played `selection_limit`, and DEEPTHINK with them where it is among these.
        """
        e = self.run.experiment.evaluate
        outcomes, _ = self.play("selection", range(e.selection_episodes), policies)
        while True:
            doubt = frontier.in_doubt([*known, *_rows(policies, outcomes)], 0.99)
            played = {p: len(outcomes[p.name]) for p in policies if p.name in doubt}
            start = min(played.values(), default=e.selection_limit)
            if start >= e.selection_limit:
                return _rows(policies, outcomes)
            seeds = range(start, min(start + e.selection_episodes, e.selection_limit))
            again = [policy for policy, count in played.items() if count == start]
            self.progress(0, len(seeds) * len(again))
            for name, more in self.play("selection", seeds, again)[0].items():
                outcomes[name] += more


def _rows(policies: Sequence[Policy], outcomes: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    return [frontier.summarise(p.name, p.kind, p.value, outcomes[p.name]) for p in policies]


def num_plays(experiment: Experiment) -> int:
    """Return how many episodes an evaluation plays, for a progress bar; not counted is what stays in doubt and plays
    on."""
    learned, rules = len(learned_policies(experiment)), len(baselines(experiment))
    e = experiment.evaluate
    capped = len(e.budgets) if _capped(experiment) else 0
    curve = experiment.train.snapshots * e.snapshot_episodes * (len(_universal(experiment)) + 2)
    oracle = 1  # has no setting to choose
    return e.selection_episodes * (learned + rules + capped - oracle) + e.episodes * (learned + rules + capped) + curve


def _capped(experiment: Experiment) -> bool:
    return experiment.evaluate.capped and "price" in experiment.train.learners


def _check_features(run: Run) -> None:
    """Raise `RunError` where the Switchers were trained on features of another form, or for other actions."""
    (env,) = make_envs(run.experiment, 1, "test")
    actions = None if env.admissible is None else tuple(env.admissible)
    env.close()
    size = None if actions is None else len(actions)
    here = make_encoder(run.experiment).num_dense(size)
    for name, switcher in run.load_switchers().items():
        shape, state = switcher.network.shape, load_checkpoint(run.policy(name))
        same = shape.num_dense == here and shape.answers in (0, size or 0)
        told = "actions" in state  # policies of earlier versions don't say
        learned = tuple(state["actions"]) if told and state["actions"] is not None else None
        if not same or (told and learned != actions):
            raise RunError(
                f"the {name} Switcher was trained for another set of actions than that of {run.experiment.env.id}: "
                f"{_set(learned) if told else f'one with {shape.num_dense} columns'} and {_set(actions)}"
            )


def _set(actions: Sequence[str] | None) -> str:
    return "free text" if actions is None else f"{len(actions)} actions ({', '.join(actions[:3])}, ...)"


def _universal(experiment: Experiment) -> list[Policy]:
    return [policy for policy in learned_policies(experiment) if policy.kind in frontier.LEARNED]


def _curve(plays: _Plays) -> list[dict[str, Any]]:
    """Return the hypervolume of the learned families at each snapshot, on the first selection seeds."""
    run, found = plays.run, []
    policies = _universal(run.experiment)
    for step in run.snapshots() if policies else ():
        all_of_them = [QUICK, DEEPTHINK, *policies]
        seeds = range(run.experiment.evaluate.snapshot_episodes)
        rows = _rows(all_of_them, plays.play("selection", seeds, all_of_them, snapshot=step)[0])
        volumes = {kind: frontier.hypervolume(rows, kind) for kind in frontier.LEARNED}
        found.append({"step": step, "hypervolume": volumes})
    return found


def evaluate(run: Run, progress: PlayProgress = lambda played, added: None) -> dict[str, Any]:
    """Evaluate a run, write `frontier.json` and `episodes/`, and return the frontier.

    Raises `RunError` where nothing was trained, or where the run's config is changed meanwhile. `progress` is told how
    many more episodes were played, and how many were added to `num_plays` of those that are to be played.
    """
    e = run.experiment.evaluate
    source = commit(Path(__file__).parent)  # of what is loaded now
    _check_features(run)  # before any process starts: complain here
    learned, rules = learned_policies(run.experiment), baselines(run.experiment)
    pool = ProcessPoolExecutor(e.processes, mp_context=get_context("spawn")) if e.processes > 1 else None
    plays = _Plays(run, pool, progress)
    try:
        selection = plays.select([*(policy for policy in rules if policy.kind != "oracle"), *learned])
        shown = _shown(selection, learned)
        capped = capped_policies(run.experiment, frontier.best_price(selection)) if _capped(run.experiment) else []
        selection += plays.select(capped, selection)
        curve = _curve(plays)
        tested = [*rules, *learned, *capped]
        outcomes, kept = plays.play("test", range(e.episodes), tested, frozenset({"QUICK", "DEEPTHINK", shown}))
    finally:
        _worker.cache_clear()  # its environments may hold processes, and the run may be trained on before the next time
        if pool:
            pool.shutdown(cancel_futures=True)
    if Run.open(run.path).experiment != run.experiment:
        raise RunError(f"{run.path / 'config.toml'} was changed while it was evaluated: evaluate again")
    for file, name in (("chosen", shown), ("quick", "QUICK"), ("deepthink", "DEEPTHINK")):
        write_episodes(run.path / "episodes" / f"{file}.jsonl", kept[name][:KEPT_EPISODES])
    result = _frontier(run, selection, _rows(tested, outcomes), curve) | {"commit": source}
    write_text(run.path / "frontier.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _shown(selection: list[dict[str, Any]], learned: Sequence[Policy]) -> str:
    """The name of the policy whose episodes are stored: what keeps 99 %, else 95 %, else what succeeds most."""
    chosen = frontier.choose(selection, 0.99) or frontier.choose(selection, 0.95)
    if chosen is None:
        own = [policy.name for policy in learned if policy.kind in frontier.LEARNED] or [p.name for p in learned]
        chosen = max((frontier.find(selection, name) for name in own), key=lambda row: row["success"]["mean"])
    return str(chosen["name"])


def _frontier(
    run: Run, selection: list[dict[str, Any]], test: list[dict[str, Any]], curve: list[dict[str, Any]]
) -> dict[str, Any]:
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
        "seeds": {
            "selection": [SELECTION_SEEDS, max(row["episodes"] for row in selection)],
            "test": [e.first_test_seed, e.episodes],
        },
        "budget_measure": e.budget_measure,
        "policies": test,
        "selection": selection,
        "choices": choices,
        "curve": curve,
        "metrics": frontier.metrics(test, choices) | {"steps_to_90": frontier.steps_to(curve, 0.9)},
    }
