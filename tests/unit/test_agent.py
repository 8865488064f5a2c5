"""One step of the agent: what it remembers, how it explores, and that a call which changes nothing leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from londi.agent import Agent, History
from londi.budget import Budget
from londi.encoders import Moment, TextEncoder
from londi.episode import Reply
from londi.errors import ModelError
from londi.lms import CachedLM, Decision, LanguageModel, ScriptedLM
from londi.switchers import Always, Choice, Never, Query, Switcher
from londi.usage import BudgetMeasure, Usage

ACTIONS = ("left", "right")
QUICK = ScriptedLM(lambda prompt: "left", "quick")
OTHER = ScriptedLM(lambda prompt: "right", "other")


def history(budget: int | None = None, seed: int = 0, measure: BudgetMeasure = "calls", **changes: object) -> History:
    rng = np.random.default_rng(seed)
    return History("g", "o0", ACTIONS, 8, Budget(budget, measure), rng=rng, **changes)  # type: ignore[arg-type]


def agent(switcher: Switcher, deepthink: LanguageModel = OTHER) -> Agent:
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


@pytest.mark.parametrize("switcher", [Always(), Never()])
def test_an_answer_that_is_none_of_the_actions_is_the_models_fault(switcher: Switcher) -> None:
    class Loose:
        name = "loose"

        def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
            return [Decision("up", Usage(1))] * len(prompts)

    quick, deepthink = (QUICK, Loose()) if isinstance(switcher, Always) else (Loose(), OTHER)
    h = history(budget=1)
    with pytest.raises(ModelError, match="loose answered 'up', none of the 2 actions"):
        Agent(quick, deepthink, TextEncoder(), switcher).act([h])
    assert h.budget.calls_left(1) == 1, "nothing was charged"


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


class Expects(Always):
    """Expects the models to differ with a probability of its own in each state."""

    def choose(self, query: Query) -> Choice:
        return replace(super().choose(query), disagree=np.resize([0.02, 0.5, 0.98], len(query)))


def test_guided_exploration_calls_where_the_models_are_expected_to_differ() -> None:
    def shares(rate: float, *, guided: bool = True) -> list[float]:
        many = [history(seed=i, random_rate=rate, guided=guided) for i in range(3000)]
        drafts = agent(Expects()).act(many).drafts
        assert len({round(d.propensity, 6) for d in drafts[::3]}) <= 2, "stated as it is"
        return [float(np.mean([d.called for d in drafts[i::3]])) for i in range(3)]

    assert shares(0.5) == pytest.approx([0.02, 0.5, 0.98], abs=0.05)
    assert shares(0.25) == pytest.approx([0.0, 0.125, 0.94], abs=0.05)
    assert shares(0.5, guided=False) == pytest.approx([0.5, 0.5, 0.5], abs=0.05)
    assert shares(0.0) == [0, 0, 0]
    assert shares(1.0) == [1, 1, 1]


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


class Failing(ScriptedLM):
    """Answers every other prompt of a batch; the others cost what `lost` says and have no action."""

    def __init__(self, lost: Usage) -> None:
        super().__init__(lambda prompt: "right", "failing")
        self.lost = lost

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        answers = super().decide(prompts, candidates)
        return [a if i % 2 else Decision("", self.lost, error="timed out") for i, a in enumerate(answers)]


def test_a_failed_call_leaves_the_step_to_quick_and_is_charged() -> None:
    lost = Usage(prompt_tokens=9, requests=3)
    histories = [history(budget=2, seed=i) for i in range(2)]
    drafts = agent(Always(), Failing(lost)).act(histories).drafts
    assert [draft.action for draft in drafts] == ["left", "right"]
    assert [draft.called for draft in drafts] == [True, True]
    assert [h.budget.remaining for h in histories] == [1, 1]
    assert drafts[0].deepthink == Reply("", "", lost, "timed out")
    assert drafts[0].usage.prompt_tokens == 9 + drafts[0].quick.usage.prompt_tokens


def test_a_call_that_reached_no_server_is_given_back() -> None:
    h = history(budget=1)
    draft = agent(Always(), Failing(Usage())).act([h]).drafts[0]
    assert (draft.action, h.budget.remaining) == ("left", 1)
    assert draft.deepthink is not None
    assert not draft.deepthink.charged


def test_a_quick_that_fails_is_an_error() -> None:
    broken = Agent(Failing(Usage()), OTHER, TextEncoder(), Always())
    with pytest.raises(ModelError, match=r"QUICK \(failing\) failed: timed out"):
        broken.act([history()])


class Bounded(ScriptedLM):
    """Costs 10 tokens and may cost 40."""

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        return [Decision("right", Usage(completion_tokens=10)) for _ in prompts]

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        return [Usage(completion_tokens=40) for _ in prompts]


def test_a_budget_of_tokens_admits_worst_cases_and_charges_costs() -> None:
    h = history(measure="tokens", budget=65)
    deepthink = Bounded(lambda prompt: "right")
    remaining, called = [], []
    for _ in range(5):
        draft = agent(Always(), deepthink).act([h]).drafts[0]
        h.see("o")
        remaining.append(draft.remaining)
        called.append(draft.called)
    assert called == [True, True, True, False, False], "35 tokens are left, and a call may take 40"
    assert remaining == [1, 5, 4, 0, 0]
    assert h.budget.spent == 30


def test_a_budget_of_tokens_needs_a_model_that_knows_its_worst_case() -> None:
    class Unbounded:
        name = "unbounded"

        def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
            return [Decision("right", Usage(completion_tokens=10)) for _ in prompts]

    h = history(measure="tokens", budget=65)
    for deepthink in (Unbounded(), CachedLM(Unbounded())):
        with pytest.raises(ModelError, match="worst_case"):
            Agent(QUICK, deepthink, TextEncoder(), Always()).act([h])
