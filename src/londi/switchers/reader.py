"""What the networks of all learned Switchers begin with: features as tensors, a reader of the text, a trunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

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
    """Whether a call can gain something only where DEEPTHINK is expected to act otherwise; else anything is learned."""
    readers: int = 1
    """Readers with text, each a trunk of its own, whose mean decides; two cost twice as much."""
    textless: bool = True
    """Whether a gated network has another reader, which sees no text."""
    answers: int = 0
    """Actions of a closed set (K), of which the network says which DEEPTHINK would take; 0 where they are free text, or
    hidden: then it says only whether DEEPTHINK would act otherwise."""
    said: int = 0
    """First of the K columns of `dense` that hold QUICK's action, one-hot."""
    budget_input: Literal["vector", "scalar"] = "vector"
    """Budget network: an output for every budget, or (the ablation) the budget as one more number that goes in."""

    def __post_init__(self) -> None:
        if self.reader % max(1, self.heads) or min(self.width, self.max_calls, self.readers) < 1 or self.reader < 0:
            raise ConfigError(
                "the network needs reader >= 0 and divisible by heads, and width, max_calls and readers >= 1"
            )


class Phi(NamedTuple):
    """Features as tensors, each distinct clause once."""

    grams: Tensor
    """(G,) n-grams of the distinct clauses, one clause after the other,..."""
    starts: Tensor
    """...(U,) where those of each begin, and..."""
    lines: Tensor
    """...(U,) the lines they stand in."""
    which: Tensor
    """(B, C) which of them stands where."""
    fields: Tensor
    """(B, C) the line of each clause, 0 where there is none."""
    dense: Tensor
    """(B, D)."""


class _GramSum(torch.autograd.Function):
    """The sum of the vectors of each clause's n-grams: `embedding_bag`, whose own backward pass sorts all n-grams."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, grams: Tensor, starts: Tensor) -> Tensor:
        """Return (U, d)."""
        ctx.save_for_backward(grams, starts)
        ctx.rows = len(weight)
        return embedding_bag(grams, weight, starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the weight (buckets, d)."""
        (gradient,), (grams, starts) = gradients, ctx.saved_tensors
        counts = torch.diff(starts, append=starts.new_tensor([len(grams)]))
        owner = torch.repeat_interleave(counts)
        found = gradient.new_zeros(ctx.rows, gradient.shape[1])
        return found.index_add_(0, grams, embedding(owner, gradient)), None, None


class TextReader(nn.Module):
    """Reads the clauses of the prompt, attending from the first line (the goal) and QUICK's state to all others."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        d, self.heads = shape.reader, shape.heads
        self.grams = nn.Embedding(shape.buckets, d)
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
        grams = _GramSum.apply(self.grams.weight, phi.grams, phi.starts)  # type: ignore[no-untyped-call]
        states = self.norm(grams + self.fields(phi.lines))  # (U, d)
        real, first = (phi.fields > 0).float(), (phi.fields == 1).float()  # (B, C)
        here = embedding(phi.which, states)  # (B, C, d); states[phi.which] is five times slower
        goal = torch.bmm((first / first.sum(1, keepdim=True).clamp(min=1))[:, None], here)[:, 0]
        everything = torch.bmm((real / real.sum(1, keepdim=True).clamp(min=1))[:, None], here)[:, 0]
        q = self.query(goal).view(batch, 1, self.heads, size)
        k = embedding(phi.which, self.key(states)).view(batch, clauses, self.heads, size)
        v = embedding(phi.which, self.value(states)).view(batch, clauses, self.heads, size)
        scores = self.sharpness / math.sqrt(size) * (q * k).sum(-1)  # (B, C, h)
        hidden = (real - first == 0)[..., None]
        weights = scores.masked_fill(hidden, -1e9).softmax(1).masked_fill(hidden, 0)  # 0 where all are hidden
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
    clauses = 1 + int(np.flatnonzero(features.fields.any(0))[-1:].sum())  # the rest stands in no line
    text, fields = features.text[:, :clauses], features.fields[:, :clauses]
    rows, lines = text.reshape(fields.size, text.shape[2]), fields.reshape(-1)
    keys = rows @ _MIX[np.arange(rows.shape[1]) % len(_MIX)] + lines
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    distinct = rows[first]
    real = distinct != 0  # hidden grams leave holes
    ends = real.sum(1).cumsum()
    return Phi(
        _indices(distinct[real], device),
        _indices(np.append(0, ends)[: len(ends)], device),
        _indices(lines[first], device),
        _indices(which.reshape(fields.shape), device),
        _indices(fields, device),
        torch.from_numpy(features.dense).to(device),
    )


def _indices(numbers: NDArray[Any], device: str | torch.device) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64)).to(device)
