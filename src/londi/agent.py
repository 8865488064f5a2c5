"""`Agent`: QUICK + DEEPTHINK + Encoder + Switcher + Budget. Decide, reserve, call, record.

The one place where a step is taken; training, evaluation and serving differ only in what they hand it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from londi.budget import Budget, Reservation
from londi.encoders import ENTROPY, Encoder, Features, Moment
from londi.encoders.text import probabilities
from londi.episode import Reply, Step
from londi.errors import ModelError
from londi.lms.base import Bounded, Decision, LanguageModel
from londi.prompt import PromptTemplate
from londi.switchers import Choice, Query, State, Switcher


@dataclass
class History:
    """An episode so far, as the agent sees it, with the budget it runs under."""

    goal: str
    observation: str
    admissible: tuple[str, ...] | None
    max_steps: int
    budget: Budget
    price: float = 0.0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    random_rate: float | None = None
    """Exploration: call at this rate instead of asking the Switcher."""
    guided: bool = False
    """Exploration: the rate is tempered by where the Switcher expects the models to differ, see `tempered`."""
    epsilon: float = 0.0
    """Exploration: share of steps on which a fair coin decides."""
    observations: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    overrode: list[bool] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    refused: bool = False

    def __post_init__(self) -> None:
        self.observations.append(self.observation)

    def see(self, observation: str, progress: float = 0.0, valid: bool = True) -> None:
        """Take in what the environment said after the last action, what that gained, and whether it was understood."""
        self.observation, self.refused = observation, not valid
        self.progress.append(progress)
        self.observations.append(observation)

    def repeat(self, step: Step) -> None:
        """Take in a step that was taken before, as `Agent.act` did: its action, and what it took of the budget."""
        self.actions.append(step.action)
        self.overrode.append(step.action != step.quick.action)
        if step.deepthink and step.deepthink.charged:
            self.budget.charge(step.deepthink.usage.of(self.budget.measure))

    @property
    def moment(self) -> Moment:
        """Where the episode stands."""
        seen = [step for step, text in enumerate(self.observations[:-1]) if text == self.observation]
        overrides = [step for step, overrode in enumerate(self.overrode) if overrode]
        better = [step for step, gain in enumerate(self.progress) if gain > 0]
        now = len(self.actions)
        return Moment(
            step=now,
            max_steps=self.max_steps,
            actions=tuple(self.actions),
            times_seen=len(seen),
            since_seen=now - seen[-1] if seen else 0,
            overrode_then=bool(seen) and self.overrode[seen[-1]],
            revisits=len(self.observations) - 1 - len(set(self.observations[:-1])),
            overrides=len(overrides),
            since_override=now - overrides[-1] if overrides else 0,
            refused=self.refused,
            since_progress=now - (better[-1] + 1 if better else 0),
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """What the agent did in B states, before the environment answers: one draft of a `Step` a state."""

    features: Features
    drafts: list[Step]
    """Steps with `reward` 0 and `valid` True, to be completed with the environment's answer."""
    agreed: NDArray[np.bool_]
    """(B,) whether DEEPTHINK was called and what QUICK had said was done: both said it, or DEEPTHINK failed."""


class Agent:
    """Two fixed language models and the Switcher between them."""

    def __init__(
        self,
        quick: LanguageModel,
        deepthink: LanguageModel,
        encoder: Encoder,
        switcher: Switcher,
        template: PromptTemplate | None = None,
    ) -> None:
        self.quick, self.deepthink, self.encoder, self.switcher = quick, deepthink, encoder, switcher
        self.template = template or PromptTemplate()

    def act(self, histories: Sequence[History]) -> Decided:
        """Decide B states: QUICK on all of them, DEEPTHINK in one batch on those that asked and may.

        Appends the action to each history. Where DEEPTHINK's decision is an error, QUICK acts, and the call is charged
        what it cost. Raises `ModelError` where QUICK's is one; whatever a model raises gives its reservations back and
        goes on to the caller.
        """
        admissible = histories[0].admissible
        prompts = [self.template.render(h.goal, h.observations, h.actions, h.admissible) for h in histories]
        quick = ask(self.quick, prompts, admissible)
        for decision in quick:
            if decision.error:
                raise ModelError(f"QUICK ({self.quick.name}) failed: {decision.error}")
        features = self.encoder.encode(prompts, quick, [h.moment for h in histories], admissible)
        worst = self._worst_cases(histories, prompts)
        remaining = [h.budget.calls_left(most) for h, most in zip(histories, worst, strict=True)]
        choice = self._choose(histories, prompts, quick, features, remaining)
        deep = self._call(histories, prompts, choice, worst)
        drafts = []
        for i, history in enumerate(histories):
            reply = deep.get(i)
            action = quick[i].action if reply is None or reply.error else reply.action
            history.actions.append(action)
            history.overrode.append(action != quick[i].action)
            drafts.append(
                Step(
                    observation=history.observation,
                    prompt=str(prompts[i]),
                    quick=_reply(quick[i]),
                    deepthink=_reply(reply) if reply else None,
                    probabilities=tuple(probabilities(quick[i]).tolist()),
                    entropy=float(features.dense[i, ENTROPY]),
                    wished=bool(choice.call[i]),
                    called=reply is not None,
                    propensity=float(choice.propensity[i]),
                    advantage=float(choice.advantage[i]),
                    remaining=remaining[i],
                    action=action,
                    reward=0.0,
                    valid=True,
                )
            )
        agreed = np.array([draft.called and draft.action == draft.quick.action for draft in drafts])
        return Decided(features, drafts, agreed)

    def _choose(
        self,
        histories: Sequence[History],
        prompts: Sequence[str],
        quick: Sequence[Decision],
        features: Features,
        remaining: Sequence[int | None],
    ) -> Choice:
        uniform = np.array([h.rng.random(3) for h in histories])  # (B, 3): the Switcher's, whether and how to explore
        left = np.array([np.inf if x is None else float(x) for x in remaining])
        states = tuple(State(h.observation, q.action, h.moment) for h, q in zip(histories, quick, strict=True))
        query = Query(features, left, np.array([h.price for h in histories]), uniform[:, 0], states)
        choice = self.switcher.choose(query)
        rate = np.array([np.nan if h.random_rate is None else h.random_rate for h in histories])
        if choice.disagree is not None:
            guided = np.array([h.guided for h in histories]) & ~np.isnan(rate)
            rate = np.where(guided, tempered(rate, choice.disagree), rate)
        epsilon = np.array([h.epsilon for h in histories])
        if not epsilon.any() and np.isnan(rate).all():
            return choice
        share = np.where(np.isnan(rate), epsilon, 1.0)
        coin = np.where(np.isnan(rate), 0.5, rate) * (left > 0)
        own = np.where(choice.call, choice.propensity, 1 - choice.propensity)
        probability = share * coin + (1 - share) * own
        call = np.where(uniform[:, 1] < share, uniform[:, 2] < coin, choice.call)
        return Choice(call, np.where(call, probability, 1 - probability), choice.advantage)

    def _worst_cases(self, histories: Sequence[History], prompts: Sequence[str]) -> list[float]:
        """The most a call can cost in each state, in the measure of its budget."""
        if all(h.budget.measure == "calls" for h in histories):
            return [1] * len(histories)
        if not isinstance(self.deepthink, Bounded):
            raise ModelError(
                f"DEEPTHINK ({self.deepthink.name}) doesn't know the most a call can cost (it has no worst_case): "
                "budget calls, not tokens or dollars"
            )
        most = self.deepthink.worst_case(prompts, histories[0].admissible)
        if any(h.budget.measure == "dollars" and not usage.dollars for h, usage in zip(histories, most, strict=True)):
            raise ModelError(
                f"DEEPTHINK ({self.deepthink.name}) has no price in dollars: name a table in server.prices, "
                "or budget calls or tokens"
            )
        return [usage.of(h.budget.measure) for usage, h in zip(most, histories, strict=True)]

    def _call(
        self, histories: Sequence[History], prompts: Sequence[str], choice: Choice, worst: Sequence[float]
    ) -> dict[int, Decision]:
        """Ask DEEPTHINK where the Switcher wished and the budget permits; return decisions by row."""
        reservations: dict[int, Reservation] = {}
        for i in np.flatnonzero(choice.call).tolist():
            reservation = histories[i].budget.reserve(worst[i])
            if reservation is not None:
                reservations[i] = reservation
        if not reservations:
            return {}
        rows = list(reservations)
        try:
            admissible = histories[0].admissible
            decisions = ask(self.deepthink, [prompts[i] for i in rows], admissible)
            for i, decision in zip(rows, decisions, strict=True):
                if _reply(decision).charged:
                    reservations[i].settle(decision.usage.of(histories[i].budget.measure))
        finally:
            for reservation in reservations.values():
                if reservation.state == "open":
                    reservation.release()
        return dict(zip(rows, decisions, strict=True))


def tempered(rate: NDArray[np.float64], disagree: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the call rates (B,) of guided exploration: d^((1 - p) / p) at rate p and probability of disagreement d.

    0 at p = 0, d at p = 1/2, 1 at p = 1: calls gather where the models differ, but for the highest rates, and with
    d = 1/2, where nothing is known yet of free text, their mean over all p is .48; with d = 5/6, of six actions, .72.
    """
    return np.where(rate > 0, disagree ** ((1 - rate) / np.maximum(rate, 1e-9)), 0.0)


class OracleAgent(Agent):
    """The disagreement oracle: asks both models and calls exactly where they differ.

    No one can run it: to know where they differ it has consulted DEEPTHINK everywhere. It is charged only where it
    calls, and shows what a perfect predictor of disagreement would reach.
    """

    def _choose(
        self,
        histories: Sequence[History],
        prompts: Sequence[str],
        quick: Sequence[Decision],
        features: Features,
        remaining: Sequence[int | None],
    ) -> Choice:
        deep = ask(self.deepthink, prompts, histories[0].admissible)
        differ = np.array([d.action != q.action for d, q in zip(deep, quick, strict=True)])
        left = np.array([x is None or x > 0 for x in remaining])
        return Choice(differ & left, np.ones(len(differ)), np.full(len(differ), np.nan))


def ask(model: LanguageModel, prompts: Sequence[str], admissible: Sequence[str] | None) -> list[Decision]:
    """Return a model's decisions; raises `ModelError` where one is none of a closed set of actions.

    Of free text the first line is the action: what a model says beyond it is none, and no disagreement.
    """
    decisions = model.decide(prompts, admissible)
    if admissible is not None:
        for decision in decisions:
            if not decision.error and decision.action not in admissible:
                raise ModelError(
                    f"{model.name} answered '{decision.action}', none of the {len(admissible)} actions that it was "
                    "given as `candidates`: choose one of them, or say what went wrong in `error`"
                )
        return list(decisions)
    firsts = (next((line for line in d.action.splitlines() if line.strip()), "") for d in decisions)
    return [replace(d, action=" ".join(first.split())) for d, first in zip(decisions, firsts, strict=True)]


def _reply(decision: Decision) -> Reply:
    return Reply(decision.action, decision.thought, decision.usage, decision.error)
