"""Language models in processes of their own over Ray, each of which batches what several callers ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import cycle, islice, pairwise
from math import lcm
from threading import Lock
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from londi import lms
from londi.cluster import num_gpus
from londi.config import ModelConfig
from londi.errors import ConfigError, LondiError, ModelError, RunError
from londi.lms.base import Decision
from londi.usage import Usage

T = TypeVar("T")

RESTARTS = 20
"""A replica is started again so often; a worker likewise in a row without having answered."""
PLACED_S = 120.0
"""Seconds in which every replica must have got its place in the cluster; how long its model takes to load is free."""
DEAD = (RayActorError, OutOfMemoryError)
"""What a call raises whose process has died; the latter where Ray ended it since the node's memory ran out."""
GONE = (*DEAD, ObjectLostError)
"""What a call raises whose process has died, or whose answer was lost with the node on which it lay."""


class _Replica:
    """A language model that decides in one batch whatever came in while it was deciding the batch before."""

    def __init__(self, config: ModelConfig, threads: int) -> None:
        self.config, self.threads, self.loading = config, threads, Lock()
        self.waiting: list[tuple[list[str], Sequence[str] | None, asyncio.Future[list[Decision]]]] = []
        self.busy: asyncio.Task[None] | None = None

    @property
    def model(self) -> lms.CachedLM:
        """Loaded when it is first needed: what a constructor raises reaches a caller as the death of its process."""
        with self.loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> lms.CachedLM:
        import torch

        torch.set_num_threads(self.threads)
        return lms.CachedLM(lms.load(self.config))

    async def placed(self) -> str:
        """Answer which process it is, once it has its place; also while it loads."""
        return str(ray.get_runtime_context().get_worker_id())

    async def name(self) -> str:
        return await self._aside(lambda: self.model.name)

    async def worst_case(self, prompts: list[str], candidates: Sequence[str] | None) -> list[Usage]:
        return await self._aside(lambda: self.model.worst_case(prompts, candidates))

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
                decided = iter(await self._aside(partial(self._decide, together, closed)))
                for prompts, _, answer in batch:
                    mine = list(islice(decided, len(prompts)))
                    if not answer.done():  # else its caller is gone
                        answer.set_result(mine)
            except Exception as error:
                for _, _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)

    def _decide(self, prompts: list[str], candidates: Sequence[str] | None) -> list[Decision]:
        return self.model.decide(prompts, candidates)

    async def _aside(self, call: Callable[[], T]) -> T:
        """Return what a call comes to in a thread; raises what it raises.

        That is a `ModelError` where it would end the event loop, so that all callers waited for ever, or can't be
        passed on.
        """

        def guarded() -> T:
            try:
                return call()
            except BaseException as error:
                if isinstance(error, Exception) and not isinstance(error, StopIteration):
                    raise
                said = f": {error}" if str(error) else ""
                raise ModelError(f"{self.config.model} raised {type(error).__name__}{said}") from error

        return await asyncio.to_thread(guarded)


class RemoteLM:
    """A `LanguageModel` behind replicas, which are asked in turn; one that died is asked again once it is back.

    Prompts are split evenly over `at_once` replicas, which decide side by side.
    """

    def __init__(self, replicas: Sequence[Any], name: str, at_once: int = 1) -> None:
        self.replicas, self.name, self.at_once = list(replicas), name, at_once
        self._next = cycle(range(len(self.replicas)))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteLM, (self.replicas, self.name, self.at_once)

    def share(self, number: int, callers: int) -> RemoteLM:
        """Return it as one of several callers asks it: its share of the replicas.

        With no more callers than replicas each has some to itself, and splits prompts over them; else callers sit
        around the replicas evenly, one between two asks both in turn. If everybody asked all in turn, some would wait
        for each other while replicas rest.
        """
        count = len(self.replicas)
        if count >= callers:
            mine = self.replicas[number * count // callers : (number + 1) * count // callers]
            return RemoteLM(mine, self.name, len(mine))
        around = lcm(count, callers)
        seats = range(number * around // callers, (number + 1) * around // callers)
        return RemoteLM([self.replicas[seat * count // around] for seat in seats], self.name)

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the worst cases of the model; raises `ModelError` where it knows none."""
        return self._ask("worst_case", prompts, candidates)

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt; raises what the model raises."""
        return self._ask("decide", prompts, candidates)

    def _ask(self, what: str, prompts: Sequence[str], candidates: Sequence[str] | None) -> list[Any]:
        parts = max(1, min(self.at_once, len(prompts)))
        ends = [len(prompts) * i // parts for i in range(parts + 1)]
        asks = [partial(self._send, what, list(prompts[a:b]), candidates) for a, b in pairwise(ends)]
        sent = [ask() for ask in asks]
        return [each for ask, reference in zip(asks, sent, strict=True) for each in self._answer(ask, reference)]

    def _send(self, what: str, prompts: list[str], candidates: Sequence[str] | None) -> Any:
        return getattr(self.replicas[next(self._next)], what).remote(prompts, candidates)

    def _answer(self, ask: Callable[[], Any], reference: Any) -> list[Any]:
        """Return what a replica answers; where its answer is lost, the next of this share is asked (or the same)."""
        for attempt in range(RESTARTS + 1):
            try:
                found: list[Any] = answer_of(reference if attempt == 0 else ask())
                return found
            except DEAD as error:
                raise ModelError(
                    f"a replica of {self.name} died, and is not started again (nor is any after {RESTARTS} deaths): "
                    f"{why(error)}"
                ) from error
            except ObjectLostError as error:
                if attempt == RESTARTS:
                    raise ModelError(
                        f"what replicas of {self.name} answer is lost again and again: {why(error)}"
                    ) from error
        raise AssertionError  # pragma: no cover


def replicas(config: ModelConfig, count: int, threads: int, gpus: float) -> list[Any]:
    """Return so many processes for a model, spread over the cluster; each has so many GPUs, and loads it when asked."""
    options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    made = ray.remote(_Replica).options(scheduling_strategy="SPREAD", max_concurrency=1000, **options)
    return [made.remote(as_seen(config, gpus), threads) for _ in range(count)]


def as_seen(config: ModelConfig, gpus: float) -> ModelConfig:
    """Return a model as a replica loads it that is shown so many GPUs: whichever they are, it sees them from 0 on."""
    return replace(config, device="cuda") if gpus and config.device.startswith("cuda") else config


def check_placed(made: Sequence[Any]) -> None:
    """Wait until all replicas have their places, or are dead, of which those who ask them are told.

    Raises `ConfigError` where some get none within `PLACED_S`.
    """
    asked = [replica.placed.remote() for replica in made]
    _, without = ray.wait(asked, num_returns=len(asked), timeout=PLACED_S) if asked else ([], [])
    if without:
        raise ConfigError(
            f"{len(without)} of {len(made)} replicas got no place in the cluster in {PLACED_S:g} s: of its "
            f"{num_gpus():g} GPUs {num_gpus(free=True):g} are free; take fewer replicas, let them share a GPU, or wait"
        )


class Watch:
    """Counts how often replicas were started again, which Ray does by itself: they say which processes they are."""

    EVERY_S = 1.0
    """Seconds after which they are asked again; to start one takes longer."""

    def __init__(self, made: Sequence[Any]) -> None:
        self.count = 0
        self._made, self._due = list(made), 0.0
        self._known: list[str] = answers_of([replica.placed.remote() for replica in made])
        self._asked: dict[int, Any] = {}

    def look(self) -> None:
        """Count what is known by now; to be called often."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self.EVERY_S
            self._take_in(0.0)
            self._ask()

    def last(self, patience: float) -> None:
        """Ask each once more, and wait as many seconds for the answers."""
        self._take_in(0.0)
        self._ask()
        self._take_in(patience)

    def _ask(self) -> None:
        for i, replica in enumerate(self._made):
            if i not in self._asked:
                self._asked[i] = replica.placed.remote()

    def _take_in(self, patience: float) -> None:
        calls = list(self._asked.values())
        answered = ray.wait(calls, num_returns=len(calls), timeout=patience)[0] if calls else []
        for i in [i for i, call in self._asked.items() if call in answered]:
            try:
                now = answer_of(self._asked.pop(i))
            except RayError:  # one that is dead for good is told of to those who ask it to decide
                continue
            self.count += now != self._known[i]
            self._known[i] = now


def answers_of(references: Sequence[Any]) -> list[Any]:
    """Return what processes that are being started answer; raises what the first to fail raises, at once.

    Raises `RunError` where one dies.
    """
    left = list(references)
    try:
        while left:
            (done, *_), left = ray.wait(left)
            answer_of(done)
        return [answer_of(reference) for reference in references]
    except GONE as error:
        raise RunError(
            f"a process died while it was started (has each node the same londi, with its extras?): {why(error)}"
        ) from error


def answer_of(reference: Any) -> Any:
    """Return what a call answers; raises what was raised there, as it was."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):  # a worker's call of a replica
            cause = cause.cause
        if isinstance(cause, (LondiError, ImportError, *GONE)):
            raise cause from None
        raise


def why(error: Exception) -> str:
    """Return in a line what Ray says of a death in many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0 if isinstance(error, OutOfMemoryError) else -1]
