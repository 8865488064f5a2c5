"""Training over Ray with replicas on a real GPU, which both models share; skipped where there is none."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")
torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from londi import config  # noqa: E402
from londi.bench.resume import what_came_out  # noqa: E402
from londi.cluster import Cluster  # noqa: E402
from londi.config import Experiment  # noqa: E402
from londi.errors import ConfigError  # noqa: E402
from londi.rollout_ray import RayRollout  # noqa: E402
from londi.train import Trainer, prepare  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=4, num_gpus=1, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def goto() -> Experiment:
    made = config.load(ROOT / "experiments" / "babyai" / "goto.toml")
    train = replace(made.train, num_steps=1_200, warmup_steps=200, checkpoint_steps=400, num_envs=16)
    on_gpu = {name: replace(getattr(made, name), device="cuda") for name in ("quick", "deepthink")}
    return replace(made, train=train, **on_gpu)


def sharing(workers: int) -> Cluster:
    return Cluster(num_workers=workers, quick_gpus=0.3, deepthink_gpus=0.7)


def processes_on_gpu(playing: RayRollout) -> list[int]:
    """Ask every replica what it has allocated on the GPU that it sees, and which process it is."""

    def held(replica: Any) -> tuple[int, int]:
        return torch.cuda.memory_allocated(), os.getpid()

    found = ray.get([replica.__ray_call__.remote(held) for replica in playing._replicas])
    assert all(allocated > 0 for allocated, _ in found), "a replica's model is elsewhere"
    return [process for _, process in found]


def check(trainer: Trainer) -> None:
    columns = trainer.replay.state()["columns"]
    finite = np.isfinite(columns["remaining"])
    assert finite.any()
    assert columns["called"].any()
    assert not (columns["called"] & (columns["remaining"] < 1)).any()


def test_both_models_share_a_gpu_and_a_killed_replica_costs_nothing(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", goto(), sharing(2))
    playing = trainer.rollout
    assert isinstance(playing, RayRollout)
    found: list[list[int]] = []

    def progress(now: Any) -> None:
        if now.step > 300 and not found:
            found.append(processes_on_gpu(playing))
            os.kill(found[0][0], signal.SIGKILL)
        elif now.step > 1_000 and len(found) == 1:
            found.append(processes_on_gpu(playing))

    trainer.train(progress)
    assert trainer.step >= 1_200
    assert trainer.num_lost == 0
    first, then = found
    assert len(first) == len(then) == 2
    assert first[0] != then[0], "the one that was killed is another process now, on the GPU again"
    assert first[1] == then[1]
    check(trainer)


def test_one_worker_on_a_gpu_is_what_no_ray_is(tmp_path: Path) -> None:
    prepare(tmp_path / "serial", goto()).train()
    trainer = prepare(tmp_path / "ray", goto(), sharing(1))
    trainer.train()
    assert what_came_out(tmp_path / "ray") == what_came_out(tmp_path / "serial")
    check(trainer)


def test_more_replicas_than_the_gpu_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need 2 GPUs, the cluster has 1"):
        prepare(tmp_path / "run", goto(), Cluster())
