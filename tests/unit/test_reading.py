"""Rules that read the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from londi import Agent, Always, Assignment, ScriptedLM, TextEncoder, config, rollout
from londi.encoders import Features, Moment
from londi.envs import make
from londi.errors import ConfigError, EnvError
from londi.switchers import Query, State, parse_rule
from londi.switchers.reading import Matches, Refused, Stuck, SwiftSage
from londi.train import prepare


def state(observation: str = "A room.", action: str = "look around", **moment: Any) -> State:
    start = {"step": 3, "max_steps": 9, "actions": (), "times_seen": 0, "since_seen": 0, "overrode_then": False}
    return State(observation, action, Moment(**{**start, "revisits": 0, "overrides": 0, "since_override": 0, **moment}))


def query(*states: State, remaining: float = np.inf) -> Query:
    count = len(states)
    phi = Features(np.zeros((count, 1, 1), np.int16), np.zeros((count, 1), np.int16), np.zeros((count, 20), np.float32))
    return Query(phi, np.full(count, remaining), np.zeros(count), np.full(count, 0.5), states)


CASES = {
    "action ^(focus|move)": (state(action="Focus on dove"), state(action="go to kitchen")),
    "text outside location": (state("This outside location is called the outside."), state("This room is called")),
    "refused": (state(refused=True), state()),
    "seen": (state(times_seen=1), state(times_seen=0)),
    "seen 2": (state(times_seen=2), state(times_seen=1)),
    "stuck 4": (state(since_progress=4), state(since_progress=3)),
    "stuck": (state(times_seen=1, actions=("look around",)), state(times_seen=1, actions=("wait",))),
    "swiftsage 6": (state(since_progress=6), state(since_progress=5)),
    "swiftsage": (state(action="focus on the red box"), state("You move; it can't be seen.", action="wait")),
}


@pytest.mark.parametrize("text", CASES)
def test_each_rule_calls_where_it_says(text: str) -> None:
    rule, (yes, no) = parse_rule(text), CASES[text]
    assert rule.choose(query(yes, no)).call.tolist() == [True, False]
    assert not rule.choose(query(yes, remaining=0.0)).call.any(), "never without a call left"


def test_swiftsage_has_four_reasons() -> None:
    rule = SwiftSage()
    reasons = {
        "stuck": state(since_progress=5),
        "invalid": state(refused=True),
        "critical": state(action="move dove to red box"),
        "exception": state("The door is already open; This room is called the hall."),
    }
    assert {name for name, found in reasons.items() if rule.holds(found)} == set(reasons)
    assert not rule.holds(state("You move to the hallway; the door can't be seen", action="go to kitchen"))
    assert not rule.holds(state("The door is already open", step=0)), "nothing was done yet"


@pytest.mark.parametrize(
    "text", ["", "action", "text  ", "sometimes", "stuck soon", "stuck ²", "refused often", "seen it", "swiftsage -1"]
)
def test_no_rule(text: str) -> None:
    with pytest.raises(ConfigError, match="no rule"):
        parse_rule(text)


def test_bad_patterns_and_patience_are_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        Matches("(")
    with pytest.raises(ConfigError, match="at least 1 step"):
        Stuck(0)
    with pytest.raises(ConfigError, match="reads the text"):
        Refused().choose(Query(query(state()).features, np.ones(1), np.zeros(1), np.zeros(1)))


def test_an_episode_tells_its_rules_what_was_refused_and_gained() -> None:
    seen: list[Moment] = []

    class Watching:
        def choose(self, query: Query) -> Any:
            seen.extend(state.moment for state in query.states)
            return parse_rule("refused").choose(query)

    script = iter(["sing", "left", "left"])
    quick = ScriptedLM(lambda prompt: next(script))
    deep = ScriptedLM(lambda prompt: "forward")
    env = make("londi/KeyDoor-v0", max_steps=3)
    env.admissible = None
    env._apply = lambda action: _free(env, action)  # type: ignore[method-assign]
    [(episode, _)] = rollout([env], Agent(quick, deep, TextEncoder(), Watching()), [Assignment(0)])
    assert [moment.refused for moment in seen] == [False, True, False]
    assert [step.called for step in episode.steps] == [False, True, False]
    assert [moment.since_progress for moment in seen] == [0, 1, 0], "the second action was rewarded"


def test_of_free_text_the_first_line_is_the_action() -> None:
    env = make("londi/KeyDoor-v0", max_steps=1)
    env.admissible = None
    env._apply = lambda action: _free(env, action)  # type: ignore[method-assign]
    quick = ScriptedLM(lambda prompt: "\n go  left\nThe door is there.")
    deep = ScriptedLM(lambda prompt: "go left\nBecause I say so.")
    [(episode, trajectory)] = rollout([env], Agent(quick, deep, TextEncoder(), Always()), [Assignment(0)])
    assert episode.steps[0].action == "go left"
    assert trajectory.agreed.tolist() == [True], "they do the same, whatever they say beside"


def _free(env: Any, action: str) -> tuple[str, float, bool, bool]:
    env._refused = action == "sing"
    return "text", float(action == "forward"), False, False


def test_what_evaluation_would_refuse_is_refused_before_training(tmp_path: Path) -> None:
    model = {"model": "builtin:keydoor-quick"}
    data = {"name": "x", "env": {"id": "londi/KeyDoor-v0"}, "quick": model, "deepthink": model}
    experiment = config.parse({**data, "evaluate": {"rules": ["stick 5"]}})
    with pytest.raises(ConfigError, match="no rule 'stick 5'"):
        prepare(tmp_path / "run", experiment)
    wrong = {"id": "londi/KeyDoor-v0", "test": {"max_stps": 9}}
    with pytest.raises(EnvError, match="max_stps"):
        prepare(tmp_path / "run", config.parse({**data, "env": wrong}))
    assert not (tmp_path / "run").exists()
