"""`londi bench scale`: training over Ray with served models of a known latency, on more and more workers.

Two scripted servers on loopback take 50 ms for an answer of QUICK's and 500 ms for one of DEEPTHINK's, however many
ask. A step must wait for them; whatever else it waits for is what londi, Ray and the machine add.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium

from londi.bench.base import result
from londi.bench.server import Script, ScriptedServer
from londi.cluster import Cluster
from londi.config import EnvConfig, Experiment, ModelConfig, ServerConfig, TrainConfig
from londi.envs.base import TextEnv
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


def bench_scale(
    workers: Sequence[int], seconds: float, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Train for some seconds with each number of workers, an environment each.

    A row holds steps a second; as a reference what they would be if each step took the latency of its answers alone;
    the ratio of the two (1 is linear); and the share of the time in which the learner worked.
    """
    rows = []
    with _servers((QUICK_S, DEEPTHINK_S)) as urls:
        for done, count in enumerate(workers):
            rows.append(_measure(count, seconds, urls))
            progress(done + 1)
    return result("scale", rows)


def _measure(workers: int, seconds: float, urls: Sequence[str]) -> dict[str, Any]:
    quick, deepthink = (
        ModelConfig("openai:toy", server=ServerConfig(url, "", api="chat", choose="generate", concurrency=workers))
        for url in urls
    )
    train = TrainConfig(num_steps=10**7, num_envs=workers, warmup_steps=STEPS, updates_per_step=0.3)
    experiment = Experiment("scale", EnvConfig(f"{__name__}:{ENV}"), quick, deepthink, train=train)
    with TemporaryDirectory() as folder:
        trainer = prepare(Path(folder) / "run", experiment, Cluster(num_workers=workers))
        window = _Window(trainer, 2 * STEPS * workers, seconds)
        with suppress(_OverError):
            trainer.train(window)
    steps, calls, wall = window.found
    waited = steps * QUICK_S + calls * DEEPTHINK_S
    ours, linear = steps / wall, steps * workers / waited
    return {
        "case": f"{workers} workers",
        "ours": ours,
        "reference": linear,
        "ratio": ours / linear,
        "unit": "steps a second",
        "learning": window.learning / wall,
    }


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
