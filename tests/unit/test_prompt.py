from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from londi.encoders import Moment, TextEncoder
from londi.errors import ConfigError
from londi.lms import Decision
from londi.prompt import PromptTemplate
from londi.usage import Usage

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


def test_a_transcript_continues_the_one_before() -> None:
    template = PromptTemplate(layout="transcript", instructions="Answer with one of: {actions}.")
    prompts = [template.render("g", OBSERVATIONS[: i + 1], ACTIONS[:i], ("a", "b")) for i in range(3)]
    assert prompts[0] == "Answer with one of: a, b.\ngoal: g\nobs: a wall\nact:"
    assert prompts[1] == prompts[0] + " turn left\nobs: a ball\nact:"
    assert prompts[2] == prompts[1] + " go forward\nobs: a key\nact:"


def test_instructions_without_a_closed_set_of_actions() -> None:
    text = PromptTemplate(instructions="Say {actions}.\n").render("g", ["o"], [])
    assert text == "Say any text.\ngoal: g\nlast: none\nobs: o\nact:"


def test_a_prompt_loses_its_oldest_turn() -> None:
    prompt = PromptTemplate(layout="transcript", instructions="Go.").render("g", OBSERVATIONS, ACTIONS)
    shorter = prompt.without_oldest()
    assert shorter == "Go.\ngoal: g\nobs: a ball\nact: go forward\nobs: a key\nact:"
    assert shorter is not None
    last = shorter.without_oldest()
    assert last == "Go.\ngoal: g\nobs: a key\nact:"
    assert last is not None
    assert last.without_oldest() is None
    recent = PromptTemplate(observations=2).render("g", OBSERVATIONS, ACTIONS).without_oldest()
    assert recent == "goal: g\nlast: turn left, go forward\nobs: a key\nact:"


def test_a_prompt_survives_being_sent_to_another_process() -> None:
    prompt = PromptTemplate(instructions="Go.").render("g", OBSERVATIONS, ACTIONS)
    for copied in (pickle.loads(pickle.dumps(prompt)), copy.deepcopy(prompt)):
        assert copied == prompt
        assert vars(copied) == vars(prompt)


def test_encoders_leave_the_instructions_out() -> None:
    with_words = PromptTemplate(instructions="One.\nTwo, three.").render("g", OBSERVATIONS, ACTIONS)
    without = PromptTemplate().render("g", OBSERVATIONS, ACTIONS)
    decision, moment = Decision("a", Usage(), (0.0,)), Moment(0, 8, (), 0, 0, False, 0, 0, 0)
    one, other = (TextEncoder().encode([prompt], [decision], [moment], ("a",)) for prompt in (with_words, without))
    assert np.array_equal(one.text, other.text)
    assert np.array_equal(one.fields, other.fields)


def test_an_unknown_layout() -> None:
    with pytest.raises(ConfigError, match="'recent' or 'transcript'"):
        PromptTemplate(layout="chat")  # type: ignore[arg-type]
