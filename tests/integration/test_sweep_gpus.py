"""`londi sweep` and GPUs, which Ray is told there are: how runs share them, and what finds no room."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.tune")

from londi import config  # noqa: E402
from londi.cli import main  # noqa: E402
from londi.cluster import run_gpus  # noqa: E402
from londi.config import Experiment, ModelConfig, ServerConfig  # noqa: E402
from londi.errors import ConfigError  # noqa: E402

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
SEEING = """
import atexit
import os
import time
from pathlib import Path

from londi.envs.keydoor import quick_policy

begun, seen = time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES")
folder = Path(__file__).parent
(folder / f"{os.getpid()}.begun").touch()
while (folder / "wait").exists() and len(list(folder.glob("*.begun"))) < 2 and time.monotonic() < begun + 60:
    time.sleep(0.1)


@atexit.register
def tell():
    (folder / f"{os.getpid()}.seen").write_text(f"{begun} {time.monotonic()} {seen}")


def quick(prompt):
    return quick_policy(prompt)
"""


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def short(device: str) -> Experiment:
    train = replace(KEYDOOR.train, num_steps=200, warmup_steps=100, num_envs=8, updates_per_step=0.1)
    few: dict[str, Any] = {"episodes": 10, "selection_episodes": 10, "prices": (0.1,), "budgets": (0,), "processes": 1}
    evaluate = replace(KEYDOOR.evaluate, random_rates=(), entropy_thresholds=(), **few)
    deepthink = replace(KEYDOOR.deepthink, device=device)
    return replace(
        KEYDOOR, quick=ModelConfig("python:seeing:quick"), deepthink=deepthink, train=train, evaluate=evaluate
    )


@pytest.mark.parametrize(("given", "at_once"), [([], False), (["--gpus", "0.5"], True)])
def test_runs_share_the_gpus(tmp_path: Path, given: list[str], at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.toml").write_text(config.dump(short("cuda")))
    Path("seeing.py").write_text(SEEING)
    if at_once:
        Path("wait").touch()  # for the other one to begin
    main(["sweep", "short.toml", "--seeds", "0", "1", *given])
    seen = sorted(path.read_text().split() for path in tmp_path.glob("*.seen"))
    assert [gpu for _, _, gpu in seen] == ["0"] * 4, "two trained, two evaluated"
    overlap = any(float(ended) > float(begun) for (_, ended, _), (begun, _, _) in pairwise(seen))
    assert overlap == at_once


@pytest.mark.parametrize(
    ("device", "args", "said"),
    [
        ("cuda:1", [], "a run takes 1 CPUs and 2 GPUs, the nodes of the cluster have 2 CPUs and 1 GPUs: lower"),
        ("cpu", ["--gpus", "2"], "a run takes 1 CPUs and 2 GPUs"),
        ("cpu", ["--cpus", "3"], "a run takes 3 CPUs and 0 GPUs"),
        ("cuda", ["--gpus", "0"], "deepthink.device is cuda, but a run gets 0 GPUs"),
        (
            "cuda:1",
            ["--gpus", "1"],
            "deepthink.device is cuda:1, but a run gets 1 GPUs, counted from cuda:0: take --gpus 2",
        ),
        ("cpu", ["--gpus", "1.5"], "a run takes a share of a GPU or a whole number of them, not 1.5"),
    ],
)
def test_what_finds_no_room_is_refused(
    tmp_path: Path, device: str, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "short.toml"
    source.write_text(config.dump(short(device)))
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(source), "--folder", str(tmp_path / "runs"), *args])
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_how_many_gpus_a_run_takes() -> None:
    server = ModelConfig("openai:toy", device="cuda:3", server=ServerConfig("http://127.0.0.1:9/v1", ""))
    spread = replace(KEYDOOR.quick, local=replace(KEYDOOR.quick.local, device_map="auto"))
    assert [run_gpus(short(device)) for device in ("cpu", "cuda", "cuda:2")] == [0, 1, 3]
    assert run_gpus(replace(short("cuda"), quick=replace(KEYDOOR.quick, device="cuda:1"))) == 2
    assert run_gpus(replace(short("cpu"), quick=server)) == 0
    assert run_gpus(replace(short("cpu"), quick=spread)) == 1
    assert run_gpus(replace(short("cpu"), quick=spread), 0) == 0
    assert run_gpus(short("cuda"), 0.25) == 0.25
    with pytest.raises(ConfigError, match="another device"):
        run_gpus(short("cuda"), 0)
