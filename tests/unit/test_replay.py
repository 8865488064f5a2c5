from __future__ import annotations

import numpy as np
import pytest

from londi.encoders import Features
from londi.learners.replay import Replay, Trajectory, Transitions


def trajectory(first: int, steps: int) -> Trajectory:
    """Steps that carry a number of their own in every column, counted on from `first`."""
    numbers = np.arange(first, first + steps)
    features = Features(
        np.broadcast_to(numbers[:, None, None], (steps, 2, 3)).astype(np.int16),
        np.broadcast_to(numbers[:, None], (steps, 2)).astype(np.int16),
        np.stack([numbers, -numbers], 1).astype(np.float32),
    )
    floats = numbers.astype(np.float32)
    return Trajectory(
        features,
        called=numbers % 2 == 1,
        agreed=numbers % 4 == 1,
        reward=floats,
        remaining=2 * floats,
        price=(floats / 8).astype(np.float32),
        cost=(floats / 4).astype(np.float32),
        answer=(numbers % 7).astype(np.int16),
    )


def sample(replay: Replay, count: int = 3000) -> Transitions:
    return replay.sample(count, np.random.default_rng(0))


def numbers(features: Features) -> np.ndarray:
    dense = features.dense[:, 0].astype(int)
    assert (features.dense[:, 1] == -dense).all()
    assert (features.text == dense[:, None, None]).all()
    assert (features.fields == dense[:, None]).all()
    return dense


def fill(replay: Replay, lengths: list[int]) -> tuple[list[int], set[int]]:
    """Add episodes of these lengths; return the numbers of all steps, and of the last step of each."""
    first, last = 1, set[int]()
    for length in lengths:
        replay.add(trajectory(first, length))
        first += length
        last.add(first - 1)
    return list(range(1, first)), last


@pytest.mark.parametrize(
    ("capacity", "lengths"),
    [
        (50, [4, 1, 7]),
        (12, [4, 1, 7]),
        (10, [4, 3, 7]),
        (10, [7, 6, 5, 9, 3]),
        (7, [7, 7]),
        (5, [3, 4, 1, 1, 2, 5]),
        (8, [3] * 40),
    ],
)
def test_every_transition_is_one_that_happened(capacity: int, lengths: list[int]) -> None:
    replay = Replay(capacity)
    steps, last = fill(replay, lengths)
    kept = steps[-capacity:]
    assert len(replay) == len(kept)
    batch = sample(replay)
    now = numbers(batch.features)
    assert set(now) == set(kept), "the newest `capacity` steps are there, and no others"
    assert (batch.reward == now).all()
    assert (batch.remaining == 2 * now).all()
    assert (batch.cost == now / 4).all()
    assert (batch.price == now / 8).all()
    assert (batch.called == (now % 2 == 1)).all()
    assert (batch.agreed == (now % 4 == 1)).all()
    assert (batch.done == np.isin(now, list(last))).all()
    going = ~batch.done
    assert (numbers(batch.next_features)[going] == now[going] + 1).all(), "s' is the next step of the same episode"


def test_an_episode_longer_than_the_ring_leaves_its_end() -> None:
    replay = Replay(4)
    steps, _ = fill(replay, [3, 11])
    batch = sample(replay)
    now = numbers(batch.features)
    assert set(now) == set(steps[-4:])
    assert (numbers(batch.next_features)[~batch.done] == now[~batch.done] + 1).all()


def test_samples_are_uniform_and_come_from_the_generator() -> None:
    replay = Replay(20)
    fill(replay, [5, 5])
    counts = np.bincount(numbers(sample(replay, 20_000).features), minlength=11)[1:]
    assert counts.min() > 1800
    assert counts.max() < 2200
    assert (sample(replay).reward == sample(replay).reward).all()
    other = replay.sample(3000, np.random.default_rng(1))
    assert (other.reward != sample(replay).reward).any()


@pytest.mark.parametrize("lengths", [[4, 3], [4, 3, 5], [4, 3, 5, 6, 2], [5, 5]])
def test_a_restored_ring_goes_on_like_the_first(lengths: list[int]) -> None:
    replay, other = Replay(10), Replay(10)
    fill(replay, lengths)
    state = replay.state()
    other.restore(state)
    for more in ([], [4], [9, 3]):
        for length in more:
            for ring in (replay, other):
                ring.add(trajectory(100, length))
        assert len(replay) == len(other)
        one, two = sample(replay), sample(other)
        for name in ("called", "agreed", "reward", "done", "remaining", "price", "cost", "answer"):
            assert (getattr(one, name) == getattr(two, name)).all()
        assert (numbers(one.features) == numbers(two.features)).all()
        going = ~one.done
        assert (numbers(one.next_features)[going] == numbers(two.next_features)[going]).all()


def test_the_state_is_a_copy() -> None:
    replay = Replay(6)
    fill(replay, [3])
    state = replay.state()
    replay.add(trajectory(50, 6))
    other = Replay(6)
    other.restore(state)
    assert set(sample(other).reward) == {1, 2, 3}


def test_an_empty_ring_round_trips() -> None:
    other = Replay(6)
    other.restore(Replay(6).state())
    assert len(other) == 0
    fill(other, [3])
    assert set(sample(other).reward) == {1, 2, 3}


@pytest.mark.parametrize(("capacity", "lengths"), [(50, [4, 1, 7]), (10, [7, 6, 5, 9, 3])])
def test_steps_after_the_first_are_those_of_the_episode(capacity: int, lengths: list[int]) -> None:
    replay = Replay(capacity)
    _, last = fill(replay, lengths)
    found = replay.sample(3000, np.random.default_rng(0), steps=3, gamma=0.5)
    assert found.later is not None
    plain = sample(replay)
    assert (numbers(found.features) == numbers(plain.features)).all(), "the same steps are drawn"
    for row, first in enumerate(numbers(found.features)):
        end = min(number for number in last if number >= first)
        after = [number for number in (first + 1, first + 2) if number <= end]
        assert found.done[row] == (first + 2 >= end)
        if not found.done[row]:
            assert numbers(found.next_features[row : row + 1])[0] == first + 3
        weights = [0.5, 0.25][: len(after)]
        assert found.later.reward[row] == pytest.approx(sum(w * n for w, n in zip(weights, after, strict=True)))
        assert found.later.cost[row] == pytest.approx(
            sum(w * n / 4 for w, n in zip(weights, after, strict=True) if n % 4 == 3)
        ), "a call that agreed costs nothing"
        assert found.later.calls[row] == sum(n % 4 == 3 for n in after), "a call that agreed is none"
        assert found.later.discount[row] == 0.5 ** (1 + len(after))
        assert found.reward[row] == first
