"""Statistics over tasks and seeds, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from londi import protocol
from londi.errors import ConfigError
from londi.protocol import improvement, improvement_interval, interval, iqm


def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side() -> None:
    assert iqm([[1, 2, 3, 100], [4, 5, 6, -100]]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([[0.5]]) == 0.5
    assert iqm([[1, 2, 9]]) == pytest.approx(4), "a quarter of three is rounded down: nothing is left out"


def test_improvement_is_the_share_of_pairs_that_is_won() -> None:
    assert improvement([[2, 3]], [[1, 2]]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert improvement([[1, 1], [0, 0]], [[0, 0], [1, 1]]) == pytest.approx(0.5), "the mean over tasks"
    assert improvement([[1.0]], [[1.0]]) == 0.5
    for compare in (improvement, improvement_interval):
        with pytest.raises(ConfigError, match="2 and 4 tasks"):
            compare([[1], [2]], [[1], [2], [3], [4]])


def test_intervals_hold_the_statistic_and_shrink_with_seeds() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(3, 4)).tolist(), rng.normal(size=(3, 64)).tolist()
    widths = []
    for scores in (few, many):
        low, high = interval(scores, repeats=500)
        assert low < iqm(scores) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_seeds_are_drawn_within_their_task() -> None:
    """Tasks that differ much, seeds that do not: what is drawn anew is the seed alone."""
    scores = [[0.1, 0.11], [0.9, 0.91], [0.5, 0.51], [0.3, 0.31]]
    low, high = interval(scores, repeats=500)
    assert 0 < high - low <= 0.01 + 1e-9


def test_one_seed_leaves_nothing_to_draw() -> None:
    np.testing.assert_allclose(interval([[0.2], [0.4]]), (0.3, 0.3))
    found = interval([[0.2], [0.3, 0.4]], repeats=200)
    np.testing.assert_allclose(found, (0.8 / 3, 1.0 / 3), err_msg="the single seed counts once")


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(1).random((2, 5)).tolist()
    assert interval(scores, seed=3, repeats=200) == interval(scores, seed=3, repeats=200)
    assert improvement_interval(scores, scores[::-1], 3, 200) == improvement_interval(scores, scores[::-1], 3, 200)


def test_intervals_of_improvement() -> None:
    better, worse = [[3, 4, 5, 6]], [[1, 2, 3, 4]]
    low, high = improvement_interval(better, worse, repeats=500)
    assert 0.5 < low <= improvement(better, worse) <= high == 1


def test_no_scores() -> None:
    with pytest.raises(ConfigError, match="no scores"):
        iqm([])


def test_the_interval_of_what_is_kept_draws_seeds_and_episodes() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.1  # for all alike
    reference = ~hard
    same = np.stack([~hard] * 5)
    assert protocol.kept_interval(same, reference) == pytest.approx((1, 1)), "the same episodes are lost by all"
    other = np.stack([rng.random(400) > 0.1 for _ in range(5)])
    low, high = protocol.kept_interval(other, reference)
    assert low < other.mean() / reference.mean() < high
    assert 0.03 < high - low < 0.12, "five seeds of 400 episodes, each known to three points of hundred"
    apart = np.stack([np.full(400, seed < 3) for seed in range(5)])
    assert protocol.kept_interval(apart, np.ones(400, bool)) == pytest.approx((0.2, 1.0)), "seeds differ, and no more"
    with pytest.raises(ConfigError, match="solved no episode"):
        protocol.kept_interval(same, np.zeros(400, bool))
