"""The learned Switcher: one network that prices every remaining budget, or every price, in one pass.

`BudgetNetwork` outputs Q[x, g] for x = 0..N and x = inf (LONDI-B for every n at once); `PriceNetwork` takes the
price of a call as an input (LONDI for every c at once). arXiv 2402.12061 defines both problems for one n and one c.
`RouterNetwork` and `PolicyNetwork` are the rivals': a supervised router, and the policy of SAC and PPO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from londi.switchers import answer
from londi.switchers.base import Choice, Query, budget_rows, choose_with_probability
from londi.switchers.reader import NetworkShape, Phi, Trunk, tensors

Kind = Literal["budget", "price", "router", "policy"]


GAIN, SPENT = 0.1, 0.02
"""What a call gains where the models differ, and what a call of a budget costs, before anything is learned."""


def _both(out: Tensor) -> Tensor:
    """Q of not calling and of calling (B, R, 2) from two outputs (B, R, 2): their mean, and half of their gap."""
    middle, half = out.unbind(-1)
    return torch.stack([middle - half, middle + half], -1)


def _values(out: Tensor, differs: Tensor, cost: Tensor) -> Tensor:
    """Q of not calling and of calling (B, R, 2) from three outputs (B, R, 3): their mean, half the gain, the cost.

    A call costs, and gains something only where DEEPTHINK acts otherwise: Q(call) = Q(no call) + d gain - cost, with d
    (B,) the probability of that, learned apart from the values. So it starts as a router, calls nowhere for nothing,
    and learns from reward which disagreements matter.
    """
    middle, half, dearer = out.unbind(-1)
    half = differs[:, None] * (half + GAIN / 2) - cost / 2 * softplus(dearer + 0.5413)  # softplus(.5413) = 1
    return torch.stack([middle - half, middle + half], -1)


def _together(
    read: Iterable[tuple[Tensor, Tensor]], phi: Phi, shape: NetworkShape, cost: Tensor
) -> tuple[Tensor, Tensor]:
    """Q (B, M, R, 2) and logits (B, M, K) from what M readers gave, (B, R, 2 or 3) and (B, K) each; d is their mean."""
    outs, found = zip(*read, strict=True)
    logits = torch.stack(found, 1)
    if not shape.gated:
        return torch.stack([_both(out) for out in outs], 1), logits
    differs = answer.differs(logits, phi, shape).detach()
    return torch.stack([_values(out, differs, cost) for out in outs], 1), logits


def _shapes(shape: NetworkShape) -> list[NetworkShape]:
    """What each reader reads. A gated network may have one more that sees no text: what is known by heart of the
    texts of the training is worth nothing on others, and one reader that is sure and wrong would hide every gain."""
    blind = [replace(shape, reader=0)] if shape.gated and shape.textless and shape.reader else []
    return [shape] * shape.readers + blind


class _BudgetReader(nn.Module):
    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape)
        rows, each = shape.max_calls + 2, 3 if shape.gated else 2
        self.budgets: Tensor
        if shape.budget_input == "vector":
            self.mix, self.head = None, nn.Linear(shape.width, each * rows)
        else:
            self.mix, self.head = nn.Linear(shape.width + 2, shape.width), nn.Linear(shape.width, each)
            limit = torch.arange(rows) / shape.max_calls
            self.register_buffer("budgets", torch.stack([limit, limit > 1], -1), persistent=False)  # (N + 2, 2)
        self.disagree = nn.Linear(shape.width, answer.width(shape))  # its name is that of earlier weights

    def forward(self, phi: Phi) -> tuple[Tensor, Tensor]:
        """Return what makes Q (B, N + 2, 2 or 3), and the logits (B, K) of what DEEPTHINK would do."""
        hidden = self.trunk(phi)
        if self.mix is None:
            out = self.head(hidden).view(len(hidden), self.shape.max_calls + 2, -1)
        else:
            rows = self.shape.max_calls + 2
            wide, given = hidden[:, None].expand(-1, rows, -1), self.budgets.expand(len(hidden), -1, -1)
            out = self.head(torch.relu(self.mix(torch.cat([wide, given], -1))))
        return out, self.disagree(hidden)


class BudgetNetwork(nn.Module):
    """Q[x, g] for x = 0..N and, in the last row, x = inf: the mean of what its readers say."""

    kind: Kind = "budget"

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.readers = nn.ModuleList(_BudgetReader(each) for each in _shapes(shape))

    def each(self, phi: Phi) -> tuple[Tensor, Tensor]:
        """Return Q (B, M, N + 2, 2) and logits (B, M, K) of M readers; Q[0, 1] = -inf."""
        q, logits = _together((reader(phi) for reader in self.readers), phi, self.shape, torch.tensor(SPENT))
        mask = torch.zeros_like(q)
        mask[:, :, 0, 1] = -torch.inf
        return q + mask, logits

    def forward(self, phi: Phi) -> tuple[Tensor, Tensor]:
        """Return Q (B, N + 2, 2), with Q[0, 1] = -inf, and the probability (B,) that DEEPTHINK would act otherwise."""
        q, logits = self.each(phi)
        return q.mean(1), answer.differs(logits, phi, self.shape)

    def judge(self, phi: Phi, remaining: NDArray[np.float64], price: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return the advantage of calling (B,) with so many calls left, and what `forward` does; the price plays no
        part."""
        rows = torch.from_numpy(budget_rows(remaining, self.shape.max_calls))
        values, differs = self(phi)
        q = values[torch.arange(len(rows)), rows]  # (B, 2)
        return q[:, 1] - q[:, 0], differs


class _PriceReader(nn.Module):
    BASES = 12
    LOWEST, HIGHEST = -9.0, 1.0

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.trunk = Trunk(shape)
        self.mix = nn.Linear(shape.width + self.BASES + 1, shape.width)
        self.head = nn.Linear(shape.width, 3 if shape.gated else 2)
        self.disagree = nn.Linear(shape.width, answer.width(shape))

    def _embed(self, price: Tensor) -> Tensor:
        log = price.clamp(min=math.exp(self.LOWEST)).log()[..., None]
        centres = torch.linspace(self.LOWEST, self.HIGHEST, self.BASES, device=price.device)
        step = (self.HIGHEST - self.LOWEST) / (self.BASES - 1)
        return torch.cat([log / 5, torch.exp(-0.5 * ((log - centres) / step) ** 2)], -1)

    def forward(self, phi: Phi, price: Tensor) -> tuple[Tensor, Tensor]:
        """Return what makes Q (B, P, 2 or 3), and the logits (B, K) of what DEEPTHINK would do."""
        hidden = self.trunk(phi)
        wide = hidden[:, None].expand(-1, price.shape[1], -1)
        mixed = torch.relu(self.mix(torch.cat([wide, self._embed(price)], -1)))
        return self.head(mixed), self.disagree(hidden)


class PriceNetwork(nn.Module):
    """Q(c)[g] for prices c > 0, which enter as log c and radial bases in log c: the mean of what its readers say."""

    kind: Kind = "price"

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.readers = nn.ModuleList(_PriceReader(each) for each in _shapes(shape))

    def each(self, phi: Phi, price: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q (B, M, P, 2) and logits (B, M, K) of M readers, for `price` (B, P)."""
        return _together((reader(phi, price) for reader in self.readers), phi, self.shape, price)

    def forward(self, phi: Phi, price: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q (B, P, 2) for `price` (B, P), and the probability (B,) that DEEPTHINK would act otherwise."""
        q, logits = self.each(phi, price)
        return q.mean(1), answer.differs(logits, phi, self.shape)

    def judge(self, phi: Phi, remaining: NDArray[np.float64], price: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return the advantage of calling (B,) at the price, and what `forward` does; the budget plays no part."""
        values, differs = self(phi, torch.from_numpy(price)[:, None].float())
        return values[:, 0, 1] - values[:, 0, 0], differs


class RouterNetwork(nn.Module):
    """The probability that DEEPTHINK would act otherwise; the price is the threshold above which that is a call."""

    kind: Kind = "router"

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.readers = nn.ModuleList(
            nn.Sequential(Trunk(each), nn.Linear(each.width, answer.width(each))) for each in _shapes(shape)
        )

    def forward(self, phi: Phi) -> Tensor:
        """Return the logits (B, M, K) of M readers."""
        return torch.stack([reader(phi) for reader in self.readers], 1)

    def judge(self, phi: Phi, remaining: NDArray[np.float64], price: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return by how much the probability exceeds the price (B,), and the probability."""
        differs = answer.differs(self(phi), phi, self.shape)
        return differs.double() - torch.from_numpy(price), differs


class PolicyNetwork(nn.Module):
    """The logit of calling, at the one price that it was trained for."""

    kind: Kind = "policy"

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape)
        self.head = nn.Linear(shape.width, 1)

    def forward(self, phi: Phi) -> Tensor:
        """Return the logit (B,)."""
        return self.head(self.trunk(phi))[:, 0]  # type: ignore[no-any-return]

    def judge(self, phi: Phi, remaining: NDArray[np.float64], price: NDArray[np.float64]) -> tuple[Tensor, None]:
        """Return the logit (B,): calling is the likelier where it is above 0."""
        return self(phi), None


Network = BudgetNetwork | PriceNetwork | RouterNetwork | PolicyNetwork
NETWORKS: dict[Kind, Callable[[NetworkShape], Network]] = {
    each.kind: each for each in (BudgetNetwork, PriceNetwork, RouterNetwork, PolicyNetwork)
}


class NetworkSwitcher:
    """A network that acts greedily: it calls where Q(call) exceeds Q(no call) and a call remains."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()
        self.kind = network.kind

    @torch.inference_mode()
    def choose(self, query: Query) -> Choice:
        """Choose for B states; the budget network ignores the price, the others the budget (but 0)."""
        found, differs = self.network.judge(tensors(query.features), query.remaining, query.price)
        advantage = np.where(query.remaining > 0, found.double().numpy(), np.nan)
        call = advantage > 0
        disagree = None if differs is None else differs.double().numpy()
        return Choice(call, np.ones(len(call)), advantage, disagree)

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs to build the same Switcher again."""
        return {"kind": self.kind, "shape": asdict(self.network.shape), "weights": self.network.state_dict()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> NetworkSwitcher:
        """Build the Switcher that `state` describes; raises KeyError, TypeError or RuntimeError if it is damaged."""
        network = NETWORKS[state["kind"]](NetworkShape(**state["shape"]))
        network.load_state_dict(state["weights"])
        return cls(network)


class SampledSwitcher:
    """A policy network that calls with the probability that it says: what explores while SAC and PPO learn."""

    def __init__(self, network: PolicyNetwork) -> None:
        self.network = network

    @torch.inference_mode()
    def choose(self, query: Query) -> Choice:
        """Choose for B states."""
        probability = self.network(tensors(query.features)).sigmoid().double().numpy()
        return choose_with_probability(probability, query)
