"""Where a Switcher calls, counted in real episodes of the key-door room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from londi import config, lms
from londi.agent import Agent
from londi.envs.keydoor import deepthink_policy, quick_policy
from londi.episode import write_episodes
from londi.errors import ConfigError, RunError
from londi.lms.base import Decision
from londi.making import make_encoder, make_envs
from londi.rollout import Assignment, rollout
from londi.run import Run
from londi.switchers import RandomRate
from londi.usage import Usage
from londi.where import THIRDS, check_kinds, count_calls

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", config.load(ROOT / "experiments" / "keydoor.toml"))


def test_what_is_counted(run: Run) -> None:
    experiment = run.experiment
    pair = lms.load_pair(experiment.quick, experiment.deepthink)
    agent = Agent(*pair, make_encoder(experiment), RandomRate(0.4), experiment.env.prompt)
    jobs = [Assignment(seed, "forty in a hundred", budget=3) for seed in range(20)]
    episodes = [replace(e, goal="find the locked door") for e, _ in rollout(make_envs(experiment, 4), agent, jobs)]
    write_episodes(run.path / "episodes" / "chosen.jsonl", episodes)
    counted = count_calls(run, {"it carries the key": "carry the key"})
    assert counted["policy"] == "forty in a hundred"
    found = {row["label"]: row for row in counted["rows"]}

    steps = [step for episode in episodes for step in episode.steps if step.remaining]
    assert any(not step.remaining for episode in episodes for step in episode.steps), "some budgets are spent"

    def best(policy: Mapping[str, float]) -> str:
        return max(policy, key=policy.__getitem__)

    differ = [best(quick_policy(step.prompt)) != best(deepthink_policy(step.prompt)) for step in steps]
    everything = found["all steps"]
    assert everything["steps"] == len(steps)
    assert everything["calls"] == sum(step.called for step in steps) > 0
    assert everything["differ"] == sum(differ) > 0
    erring = found["the models differ"]
    assert erring["steps"] == erring["differ"] == sum(differ)
    assert erring["calls"] == sum(step.called for step, other in zip(steps, differ, strict=True) if other)
    assert found["they agree"]["steps"] == len(steps) - sum(differ)
    carrying = [step for step in steps if "carry the key" in step.observation]
    assert (found["it carries the key"]["steps"], found["it carries the key"]["calls"]) == (
        len(carrying),
        sum(step.called for step in carrying),
    )
    shown = [step for step in steps if "locked door" in step.observation]
    assert len(steps) > len(shown) > 0, "'find the' and 'the door' are in every text, but have a common word"
    assert found["the text names the goal's thing"]["steps"] == len(shown)
    assert found["it does not"]["steps"] == len(steps) - len(shown)
    new, seen = found["the text is new in its episode"], found["it was seen before"]
    assert new["steps"] + seen["steps"] == len(steps)
    assert seen["steps"] > 0
    thirds = [found[label]["steps"] for label in THIRDS]
    assert sum(thirds) == len(steps)
    at = [3 * i // len(e.steps) for e in episodes for i, step in enumerate(e.steps) if step.remaining]
    assert thirds == [at.count(i) for i in range(3)]
    assert thirds[2] < thirds[0], "late in an episode the budget is spent"


def test_a_run_that_was_not_evaluated(run: Run) -> None:
    with pytest.raises(RunError, match="no episodes"):
        count_calls(run, {})


def test_it_is_counted_anew_when_episodes_or_kinds_change(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = run.experiment
    pair = lms.load_pair(experiment.quick, experiment.deepthink)
    agent = Agent(*pair, make_encoder(experiment), RandomRate(0.4), experiment.env.prompt)
    played = [e for e, _ in rollout(make_envs(experiment, 2), agent, [Assignment(seed) for seed in range(4)])]
    write_episodes(run.path / "episodes" / "chosen.jsonl", played)
    first = count_calls(run, {})
    with monkeypatch.context() as patched:
        patched.setattr("londi.where.lms.load", lambda config: pytest.fail("it was counted"))
        assert count_calls(run, {}) == first
    assert len(count_calls(run, {"x": "."})["rows"]) == len(first["rows"]) + 1
    write_episodes(run.path / "episodes" / "chosen.jsonl", played[:2])
    assert count_calls(run, {"x": "."})["rows"][0]["steps"] < first["rows"][0]["steps"]


def test_steps_in_which_deepthink_fails_are_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        name = "failing"

        def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
            return [Decision("", Usage(), error="down")] * len(prompts)

    experiment = run.experiment
    pair = lms.load_pair(experiment.quick, experiment.deepthink)
    agent = Agent(*pair, make_encoder(experiment), RandomRate(0.4), experiment.env.prompt)
    played = [e for e, _ in rollout(make_envs(experiment, 2), agent, [Assignment(seed) for seed in range(4)])]
    write_episodes(run.path / "episodes" / "chosen.jsonl", played)
    monkeypatch.setattr("londi.where.lms.load", lambda config: Failing())
    told = {step.prompt for episode in played for step in episode.steps if step.called}
    known = sum(step.prompt in told for episode in played for step in episode.steps)
    assert count_calls(run, {})["rows"][0]["steps"] == known > 0


@pytest.mark.parametrize(("label", "pattern", "said"), [("they agree", ".", "another label"), ("x", "(", "regular")])
def test_kinds_that_can_not_be(label: str, pattern: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_kinds({label: pattern}, "table.toml")
