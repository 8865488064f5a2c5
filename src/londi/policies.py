"""What an evaluation measures: every setting of what was learned, the rules, QUICK, DEEPTHINK and the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from londi.config import Experiment
from londi.frontier import UP_TO
from londi.switchers import (
    Always,
    EntropyThreshold,
    EveryStep,
    FirstSteps,
    MarginThreshold,
    Never,
    RandomRate,
    Switcher,
    parse_rule,
)

SETTINGS = (
    *("budgets", "prices", "capped", "router_thresholds", "myopic_prices"),
    *("random_rates", "entropy_thresholds", "margins", "every", "first", "rules"),
)
"""Fields of `EvaluateConfig` that name policies; all others say on which episodes these are measured, and how."""
_TEST = ("episodes", "first_test_seed")


def same_training(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments have the same task, models, Switchers and training, however they are evaluated."""
    return all(getattr(one, f.name) == getattr(other, f.name) for f in fields(Experiment) if f.name != "evaluate")


def same_selection(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments measure the same Switchers on the same selection episodes, whichever settings they name
    and whatever episodes they test on."""
    kept = {name: getattr(other.evaluate, name) for name in (*SETTINGS, *_TEST, "processes", "num_envs")}
    return same_training(one, other) and replace(one.evaluate, **kept) == other.evaluate


def same_test(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments test on the same episodes."""
    return all(getattr(one.evaluate, name) == getattr(other.evaluate, name) for name in _TEST)


@dataclass(frozen=True)
class Policy:
    """One row of the table."""

    name: str
    kind: str
    value: float | None = None
    budget: float | None = None
    """The cap it plays under."""
    price: float = 0.0
    """The price it plays under."""


QUICK, DEEPTHINK = Policy("QUICK", "model"), Policy("DEEPTHINK", "model")


def learned_policies(experiment: Experiment) -> list[Policy]:
    """Return the policies that the experiment has learned, at every setting that it measures."""
    e, t = experiment.evaluate, experiment.train
    policies = []
    if "budget" in t.learners:
        unit = "" if e.budget_measure == "calls" else f" {e.budget_measure}"
        policies += [Policy(f"budget {n:g}{unit}", "budget", n, budget=_whole(n)) for n in e.budgets]
        if t.relabel or "price" in t.learners:  # else no episode teaches what to do without a limit
            policies.append(Policy("budget unlimited", "budget"))
    swept = {"price": e.prices, "myopic": e.myopic_prices, "router": e.router_thresholds}
    swept |= {"sac": (t.price,), "ppo": (t.price,)}
    for kind, values in swept.items():
        if kind in t.learners:
            policies += [Policy(f"{kind} {c:g}", kind, c, price=c) for c in values]
    return policies


def capped_policies(experiment: Experiment, price: float) -> list[Policy]:
    """Return a price under every finite budget that the experiment measures: the best price, then stop."""
    budgets = experiment.evaluate.budgets
    return [Policy(f"price {price:g}{UP_TO}{n:g}", "capped", n, _whole(n), price) for n in budgets]


def baselines(experiment: Experiment) -> list[Policy]:
    """Return the rules and the oracle that the experiment measures."""
    e = experiment.evaluate
    rules = [Policy(f"random {p:g}", "random", p) for p in e.random_rates]
    rules += [Policy(f"every {k}", "every", k) for k in e.every]
    rules += [Policy(f"first {n}", "first", n) for n in e.first]
    rules += [Policy(f"entropy {h:g}", "entropy", h) for h in e.entropy_thresholds]
    rules += [Policy(f"margin {h:g}", "margin", h) for h in e.margins]
    rules += [Policy(text, "rule") for text in e.rules]
    return [QUICK, DEEPTHINK, *rules, Policy("disagreement oracle", "oracle")]


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


_RULES: dict[str, Callable[[float], Switcher]] = {
    "random": RandomRate,
    "every": lambda period: EveryStep(int(period)),
    "first": lambda count: FirstSteps(int(count)),
    "entropy": EntropyThreshold,
    "margin": MarginThreshold,
}


def switcher_of(policy: Policy, learned: Mapping[str, Switcher]) -> Switcher:
    """Return what a policy asks; `learned` holds the Switchers of the learners."""
    kind, value = policy.kind, policy.value or 0.0
    if kind in learned or kind == "capped":
        return learned["price" if kind == "capped" else kind]
    if kind == "rule":
        return parse_rule(policy.name)
    if kind in _RULES:
        return _RULES[kind](value)
    return Always() if policy == DEEPTHINK else Never()
