"""Where a Switcher calls, counted in real episodes of the key-door room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from londi import config, lms
from londi.agent import Agent
from londi.envs.keydoor import deepthink_policy, quick_policy
from londi.episode import write_episodes
from londi.errors import RunError
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.run import Run
from londi.switchers import RandomRate
from londi.where import where

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", config.load(ROOT / "experiments" / "keydoor.toml"))


def test_what_is_counted(run: Run) -> None:
    experiment = run.experiment
    pair = lms.load_pair(experiment.quick, experiment.deepthink)
    agent = Agent(*pair, make_encoder(experiment), RandomRate(0.4), experiment.env.prompt)
    jobs = [Assignment(seed, budget=3) for seed in range(20)]
    episodes = [replace(e, goal="find the door") for e, _ in rollout(make_envs(experiment, 4), agent, jobs)]
    write_episodes(run.path / "episodes" / "chosen.jsonl", episodes)
    found = {row["label"]: row for row in where(run, {"it carries the key": "carry the key"})}

    steps = [step for episode in episodes for step in episode.steps if step.remaining]
    assert any(not step.remaining for episode in episodes for step in episode.steps), "some budgets are spent"

    def best(policy: Mapping[str, float]) -> str:
        return max(policy, key=policy.__getitem__)

    differ = [best(quick_policy(step.prompt)) != best(deepthink_policy(step.prompt)) for step in steps]
    everything = found["all steps"]
    assert everything["steps"] == len(steps)
    assert everything["calls"] == sum(step.called for step in steps) > 0
    assert everything["differ"] == sum(differ) > 0
    erring = found["QUICK would err"]
    assert erring["steps"] == erring["differ"] == sum(differ)
    assert erring["calls"] == sum(step.called for step, other in zip(steps, differ, strict=True) if other)
    assert found["QUICK would do as DEEPTHINK"]["steps"] == len(steps) - sum(differ)
    carrying = [step for step in steps if "carry the key" in step.observation]
    assert (found["it carries the key"]["steps"], found["it carries the key"]["calls"]) == (
        len(carrying),
        sum(step.called for step in carrying),
    )
    assert found["the goal's thing is in view"]["steps"] == 0, "no text has 'find the' or 'the door' beside each other"
    assert found["it is not"]["steps"] == len(steps)
    new, seen = found["the text is new in its episode"], found["the text was seen before"]
    assert new["steps"] + seen["steps"] == len(steps)
    assert seen["steps"] > 0


def test_a_run_that_was_not_evaluated(run: Run) -> None:
    with pytest.raises(RunError, match="no episodes"):
        where(run, {})
