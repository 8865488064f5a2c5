"""Double DQN for every budget at once, and for every price at once.

Budget vector (LONDI-B for n = 0..N and no limit), with remaining budget x and call g:

    g = 0:  y[x] = r         + gamma * max_g' Q(s')[x]
    g = 1:  y[x] = r - price k + gamma * max_g' Q(s')[x - 1]    (x = 0 can't call and is left out)

Price conditioned (LONDI for every c):  y(c) = r - c k g + gamma * max_g' Q(s', c),  c drawn afresh for each sample.
k is what the call cost in `price_unit` of the price's measure: 1 where a price is for a call, as in the paper.
Every stored transition is an exact sample for all of them; one of several steps (`n_step`) is not, beyond its first.
Actions of the maximum come from the online network, values from the averaged one (double DQN, arXiv 1509.06461); the
averaged network is the one that acts.
Problem statements: arXiv 2402.12061, eq. for J and section on LONDI-B.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from londi.errors import ConfigError
from londi.learners.base import NetworkLearner, follow
from londi.learners.replay import Later, Replay, Transitions, forgetful
from londi.switchers import answer
from londi.switchers.base import budget_rows
from londi.switchers.network import NETWORKS, BudgetNetwork, NetworkSwitcher, PriceNetwork
from londi.switchers.reader import NetworkShape, tensors


@dataclass(frozen=True)
class DQNConfig:
    """How a Switcher learns."""

    learner: Literal["budget", "price"]
    """`budget` learns every cap at once, `price` every price at once."""
    gamma: float = 1.0
    """Discount in [0, 1]; with gamma < 1 the price is on discounted calls while a budget counts raw ones. 0 is the
    myopic router: a call is worth what it gains in its own step."""
    batch_size: int = 128
    """Transitions an update."""
    lr: float = 1e-3
    """Peak learning rate of Adam; falls to 5 % of it over the run (cosine)."""
    tau: float = 0.02
    """Rate of the averaged network; .002 is too slow, .01 to .05 works."""
    call_price: float = 0.005
    """Price inside the budget learner: it leaves out calls that gain less, even with budget left. 0 switches it off."""
    lowest_price: float = 0.003
    """Prices are drawn log-uniformly from here..."""
    highest_price: float = 1.0
    """...to here, in units of return."""
    price_unit: float = 1.0
    """The amount of its measure that a price is for; larger makes calls cheaper. 1 where prices are for a call."""
    prices_per_sample: int = 4
    """Prices drawn for each replayed transition."""
    disagree_weight: float = 0.3
    """Weight of the auxiliary loss: what would DEEPTHINK do? 0 switches it off."""
    text_dropout: float = 0.0
    """Share of the n-grams that are hidden from an update, others in each; in [0, 1)."""
    n_step: int = 1
    """Steps of a transition before the value of the state that it leads to; those after the first are taken as they
    were played, whatever the budget or price would have made of them (but for calls that agreed, which are none)."""
    relabel: bool = True
    """Use each transition for every budget or price; False is the ablation: only the one it was made under."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or not 0 < self.tau <= 1 or self.lr <= 0 or self.batch_size < 1:
            raise ConfigError("a learner needs 0 <= gamma <= 1, 0 < tau <= 1, lr > 0 and batch_size >= 1")
        if self.n_step < 1:
            raise ConfigError(f"n_step must be at least 1, not {self.n_step}")
        if not 0 <= self.text_dropout < 1:
            raise ConfigError(f"text_dropout must lie in [0, 1), not {self.text_dropout}")
        if not 0 < self.lowest_price <= self.highest_price or self.prices_per_sample < 1 or self.call_price < 0:
            raise ConfigError(
                "prices need 0 < lowest_price <= highest_price, prices_per_sample >= 1 and call_price >= 0"
            )
        if not 0 < self.price_unit < math.inf:
            raise ConfigError(f"price_unit must be a finite number above 0, not {self.price_unit}")


class DQNLearner(NetworkLearner):
    """Updates a budget or price network from replayed transitions.

    `num_updates` is the length of the run, over which the learning rate falls.
    """

    def __init__(self, config: DQNConfig, shape: NetworkShape, num_updates: int, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network: BudgetNetwork | PriceNetwork = NETWORKS[config.learner](shape)  # type: ignore[assignment]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        modules = {"network": self.network, "average": self.average}
        super().__init__(modules, ("network",), config.lr, num_updates, seed)
        self.switcher = NetworkSwitcher(self.average)

    def update(self, replay: Replay) -> dict[str, float]:
        """Take one optimiser step on a replayed batch; return the losses."""
        drawn = replay.sample(self.config.batch_size, self.rng, self.config.n_step, self.config.gamma)
        batch = forgetful(drawn, self.config.text_dropout, self.network.shape.buckets, self.rng)
        value, disagree = self._losses(batch)
        self._minimise(value + self.config.disagree_weight * disagree)
        self.updates += 1
        follow(self.average, self.network, self.config.tau)
        return {"loss": float(value.detach()), "disagree_loss": float(disagree.detach())}

    def _losses(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        called = torch.from_numpy(batch.called)
        agreed = torch.from_numpy(batch.agreed)
        reward, going = torch.from_numpy(batch.reward), torch.from_numpy(~batch.done).float()
        if batch.later is None:
            going = self.config.gamma * going
        else:
            reward = reward + torch.from_numpy(batch.later.reward)
            going = torch.from_numpy(batch.later.discount) * going
        q, logits, quick, deep = self._targets(batch, reward, going)
        # q, quick, deep: (B, M, R, 2), (B, R), (B, R); what DEEPTHINK said too is a sample of not calling as well
        as_quick = (~called | agreed)[:, None].expand_as(quick) & torch.isfinite(quick)
        as_deep = called[:, None].expand_as(deep) & torch.isfinite(deep)
        mask = torch.stack([as_quick, as_deep], -1)[:, None].expand_as(q)  # each of M readers learns for itself
        target = torch.stack([quick, deep], -1)[:, None].expand_as(q)
        value = smooth_l1_loss(q[mask], target[mask], beta=0.3) if mask.any() else logits.sum() * 0
        rows = torch.from_numpy(answer.teaches(batch.called, batch.answer, self.network.shape))
        return value, answer.loss(logits[rows], agreed[rows], torch.from_numpy(batch.answer)[rows])

    def _targets(self, batch: Transitions, reward: Tensor, going: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q (B, M, R, 2), the logits, and the targets (B, R) of not calling and of calling."""
        if isinstance(self.network, BudgetNetwork):
            return self._budget_targets(self.network, batch, reward, going)
        return self._price_targets(self.network, batch, reward, going)

    def _budget_targets(
        self, network: BudgetNetwork, batch: Transitions, reward: Tensor, going: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q (B, M, N+2, 2), the logits, and the targets (B, N+2) of not calling and of calling."""
        q, logits = network.each(tensors(batch.features))
        with torch.no_grad():
            following = tensors(batch.next_features)
            best = network(following)[0].argmax(-1, keepdim=True)
            value = self.average(following)[0].gather(-1, best)[..., 0]  # (B, N+2)
            if batch.later is not None:
                value = _with_less(value, torch.from_numpy(batch.later.calls))
                reward = reward - self.config.call_price * self._cost(batch.later)[:, 0]
            after_call = value.roll(1, 1)
            after_call[:, -1] = value[:, -1]  # no limit stays no limit
            quick = reward[:, None] + going[:, None] * value
            deep = reward[:, None] - self.config.call_price * self._cost(batch) + going[:, None] * after_call
            deep[:, 0] = torch.nan  # nothing left: can't call
            if not self.config.relabel:
                keep = torch.zeros_like(quick, dtype=torch.bool)
                rows = torch.from_numpy(budget_rows(batch.remaining, network.shape.max_calls))
                keep[torch.arange(len(rows)), rows] = True
                quick, deep = quick.where(keep, torch.nan), deep.where(keep, torch.nan)
        return q, logits, quick, deep

    def _price_targets(
        self, network: PriceNetwork, batch: Transitions, reward: Tensor, going: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q (B, M, P, 2), the logits, and the targets (B, P) of not calling and of calling."""
        c = self.config
        if c.relabel:
            low, high = math.log(c.lowest_price), math.log(c.highest_price)
            drawn = np.exp(self.rng.uniform(low, high, (len(batch.reward), c.prices_per_sample)))
        else:
            drawn = batch.price[:, None].astype(np.float64)
        price = torch.from_numpy(drawn).float()
        q, logits = network.each(tensors(batch.features), price)
        if not c.gamma:  # myopic: what follows is worth nothing
            quick = reward[:, None].expand_as(price)
            return q, logits, quick, quick - price * self._cost(batch)
        with torch.no_grad():
            following = tensors(batch.next_features)
            best = network(following, price)[0].argmax(-1, keepdim=True)
            value = self.average(following, price)[0].gather(-1, best)[..., 0]  # (B, P)
            quick = reward[:, None] + going[:, None] * value
            if batch.later is not None:
                quick = quick - price * self._cost(batch.later)
        return q, logits, quick, quick - price * self._cost(batch)

    def _cost(self, steps: Transitions | Later) -> Tensor:
        """(B, 1) what calls cost, in units of the price."""
        return torch.from_numpy(steps.cost / np.float32(self.config.price_unit))[:, None]


def _with_less(value: Tensor, calls: Tensor) -> Tensor:
    """Return the values (B, N + 2) of budgets that `calls` (B,) take something of; NaN where they are too small."""
    rows = torch.arange(value.shape[1] - 1)[None] - calls[:, None]
    finite = value[:, :-1].gather(1, rows.clamp(min=0)).where(rows >= 0, torch.nan)
    return torch.cat([finite, value[:, -1:]], 1)
