"""Playing what is measured: policies on selection, test and curve episodes, in worker processes or in this one.

All policies play the same episodes, and selection's are others than the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from londi import choosing, frontier, lms
from londi.agent import Agent, OracleAgent
from londi.envs.base import TextEnv
from londi.envs.recall import Memory, RecallingEnv
from londi.episode import Episode
from londi.frontier import Outcome
from londi.lifeline import end_with_parent
from londi.making import Phase, make_encoder, make_envs
from londi.policies import DEEPTHINK, Policy, switcher_of
from londi.rollout import Assignment, rollout
from londi.run import Run
from londi.switchers import Switcher
from londi.usage import Usage

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


def _paid(episode: Episode) -> list[Usage]:
    """Return what the policy of an episode has to pay for: QUICK in every step, and calls. DEEPTHINK alone needs QUICK
    only where it fails itself, though its episodes hold what QUICK would have done."""
    alone = episode.policy == DEEPTHINK.name
    found = []
    for step in episode.steps:
        if not (alone and step.deepthink and not step.deepthink.error):
            found.append(step.quick.usage)
        if step.deepthink:
            found.append(step.deepthink.usage)
    return found


def _outcome(episode: Episode) -> Outcome:
    paid = _paid(episode)
    usage = sum(paid, Usage())
    known = all(each.flops for each in paid)  # of a served model they are not: then the sum says nothing
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
class Plays:
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
        todo = seeds[::chunk] if policies else ()
        jobs = [
            _Job(
                *(self.run.path, phase, first + i, min(chunk, seeds.stop - i), tuple(policies)),
                *(keep if i < KEPT_EPISODES else _NONE, snapshot),
            )
            for i in todo
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
        if not policies:
            return []
        e = self.run.experiment.evaluate
        outcomes, _ = self.play("selection", range(e.selection_episodes), policies)
        while True:
            doubt = choosing.in_doubt([*known, *rows_of(policies, outcomes)], 0.99)
            played = {p: len(outcomes[p.name]) for p in policies if p.name in doubt}
            start = min(played.values(), default=e.selection_limit)
            if start >= e.selection_limit:
                return rows_of(policies, outcomes)
            seeds = range(start, min(start + e.selection_episodes, e.selection_limit))
            again = [policy for policy, count in played.items() if count == start]
            self.progress(0, len(seeds) * len(again))
            for name, more in self.play("selection", seeds, again)[0].items():
                outcomes[name] += more


def rows_of(policies: Sequence[Policy], outcomes: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """Return the row of each policy."""
    return [frontier.summarise(p.name, p.kind, p.value, outcomes[p.name]) for p in policies]


@contextmanager
def playing(run: Run, progress: PlayProgress) -> Iterator[Plays]:
    """Start the worker processes of an evaluation, and end them."""
    processes = run.experiment.evaluate.processes
    pool = (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent)
        if processes > 1
        else None
    )
    try:
        yield Plays(run, pool, progress)
    finally:
        _worker.cache_clear()  # its environments may hold processes, and the run may be trained on before the next time
        if pool:
            pool.shutdown(cancel_futures=True)
