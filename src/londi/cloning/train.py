"""Behaviour cloning of a tiny Llama on demonstrations: next-token loss on the reply (thought and action).

Two things make networks this small learn to match the goal with an object of the text: while training, a phrase's
embedding is the sum of its parts (noun + state + place), written out as an ordinary tied embedding matrix at the
end; and every batch sees the demonstrations under other names, as their corpus makes them. QUICK and DEEPTHINK are
trained the same way on the same data; they differ in size and in whether the reply holds a thought.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

IGNORE = -100


@dataclass(frozen=True)
class Recipe:
    """How one model of the pair is built and trained."""

    hidden_size: int
    """Width of the model; more is better and dearer. Typical 16 to 96."""
    num_layers: int
    """Decoder layers. Typical 1 to 4."""
    num_heads: int
    """Attention heads; must divide `hidden_size`."""
    ff_size: int
    """Width of the feed-forward layers. Typical 2 x `hidden_size`."""
    thinks: bool
    """Whether the reply holds a thought before the action."""
    num_updates: int
    """Optimiser steps; learning to match goal and object shows only after some thousands."""
    batch_size: int = 64
    """Demonstrations an update."""
    lr: float = 2e-3
    """Peak learning rate (30 warm-up steps, then linear to 0)."""
    context: int = 128
    """Longest prompt and reply, in tokens."""


class Corpus(Protocol):
    """Demonstrations as token ids; token 0 is padding."""

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """What the embedding of each of the V tokens is the sum of."""
        ...

    @property
    def ends(self) -> list[int]:
        """Tokens that end a reply."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest reply."""
        ...

    def __len__(self) -> int: ...

    def shuffled(self, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return rows in a random order; batches are taken from its beginning."""
        ...

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (B, T) ids, left-padded, and labels, `IGNORE` before the reply."""
        ...


def rows_of(
    prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids and labels (M, T) of prompts and replies, padded on the left; only replies have labels."""
    width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    ids = np.full((len(prompts), width), pad)
    labels = np.full((len(prompts), width), IGNORE)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids[row, width - len(prompt) - len(reply) :] = [*prompt, *reply]
        labels[row, width - len(reply) :] = reply
    return ids, labels


class FactoredEmbedding(nn.Module):
    """(V, d) embeddings, each the sum of the vectors of its token's parts."""

    index: Tensor

    def __init__(self, parts: Sequence[tuple[str, ...]], width: int) -> None:
        super().__init__()
        names = {name: i + 1 for i, name in enumerate(dict.fromkeys(name for row in parts for name in row))}
        depth = max(map(len, parts))
        rows = [[names[name] for name in row] + [0] * (depth - len(row)) for row in parts]
        self.register_buffer("index", torch.tensor(rows))  # (V, depth), 0 = no part
        self.table = nn.Embedding(len(names) + 1, width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.5 * width**-0.5)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self) -> Tensor:
        """Return the (V, d) embedding matrix."""
        return self.table(self.index).sum(1)  # type: ignore[no-any-return]


def _network(recipe: Recipe, corpus: Corpus) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(corpus.parts),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.ff_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=corpus.ends,
        pad_token_id=0,
    )
    config.londi = {"mode": "generate" if corpus.longest > 1 else "score", "max_new_tokens": corpus.longest}
    return LlamaForCausalLM(config)


def _optimisers(model: Any, embedding: FactoredEmbedding, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [p for name, p in model.model.named_parameters() if "embed_tokens" not in name]
    matrices = [p for p in inner if p.ndim == 2]
    vectors = [p for p in inner if p.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*vectors, *embedding.parameters()], lr=recipe.lr, weight_decay=0.0),
    ]


def train(
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train a model from nothing and save it as a stock Hugging Face folder, where its tokenizer is already.

    Deterministic in `seed` and the corpus (one thread, float32). `progress(update, loss)` is called after each
    update; the loss is in nats per reply token.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = _network(recipe, corpus).train()
    embedding = FactoredEmbedding(corpus.parts, recipe.hidden_size)
    optimisers = _optimisers(model, embedding, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda i: min(1.0, (i + 1) / 30) * max(0.0, 1 - i / recipe.num_updates))
        for o in optimisers
    ]
    order = np.empty(0, dtype=np.int64)
    for update in range(recipe.num_updates):
        if len(order) < recipe.batch_size:
            order = corpus.shuffled(recipe.batch_size, rng)
        rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
        loss = _loss(model, embedding(), *corpus.batch(rows, rng))
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        if progress:
            progress(update + 1, float(loss.detach()))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embedding())
    _save(model.eval(), recipe, folder, seed=seed, num_demos=len(corpus))
    torch.set_num_threads(threads)


def _loss(model: Any, table: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    mask = (ids != 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(
        inputs_embeds=table[ids], attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state  # (B, T, d)
    target = labels[:, 1:]
    chosen = target != IGNORE
    logits = hidden[:, :-1][chosen] @ table.T  # (reply tokens, V)
    return nn.functional.cross_entropy(logits, target[chosen])


def _save(model: Any, recipe: Recipe, folder: Path, **origin: int) -> None:
    model.generation_config.max_new_tokens = model.config.londi["max_new_tokens"]
    model.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe) | origin, indent=2) + "\n")
    for file in folder.iterdir():  # save_pretrained writes the weights readable by their owner alone
        file.chmod(0o644)
