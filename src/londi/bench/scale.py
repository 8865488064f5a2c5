"""`londi bench scale`: training over Ray with models of a known latency, on more and more workers.

An answer of QUICK's takes 50 ms and one of DEEPTHINK's 500 ms: of two scripted servers on loopback, however many ask,
or of replicas, each of which answers one prompt after the other. A step must wait for them; whatever else it waits for
is what londi, Ray and the machine add, and with replicas its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import psutil

from londi.bench.base import result, row
from londi.bench.server import Script, ScriptedServer
from londi.cluster import Cluster, num_cpus
from londi.config import EnvConfig, Experiment, ModelConfig, ServerConfig, TrainConfig
from londi.envs.base import TextEnv
from londi.lms.scripted import ScriptedLM
from londi.train import Progress, Trainer, prepare

QUICK_S, DEEPTHINK_S = 0.05, 0.5
UPDATES = 0.4
"""A step, of each learner: two an episode, so that none is a fraction."""
STARVED = 0.9
"""Share of the updates due that must have been made; episodes that ended together wait for each other."""
LINEAR, FULL = 0.8, 0.9
"""Ratio to linear that must be reached, unless the training had the CPUs busy for more than so much of the time."""
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
    ratio of the two (1 is linear); the share of the time in which the learner worked (`learning`); the share of the
    updates that were due for what was played which were made (`updates`; 1 is that learning keeps up with playing);
    and the share of the CPUs' time that all this took (`busy`). It passes where for each number of workers
    `updates` is `STARVED` at least, and the ratio `LINEAR`; cases below that whose CPUs were full (`FULL`) are exempt,
    and named in `full`: there it is the machine that is measured.
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
    return {**result("scale", rows), "seconds": seconds, "replicas": replicas, **_verdict(rows)}


def _verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    below = [row for row in rows if row["ratio"] < LINEAR]
    full = [row["case"] for row in below if row["busy"] > FULL]
    counts = {
        "numbers of workers at which the learner starves": sum(row["updates"] < STARVED for row in rows),
        f"numbers of workers below {LINEAR} of linear with CPUs to spare": len(below) - len(full),
    }
    checks = {what: {"count": count, "passed": count == 0} for what, count in counts.items()}
    return {"full": full, "checks": checks, "passed": not any(counts.values())}


def _measure(
    workers: int, seconds: float, pair: Sequence[ModelConfig], replicas: tuple[int, int] | None
) -> dict[str, Any]:
    cluster = Cluster("local", workers, *(replicas or (1, 1)))
    train = TrainConfig(num_steps=10**7, num_envs=workers, warmup_steps=STEPS, updates_per_step=UPDATES)
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
    shares = {"learning": window.learning / wall, "updates": window.updates, "busy": window.busy}
    return {**found, "workers": workers, "calls": calls / steps, "limit": limit if replicas else None, **shares}


class _OverError(Exception):
    """The window is over."""


@dataclass(frozen=True)
class _Mark:
    """Where a training stands at the beginning or the end of the window."""

    clock: float
    steps: int
    """Learned from."""
    waiting: int
    """Played to the end of an episode, and not learned from yet."""
    updates: float
    """Of each learner."""
    learning: float
    """Seconds."""
    cpu: float
    """Seconds of CPU time that all processes took."""


class _Window:
    """Watches a training; measures from its `first` step on for so many seconds, then ends it."""

    def __init__(self, trainer: Trainer, first: int, seconds: float) -> None:
        self.trainer, self.first, self.seconds = trainer, first, seconds
        self.begun: _Mark | None = None

    def __call__(self, now: Progress) -> None:
        if self.begun is None:
            if now.step >= self.first:
                self.begun, self.cpus = self._mark(), num_cpus()
        elif time.perf_counter() - self.begun.clock >= self.seconds:
            self.end = self._mark()
            raise _OverError

    def _mark(self) -> _Mark:
        made = [learner.updates for learner in self.trainer.learners.values()]
        waiting = STEPS * self.trainer.rollout.num_waiting
        learning = self.trainer.learning_seconds
        return _Mark(time.perf_counter(), self.trainer.step, waiting, sum(made) / len(made), learning, _cpu_seconds())

    @property
    def found(self) -> tuple[int, int, float]:
        """Steps, DEEPTHINK calls, and seconds of the window."""
        assert self.begun is not None
        called = self.trainer.replay.state()["columns"]["called"][self.begun.steps : self.end.steps]
        return len(called), int(called.sum()), self.end.clock - self.begun.clock

    @property
    def learning(self) -> float:
        """Seconds in which the learner worked."""
        assert self.begun is not None
        return self.end.learning - self.begun.learning

    @property
    def busy(self) -> float:
        """Share of the time of the CPUs that the training may use in which it ran, its models included."""
        assert self.begun is not None
        return (self.end.cpu - self.begun.cpu) / ((self.end.clock - self.begun.clock) * self.cpus)

    @property
    def updates(self) -> float:
        """Share of the updates made that were due for all episodes that ended, those that wait included."""
        assert self.begun is not None
        played = self.end.steps + self.end.waiting - self.begun.steps - self.begun.waiting
        return (self.end.updates - self.begun.updates) / (UPDATES * played)


def _cpu_seconds() -> float:
    """CPU time of this process and of all that it started, Ray's included; others' is not their doing."""
    driver, seconds = psutil.Process(), 0.0
    for process in (driver, *driver.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            took = process.cpu_times()
            seconds += took.user + took.system
    return seconds


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
