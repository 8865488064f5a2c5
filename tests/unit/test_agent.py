"""One step of the agent: what it remembers, how it explores, and that a call which changes nothing leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

from londi.agent import Agent, History
from londi.budget import Budget
from londi.encoders import Moment, TextEncoder
from londi.lms import ScriptedLM
from londi.switchers import Always, Never, Switcher

ACTIONS = ("left", "right")
QUICK = ScriptedLM(lambda prompt: "left", "quick")
OTHER = ScriptedLM(lambda prompt: "right", "other")


def history(budget: int | None = None, seed: int = 0, **changes: object) -> History:
    rng = np.random.default_rng(seed)
    return History("g", "o0", ACTIONS, 8, Budget(budget), rng=rng, **changes)  # type: ignore[arg-type]


def agent(switcher: Switcher, deepthink: ScriptedLM = OTHER) -> Agent:
    return Agent(QUICK, deepthink, TextEncoder(), switcher)


def follow(h: History, a: Agent, observations: str) -> list[Moment]:
    """Act, then see each observation in turn; return the moments before each action."""
    moments = []
    for name in observations.split():
        moments.append(h.moment)
        a.act([h])
        h.see(name)
    return [*moments, h.moment]


def test_the_first_moment_is_empty() -> None:
    assert history().moment == Moment(0, 8, (), 0, 0, False, 0, 0, 0)


def test_moments_count_returns() -> None:
    moments = follow(history(), agent(Never()), "o1 o0 o1 o2 o0")
    assert [m.times_seen for m in moments] == [0, 0, 1, 1, 0, 2]
    assert [m.since_seen for m in moments] == [0, 0, 2, 2, 0, 3]
    assert [m.revisits for m in moments] == [0, 0, 0, 1, 2, 2]
    assert moments[-1].actions == ("left",) * 5
    assert not any(m.overrides or m.overrode_then for m in moments)


def test_moments_count_overrides() -> None:
    moments = follow(history(budget=2), agent(Always()), "o1 o0 o2 o1")
    assert [m.overrides for m in moments] == [0, 1, 2, 2, 2]
    assert [m.since_override for m in moments] == [0, 1, 1, 2, 3]
    assert [m.overrode_then for m in moments] == [False, False, True, False, True]


def test_a_call_that_agreed_is_a_step_of_quicks() -> None:
    """The learners count such a transition as both choices, so nothing the Switcher sees may tell them apart."""
    called, quiet = history(), history()
    a, b = agent(Always(), QUICK), agent(Never())
    for name in ["o1", "o0", "o1"]:
        one, other = a.act([called]), b.act([quiet])
        assert one.agreed.tolist() == [True]
        assert other.agreed.tolist() == [False]
        np.testing.assert_array_equal(one.features.dense, other.features.dense)
        called.see(name)
        quiet.see(name)
    assert called.moment == quiet.moment
    assert called.budget.spent == 3


def test_exploration_states_its_propensity() -> None:
    """The share of calls made is the one that the recorded propensities say."""
    many = [history(seed=i, epsilon=0.4) for i in range(2000)]
    drafts = agent(Never()).act(many).drafts
    assert np.mean([d.called for d in drafts]) == pytest.approx(0.2, abs=0.03)
    assert {round(d.propensity, 9) for d in drafts if d.called} == {0.2}
    assert {round(d.propensity, 9) for d in drafts if not d.called} == {0.8}
    drafts = agent(Always()).act([history(seed=i, random_rate=0.3) for i in range(2000)]).drafts
    assert np.mean([d.called for d in drafts]) == pytest.approx(0.3, abs=0.04)
    assert {round(d.propensity, 9) for d in drafts} == {0.3, 0.7}


def test_exploration_never_calls_without_budget() -> None:
    many = [history(0, seed=i, epsilon=1.0) for i in range(100)] + [
        history(0, seed=i, random_rate=1.0) for i in range(9)
    ]
    drafts = agent(Always()).act(many).drafts
    assert not any(d.called or d.wished for d in drafts[100:])
    assert not any(d.called for d in drafts)
    assert {d.propensity for d in drafts if not d.wished} == {1.0}


def test_deepthink_is_asked_about_the_states_that_called_alone() -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return "right"

    many = [history(0), history(1), history(None), history(0)]
    drafts = agent(Always(), ScriptedLM(script)).act(many).drafts
    assert len(asked) == 2
    assert [d.action for d in drafts] == ["left", "right", "right", "left"]
    assert [d.deepthink is not None for d in drafts] == [False, True, True, False]
