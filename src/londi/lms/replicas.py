"""Language models in processes of their own over Ray, each of which batches what several callers ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from londi import lms
from londi.config import ModelConfig
from londi.errors import LondiError, ModelError
from londi.lms.base import Decision
from londi.usage import Usage

RESTARTS = 20
"""A replica is started again so often; a worker likewise in a row without having taken a step."""


class _Replica:
    """A language model that decides in one batch whatever came in while it was deciding the batch before."""

    def __init__(self, config: ModelConfig, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.model = lms.CachedLM(lms.load(config))
        self.waiting: list[tuple[list[str], Sequence[str] | None, asyncio.Future[list[Decision]]]] = []
        self.busy: asyncio.Task[None] | None = None

    async def name(self) -> str:
        return self.model.name

    async def worst_case(self, prompts: list[str], candidates: Sequence[str] | None) -> list[Usage]:
        return self.model.worst_case(prompts, candidates)

    async def decide(self, prompts: list[str], candidates: Sequence[str] | None) -> list[Decision]:
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((prompts, candidates, answer))
        if self.busy is None or self.busy.done():
            self.busy = asyncio.create_task(self._work())
        decided: list[Decision] = await answer
        return decided

    async def _work(self) -> None:
        while self.waiting:
            closed = self.waiting[0][1]
            batch = [each for each in self.waiting if each[1] == closed]
            self.waiting = [each for each in self.waiting if each[1] != closed]
            together = [prompt for prompts, _, _ in batch for prompt in prompts]
            try:
                decided = iter(await asyncio.to_thread(self.model.decide, together, closed))
            except Exception as error:
                for _, _, answer in batch:
                    answer.set_exception(error)
                continue
            for prompts, _, answer in batch:
                answer.set_result(list(islice(decided, len(prompts))))


class RemoteLM:
    """A `LanguageModel` behind replicas, which are asked in turn; one that died is asked again once it is back."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        self.replicas = list(replicas)
        self.name = str(result(self.replicas[0].name.remote()))
        self._next = cycle(range(len(self.replicas)))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteLM, (self.replicas,)

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the worst cases of the model; raises `ModelError` where it knows none."""
        found: list[Usage] = self._ask("worst_case", prompts, candidates)
        return found

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt; raises what the model raises."""
        found: list[Decision] = self._ask("decide", prompts, candidates)
        return found

    def _ask(self, what: str, prompts: Sequence[str], candidates: Sequence[str] | None) -> Any:
        replica = self.replicas[next(self._next)]
        try:
            return result(getattr(replica, what).remote(list(prompts), candidates))
        except RayActorError as error:
            raise ModelError(f"a replica of {self.name} died more than {RESTARTS} times: {error}") from error


def replicate(config: ModelConfig, count: int, threads: int) -> RemoteLM:
    """Return a model that lives in so many processes, spread over the cluster; raises what loading it raises."""
    gpus = 1 if config.device.startswith("cuda") else 0
    options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    made = ray.remote(_Replica).options(scheduling_strategy="SPREAD", max_concurrency=1000, **options)
    return RemoteLM([made.remote(config, threads) for _ in range(count)])


def result(reference: Any) -> Any:
    """Return a result; raises what was raised there, as it was."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):  # a worker's call of a replica
            cause = cause.cause
        if isinstance(cause, LondiError | RayActorError):
            raise cause from None
        raise
