"""Training over Ray where something is wrong or goes wrong: it is said, nothing hangs, and no episode is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from ray.exceptions import OutOfMemoryError, RayActorError  # noqa: E402

from londi import config, rollout_ray  # noqa: E402
from londi.bench.server import Script, ScriptedServer  # noqa: E402
from londi.cli import main  # noqa: E402
from londi.cluster import Cluster, connect  # noqa: E402
from londi.config import Experiment, ModelConfig, ServerConfig  # noqa: E402
from londi.episode import Episode  # noqa: E402
from londi.errors import CheckpointError, ConfigError, ModelError, RunError  # noqa: E402
from londi.lms import replicas  # noqa: E402
from londi.rollout import LOSSES  # noqa: E402
from londi.rollout_ray import RayRollout  # noqa: E402
from londi.run import load_checkpoint  # noqa: E402
from londi.train import prepare  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

MODELS = """
from pathlib import Path

import gymnasium

from londi.envs.keydoor import KeyDoorEnv, quick_policy
from londi.errors import ModelError


def breakable(prompt):
    if Path(__file__).with_name("broken").exists():
        raise ModelError("it is broken")
    return quick_policy(prompt)


class Losing(KeyDoorEnv):
    def reset(self, *, seed=None, options=None):
        self.playing = seed
        return super().reset(seed=seed, options=options)

    def _apply(self, action):
        self.world_lost = self.playing % 5 == 0
        return super()._apply(action)


gymnasium.register("Losing-v0", Losing, disable_env_checker=True)
"""


PRICES = """
date = 2026-01-01

[models.toy]
prompt = 1.0
completion = 2.0
"""


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One Ray for the module, with a GPU that it only believes in; and a folder of models that its processes find."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "made_up.py").write_text(MODELS)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
        yield folder
        ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[RayRollout]:
    """Those that were closed."""
    found: list[RayRollout] = []
    close = RayRollout.close

    def note(self: RayRollout) -> None:
        found.append(self)
        close(self)

    monkeypatch.setattr(RayRollout, "close", note)
    return found


def keydoor(quick: ModelConfig | None = None, deepthink: ModelConfig | None = None, **train: Any) -> Experiment:
    made = config.load(ROOT / "experiments" / "keydoor.toml")
    steps: dict[str, Any] = {"num_steps": 300, "warmup_steps": 290, "num_envs": 8}
    made = replace(made, train=replace(made.train, **steps | train))
    return replace(made, quick=quick or made.quick, deepthink=deepthink or made.deepthink)


def test_a_model_that_fails_leaves_a_checkpoint(tmp_path: Path, models: Path) -> None:
    made = keydoor(ModelConfig("python:made_up:breakable"))
    trainer = prepare(tmp_path / "run", made, Cluster(num_workers=1))
    playing = trainer.rollout
    assert isinstance(playing, RayRollout)
    (models / "broken").touch()
    playing._go(playing._seats[0])
    assert seeds(playing.state()) == {2**32 + number for number in range(8)}, "what fails meanwhile comes after it"
    with pytest.raises(ModelError, match="it is broken"):
        playing.step()
    (models / "broken").unlink()
    with pytest.raises(ModelError, match="it is broken"):
        trainer.train(lambda now: (models / "broken").touch() if now.step > 100 else None)
    (models / "broken").unlink()
    assert {each.name for each in (tmp_path / "run" / "checkpoints").iterdir()} >= {"budget.pt", "price.pt", "last.pt"}
    resumed = prepare(tmp_path / "run", made)
    assert (resumed.step, resumed.begun_anew) == (trainer.step, 0)
    assert seeds(resumed.rollout.state()) == seeds(load_checkpoint(resumed.run.checkpoint)["playing"])
    resumed.train()
    assert resumed.step >= 300


def test_what_had_ended_is_yielded_before_what_failed_is_raised(tmp_path: Path, models: Path) -> None:
    trainer = prepare(tmp_path / "run", keydoor(ModelConfig("python:made_up:breakable")), Cluster(num_workers=2))
    with trainer.rollout as playing:
        assert isinstance(playing, RayRollout)
        while not playing._ended:
            playing.step()  # and nothing is taken from it
        ended = {episode.seed for _, _, episode, _ in playing._ended}
        (models / "broken").touch()
        for seat in playing._seats:
            if seat.pending is None:
                playing._go(seat)
        ray.wait(playing._pending(), num_returns=2, timeout=60)
        seen: set[int] = set()
        try:
            with pytest.raises(ModelError, match="it is broken"):
                seen.update(episode.seed for _ in range(100) for episode, _ in playing.step() or ())
        finally:
            (models / "broken").unlink()
        assert ended <= seen
        written = seeds(playing.state())
        assert seen | written == {2**32 + number for number in range(trainer.started)}
        assert not seen & written


def seeds(state: list[dict[str, Any]]) -> set[int]:
    found = [each["assignment"]["seed"] for each in state]
    assert len(found) == len(set(found)), "one is there twice"
    return set(found)


def kill(actor: Any) -> None:
    """Kill it, and wait until it is dead."""
    ray.kill(actor)
    with pytest.raises(RayActorError):
        ray.get([actor.where.remote() for _ in range(1_000)])


def lost_with_its_owner() -> Any:
    """An answer that is lost, though the process that was asked may live."""

    class Owner:
        def ask(self) -> list[Any]:
            return [ray.remote(lambda seconds: time.sleep(seconds)).options(num_cpus=0).remote(60)]

    owner: Any = ray.remote(Owner).options(num_cpus=0).remote()
    (lost,) = ray.get(owner.ask.remote())
    ray.kill(owner)
    return lost


def test_every_episode_is_somewhere_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yielded or in the checkpoint: whatever happens to workers, to what they answer, and to the loop over it."""
    trainer = prepare(tmp_path / "run", keydoor(num_envs=16), Cluster(num_workers=2))
    seen: set[int] = set()

    def check() -> None:
        written = seeds(playing.state())
        assert seen | written == {2**32 + number for number in range(trainer.started)}
        assert not seen & written

    with trainer.rollout as playing:
        assert isinstance(playing, RayRollout)
        kill(playing._seats[0].actor)
        begun = [{"assignment": asdict(each), "begun": False} for each in islice(trainer.assignments(), 3)]
        assert (playing.restore(begun), playing.lost) == (0, 3)
        check()
        while len(playing._ended) < 2:
            steps = iter(playing.step() or ())
            if len(playing._ended) < 2:
                seen |= {episode.seed for episode, _ in steps}
        seen.add(next(steps)[0].seed)  # the loop is cut off here
        check()
        seen |= {episode.seed for episode, _ in playing.step() or ()}
        seat = playing._seats[0]
        seat.pending = lost_with_its_owner()
        check()
        assert seat not in playing._seats
        seen |= {episode.seed for episode, _ in playing.step() or ()}
        monkeypatch.setattr(rollout_ray, "RESTARTS", 0)
        kill(playing._seats[1].actor)
        with pytest.raises(RunError, match="died 1 times"):
            seen.update(episode.seed for _ in range(1_000) for episode, _ in playing.step() or ())
        check()


def test_a_worker_whose_node_has_no_memory_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray says so by an error of its own, which is neither a death nor a lost answer."""
    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=2))
    answer_of, killed, playing = replicas.answer_of, 0, trainer.rollout
    assert isinstance(playing, RayRollout)
    no_memory = OutOfMemoryError("1 worker(s) were killed\nRefer to the documentation")  # type: ignore[no-untyped-call]

    def none_left(reference: Any) -> Any:
        nonlocal killed
        if killed in (1, 3):
            killed += 1
            raise no_memory
        return answer_of(reference)

    def progress(now: Any) -> None:
        nonlocal killed
        if now.step > 100 and not killed:
            killed = 1  # the next step that is answered
        elif killed == 2:
            before = seeds(playing.state())  # no worker has a step to take now
            killed = 3
            assert seeds(playing.state()) == before
            assert killed == 4

    monkeypatch.setattr(rollout_ray, "answer_of", none_left)
    trainer.train(progress)
    assert (trainer.step >= 300, killed) == (True, 4)
    assert trainer.num_lost == 4, "what its half of the environments played"
    assert trainer.num_restarted == (1, 0)
    assert replicas.why(no_memory) == "1 worker(s) were killed"


def test_what_environments_lose_in_workers_is_counted_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keydoor()
    trainer = prepare(
        tmp_path / "run", replace(made, env=replace(made.env, id="made_up:Losing-v0")), Cluster(num_workers=2)
    )
    playing, note, seen = trainer.rollout, trainer._note, set[int]()

    def noted(episode: Episode) -> None:
        seen.add(episode.seed)
        note(episode)

    assert isinstance(playing, RayRollout)
    monkeypatch.setattr(trainer, "_note", noted)
    trainer.train()
    assert trainer.step >= 300
    assert not any(seed % 5 == 0 for seed in seen)
    assert playing.given_up
    assert all(seed % 5 == 0 for seed in playing.given_up)
    assert trainer.num_lost >= LOSSES * len(playing.given_up)
    written = load_checkpoint(trainer.run.checkpoint)
    assert (written["given_up"], written["lost"]) == (trainer.num_given_up, trainer.num_lost)


# Ray looks for signals once a second, and two that came meanwhile are one
@pytest.mark.filterwarnings("ignore:no worker has answered")
@pytest.mark.parametrize("waits", [(1.0, 3.5), (0.0, 2.5)], ids=["while it waits for a step", "while it saves"])
def test_a_second_signal_does_not_wait_for_what_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: tuple[float, float]
) -> None:
    monkeypatch.setattr("londi.train.HURRY_S", 0.5)
    monkeypatch.setattr("londi.rollout_ray.PLACED_S", 0.8)
    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=2))
    seats = trainer.rollout._seats  # type: ignore[union-attr]
    hanging = ray.get([seat.actor.__ray_call__.remote(lambda self: os.getpid()) for seat in seats])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = 0

    def progress(now: Any) -> None:
        nonlocal ended
        ended += 1
        if ended == 10:
            for pid in hanging:
                os.kill(pid, signal.SIGSTOP)
            for seconds in waits:
                Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    begun = time.monotonic()
    told = pytest.warns(UserWarning, match="no worker has answered") if waits[0] else nullcontext()
    try:
        with told, pytest.raises(KeyboardInterrupt):
            trainer.train(progress)
    finally:
        for pid in hanging:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 60
    written = load_checkpoint(trainer.run.checkpoint)["playing"]
    assert not any(each["begun"] for each in written), "none of them could take its step"
    assert len(seeds(written)) + ended == trainer.started


WRONG = {
    "model": (ModelConfig("builtin:nope"), None),
    "server": (None, ModelConfig("openai:toy", server=ServerConfig("http://127.0.0.1:9/v1", "", attempts=1))),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_as_without_ray(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], closed: list[RayRollout]
) -> None:
    (tmp_path / "wrong.toml").write_text(config.dump(keydoor(*WRONG[what])))
    said = []
    for ray_too in ([], ["--ray", "local", "--workers", "1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(tmp_path / "wrong.toml"), "--run", str(tmp_path / "run"), *ray_too])
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert said[1].startswith("londi: ")
    assert said[1].count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert len(closed) == 1


def test_a_package_that_a_node_lacks_is_named() -> None:
    def lack() -> None:
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    with pytest.raises(ModuleNotFoundError) as raised:
        replicas.answer_of(ray.remote(lack).options(num_cpus=0).remote())
    assert raised.value.name == "peft"


def test_served_models(tmp_path: Path, closed: list[RayRollout]) -> None:
    """Workers ask them themselves, all together no more at a time than was said; dollars are theirs."""
    (tmp_path / "prices.toml").write_text(PRICES)
    actions = tuple(prepare(tmp_path / "other", keydoor()).envs[0].admissible or ())
    with ScriptedServer(Script(actions)) as server:
        served = ModelConfig("openai:toy", server=ServerConfig(server.url, "", concurrency=5))
        made = keydoor(deepthink=served, price_measure="dollars", num_steps=150, warmup_steps=140)
        with pytest.raises(ConfigError, match="has no price"):
            prepare(tmp_path / "run", made, Cluster(num_workers=1))
        assert len(closed) == 1
        priced = replace(served, server=replace(served.server, prices=str(tmp_path / "prices.toml")))
        trainer = prepare(tmp_path / "run", replace(made, deepthink=priced), Cluster(num_workers=1))
        trainer.train()
    assert [rollout_ray._share(served, workers).server.concurrency for workers in (1, 2, 9)] == [5, 2, 1]
    costs = trainer.replay.state()["columns"]
    assert (costs["cost"][costs["called"]] > 0).all()


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has one here: two replicas would wait for ever."""
    on = [ModelConfig(f"builtin:keydoor-{name}", device="cuda:1") for name in ("quick", "deepthink")]
    made = keydoor(*on)
    with pytest.raises(ConfigError, match=r"need 2 GPUs, the cluster has 1: .*--quick-gpus 0\.5"):
        prepare(tmp_path / "run", made, Cluster(num_workers=1))
    with pytest.raises(ConfigError, match=r"quick\.device is cuda:1, but its replicas get no GPU"):
        prepare(tmp_path / "run", made, Cluster(num_workers=1, quick_gpus=0))
    for wrong in (-1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="a share of a GPU or a whole number"):
            Cluster(deepthink_gpus=wrong)
    assert replicas.as_seen(on[0], 0.5).device == "cuda"
    sharing = Cluster(num_workers=1, quick_gpus=0.5, deepthink_gpus=0.5)
    trainer = prepare(tmp_path / "run", made, sharing)
    with trainer.rollout as playing:
        monkeypatch.setattr(replicas, "PLACED_S", 0.5)
        with pytest.raises(ConfigError, match=r"2 of 2 replicas got no place .* of its 1 GPUs 0 are free"):
            prepare(tmp_path / "other", made, sharing)
        assert isinstance(playing, RayRollout)
        playing._replicas += replicas.replicas(on[0], 1, 1, 0.5)  # as one whose node is gone, and no other has a GPU
        playing._go(playing._seats[0])
        playing._seats[0].pending = playing._replicas[-1].placed.remote()
        monkeypatch.setattr(rollout_ray, "PLACED_S", 0.5)
        with pytest.raises(ConfigError, match="1 of 3 replicas got no place"):
            playing.step()
        assert len(playing.state()) == trainer.started
    auto = replace(made.quick, device="cpu", local=replace(made.quick.local, device_map="auto"))
    assert Cluster().gpus(replace(made, quick=auto)) == (1, 1)


def test_what_can_not_go_on_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(now: Any) -> None:
        raise KeyboardInterrupt

    class Playing(nullcontext[None]):
        """In the place of a `RayRollout`."""

        deepthink, closed = None, False

        def __init__(self, *args: Any) -> None:
            super().__init__()

        def restore(self, state: Any) -> int:
            raise ValueError("too many")

        def __exit__(self, *args: object) -> None:
            Playing.closed = True

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "run", keydoor()).train(interrupt)
    monkeypatch.setattr(rollout_ray, "RayRollout", Playing)
    with pytest.raises(CheckpointError, match="does not fit"):
        prepare(tmp_path / "run", keydoor(), Cluster())
    assert Playing.closed


def test_ray_that_runs_already_is_not_taken_for_another() -> None:
    joined = ray.get_runtime_context().gcs_address
    assert [connect(address) for address in ("local", "auto", joined)] == [False] * 3
    port = joined.rpartition(":")[2]
    assert not connect(f"127.0.0.1:{port}")
    for other in ("127.0.0.1:1", f"nowhere.invalid:{port}"):
        with pytest.raises(RunError, match=f"has joined Ray at {joined}, not '{other}'"):
            connect(other)
