"""The targets of the learners against values computed by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from londi.encoders import Features
from londi.errors import ConfigError
from londi.learners.dqn import DQNConfig, DQNLearner
from londi.learners.replay import Later, Replay, Trajectory, Transitions, forgetful
from londi.switchers.reader import NetworkShape, tensors

N = 3


def features(count: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    text = rng.integers(1, 50, (count, 4, 5)).astype(np.int16)
    return Features(text, np.ones((count, 4), np.int16), rng.random((count, 6)).astype(np.float32))


def batch(called: list[bool], agreed: list[bool], done: list[bool]) -> Transitions:
    count = len(called)
    return Transitions(
        features(count, 1),
        features(count, 2),
        np.array(called),
        np.array(agreed),
        np.linspace(0, 1, count, dtype=np.float32),
        np.array(done),
        np.full(count, np.inf, np.float32),
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
        np.full(count, -1, np.int16),
    )


def learner(kind: str, **settings: object) -> DQNLearner:
    shape = NetworkShape(6, 64, reader=8, heads=2, width=16, max_calls=N)
    return DQNLearner(DQNConfig(kind, **settings), shape, 100, seed=0)  # type: ignore[arg-type]


def terms(agent: DQNLearner, data: Transitions) -> tuple[torch.Tensor, ...]:
    reward = torch.from_numpy(data.reward)
    going = agent.config.gamma * torch.from_numpy(~data.done).float()
    return agent._targets(data, reward, going)


def test_budget_targets_shift_the_remaining_budget_by_one_call() -> None:
    agent = learner("budget", gamma=0.9, call_price=0.05)
    data = batch([True, False, True], [False, False, False], [False, False, True])
    _, _, quick, deep = terms(agent, data)
    online = agent.network(tensors(data.next_features))[0]
    value = agent.average(tensors(data.next_features))[0].gather(-1, online.argmax(-1, keepdim=True))[..., 0]
    for row in range(3):
        for x in (*range(N + 1), N + 1):
            going = 0.0 if data.done[row] else 0.9
            assert quick[row, x] == pytest.approx(float(data.reward[row] + going * value[row, x]), abs=1e-6)
            if x == 0:
                assert torch.isnan(deep[row, x])
                continue
            after = x if x == N + 1 else x - 1
            expected = data.reward[row] - 0.05 + going * value[row, after]
            assert deep[row, x] == pytest.approx(float(expected), abs=1e-6)


def test_at_no_remaining_budget_the_value_is_that_of_not_calling() -> None:
    agent = learner("budget")
    q = agent.network(tensors(features(20)))[0]
    assert torch.isinf(q[:, 0, 1]).all()
    assert (q[:, 0].argmax(-1) == 0).all()


def test_price_targets_charge_the_call_and_nothing_else() -> None:
    agent = learner("price", prices_per_sample=5)
    data = batch([True, False], [False, False], [True, True])
    _, _, quick, deep = terms(agent, data)
    paid = quick - deep
    assert torch.allclose(quick, torch.from_numpy(data.reward)[:, None].expand(-1, 5))
    assert (paid >= agent.config.lowest_price * 0.999).all()
    assert (paid <= agent.config.highest_price * 1.001).all()
    assert len(set(paid.flatten().tolist())) > 5


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_what_deepthink_said_too_teaches_both_choices(kind: str) -> None:
    """A call that agreed is a sample of not calling: the loss must then depend on Q(no call), and else not."""

    def sensitivity(agreed: bool) -> float:
        agent = learner(kind, disagree_weight=0.0)
        captured: list[torch.Tensor] = []
        inner = agent._targets

        def keep(*args: object) -> tuple[torch.Tensor, ...]:
            result = inner(*args)  # type: ignore[arg-type]
            result[0].retain_grad()
            captured.append(result[0])
            return result

        setattr(agent, inner.__name__, keep)
        value, _ = agent._losses(batch([True] * 4, [agreed] * 4, [False] * 4))
        torch.autograd.backward(value)
        assert captured[0].grad is not None
        return float(captured[0].grad[..., 0].abs().sum())

    assert sensitivity(True) > 0
    assert sensitivity(False) == 0


def test_without_relabelling_only_the_own_budget_is_learned() -> None:
    agent = learner("budget", relabel=False)
    data = batch([False], [False], [False])
    data.remaining[:] = 2
    _, _, quick, deep = terms(agent, data)
    assert torch.isfinite(quick[0]).tolist() == [False, False, True, False, False]
    assert torch.isfinite(deep[0]).tolist() == [False, False, True, False, False]


def test_text_dropout_hides_the_same_grams_everywhere_and_others_in_each_update() -> None:
    data, rng = batch([True] * 200, [False] * 200, [False] * 200), np.random.default_rng(0)
    assert forgetful(data, 0.0, 64, rng) is data
    hidden = []
    for _ in range(20):
        seen = forgetful(data, 0.5, 64, rng)
        for before, after in ((data.features, seen.features), (data.next_features, seen.next_features)):
            assert after.text.dtype == before.text.dtype
            assert ((after.text == before.text) | (after.text == 0)).all()
        parts = [(data.features, seen.features), (data.next_features, seen.next_features)]
        gone = [{*before.text[after.text == 0].tolist()} for before, after in parts]
        assert gone[0] == gone[1] == {*range(1, 50)} - {*seen.features.text.ravel().tolist()}
        hidden.append(frozenset(gone[0]))
    assert len({*hidden}) == 20
    assert np.mean([len(gone) for gone in hidden]) / 49 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_a_restored_learner_goes_on_as_the_first_would(kind: str) -> None:
    replay = Replay(200)
    called = np.arange(100) % 2 == 0
    nothing = np.zeros(100, np.float32)
    reward = np.random.default_rng(0).random(100).astype(np.float32)
    answer = np.full(100, -1, np.int16)
    replay.add(Trajectory(features(100), called, ~called, reward, nothing, nothing, called.astype(np.float32), answer))
    first, second = learner(kind), learner(kind)
    for _ in range(3):
        first.update(replay)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as a checkpoint does
    assert [first.update(replay) for _ in range(3)] == [second.update(replay) for _ in range(3)]
    weights = zip(first.average.parameters(), second.average.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_a_price_is_for_what_the_call_cost(kind: str) -> None:
    """Twice the cost, or half the unit, is twice the price; what no call was made for has none."""
    data = batch([True, True, False], [False] * 3, [True] * 3)
    settings = {"call_price": 0.25, "lowest_price": 0.25, "highest_price": 0.2500001}

    def paid(cost: float, unit: float) -> np.ndarray:
        data.cost[:2] = cost
        _, _, quick, deep = terms(learner(kind, price_unit=unit, **settings), data)
        reward = torch.from_numpy(data.reward)[:, None]
        assert torch.equal(quick, reward.expand_as(quick))
        return (reward - deep)[:2, -1].numpy()

    np.testing.assert_allclose(paid(1, 1), 0.25, rtol=1e-5)
    np.testing.assert_allclose(paid(2, 1), 0.5, rtol=1e-5)
    np.testing.assert_allclose(paid(1000, 500), 0.5, rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"gamma": -0.1}, {"tau": 2.0}, {"lowest_price": 0.0}, {"call_price": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="need"):
        DQNConfig("budget", **wrong)  # type: ignore[arg-type]


def later(calls: list[int]) -> Later:
    count = len(calls)
    return Later(
        np.linspace(0.2, 0.4, count, dtype=np.float32),
        np.linspace(1, 2, count, dtype=np.float32),
        np.array(calls),
        np.full(count, 0.7, np.float32),
    )


def test_budget_targets_of_several_steps_need_what_they_called_with() -> None:
    agent = learner("budget", gamma=0.9, call_price=0.05, n_step=3)
    data = replace(batch([True, False, True], [False] * 3, [False, False, True]), later=later([0, 2, 1]))
    assert data.later is not None
    reward = torch.from_numpy(data.reward + data.later.reward)
    going = torch.tensor([0.7, 0.7, 0.0])
    _, _, quick, deep = agent._targets(data, reward, going)
    online = agent.network(tensors(data.next_features))[0]
    value = agent.average(tensors(data.next_features))[0].gather(-1, online.argmax(-1, keepdim=True))[..., 0]
    for row in range(3):
        for x in (*range(N + 1), N + 1):
            made = int(data.later.calls[row])
            for target, calls in ((quick, made), (deep, made + 1)):
                if x <= N and x < calls:
                    assert torch.isnan(target[row, x])
                    continue
                paid = 0.05 * (float(data.later.cost[row]) + (target is deep))
                rest = float(going[row] * value[row, x if x == N + 1 else x - calls])
                assert target[row, x] == pytest.approx(float(reward[row]) - paid + rest, abs=1e-6)


def test_price_targets_of_several_steps_charge_all_calls() -> None:
    agent = learner("price", gamma=0.9, prices_per_sample=5, n_step=3)
    data = replace(batch([True, False], [False, False], [True, True]), later=later([1, 0]))
    assert data.later is not None
    reward = torch.from_numpy(data.reward + data.later.reward)
    _, _, quick, deep = agent._targets(data, reward, torch.zeros(2))
    price = quick - deep
    assert (price > 0).all()
    paid = price * torch.from_numpy(data.later.cost)[:, None]
    assert torch.allclose(quick, reward[:, None] - paid)


def stored(lengths: list[int]) -> Replay:
    replay, rng = Replay(64), np.random.default_rng(0)
    for steps in lengths:
        ones = np.ones(steps, np.float32)
        replay.add(
            Trajectory(
                features(steps, int(rng.integers(1000))),
                called=rng.random(steps) < 0.5,
                agreed=np.zeros(steps, bool),
                reward=rng.random(steps).astype(np.float32),
                remaining=ones,
                price=ones,
                cost=ones,
                answer=np.full(steps, -1, np.int16),
            )
        )
    return replay


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_of_episodes_of_one_step_three_are_one(kind: str) -> None:
    agents = [learner(kind, gamma=0.9, n_step=n) for n in (1, 3)]
    losses = [[agent.update(stored([1] * 20)) for _ in range(5)] for agent in agents]
    assert losses[0] == losses[1]
    longer = [agent.update(stored([5] * 4)) for agent in agents]
    assert longer[0] != longer[1]


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_what_follows_several_steps_is_discounted_and_what_ends_is_not_followed(kind: str) -> None:
    """The loss takes later rewards and the discount from the transition: checked by asking for the targets it makes."""
    agent = learner(kind, gamma=0.9, n_step=3)
    data = stored([6] * 5).sample(16, np.random.default_rng(1), steps=3, gamma=0.9)
    assert data.later is not None
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    inner = agent._targets

    def keep(taken: Transitions, reward: torch.Tensor, going: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append((reward, going))
        return inner(taken, reward, going)

    setattr(agent, inner.__name__, keep)
    agent._losses(data)
    reward, going = asked[0]
    assert torch.allclose(reward, torch.from_numpy(data.reward + data.later.reward))
    assert torch.allclose(going, torch.where(torch.from_numpy(data.done), 0.0, 0.9**3))
    assert data.done.any()
    assert not data.done.all()


def test_a_transition_has_at_least_one_step() -> None:
    with pytest.raises(ConfigError, match="n_step"):
        learner("price", n_step=0)
