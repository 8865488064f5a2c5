"""Demonstrations of BabyAI-Text as token ids, each batch recoloured, retyped and mirrored; the recipes of the pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from londi.cloning.babyai.demos import Demonstration
from londi.cloning.babyai.tokenizer import PAD, Phrases
from londi.cloning.train import IGNORE, Recipe, rows_of
from londi.envs.babyai import ACTIONS
from londi.prompt import PromptTemplate

QUICK = Recipe(hidden_size=16, num_layers=1, num_heads=2, ff_size=32, thinks=False, num_updates=6_000)
DEEPTHINK = Recipe(hidden_size=64, num_layers=3, num_heads=2, ff_size=128, thinks=True, num_updates=16_000)


@dataclass(frozen=True)
class BabyAICorpus:
    """Token ids, left-padded: `ids` and `labels` (M, T), `keep_types` (M,) where a key must stay a key."""

    phrases: Phrases
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    keep_types: NDArray[np.bool_]
    longest: int

    @classmethod
    def build(cls, demos: Sequence[Demonstration], folder: Path, *, thinks: bool) -> BabyAICorpus:
        """Write the tokenizer into the folder, and tokenise the demonstrations; only the reply has labels."""
        from transformers import AutoTokenizer

        phrases, template = Phrases.build(), PromptTemplate()
        phrases.save(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompts = tokenizer([template.render(d.goal, [d.observation], d.last) for d in demos]).input_ids
        replies = tokenizer([f"{d.thought} {d.action}" if thinks else d.action for d in demos]).input_ids
        ids, labels = rows_of(prompts, replies, phrases.ids[PAD])
        return cls(phrases, ids, labels, np.array(["door" in d.goal for d in demos]), 3 if thinks else 1)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """What the embedding of each token is the sum of."""
        return self.phrases.parts

    @property
    def ends(self) -> list[int]:
        """Tokens that end a reply: the actions."""
        return [self.phrases.ids[action] for action in ACTIONS]

    def shuffled(self, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return all rows in random order."""
        return rng.permutation(len(self))

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (B, T) ids and labels of a batch, each row under a random symmetry of the world."""
        phrases, ids, labels = self.phrases, self.ids[rows], self.labels[rows]
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
