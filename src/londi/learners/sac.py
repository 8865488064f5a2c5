"""Soft actor-critic with two actions (Christodoulou 2019, arXiv 1910.07207), at one price of a call.

LONDI's problem as it is stated (arXiv 2402.12061): one price, one Switcher, one run. Two critics, the smaller of them
in the targets; the temperature is learned towards a target entropy.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, smooth_l1_loss

from londi.errors import ConfigError
from londi.learners.base import NetworkLearner, follow
from londi.learners.replay import Replay, forgetful
from londi.switchers.base import Switcher
from londi.switchers.network import NetworkSwitcher, PolicyNetwork, SampledSwitcher
from londi.switchers.reader import NetworkShape, Phi, Trunk, tensors


@dataclass(frozen=True)
class SACConfig:
    """How SAC learns."""

    price: float
    """Price of a call, in units of return, at least 0."""
    gamma: float = 0.95
    """Discount in [0, 1]."""
    batch_size: int = 128
    """Transitions an update."""
    lr: float = 1e-3
    """Peak learning rate of actor, critics and temperature."""
    tau: float = 0.02
    """Rate of the averaged critics."""
    entropy: float = 0.1
    """Target entropy in nats; log 2 = .69 would be a coin. Typical .05 to .3 with two actions."""
    price_unit: float = 1.0
    """The amount of the price's measure that a price is for."""
    text_dropout: float = 0.0
    """Share of the n-grams that are hidden from an update, others in each; in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or not 0 < self.tau <= 1 or self.batch_size < 1 or not self.price >= 0:
            raise ConfigError("SAC needs 0 <= gamma <= 1, 0 < tau <= 1, batch_size >= 1 and price >= 0")
        if not 0 < self.entropy < math.log(2):
            raise ConfigError(f"the target entropy of two actions lies between 0 and log 2, not at {self.entropy}")


class Critic(nn.Module):
    """Q(s, g) of both choices."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.trunk = Trunk(shape)
        self.head = nn.Linear(shape.width, 2)

    def forward(self, phi: Phi) -> Tensor:
        """Return (B, 2): not calling, calling."""
        return self.head(self.trunk(phi))  # type: ignore[no-any-return]


class SACLearner(NetworkLearner):
    """Updates actor, two critics and the temperature from replayed transitions."""

    def __init__(self, config: SACConfig, shape: NetworkShape, num_updates: int, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = PolicyNetwork(shape)
            self.critics = nn.ModuleList([Critic(shape), Critic(shape)])
        self.averages = copy.deepcopy(self.critics).requires_grad_(False)
        self.temperature = nn.Linear(1, 1, bias=False)  # a module, to be saved with the others; holds its logarithm
        nn.init.constant_(self.temperature.weight, math.log(0.05))
        modules = {
            "actor": self.actor,
            "critics": self.critics,
            "averages": self.averages,
            "temperature": self.temperature,
        }
        super().__init__(modules, ("actor", "critics", "temperature"), config.lr, num_updates, seed)
        self.switcher = NetworkSwitcher(self.actor)

    @property
    def explorer(self) -> Switcher:
        """The actor, sampled."""
        return SampledSwitcher(self.actor)

    def update(self, replay: Replay) -> dict[str, float]:
        """Take one optimiser step of all parts on a replayed batch; return the losses."""
        c = self.config
        drawn = replay.sample(c.batch_size, self.rng)
        batch = forgetful(drawn, c.text_dropout, self.actor.shape.buckets, self.rng)
        here, there = tensors(batch.features), tensors(batch.next_features)
        log_alpha = self.temperature.weight[0, 0]
        alpha = log_alpha.detach().exp()
        cost = torch.from_numpy(batch.cost) * (c.price / c.price_unit)
        going = c.gamma * torch.from_numpy(~batch.done).float()
        with torch.no_grad():
            log, share = _both(self.actor(there))
            least = torch.minimum(*(critic(there) for critic in self.averages))
            target = torch.from_numpy(batch.reward) - cost + going * (share * (least - alpha * log)).sum(-1)
        rows, called = torch.arange(len(target)), torch.from_numpy(batch.called).long()
        values = [critic(here) for critic in self.critics]
        losses = [smooth_l1_loss(q[rows, called], target, beta=0.3) for q in values]
        critic_loss = torch.stack(losses).sum()
        log, share = _both(self.actor(here))
        worth = torch.minimum(*(q.detach() for q in values))
        actor_loss = (share * (alpha * log - worth)).sum(-1).mean()
        entropy = -(share * log).sum(-1).mean().detach()
        loss = critic_loss + actor_loss + log_alpha * (entropy - c.entropy)
        self._minimise(loss)
        self.updates += 1
        follow(self.averages, self.critics, c.tau)
        return {"loss": float(critic_loss.detach()), "entropy": float(entropy)}


def _both(logit: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and probabilities (B, 2) of not calling and of calling."""
    log = torch.stack([logsigmoid(-logit), logsigmoid(logit)], -1)
    return log, log.exp()
