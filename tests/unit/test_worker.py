"""What a worker of a cluster does on one request, here without the cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray")

from londi import config
from londi.cluster import worker
from londi.rollout import Assignment, Rollout

KEYDOOR = Path(__file__).parents[2] / "experiments" / "keydoor.toml"


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_it_plays_on_until_an_episode_has_ended_or_its_time_is_over(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config.load(KEYDOOR)
    playing = worker.Worker(replace(made, train=replace(made.train, num_envs=2)), 2, None, None)
    monkeypatch.setattr(worker, "PLAYS_S", seconds)
    taken, step = list[int](), Rollout.step

    def counted(self: Rollout) -> object:
        taken.append(len(taken))
        return step(self)

    monkeypatch.setattr(Rollout, "step", counted)
    ended, idle, begun_anew, given_up = playing.step([Assignment(seed, random_rate=0.5) for seed in (1, 2)], None)
    assert (begun_anew, given_up) == (0, [])
    if seconds:
        assert [len(taken)] * len(ended) == [len(episode.steps) for episode, _ in ended]
        assert idle == len(ended) > 0
    else:
        assert (len(taken), ended, idle) == (1, [], 0)
        assert [each["begun"] for each in playing.state()] == [True, True]
    while playing.state():
        playing.step([], None)
    assert playing.step([], None) == ([], 2, 0, []), "with nothing left to play it answers at once"
