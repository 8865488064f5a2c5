"""Policies over calls: rules, and the learned network (imported from `londi.switchers.network`, needs torch)."""

from londi.switchers.base import Choice, Query, Switcher
from londi.switchers.rules import Always, EntropyThreshold, Never, RandomRate

__all__ = ["Always", "Choice", "EntropyThreshold", "Never", "Query", "RandomRate", "Switcher"]
