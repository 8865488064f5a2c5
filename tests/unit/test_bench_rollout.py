"""`londi bench rollout`: what it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from londi import config, lms
from londi.bench.rollout import bench_rollout, plain_loop
from londi.making import make_envs

EXPERIMENT = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


def test_the_rows_compare_speed_and_what_the_framework_adds() -> None:
    seen: list[int] = []
    found = bench_rollout(EXPERIMENT, num_envs=4, episodes=8, rounds=2, progress=seen.append)
    speed, alone, together = found["rows"]
    assert seen == [1, 2]
    assert speed["ratio"] == pytest.approx(speed["ours"] / speed["reference"])
    for row in (alone, together):
        assert 0 < row["reference"] < row["ours"], "the framework does all that the loop does, and more"
        assert row["ratio"] == pytest.approx(row["reference"] / row["ours"])


def test_the_plain_loop_plays_whole_episodes() -> None:
    quick, deepthink = lms.load_pair(EXPERIMENT.quick, EXPERIMENT.deepthink)
    (env,) = make_envs(EXPERIMENT, 1)
    seeds = range(6)
    each = [plain_loop(env, quick, deepthink, EXPERIMENT.env.prompt, [seed]) for seed in seeds]
    assert sum(each) == plain_loop(env, quick, deepthink, EXPERIMENT.env.prompt, seeds)
    assert all(1 < steps <= env.max_steps for steps in each)
    assert plain_loop(env, deepthink, deepthink, EXPERIMENT.env.prompt, seeds) < sum(each)
