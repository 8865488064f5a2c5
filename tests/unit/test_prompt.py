from __future__ import annotations

import pytest

from londi.errors import ConfigError
from londi.prompt import PromptTemplate

OBSERVATIONS = ["a wall", "a ball", "a key"]
ACTIONS = ["turn left", "go forward"]


def test_a_fresh_episode() -> None:
    assert PromptTemplate().render("open the door", ["a wall"], []) == (
        "goal: open the door\nlast: none\nobs: a wall\nact:"
    )


def test_the_latest_come_last() -> None:
    text = PromptTemplate(actions=4, observations=2).render("open the door", OBSERVATIONS, ACTIONS)
    assert text == "goal: open the door\nlast: turn left, go forward\nobs: a ball\nobs: a key\nact:"


def test_old_actions_and_observations_are_dropped() -> None:
    text = PromptTemplate(actions=1, observations=1).render("g", OBSERVATIONS, ACTIONS)
    assert text == "goal: g\nlast: go forward\nobs: a key\nact:"


def test_no_actions_shown() -> None:
    assert PromptTemplate(actions=0).render("g", OBSERVATIONS, ACTIONS) == "goal: g\nlast: none\nobs: a key\nact:"


@pytest.mark.parametrize(("actions", "observations"), [(-1, 1), (0, 0), (4, -2)])
def test_bad_sizes(actions: int, observations: int) -> None:
    with pytest.raises(ConfigError, match="actions >= 0 and observations >= 1"):
        PromptTemplate(actions=actions, observations=observations)
