"""What the networks of all learned Switchers begin with: features as tensors, a reader of the text, a trunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from londi.encoders.base import Features
from londi.encoders.text import NUM_FIELDS
from londi.errors import ConfigError


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a Switcher's network."""

    num_dense: int
    """Dense features (D) of the encoder."""
    buckets: int
    """Hash buckets of the encoder."""
    reader: int = 32
    """Width of the reader of the text; 0 ignores the text. Typical 16 to 64."""
    heads: int = 4
    """Attention heads of the reader."""
    width: int = 128
    """Hidden units of each layer of the trunk. Typical 64 to 256."""
    max_calls: int = 12
    """Largest finite budget N that is priced (budget network)."""
    gated: bool = False
    """Whether a call can gain something only where DEEPTHINK is expected to act otherwise; else anything is learned. A
    gated network has a second reader, which sees no text."""
    budget_input: Literal["vector", "scalar"] = "vector"
    """Budget network: an output for every budget, or (the ablation) the budget as one more number that goes in."""

    def __post_init__(self) -> None:
        if self.reader % max(1, self.heads) or self.width < 1 or self.max_calls < 1 or self.reader < 0:
            raise ConfigError("the network needs reader >= 0 and divisible by heads, width >= 1 and max_calls >= 1")


class Phi(NamedTuple):
    """Features as tensors, each distinct clause once."""

    text: Tensor
    """(U, W) n-grams of the distinct clauses, and..."""
    lines: Tensor
    """...(U,) the lines they stand in."""
    which: Tensor
    """(B, C) which of them stands where."""
    fields: Tensor
    """(B, C) the line of each clause, 0 where there is none."""
    dense: Tensor
    """(B, D)."""


class TextReader(nn.Module):
    """Reads the clauses of the prompt, attending from the first line (the goal) and QUICK's state to all others."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        d, self.heads = shape.reader, shape.heads
        self.grams = nn.EmbeddingBag(shape.buckets, d, mode="sum", padding_idx=0)
        self.fields = nn.Embedding(NUM_FIELDS, d, padding_idx=0)
        nn.init.normal_(self.grams.weight, std=0.2 * d**-0.5)  # small, so that what is learned soon outweighs it
        nn.init.normal_(self.fields.weight, std=0.1 * d**-0.5)
        self.norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key = nn.Linear(d, d, bias=False)
        self.value = nn.Linear(d, d)
        for layer in (self.query, self.key):  # attention starts as overlap of words with the goal
            nn.init.eye_(layer.weight)
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def forward(self, phi: Phi) -> Tensor:
        """Return (B, 3 d): what attention reads, the goal, and the mean of all clauses."""
        (batch, clauses), size = phi.which.shape, self.key.out_features // self.heads
        states = self.norm(self.grams(phi.text) + self.fields(phi.lines))  # (U, d)
        real, first = (phi.fields > 0).float(), (phi.fields == 1).float()  # (B, C)
        here = states[phi.which]  # (B, C, d)
        goal = torch.bmm((first / first.sum(1, keepdim=True).clamp(min=1))[:, None], here)[:, 0]
        everything = torch.bmm((real / real.sum(1, keepdim=True).clamp(min=1))[:, None], here)[:, 0]
        q = self.query(goal).view(batch, 1, self.heads, size)
        k = self.key(states)[phi.which].view(batch, clauses, self.heads, size)
        v = self.value(states)[phi.which].view(batch, clauses, self.heads, size)
        scores = self.sharpness / math.sqrt(size) * (q * k).sum(-1)  # (B, C, h)
        hidden = (real - first == 0)[..., None]
        weights = scores.masked_fill(hidden, -1e9).softmax(1)
        read = (weights[..., None] * v).sum(1).flatten(1)  # (B, d)
        return torch.cat([read, goal, everything], 1)


class Trunk(nn.Module):
    """phi(s) to a hidden vector."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.reader = TextReader(shape) if shape.reader else None
        inputs = shape.num_dense + 3 * shape.reader
        self.layers = nn.Sequential(
            nn.Linear(inputs, shape.width), nn.ReLU(), nn.Linear(shape.width, shape.width), nn.ReLU()
        )

    def forward(self, phi: Phi) -> Tensor:
        """Return (B, width)."""
        parts = [phi.dense] if self.reader is None else [phi.dense, self.reader(phi)]
        return self.layers(torch.cat(parts, 1))  # type: ignore[no-any-return]


_MIX = np.random.default_rng(0).integers(1, 2**62, size=1024, dtype=np.int64) | 1


def tensors(features: Features, device: str | torch.device = "cpu") -> Phi:
    """Return features as tensors; clauses that occur more than once are kept once."""
    batch, clauses, width = features.text.shape
    rows = features.text.reshape(batch * clauses, width)
    lines = features.fields.reshape(-1)
    used = 1 + int(np.flatnonzero((rows != 0).any(0))[-1:].sum())  # hidden grams leave holes
    keys = (rows[:, :used].astype(np.int64) * _MIX[np.arange(used) % len(_MIX)]).sum(1) + lines
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return Phi(
        torch.from_numpy(rows[first, :used].astype(np.int64)).to(device),
        torch.from_numpy(lines[first].astype(np.int64)).to(device),
        torch.from_numpy(which.reshape(batch, clauses)).to(device),
        torch.from_numpy(features.fields.astype(np.int64)).to(device),
        torch.from_numpy(features.dense).to(device),
    )
