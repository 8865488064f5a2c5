"""Training over Ray: what it comes to with one worker, and what a lost worker or replica costs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

import numpy as np  # noqa: E402

from londi import config, lms, rollout_ray  # noqa: E402
from londi.bench.resume import what_came_out  # noqa: E402
from londi.cli import main, runs  # noqa: E402
from londi.cluster import Cluster  # noqa: E402
from londi.config import Experiment, ModelConfig, ServerConfig  # noqa: E402
from londi.errors import ConfigError, ModelError  # noqa: E402
from londi.lms.replicas import answer_of  # noqa: E402
from londi.rollout import Assignment  # noqa: E402
from londi.rollout_ray import RayRollout  # noqa: E402
from londi.run import load_checkpoint  # noqa: E402
from londi.switchers import Never  # noqa: E402
from londi.train import Trainer, prepare  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


def keydoor(**train: Any) -> Experiment:
    made = config.load(ROOT / "experiments" / "keydoor.toml")
    steps: dict[str, Any] = {"num_steps": 600, "warmup_steps": 100, "checkpoint_steps": 200, "num_envs": 8}
    return replace(made, train=replace(made.train, updates_per_step=0.1, **steps | train))


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for the module: starting it takes longer than what is tested."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def killing(trainer: Trainer, after: int, kill: Callable[[], None]) -> None:
    """Kill something once, in the middle of the training."""
    done = threading.Event()

    def progress(now: Any) -> None:
        if now.step > after and not done.is_set():
            done.set()
            kill()

    trainer.train(progress)
    assert done.is_set()


def budgets_hold(trainer: Trainer) -> bool:
    columns = trainer.replay.state()["columns"]
    assert np.isfinite(columns["remaining"]).any(), "nothing was played under a budget"
    return not bool((columns["called"] & (columns["remaining"] < 1)).any())


def test_one_worker_is_what_no_ray_is(tmp_path: Path) -> None:
    serial = prepare(tmp_path / "serial", keydoor())
    there = prepare(tmp_path / "ray", keydoor(), Cluster(num_workers=1))
    for trainer in (serial, there):
        trainer.train()
    played, again = (trainer.replay.state()["columns"] for trainer in (serial, there))
    assert all(np.array_equal(column, again[name]) for name, column in played.items())
    assert what_came_out(tmp_path / "ray") == what_came_out(tmp_path / "serial")


def test_one_worker_asks_all_replicas_at_once(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=1, quick_replicas=2))
    with trainer.rollout as playing:
        quick = playing.quick  # type: ignore[union-attr]
        assert quick is not None
        for _ in playing.step() or ():
            pass
        asked = ray.get([each.__ray_call__.remote(lambda self: self.model.misses) for each in quick.replicas])
        assert min(asked) > 0, "one is left idle"
        env = trainer.envs[0]
        seen = [env.reset(seed=seed) for seed in range(7)]
        prompts = [trainer.experiment.env.prompt.render(i["goal"], [text], [], env.admissible) for text, i in seen]
        split, alone = quick.share(0, 1), lms.load(trainer.experiment.quick)
        answers = [each.action for each in split.decide(prompts, env.admissible)]
        assert answers == [each.action for each in alone.decide(prompts, env.admissible)]
        assert len(set(answers)) > 1, "their order shows"
        shares = [quick.share(number, 2) for number in range(2)]
        assert [(each.at_once, each.replicas[0]) for each in shares] == [(1, one) for one in quick.replicas]


def test_workers_play_on_while_episodes_are_learned_from(tmp_path: Path) -> None:
    with prepare(tmp_path / "run", keydoor(), Cluster(num_workers=2)).rollout as playing:
        for _ in range(1_000):
            episodes = iter(playing.step() or ())
            asked = [(seat, seat.pending) for seat in playing._seats if seat.pending is not None]  # type: ignore[union-attr]
            if next(episodes, None) and asked:  # one is being learned from, and another worker plays
                break
        ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=60)
        for _ in episodes:
            pass
        assert all(seat.pending is not answer for seat, answer in asked), "its step was not taken in"


@pytest.mark.parametrize("workers", [1, 2])
def test_assignments_come_to_an_end(tmp_path: Path, workers: int) -> None:
    """As `Rollout`, it returns None then, and not before: not while a worker that died has left some to be begun."""
    made, assigned = keydoor(num_envs=4), [Assignment(seed, random_rate=0.5) for seed in range(11)]
    with RayRollout(made, Never(), lambda: 0, assigned, Cluster(num_workers=workers)) as playing:
        seen, killed = list[int](), False
        while (ended := playing.step()) is not None:
            seen += [episode.seed for episode, _ in ended]
            busy = [seat.actor for seat in playing._seats if seat.held]
            if len(seen) >= 7 and busy and not killed:  # the last ones are being played
                ray.kill(busy[0])
                killed = True
        assert sorted(seen) == list(range(11))
        assert killed
        assert (playing.num_idle, playing.num_waiting, playing.state()) == (4, 0, [])
        assert playing.step() is None


def test_what_is_learned_reaches_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None sets out with what is older than `broadcast_updates`; and what it plays by is what it was sent."""
    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=2, broadcast_updates=20))
    playing: Any = trainer.rollout
    go, ages = playing._go, list[int]()
    played_by: list[tuple[bytes, bytes]] = []

    def note(seat: Any) -> None:
        go(seat)
        ages.append(trainer._updates() - seat.version)

    def weights(behaviour: Any) -> bytes:
        return b"".join(
            tensor.numpy().tobytes()
            for each in behaviour.explorers.values()
            for tensor in each.state()["weights"].values()
        )

    def progress(now: Any) -> None:
        if now.step > 500 and not played_by:
            for seat in playing._seats:
                version, sent = playing._sent
                if seat.version == version:
                    mine = seat.actor.__ray_call__.remote(lambda self: self.rollout.agent.switcher)
                    played_by.append((weights(ray.get(mine)), weights(ray.get(sent).unpack())))

    first = weights(playing.switcher)
    monkeypatch.setattr(playing, "_go", note)
    trainer.train(progress)
    assert 0 < max(ages) < 20, "an episode is about seven updates"
    assert played_by
    for there, sent in played_by:
        assert there == sent != first


def test_a_killed_worker_costs_its_episodes_and_no_more(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", keydoor(num_steps=900), Cluster(num_workers=2))
    killing(trainer, 300, lambda: ray.kill(trainer.rollout._seats[0].actor))  # type: ignore[union-attr]
    assert trainer.step >= 900
    assert trainer.num_lost == 4, "what its half of the environments played"
    assert trainer.num_restarted == (1, 0)
    assert budgets_hold(trainer)


def test_a_killed_replica_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told of, also where the training ends by an interruption."""
    trainer = prepare(tmp_path / "run", keydoor(num_steps=900), Cluster(num_workers=2))
    killing(trainer, 200, lambda: ray.kill(trainer.rollout.deepthink.replicas[0], no_restart=False))  # type: ignore[union-attr]
    assert trainer.step >= 900
    assert (trainer.num_lost, trainer.num_restarted) == (0, (0, 1))
    assert budgets_hold(trainer)

    def interrupted(progress: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    monkeypatch.setattr("londi.train.prepare", lambda *given: trainer)
    with pytest.raises(KeyboardInterrupt):
        runs._train(tmp_path / "run", trainer.experiment)
    assert "1 replica was restarted; no episode was lost" in capsys.readouterr().err
    assert runs._mishaps(4, 1, 2, 0) == "2 replicas and 1 worker were restarted; 4 episodes were begun anew"
    assert not runs._mishaps(0, 0, 0, 0)


@pytest.mark.filterwarnings("ignore:no worker has answered")
def test_a_replica_that_stays_dead_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that is found while one waits for a step that takes long."""
    monkeypatch.setattr(rollout_ray, "PLACED_S", 0.0)
    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=1))
    deepthink = trainer.rollout.deepthink  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"a replica of keydoor-deepthink died, .*: .*killed by `ray\.kill`"):
        killing(trainer, 100, lambda: ray.kill(deepthink.replicas[0]))  # type: ignore[union-attr]
    assert load_checkpoint(trainer.run.checkpoint)["playing"]


def test_it_goes_on_with_what_was_being_played(tmp_path: Path) -> None:
    """A run of two workers, stopped, goes on without Ray, and the other way round."""

    def stop(now: Any) -> None:
        if now.step > 200:
            raise KeyboardInterrupt

    trainer = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=2))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(stop)
    alone = prepare(tmp_path / "run", keydoor())
    assert (alone.step, alone.begun_anew) == (trainer.step, 0)
    assert len(alone.rollout.state()) > 0
    with pytest.raises(KeyboardInterrupt):
        alone.train(lambda now: stop(replace(now, step=now.step - 150)))
    again = prepare(tmp_path / "run", keydoor(), Cluster(num_workers=3))
    assert again.begun_anew == 0
    said = load_checkpoint(again.run.checkpoint)["models"]
    again.save()
    assert said["quick"]["rows"]
    assert load_checkpoint(again.run.checkpoint)["models"]["quick"]["rows"] == said["quick"]["rows"]
    again.train()
    assert again.step >= 600


def test_workers_go_on_with_their_episodes_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    playing: Any = prepare(tmp_path / "run", keydoor(num_envs=4), Cluster(num_workers=2)).rollout
    there: list[list[int]] = []

    def look(answer: Any) -> Any:
        there.append([len(ray.get(seat.actor.state.remote())) for seat in playing._seats])
        return answer_of(answer)

    monkeypatch.setattr(rollout_ray, "answer_of", look)
    with playing:
        assert playing.restore([{"assignment": asdict(Assignment(seed)), "begun": False} for seed in range(4)]) == 0
    assert there[0] == [2, 2], "the first is not waited for before the second is asked"


def test_what_ends_while_a_checkpoint_is_written_is_in_it(tmp_path: Path) -> None:
    """Each assignment that was handed out is in the replay or in the checkpoint, whenever that is written."""
    trainer = prepare(tmp_path / "run", keydoor(learners=("router",), warmup_steps=590), Cluster(num_workers=2))
    seen: set[int] = set()
    with trainer.rollout as playing:
        for round_ in range(12):
            seen |= {episode.seed for episode, _ in playing.step() or ()}
            if round_ % 3 == 2:
                written = {each["assignment"]["seed"] for each in playing.state()}
                first = 2**32
                assert seen | written == {first + number for number in range(trainer.started)}
                assert not seen & written


@pytest.mark.parametrize(
    ("given", "cluster"),
    [
        (["--ray"], Cluster()),
        (["--ray", "--workers", "3"], Cluster("local", 3)),
        (["--ray", "auto", "--deepthink-replicas", "2"], Cluster("auto", deepthink_replicas=2)),
    ],
)
def test_ray_may_be_bare(given: list[str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(runs, "_train", lambda *made: asked.append(made[-1]))
    experiment = str(ROOT / "experiments" / "keydoor.toml")
    main(["train", experiment, *given])
    main(["train", *given, "--run", "run", experiment])
    assert asked == [cluster, cluster]
    with pytest.raises(SystemExit, match="2"):
        main(["train", experiment, "--ray", "auto", "local"])


def test_how_many_workers() -> None:
    """Unless it is said: the CPUs, which Ray has two of here, the environments or the server, whichever are fewest."""
    server = ModelConfig("openai:toy", server=ServerConfig("http://127.0.0.1:9/v1", "", concurrency=1))
    assert [Cluster().workers(keydoor(num_envs=count)) for count in (8, 2, 1)] == [2, 2, 1]
    assert Cluster().workers(replace(keydoor(), deepthink=server)) == 1
    assert Cluster(num_workers=4).workers(replace(keydoor(), deepthink=server)) == 4


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(ROOT / "experiments" / "keydoor.toml"), "--run", str(tmp_path / "run"), "--workers", "4"])
    assert "add --ray" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="at least 1 worker"):
        Cluster(num_workers=0)
    with pytest.raises(ConfigError, match="take fewer"):
        prepare(tmp_path / "run", keydoor(), Cluster(num_workers=9))


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(config.dump(keydoor()))
    command = [sys.executable, "-m", "londi.cli", "train", "short.toml", "--run", "run", "--ray"]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained: run" in done.stdout
    assert time.monotonic() - begun < 280
    command[-2:] = ["other", "--ray", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 2
    assert "there is no Ray cluster at '127.0.0.1:1'" in done.stderr
    assert not (tmp_path / "other").exists()


def test_killed_with_one_worker_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    made = keydoor(checkpoint_steps=50)
    prepare(tmp_path / "whole", made).train()
    (tmp_path / "short.toml").write_text(config.dump(made))
    command = [sys.executable, "-m", "londi.cli", "train", "short.toml", "--run", "run", "--ray", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    limit, checkpoint = time.monotonic() + 120, tmp_path / "run" / "checkpoints" / "last.pt"
    while not checkpoint.is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = prepare(tmp_path / "run", made, Cluster(num_workers=1))
    assert 0 < resumed.step < 600
    resumed.train()
    assert (resumed.begun_anew, resumed.num_lost) == (0, 0)
    assert what_came_out(tmp_path / "run") == what_came_out(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path: Path, number: int, code: int) -> None:
    """Also for SIGTERM, for which Ray has a handler of its own."""
    made = keydoor(num_steps=50_000, checkpoint_steps=100_000)
    (tmp_path / "long.toml").write_text(config.dump(made))
    command = [sys.executable, "-m", "londi.cli", "train", "long.toml", "--run", "run", "--ray", "local"]
    heed = partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    limit = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "interrupted at step" in errors
    resumed = prepare(tmp_path / "run", made)
    assert (resumed.step > 0, resumed.begun_anew) == (True, 0)
    assert all(each["begun"] for each in load_checkpoint(resumed.run.checkpoint)["playing"]), "what had ended is kept"
