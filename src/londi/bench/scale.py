"""`londi bench scale`: training over Ray with models of a known latency, on more and more workers.

An answer of QUICK's takes 50 ms and one of DEEPTHINK's 500 ms: of two scripted servers on loopback, however many ask,
or of replicas, each of which answers one prompt after the other. A step must wait for them; whatever else it waits for
is what londi, Ray and the machine add, and with replicas its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium

from londi.bench.base import result, row
from londi.bench.server import Script, ScriptedServer
from londi.cluster import Cluster
from londi.config import EnvConfig, Experiment, ModelConfig, ServerConfig, TrainConfig
from londi.envs.base import TextEnv
from londi.lms.scripted import ScriptedLM
from londi.train import Progress, Trainer, prepare

QUICK_S, DEEPTHINK_S = 0.05, 0.5
STEPS = 5
"""Of an episode."""
ACTIONS = ("left", "right")
ENV = "londi/Waiting-v0"


class Waiting(TextEnv):
    """Nothing happens, five times; each observation is new, so that no answer is known already."""

    admissible = ACTIONS

    def __init__(self) -> None:
        super().__init__(STEPS)

    def _begin(self, seed: int | None) -> str:
        self.goal = "wait"
        return self._observe()

    def _observe(self) -> str:
        return f"You see number {self.np_random.integers(2**40)}."

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        return self._observe(), 0.0, False, False


gymnasium.register(ENV, f"{__name__}:Waiting", disable_env_checker=True)


def quick() -> ScriptedLM:
    """Return a model that takes QUICK's time for each prompt, one after the other."""
    return ScriptedLM(partial(_wait, QUICK_S), "quick")


def deepthink() -> ScriptedLM:
    """Return a model that takes DEEPTHINK's time for each prompt, one after the other."""
    return ScriptedLM(partial(_wait, DEEPTHINK_S), "deepthink")


def _wait(seconds: float, prompt: str) -> str:
    time.sleep(seconds)
    return ACTIONS[0]


def bench_scale(
    workers: Sequence[int],
    seconds: float,
    replicas: tuple[int, int] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Train for some seconds with each number of workers, an environment each.

    A row holds steps a second; as a reference what they would be if each step took the latency of its answers alone,
    or, with so many `replicas` of QUICK and DEEPTHINK, as many as these can answer where that is less (`limit`); the
    ratio of the two (1 is linear); and the share of the time in which the learner worked.
    """
    rows = []
    with nullcontext() if replicas else _servers((QUICK_S, DEEPTHINK_S)) as urls:
        for done, count in enumerate(workers):
            pair = [ModelConfig(f"python:{__name__}:{name}") for name in ("quick", "deepthink")]
            if urls:
                server = partial(ServerConfig, api_key_env="", api="chat", choose="generate", concurrency=count)
                pair = [ModelConfig("openai:toy", server=server(url)) for url in urls]
            rows.append(_measure(count, seconds, pair, replicas))
            progress(done + 1)
    return result("scale", rows)


def _measure(
    workers: int, seconds: float, pair: Sequence[ModelConfig], replicas: tuple[int, int] | None
) -> dict[str, Any]:
    cluster = Cluster("local", workers, *(replicas or (1, 1)))
    train = TrainConfig(num_steps=10**7, num_envs=workers, warmup_steps=STEPS, updates_per_step=0.3)
    experiment = Experiment("scale", EnvConfig(f"{__name__}:{ENV}"), pair[0], pair[1], train=train)
    with TemporaryDirectory() as folder:
        trainer = prepare(Path(folder) / "run", experiment, cluster)
        window = _Window(trainer, 2 * STEPS * workers, seconds)
        with suppress(_OverError):
            trainer.train(window)
    steps, calls, wall = window.found
    waited = steps * QUICK_S + calls * DEEPTHINK_S
    linear, limit = steps * workers / waited, float("inf")
    if replicas:
        limit = min(replicas[0] / QUICK_S, replicas[1] * steps / (calls * DEEPTHINK_S) if calls else float("inf"))
    found = row(f"{workers} workers", steps / wall, min(linear, limit), "steps a second")
    return {**found, "limit": limit if replicas else None, "learning": window.learning / wall}


class _OverError(Exception):
    """The window is over."""


class _Window:
    """Watches a training; measures from its `first` step on for so many seconds, then ends it."""

    def __init__(self, trainer: Trainer, first: int, seconds: float) -> None:
        self.trainer, self.first, self.seconds = trainer, first, seconds
        self.begun: tuple[float, int, float] | None = None

    def __call__(self, now: Progress) -> None:
        clock = time.perf_counter()
        if self.begun is None:
            if now.step >= self.first:
                self.begun = clock, now.step, self.trainer.learning_seconds
        elif clock - self.begun[0] >= self.seconds:
            self.end = clock
            raise _OverError

    @property
    def found(self) -> tuple[int, int, float]:
        """Steps, DEEPTHINK calls, and seconds of the window."""
        assert self.begun is not None
        begun, first, _ = self.begun
        called = self.trainer.replay.state()["columns"]["called"][first : self.trainer.step]
        return len(called), int(called.sum()), self.end - begun

    @property
    def learning(self) -> float:
        """Seconds in which the learner worked."""
        assert self.begun is not None
        return self.trainer.learning_seconds - self.begun[2]


@contextmanager
def _servers(latencies: Sequence[float]) -> Iterator[list[str]]:
    """Serve in a process of their own; yields their addresses."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, tuple(latencies)), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(10)
        if process.is_alive():
            process.kill()


def _serve(pipe: Connection, latencies: Sequence[float]) -> None:
    servers = [ScriptedServer(Script(ACTIONS, latency=latency)).__enter__() for latency in latencies]
    pipe.send([server.url for server in servers])
    pipe.recv()
    for server in servers:
        server.__exit__(None, None, None)
