"""What learners of networks share: an optimiser whose rate falls over the run, a generator, a state to resume from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from londi.errors import ConfigError
from londi.learners.replay import Replay, Trajectory
from londi.switchers.base import Switcher
from londi.switchers.network import NetworkSwitcher


class Adam(torch.optim.Adam):
    """Adam without `torch.compile`: the import of that at its first step takes as long as that of the rest."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)


class NetworkLearner(ABC):
    """Updates networks by Adam; the learning rate falls to 5 % of its peak over `num_updates` (cosine).

    Raises `ConfigError` unless `lr` is above 0.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], trained: Iterable[str], lr: float, num_updates: int, seed: int
    ):
        if not lr > 0:
            raise ConfigError(f"a learning rate must be above 0, not {lr}")
        self.modules, self.peak, self.num_updates, self.updates = dict(modules), lr, num_updates, 0
        self.rng = np.random.default_rng((seed, 7))
        self.parameters = [p for name in trained for p in self.modules[name].parameters()]
        self.optimiser = Adam(self.parameters, lr=lr, fused=True)

    switcher: NetworkSwitcher
    """What was learned so far, without exploration; goes on changing."""

    @property
    def explorer(self) -> Switcher:
        """What plays while it learns."""
        return self.switcher

    @abstractmethod
    def update(self, replay: Replay) -> dict[str, float]:
        """Take one optimiser step; return the losses."""

    def observe(self, trajectory: Trajectory) -> None:
        """See an episode that has just ended; the replay has it as well."""
        return

    def _minimise(self, loss: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * _schedule(self.updates / max(1, self.num_updates))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that goes on changing: networks, optimiser, generator, counter."""
        return {
            **{name: module.state_dict() for name, module in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.bit_generator.state,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.bit_generator.state = state["rng"]
        self.updates = state["updates"]


def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move each parameter of `slow` towards that of `fast` by this share of the way."""
    with torch.no_grad():
        for averaged, latest in zip(slow.parameters(), fast.parameters(), strict=True):
            averaged.lerp_(latest, rate)


def _schedule(done: float) -> float:
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
