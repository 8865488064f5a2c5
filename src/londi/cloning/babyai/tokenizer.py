"""A tokenizer whose tokens are the phrases of BabyAI-Text, saved as an ordinary `tokenizer.json`.

"red ball 2 steps left and 1 step forward" is one token, so a prompt has about twenty and a thought two. What is no
phrase ("You see a", full stops) is dropped by the pre-tokenizer. `Phrases` also knows the parts of each token
(noun, state, place), from which training builds embeddings and symmetric copies of the data.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi.cloning.babyai.demos import VERBS
from londi.envs.babyai import ACTIONS, place

COLORS = ("blue", "green", "grey", "purple", "red", "yellow")
THINGS = ("ball", "box", "key")
VIEW_SIDE, VIEW_AHEAD = 3, 6
FRAME = ("goal:", "last:", "none", "obs:", "act:", "go to", "put", "next to", "then", "open", "You carry")
PAD, UNKNOWN = "<pad>", "<unk>"

_MIRROR = {"left": "right", "right": "left"}


def _swap_sides(text: str) -> str:
    return re.sub(r"\b(left|right)\b", lambda match: _MIRROR[match.group()], text)


@dataclass(frozen=True)
class Phrases:
    """The vocabulary: `words[i]` is the text of token i, `parts[i]` what its embedding is the sum of."""

    words: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    ids: dict[str, int] = field(repr=False)

    @classmethod
    def build(cls) -> Phrases:
        """Return every phrase that the five kinds of task can show."""
        cells = [
            place(right, forward)
            for forward in range(VIEW_AHEAD + 1)
            for right in range(-VIEW_SIDE, VIEW_SIDE + 1)
            if (right, forward) != (0, 0)
        ]
        nouns = [f"{color} {thing}" for color in COLORS for thing in (*THINGS, "door")]
        parts: dict[str, tuple[str, ...]] = {PAD: (PAD,), UNKNOWN: (UNKNOWN,)}
        parts |= {word: (word,) for word in (*ACTIONS, *VERBS, *FRAME)}
        straight = [cell for cell in cells if " and " not in cell]
        parts |= {f"wall {cell}": ("wall", cell) for cell in straight}
        for noun in nouns:
            shown = f"locked {noun}" if noun.endswith("door") else noun
            state = ("locked",) if noun.endswith("door") else ()
            parts |= {noun: (noun,), shown: (noun, *state)}
            parts |= {f"{shown} {cell}": (noun, *state, cell) for cell in cells}
        words = tuple(parts)
        return cls(words, tuple(parts.values()), {word: i for i, word in enumerate(words)})

    @cached_property
    def pattern(self) -> str:
        """The regular expression of one phrase (longest alternative first)."""
        cell = r"(?: \d steps? (?:left|right)(?: and \d steps? forward)?| \d steps? forward)"
        noun = rf"(?:(?:locked|closed|open) )?(?:{'|'.join(COLORS)}) (?:{'|'.join((*THINGS, 'door'))}){cell}?"
        fixed = sorted((*ACTIONS, *VERBS, *FRAME), key=len, reverse=True)
        return rf"{noun}|wall{cell}|{'|'.join(fixed)}"

    def _renaming(self, rename: Any) -> NDArray[np.int64]:
        return np.array([self.ids.get(rename(word), i) for i, word in enumerate(self.words)])

    @cached_property
    def mirror(self) -> NDArray[np.int64]:
        """(V,) the token that stands for each token in the mirrored world."""
        return self._renaming(_swap_sides)

    @cached_property
    def recolorings(self) -> NDArray[np.int64]:
        """(720, V) the token ids under each permutation of the colours."""
        return self._permutations(COLORS)

    @cached_property
    def retypings(self) -> NDArray[np.int64]:
        """(6, V) the token ids under each permutation of ball, box and key."""
        return self._permutations(THINGS)

    def _permutations(self, names: tuple[str, ...]) -> NDArray[np.int64]:
        word = re.compile(rf"\b({'|'.join(names)})\b")
        tables = []
        for order in itertools.permutations(names):
            to = dict(zip(names, order, strict=True))
            tables.append(self._renaming(lambda text, to=to: word.sub(lambda match: to[match.group()], text)))
        return np.stack(tables)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer` reads."""
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Split
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(WordLevel(self.ids, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = Split(Regex(self.pattern), behavior="removed", invert=True)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, padding_side="left"
        ).save_pretrained(folder)
