"""The rival learners: their targets by hand, and that each learns what it is there to learn."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from londi import choosing, config, frontier
from londi.config import EnvConfig, dump
from londi.encoders import Features
from londi.episode import read_episodes
from londi.errors import CheckpointError, ConfigError, RunError
from londi.evaluate import _shown, evaluate
from londi.learners.base import NetworkLearner
from londi.learners.dqn import DQNConfig, DQNLearner
from londi.learners.ppo import PPOConfig, PPOLearner
from londi.learners.replay import Replay, Trajectory
from londi.learners.router import RouterLearner
from londi.learners.sac import SACConfig, SACLearner
from londi.plays import Plays, _Job, _play
from londi.policies import DEEPTHINK, QUICK, Policy, capped_policies, learned_policies
from londi.run import Run, load_checkpoint, save_checkpoint
from londi.switchers import Query
from londi.switchers.reader import NetworkShape
from londi.train import Trainer, checkpoint, prepare
from londi.train.exploration import players

ROOT = Path(__file__).parents[2]
SHAPE = NetworkShape(3, 64, reader=0, width=32, max_calls=3)
COUNT = 60


def trajectory(reward: list[float], called: list[bool], agreed: list[bool] | None = None, seed: int = 0) -> Trajectory:
    """Dense features tell the step (0 or later), whether the models agree, and whether the last step had a call."""
    count = len(reward)
    text = np.random.default_rng(seed).integers(1, 50, (count, 4, 5)).astype(np.int16)
    same = np.zeros(count, bool) if agreed is None else np.array(agreed)
    before = np.array([False, *called[:-1]])
    dense = np.stack([np.arange(count) > 0, same, before], 1).astype(np.float32)
    return Trajectory(
        Features(text, np.ones((count, 4), np.int16), dense),
        np.array(called),
        same & np.array(called),
        np.array(reward, np.float32),
        np.full(count, np.inf, np.float32),
        np.zeros(count, np.float32),
        np.array(called, np.float32),
        np.full(count, -1, np.int16),
    )


def ask(learner: NetworkLearner, features: Features, price: float = 0.0) -> Any:
    count = len(features)
    return learner.switcher.choose(Query(features, np.full(count, np.inf), np.full(count, price), np.full(count, 0.5)))


def bandit(seed: int) -> Trajectory:
    """Two steps: calling in the first decides the reward of the second, a call in the second changes nothing."""
    rng = np.random.default_rng(seed)
    called = [bool(rng.random() < 0.5), bool(rng.random() < 0.5)]
    return trajectory([0.0, float(called[0])], called, seed=seed)


def filled() -> Replay:
    replay = Replay(1_000)
    for seed in range(COUNT):
        replay.add(bandit(seed))
    return replay


def test_the_router_learns_where_the_models_disagree() -> None:
    replay, agreed = Replay(1_000), [True, False, True, False]
    for seed in range(COUNT):
        replay.add(trajectory([0, 0, 0, 1], [True, True, bool(seed % 2), False], agreed, seed))
    learner = RouterLearner(SHAPE, 3e-3, 64, 200, seed=0)
    for _ in range(200):
        learner.update(replay)
    features = trajectory([0] * 4, [True] * 4, agreed, seed=999).features
    assert ask(learner, features, price=0.5).call.tolist() == [False, True, False, True]


def test_the_router_learns_nothing_from_steps_without_a_call() -> None:
    replay = Replay(100)
    replay.add(trajectory([0, 1], [False, False]))
    learner = RouterLearner(SHAPE, 3e-3, 16, 10, seed=0)
    before = [p.clone() for p in learner.network.parameters()]
    assert learner.update(replay) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    assert learner.updates == 1


@pytest.mark.parametrize("price", [0.1, 2.0])
def test_sac_calls_where_a_call_pays_later(price: float) -> None:
    learner = SACLearner(SACConfig(price, gamma=0.95, batch_size=64, lr=3e-3), SHAPE, 400, seed=0)
    replay = filled()
    for _ in range(400):
        learner.update(replay)
    features = bandit(999).features
    assert ask(learner, features).call.tolist() == [price < 1, False]


def test_the_myopic_learner_does_not_look_ahead() -> None:
    settings = DQNConfig("price", gamma=0.0, batch_size=64, lr=3e-3)
    learner = DQNLearner(settings, SHAPE, 300, seed=0)
    replay = filled()
    for _ in range(300):
        learner.update(replay)
    assert not ask(learner, bandit(999).features, price=0.1).call.any()


def test_ppo_calls_where_a_call_pays_later() -> None:
    learner = PPOLearner(PPOConfig(0.1, gamma=0.95, lr=3e-3, steps=128, batch_size=64), SHAPE, 2_500, seed=0)
    for seed in range(2_500):
        called: list[bool] = []
        for step, uniform in enumerate(np.random.default_rng(seed).random(2)):
            here = trajectory([0.0, 0.0], [*called, False, False][:2]).features[step : step + 1]
            query = Query(here, np.full(1, np.inf), np.zeros(1), np.array([uniform]))
            called.append(bool(learner.explorer.choose(query).call[0]))
        learner.observe(trajectory([0.0, float(called[0])], called))
        learner.update(Replay(10))
    features = trajectory([0.0, 1.0], [True, False]).features
    assert ask(learner, features).call.tolist() == [True, False]


def test_ppos_advantages_by_hand() -> None:
    learner = PPOLearner(PPOConfig(0.25, gamma=0.5, trace=0.5), SHAPE, 10, seed=0)
    learner.played = [trajectory([0.0, 1.0], [True, False]), trajectory([0.5], [True])]
    gains, returns = learner._advantages(np.array([0.2, 0.6, 0.1], np.float32))
    last = 1.0 - 0.6
    first = -0.25 + 0.5 * 0.6 - 0.2 + 0.25 * last
    plain = np.array([first, last, 0.25 - 0.1])
    np.testing.assert_allclose(returns, plain + np.array([0.2, 0.6, 0.1]), atol=1e-6)
    np.testing.assert_allclose(gains, (plain - plain.mean()) / plain.std(), atol=1e-4)
    assert learner.update(Replay(10)) == {}, "three steps are no round"
    assert len(learner.played) == 2


@pytest.mark.parametrize("kind", ["router", "sac", "ppo"])
def test_a_learner_goes_on_where_its_state_was(kind: str) -> None:
    def made() -> NetworkLearner:
        if kind == "router":
            return RouterLearner(SHAPE, 1e-3, 16, 20, seed=0)
        if kind == "sac":
            return SACLearner(SACConfig(0.1, batch_size=16), SHAPE, 20, seed=0)
        return PPOLearner(PPOConfig(0.1, steps=10, batch_size=16), SHAPE, 20, seed=0)

    def advance(learner: NetworkLearner) -> None:
        for seed in range(6):
            learner.observe(bandit(seed))
            learner.update(replay)

    replay = filled()
    one, other = made(), made()
    advance(one)
    if isinstance(one, PPOLearner):
        one.played = []
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # as from a file: torch's optimisers share what they load
    advance(one)
    advance(other)
    features = bandit(999).features
    np.testing.assert_array_equal(ask(one, features).advantage, ask(other, features).advantage)
    assert one.updates == other.updates == 12


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SACConfig(-0.1), "price"),
        (lambda: SACConfig(0.1, entropy=0.7), "log 2"),
        (lambda: PPOConfig(0.1, clip=1.0), "clip"),
        (lambda: PPOConfig(0.1, steps=0), "steps"),
        (lambda: RouterLearner(SHAPE, 0.0, 16, 20, 0), "learning rate"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


# In the training loop -------------------------------------------------------------------------------------------------


def experiment(**train: Any) -> config.Experiment:
    found = config.load(ROOT / "experiments" / "keydoor.toml")
    return replace(found, train=replace(found.train, **train))


def test_who_plays() -> None:
    assert players(("budget", "price", "sac", "router")) == ("budget", "price")
    assert players(("router", "price")) == ("price",)
    assert players(("sac",)) == ("sac",)
    assert players(("ppo",)) == ("ppo",)
    assert players(("router", "myopic")) == ()


def first(trainer: Trainer, step: int, count: int = 200) -> list[Any]:
    trainer.step = step
    found = trainer.assignments()
    return [next(found) for _ in range(count)]


def test_what_each_plays(tmp_path: Path) -> None:
    ppo = first(prepare(tmp_path / "ppo", experiment(learners=("ppo",), price=0.07)), 0)
    assert {(a.price, a.budget, a.random_rate, a.epsilon) for a in ppo} == {(0.07, None, None, 0.0)}
    sac = prepare(tmp_path / "sac", experiment(learners=("sac",)))
    assert all(a.random_rate is not None for a in first(sac, 0))
    assert all(a.random_rate is None for a in first(sac, 11_000))
    router = first(prepare(tmp_path / "router", experiment(learners=("router", "myopic"))), 11_000)
    assert all(a.random_rate is not None for a in router)


def test_the_learner_of_the_paper_has_one_budget_or_one_price(tmp_path: Path) -> None:
    budget = first(prepare(tmp_path / "b", experiment(learners=("budget",), relabel=False, budget=3)), 11_000)
    assert {a.budget for a in budget} == {3}
    found = experiment(learners=("price",), relabel=False)
    train = replace(found.train, lowest_price=0.05, highest_price=0.05)
    price = replace(found, train=train, evaluate=replace(found.evaluate, prices=(0.05,)))
    assert {round(a.price, 9) for a in first(prepare(tmp_path / "p", price), 11_000)} == {0.05}


def test_rivals_change_nothing_of_what_is_played(tmp_path: Path) -> None:
    """They ride along: the episodes, and what `budget` and `price` learn from them, stay what they were."""
    steps: dict[str, Any] = {"num_steps": 600, "warmup_steps": 100, "checkpoint_steps": 600}
    alone = prepare(tmp_path / "alone", experiment(**steps))
    beside = prepare(tmp_path / "beside", experiment(learners=("budget", "price", "router", "sac"), **steps))
    for trainer in (alone, beside):
        trainer.train()
    for name in ("budget", "price"):
        one, other = (trainer.learners[name].state_dict()["network"] for trainer in (alone, beside))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_snapshots_show_how_fast_it_learns(tmp_path: Path) -> None:
    steps: dict[str, Any] = {"num_steps": 900, "warmup_steps": 100, "snapshots": 3}
    found = experiment(learners=("price", "router"), **steps)
    found = replace(
        found,
        evaluate=replace(
            found.evaluate, prices=(0.05, 0.5), episodes=20, selection_episodes=20, snapshot_episodes=10, processes=1
        ),
    )
    prepare(tmp_path / "run", found).train()
    run = Run.open(tmp_path / "run")
    assert len(run.snapshots()) == 3
    assert run.snapshots()[-1] == 900
    last, end = run.load_switchers(900)["price"], run.load_switchers()["price"]
    for one, other in zip(last.network.parameters(), end.network.parameters(), strict=True):
        assert torch.equal(one, other)
    result = evaluate(run)
    assert [point["step"] for point in result["curve"]] == run.snapshots()
    assert result["metrics"]["steps_to_90"]["price"] in run.snapshots()
    assert result["metrics"]["steps_to_90"]["budget"] is None


def test_switchers_meet_another_environment_without_training(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", experiment(learners=("price",), num_steps=400, warmup_steps=100))
    trainer.train()
    found = experiment()
    short = replace(found.evaluate, prices=(0.05,), random_rates=(), episodes=20, selection_episodes=10, processes=1)
    other = replace(found, name="small", env=replace(found.env, options={"max_steps": 9}), evaluate=short)
    moved = trainer.run.on(other, tmp_path / "on")
    result = evaluate(moved)
    assert result["experiment"] == "small"
    assert max(row["steps"] for row in result["policies"]) <= 9
    assert [row["name"] for row in result["policies"] if row["kind"] == "price"] == ["price 0.05"]
    assert trainer.run.on(other, tmp_path / "on").path == moved.path, "the same again is no error"
    with pytest.raises(RunError, match="another experiment"):
        trainer.run.on(replace(other, name="other"), tmp_path / "on")
    splits: dict[str, Any] = {"selection": {"split": "dev"}, "test": {"split": "test"}}
    free = replace(other, env=EnvConfig("londi/ScienceWorld-find-plant-v0", **splits))
    with pytest.raises(RunError, match="another set of actions"):
        evaluate(trainer.run.on(free, tmp_path / "free"))
    moved = trainer.run.on(replace(other, env=EnvConfig("londi/BabyAI-GoTo-v0")), tmp_path / "babyai")
    with pytest.raises(RunError, match=r"6 actions .go north.* and 6 actions .turn left"):
        evaluate(moved)
    assert Run.open(moved.path).experiment == moved.experiment
    assert (moved.path / "trained.json").read_bytes() == (trainer.run.path / "environment.json").read_bytes()
    with pytest.raises(ConfigError, match=r"evaluate\.prices"):
        trainer.run.on(replace(other, evaluate=replace(short, prices=(5.0,))), tmp_path / "dear")


def test_policies_for_other_features_are_refused(tmp_path: Path) -> None:
    steps: dict[str, Any] = {"num_steps": 200, "warmup_steps": 100}
    trainer = prepare(tmp_path / "run", experiment(learners=("price",), **steps))
    trainer.train()
    for path in (trainer.run.policy("price"), trainer.run.checkpoint):
        save_checkpoint(path, {**load_checkpoint(path), "features": 1})
    with pytest.raises(CheckpointError, match="features"):
        trainer.run.load_switchers()
    with pytest.raises(CheckpointError, match="features"):
        checkpoint.restore(trainer, load_checkpoint(trainer.run.checkpoint))


def test_policies_that_are_played_in_step_do_what_they_do_alone(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", experiment(learners=("price",), num_steps=400, warmup_steps=100))
    trainer.train()
    learned = learned_policies(trainer.experiment)
    policies = [QUICK, *learned, Policy("random 0.3", "random", 0.3), Policy("disagreement oracle", "oracle")]

    def played(some: list[Policy]) -> dict[str, list[tuple[bool, float, int]]]:
        found = _play(_Job(trainer.run.path, "test", 50_000_000, 8, tuple(some)))
        return {name: [(o.success, o.calls, o.steps) for o in outcomes] for name, (outcomes, _) in found.items()}

    together = played(policies)
    assert list(together) == [policy.name for policy in policies]
    assert len({str(outcomes) for outcomes in together.values()}) > 2
    for policy in policies:
        assert played([policy]) == {policy.name: together[policy.name]}


def test_a_config_that_changes_while_it_is_evaluated(tmp_path: Path) -> None:
    setting = experiment(learners=("price",), num_steps=400, warmup_steps=100)
    trainer = prepare(tmp_path / "run", setting)
    trainer.train()
    few = replace(setting.evaluate, prices=(0.05,), random_rates=(), episodes=4, selection_episodes=4, processes=1)
    run = Run(trainer.run.path, replace(setting, evaluate=few))
    (run.path / "config.toml").write_text(dump(run.experiment))

    def change(played: int, added: int) -> None:
        (run.path / "config.toml").write_text(dump(setting))

    with pytest.raises(RunError, match="changed while it was evaluated"):
        evaluate(run, change)
    assert not (run.path / "frontier.json").exists()


def test_what_is_in_doubt_plays_on_until_it_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty episodes at a time, up to sixty; which succeed is given here."""
    setting = experiment(learners=("price",))
    run = Run(Path(), replace(setting, evaluate=replace(setting.evaluate, selection_episodes=20, selection_limit=60)))
    wins = {
        "DEEPTHINK": [True] * 20 + [False] * 10 + [True] * 30,  # does worse than it seemed, which lets price 2 in again
        "price 1": [False] * 60,
        "price 2": [False] * 6 + [True] * 54,
        "price 3": [True] * 60,
        "price 4": [True] * 60,
    }
    played: list[tuple[int, int, list[str]]] = []

    def play(
        self: Plays, phase: str, seeds: range, policies: list[Policy], *rest: Any
    ) -> tuple[dict[str, list[frontier.Outcome]], dict[str, list[Any]]]:
        played.append((seeds.start, seeds.stop, [policy.name for policy in policies]))
        calls = {"DEEPTHINK": 9}
        outcomes = {
            p.name: [
                frontier.Outcome(wins[p.name][i], 0.0, calls.get(p.name) or int(p.name[-1]), 9, 1, 1.0, 1.0, False)
                for i in seeds
            ]
            for p in policies
        }
        return outcomes, {}

    monkeypatch.setattr(Plays, "play", play)
    told: list[tuple[int, int]] = []
    plays = Plays(run, None, lambda done, added: told.append((done, added)))
    prices = [Policy(f"price {i}", "price") for i in (1, 2, 3, 4)]
    rows = plays.select([DEEPTHINK, *prices])
    assert played == [
        (0, 20, ["DEEPTHINK", "price 1", "price 2", "price 3", "price 4"]),
        (20, 40, ["DEEPTHINK", "price 3", "price 4"]),  # prices 1 and 2 are out
        (20, 40, ["price 2"]),  # price 3 is clear, so that 4 is not the cheapest; price 2 catches up
        (40, 60, ["DEEPTHINK", "price 2"]),
    ]
    assert {row["name"]: row["episodes"] for row in rows} == {
        "DEEPTHINK": 60,
        "price 1": 20,
        "price 2": 60,
        "price 3": 40,
        "price 4": 40,
    }
    assert sum(added for _, added in told) == 20 * 6
    assert choosing.choose(rows, 0.99) == frontier.find(rows, "price 2")

    played.clear()
    known = [row for row in rows if row["name"] == "DEEPTHINK"]
    plays.select(prices[:2], known)
    assert played == [(0, 20, ["price 1", "price 2"]), (20, 40, ["price 2"]), (40, 60, ["price 2"])], "not DEEPTHINK"

    run = Run(Path(), replace(setting, evaluate=replace(setting.evaluate, selection_episodes=20, selection_limit=0)))
    played.clear()
    Plays(run, None, lambda done, added: None).select([DEEPTHINK, *prices])
    assert played == [(0, 20, ["DEEPTHINK", "price 1", "price 2", "price 3", "price 4"])], "no limit, no race"


def test_another_first_test_seed_plays_other_episodes(tmp_path: Path) -> None:
    trainer = prepare(tmp_path / "run", experiment(learners=("price",), num_steps=400, warmup_steps=100))
    trainer.train()
    setting = trainer.experiment
    few = replace(setting.evaluate, prices=(0.05,), random_rates=(), episodes=4, selection_episodes=4, processes=1)
    other = replace(few, first_test_seed=60_000_000)
    seeds = []
    for chosen in (few, other):
        run = Run(trainer.run.path, replace(setting, evaluate=chosen))
        (run.path / "config.toml").write_text(dump(run.experiment))
        found = evaluate(run)
        seeds.append([episode.seed for episode in read_episodes(run.path / "episodes" / "quick.jsonl")])
        assert found["seeds"] == {"selection": [20_000_000, 4], "test": [chosen.first_test_seed, 4]}
    assert seeds == [[*range(50_000_000, 50_000_004)], [*range(60_000_000, 60_000_004)]]


def test_whose_episodes_are_stored() -> None:
    learned = [Policy("price 1", "price"), Policy("price 2", "price"), Policy("router 0.5", "router")]

    def shown(*successes: float) -> str:
        names = ("DEEPTHINK", "price 1", "price 2", "router 0.5")
        rows = [
            {"name": name, "kind": name.split()[0], "calls": {"mean": calls}, "success": spread}
            for name, calls, success in zip(names, (9, 4, 3, 2), (1.0, *successes), strict=True)
            for spread in [{"mean": success, "low": success - 0.001, "high": success + 0.001}]
        ]
        return _shown(rows, learned)

    assert shown(1.0, 1.0, 1.0) == "price 2", "a rival is not what the report is about"
    assert shown(1.0, 0.96, 1.0) == "price 1"
    assert shown(0.97, 0.96, 1.0) == "price 2", "95 %, where nothing keeps 99 %"
    assert shown(0.8, 0.7, 1.0) == "price 1", "what succeeds most, where nothing keeps 95 %"


def test_policies_of_rivals() -> None:
    names = [p.name for p in learned_policies(experiment(learners=("router", "sac"), price=0.07))]
    assert names == [*(f"router {h:g}" for h in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)), "sac 0.07"]
    everything = [p.name for p in learned_policies(experiment(learners=("budget",)))]
    own = [p.name for p in learned_policies(experiment(learners=("budget",), relabel=False))]
    assert everything == [*own, "budget unlimited"], "no episode without relabelling has no limit"
    capped = capped_policies(experiment(), 0.05)
    assert [(p.name, p.budget, p.price) for p in capped[:2]] == [
        ("price 0.05 up to 0", 0, 0.05),
        ("price 0.05 up to 1", 1, 0.05),
    ]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"learners": ("ppo", "budget")}, "alone"),
        ({"learners": ("budget", "budget")}, "twice"),
        ({"price": -1.0}, "train.price"),
        ({"budget": 13}, "train.budget"),
        ({"lowest_price": 0.5, "highest_price": 0.1}, "lowest_price"),
    ],
)
def test_experiments_that_can_not_be(train: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(**train)
