"""A supervised router: learns from the states in which both models were asked what DEEPTHINK does.

The kin of RouteLLM (Ong et al. 2024, arXiv 2406.18665), which learns from pairs of answers which query needs the
strong model, and calls it above a threshold. It reads what the learned Switcher reads, but knows nothing of reward:
a disagreement counts whether or not it changes the outcome.
"""

from __future__ import annotations

import torch

from londi.learners.base import NetworkLearner
from londi.learners.replay import Replay, forgetful
from londi.switchers import answer
from londi.switchers.network import NetworkSwitcher, RouterNetwork
from londi.switchers.reader import NetworkShape, tensors


class RouterLearner(NetworkLearner):
    """Fits what DEEPTHINK does on the steps with a call (cross-entropy), and with it the probability that it acts
    otherwise than QUICK: as `londi.switchers.answer` says, from the action where actions are a closed set."""

    def __init__(
        self, shape: NetworkShape, lr: float, batch_size: int, num_updates: int, seed: int, text_dropout: float = 0.0
    ) -> None:
        self.batch_size, self.text_dropout = batch_size, text_dropout
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = RouterNetwork(shape)
        super().__init__({"network": self.network}, ("network",), lr, num_updates, seed)
        self.switcher = NetworkSwitcher(self.network)

    def update(self, replay: Replay) -> dict[str, float]:
        """Take one optimiser step on a replayed batch, as far as it has answers; return the loss."""
        drawn = replay.sample(self.batch_size, self.rng)
        batch = forgetful(drawn, self.text_dropout, self.network.shape.buckets, self.rng)
        self.updates += 1
        rows = answer.teaches(batch.called, batch.answer, self.network.shape)
        if not rows.any():
            return {}
        logits = self.network(tensors(batch.features[rows]))  # (b, M, K)
        loss = answer.loss(logits, torch.from_numpy(batch.agreed[rows]), torch.from_numpy(batch.answer[rows]))
        self._minimise(loss)
        return {"loss": float(loss.detach())}
