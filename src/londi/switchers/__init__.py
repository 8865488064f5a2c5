"""Policies over calls: rules, and the learned network (imported from `londi.switchers.network`, needs torch)."""

from londi.switchers.base import Choice, Query, State, Switcher
from londi.switchers.reading import parse_rule
from londi.switchers.rules import Always, EntropyThreshold, EveryStep, FirstSteps, MarginThreshold, Never, RandomRate

__all__ = [
    "Always",
    "Choice",
    "EntropyThreshold",
    "EveryStep",
    "FirstSteps",
    "MarginThreshold",
    "Never",
    "Query",
    "RandomRate",
    "State",
    "Switcher",
    "parse_rule",
]
