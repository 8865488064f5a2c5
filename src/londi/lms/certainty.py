"""How sure a model is of the text that it writes: seen while it generates, without keeping its scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Certainty(LogitsProcessor):  # type: ignore[misc]
    """Notes, at each step of greedy generation, the log-probability of the token taken and the entropy; nats.

    Predictive entropy, as uncertainty of free text (Malinin and Gales 2021, arXiv 2002.07650).
    """

    def __init__(self) -> None:
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Change nothing: `scores` (B, V) are noted and given back."""
        logprobs = scores.float().log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)
        self._steps.append(torch.stack([logprobs.max(-1).values, entropy], -1))  # (B, 2)
        return scores

    def of(self, row: int, count: int) -> tuple[float, float] | tuple[None, None]:
        """Return the log-probability of the first `count` tokens of a row, and their mean entropy; None if unseen."""
        if not self._steps:
            return None, None
        found = torch.stack([step[row] for step in self._steps[:count]])  # (count, 2)
        return float(found[:, 0].sum()), float(found[:, 1].mean())


class FirstState:
    """Keeps the last hidden state at the end of the prompt, (B, d), from the first pass of a generation."""

    def __init__(self, model: Any) -> None:
        self.state: Tensor | None = None
        part = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        self._hook = part.register_forward_hook(self._see)

    def _see(self, part: Any, given: Any, found: Any) -> None:
        states = getattr(found, "last_hidden_state", None)
        if self.state is None and isinstance(states, Tensor):
            self.state = states[:, -1].detach().float().cpu()

    def __enter__(self) -> FirstState:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
