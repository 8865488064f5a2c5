"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) at one price: the on-policy rival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid, smooth_l1_loss

from londi.encoders.base import Features
from londi.errors import ConfigError
from londi.learners.base import NetworkLearner
from londi.learners.replay import Replay, Trajectory
from londi.switchers.base import Switcher
from londi.switchers.network import NetworkSwitcher, PolicyNetwork, SampledSwitcher
from londi.switchers.reader import NetworkShape, tensors

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns."""

    price: float
    """Price of a call, in units of return, at least 0."""
    gamma: float = 0.95
    """Discount in [0, 1]."""
    lr: float = 1e-3
    """Peak learning rate."""
    steps: int = 512
    """Environment steps between two rounds of updates."""
    epochs: int = 4
    """Passes over them in a round."""
    batch_size: int = 128
    """Steps in an update."""
    clip: float = 0.2
    """How far the probability of a choice may move in a round."""
    trace: float = 0.95
    """Lambda of generalised advantage estimation (arXiv 1506.02438)."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    price_unit: float = 1.0
    """The amount of the price's measure that a price is for."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or not 0 <= self.trace <= 1 or not 0 < self.clip < 1 or not self.price >= 0:
            raise ConfigError("PPO needs gamma and trace in [0, 1], clip in (0, 1) and price >= 0")
        if min(self.steps, self.epochs, self.batch_size) < 1:
            raise ConfigError("PPO needs steps, epochs and batch_size >= 1")


class PPOLearner(NetworkLearner):
    """Updates a policy and a value from the episodes it has played itself; each is used in one round only.

    `update` is called as often as other learners take a step; it does a round as soon as there are steps for it.
    """

    def __init__(self, config: PPOConfig, shape: NetworkShape, num_updates: int, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.policy, self.value = PolicyNetwork(shape), PolicyNetwork(shape)
        modules = {"policy": self.policy, "value": self.value}
        super().__init__(modules, ("policy", "value"), config.lr, num_updates, seed)
        self.switcher = NetworkSwitcher(self.policy)
        self.played: list[Trajectory] = []

    @property
    def explorer(self) -> Switcher:
        """The policy, sampled."""
        return SampledSwitcher(self.policy)

    def observe(self, trajectory: Trajectory) -> None:
        """Keep an episode for the next round."""
        self.played.append(trajectory)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that goes on changing, the episodes that wait for their round included."""
        return super().state_dict() | {"played": [each.state() for each in self.played]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state)
        self.played = [Trajectory.from_state(each) for each in state["played"]]

    def update(self, replay: Replay) -> dict[str, float]:
        """Do a round, if there are enough steps; return its mean losses."""
        self.updates += 1
        if sum(len(each.reward) for each in self.played) < self.config.steps:
            return {}
        phi = Features.concatenate([each.features for each in self.played])
        called = torch.from_numpy(np.concatenate([each.called for each in self.played]))
        before, values = self._now(phi, called)
        gains, returns = self._advantages(values)
        self.played = []
        losses = []
        for _ in range(self.config.epochs):
            order = self.rng.permutation(len(phi))
            for start in range(0, len(phi), self.config.batch_size):
                rows = order[start : start + self.config.batch_size]
                losses.append(self._step(phi[rows], called[rows], before[rows], gains[rows], returns[rows]))
        return {"loss": float(np.mean(losses))}

    @torch.no_grad()
    def _now(self, phi: Features, called: torch.Tensor) -> tuple[torch.Tensor, FloatArray]:
        """Return what the policy gave to the choices (M,), and the values (M,), a thousand states at a time."""
        parts = [tensors(phi[i : i + 1024]) for i in range(0, len(phi), 1024)]
        logits = torch.cat([self.policy(part) for part in parts])
        values = torch.cat([self.value(part) for part in parts])
        return logsigmoid(torch.where(called, logits, -logits)), values.numpy()

    def _advantages(self, values: FloatArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return advantages (M,), brought to mean 0 and deviation 1, and returns (M,)."""
        c, found, start = self.config, np.zeros_like(values), 0
        for played in self.played:
            own = values[start : start + len(played.reward)]
            reward = played.reward - c.price / c.price_unit * played.cost
            ahead = 0.0
            for t in reversed(range(len(own))):
                following = own[t + 1] if t + 1 < len(own) else 0.0
                ahead = reward[t] + c.gamma * following - own[t] + c.gamma * c.trace * ahead
                found[start + t] = ahead
            start += len(own)
        returns = torch.from_numpy(found + values)
        return torch.from_numpy((found - found.mean()) / (found.std() + 1e-6)), returns

    def _step(
        self, phi: Features, called: torch.Tensor, before: torch.Tensor, gains: torch.Tensor, returns: torch.Tensor
    ) -> float:
        state = tensors(phi)
        logit = self.policy(state)
        ratio = (logsigmoid(torch.where(called, logit, -logit)) - before).exp()
        bounded = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        gain = torch.minimum(ratio * gains, bounded * gains).mean()
        share = logit.sigmoid()
        entropy = -(share * logsigmoid(logit) + (1 - share) * logsigmoid(-logit)).mean()
        loss = smooth_l1_loss(self.value(state), returns, beta=0.3) - gain - self.config.entropy * entropy
        self._minimise(loss)
        return float(loss.detach())
