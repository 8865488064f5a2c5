"""Behaviour cloning of a tiny Llama on demonstrations: next-token loss on the reply (thought and action).

Two things make networks this small learn to match the goal with an object of the text: while training, a phrase's
embedding is the sum of its parts (noun + state + place), written out as an ordinary tied embedding matrix at the
end; and every batch sees the demonstrations recoloured, retyped and mirrored. QUICK and DEEPTHINK are trained the
same way on the same data; they differ in size and in whether the reply holds a thought.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from londi.cloning.demos import Demonstration
from londi.cloning.tokenizer import PAD, Phrases
from londi.envs.babyai import ACTIONS
from londi.prompt import PromptTemplate

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


QUICK = Recipe(hidden_size=16, num_layers=1, num_heads=2, ff_size=32, thinks=False, num_updates=6_000)
DEEPTHINK = Recipe(hidden_size=64, num_layers=3, num_heads=2, ff_size=128, thinks=True, num_updates=16_000)


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


@dataclass(frozen=True)
class Dataset:
    """Token ids, left-padded: `ids` and `labels` (M, T), `keep_types` (M,) where a key must stay a key."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    keep_types: NDArray[np.bool_]

    @classmethod
    def build(cls, demos: Sequence[Demonstration], phrases: Phrases, tokenizer: Any, *, thinks: bool) -> Dataset:
        """Tokenise the demonstrations; only the reply has labels."""
        template = PromptTemplate()
        prompts = tokenizer([template.render(d.goal, [d.observation], d.last) for d in demos]).input_ids
        replies = tokenizer([f"{d.thought} {d.action}" if thinks else d.action for d in demos]).input_ids
        width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
        ids = np.full((len(demos), width), phrases.ids[PAD])
        labels = np.full((len(demos), width), IGNORE)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            ids[row, width - len(prompt) - len(reply) :] = prompt + reply
            labels[row, width - len(reply) :] = reply
        return cls(ids, labels, np.array(["door" in d.goal for d in demos]))

    def batch(self, rows: NDArray[np.int64], phrases: Phrases, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (B, T) ids and labels of a batch, each row under a random symmetry of the world."""
        ids, labels = self.ids[rows], self.labels[rows]
        first = int((ids != phrases.ids[PAD]).any(0).argmax())
        ids, labels = ids[:, first:], labels[:, first:]
        colors = phrases.recolorings[rng.integers(len(phrases.recolorings), size=len(rows))]  # (B, V)
        kinds = rng.integers(len(phrases.retypings), size=len(rows)) * ~self.keep_types[rows]
        table = np.take_along_axis(phrases.retypings[kinds], colors, axis=1)
        mirrored = rng.random(len(rows)) < 0.5
        table[mirrored] = phrases.mirror[table[mirrored]]
        replies = labels != IGNORE
        ids = np.take_along_axis(table, ids, axis=1)
        return torch.from_numpy(ids), torch.from_numpy(np.where(replies, ids, IGNORE))


def _network(recipe: Recipe, vocab_size: int, eos: list[int]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.ff_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=0,
    )
    config.londi = {"mode": "generate" if recipe.thinks else "score", "max_new_tokens": 3 if recipe.thinks else 1}
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
    demos: Sequence[Demonstration],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train a model from nothing and save it as a stock Hugging Face folder.

    Deterministic in `seed` and the demonstrations (one thread, float32). `progress(update, loss)` is called after
    each update; the loss is in nats per reply token.
    """
    from transformers import AutoTokenizer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    phrases = Phrases.build()
    folder.mkdir(parents=True, exist_ok=True)
    phrases.save(folder)
    data = Dataset.build(demos, phrases, AutoTokenizer.from_pretrained(folder), thinks=recipe.thinks)
    model = _network(recipe, len(phrases.words), [phrases.ids[a] for a in ACTIONS]).train()
    embedding = FactoredEmbedding(phrases.parts, recipe.hidden_size)
    optimisers = _optimisers(model, embedding, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda i: min(1.0, (i + 1) / 30) * max(0.0, 1 - i / recipe.num_updates))
        for o in optimisers
    ]
    order = np.empty(0, dtype=np.int64)
    for update in range(recipe.num_updates):
        if len(order) < recipe.batch_size:
            order = rng.permutation(len(data.ids))
        rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
        loss = _loss(model, embedding(), *data.batch(rows, phrases, rng))
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
    _save(model.eval(), recipe, folder, seed=seed, num_demos=len(demos))
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
