"""A tokenizer for ScienceWorld's text, saved as an ordinary `tokenizer.json`: names are tokens, filler is dropped.

The normaliser lowers the text and drops what says nothing (articles, doors that stand in every house, empty
containers, what is off); then every name of several words ("blue jay egg", "black wire") is one token, so that
copying a name is one step. `Vocabulary` also knows the parts of each token (words; for a number, the numbers it
exceeds), from which training builds embeddings, and which names may stand for each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAD, UNKNOWN, END, THOUGHT = "<pad>", "<unk>", "<end>", "</think>"
RULES = (
    (r"your task is to ", ""),
    (r"you also see: .*?; in your inventory, you see:", " carry "),
    (r"this (?:room|outside location) is called the ", " at "),
    (r"\. (?:in it,|here) you see: (?:air; )?", ": "),
    (r"(?:on|in) the [a-z ]+ is: nothing\.?", ""),
    (r"the [a-z ]+ door is (?:open|closed)\.?", ""),
    (r", which is (?:turned )?(?:off|deactivated|closed|open)", ""),
    (r", which is (?:turned )?(?:on|activated)", " active"),
    (r"you move to the [a-z ]+;|the door is already open;|\(that is (?:open|closed)\)", ""),
    (r"its (?:terminal [12]|anode|cathode) is connected to: nothing\.?", ""),
    (r" (?:is|you see): ", " : "),
    (r"(?<=[0-9])\.0\b", ""),
    (r"\b(?:the|of|is|are|some|an) |\ba (?!terminal)", ""),
)
"""What the normaliser replaces, in this order, after lowering the text."""
FRAME = ("goal:", "last:", "obs:", "act:", "none", "go to", "pick up", "focus on", "located around", "no known action")
SUBSTANCES = tuple(f"unknown substance {letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
POTS = tuple(f"flower pot {number}" for number in range(1, 11))
THINGS = (
    *("aluminum foil", "apricot", "glass jar", "metal fork", "metal pot", "paper clip", "plastic fork", "shovel"),
    *("sodium chloride", "wire", "wood", "wood block"),
)
"""What tasks ask to test. No training variation shows all of them: the others are learned by renaming alone."""
TERMINALS = ("terminal 1", "terminal 2")
LOWEST, HIGHEST = -150, 400
"""Numbers that are tokens."""
_STEPS = (*range(-100, 200, 10), *range(200, 400, 25))
_NAME = re.compile(r"[a-z]+(?: [a-z]+){1,3}")


@dataclass(frozen=True)
class Vocabulary:
    """`words[i]` is the text of token i, `parts[i]` what its embedding is the sum of."""

    words: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    ids: dict[str, int] = field(repr=False)

    @classmethod
    def build(cls, observations: Iterable[str], texts: Iterable[str]) -> Vocabulary:
        """Return the names of the observations and the words of all texts; both occur three times at least."""
        names, words = Counter[str](), Counter[str]()
        for observation in observations:
            names.update(_names(normalise(observation)))
        several = [name for name, count in names.items() if count >= 3]
        parts: dict[str, tuple[str, ...]] = {word: (word,) for word in (PAD, UNKNOWN, END, THOUGHT, *FRAME)}
        parts |= {name: tuple(name.split()) for name in (*several, *TERMINALS, *POTS, *THINGS)}
        parts |= {name: ("unknown", "substance", f"letter {name[-1]}") for name in SUBSTANCES}
        for number in range(LOWEST, HIGHEST + 1):
            parts[str(number)] = ("number", *(f"> {step}" for step in _STEPS if number > step))
        for text in texts:
            words.update(re.findall(r"[a-z]+", normalise(text)))
        parts |= {word: (word,) for word, count in words.items() if count >= 3 and word not in parts}
        listed = tuple(parts)
        return cls(listed, tuple(parts.values()), {word: i for i, word in enumerate(listed)})

    @cached_property
    def pattern(self) -> str:
        """The regular expression of one token (longest alternative first)."""
        fixed = sorted((word for word in self.words if re.search("[ :<]", word)), key=len, reverse=True)
        return rf"(?:{'|'.join(re.escape(word) for word in fixed)})(?![a-z0-9])|-?[0-9]+|[a-z]+"

    def group(self, pattern: str) -> NDArray[np.int64]:
        """Return the ids of the tokens that match in full."""
        return np.array([i for i, word in enumerate(self.words) if re.fullmatch(pattern, word)], np.int64)

    def known(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return the ids of these names, each once, without those that are no token."""
        return np.array(sorted({self.ids[name] for name in names if name in self.ids}), np.int64)

    def tokenizer(self) -> Any:
        """Return it as a tokenizer of Hugging Face's `tokenizers`."""
        from tokenizers import Regex, Tokenizer, normalizers
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Split

        found = Tokenizer(WordLevel(self.ids, unk_token=UNKNOWN))
        found.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *(normalizers.Replace(Regex(a), b) for a, b in RULES)]
        )
        found.pre_tokenizer = Split(Regex(self.pattern), behavior="removed", invert=True)
        return found

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer` reads."""
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer(), pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left"
        ).save_pretrained(folder)


def normalise(text: str) -> str:
    """Do in Python what the tokenizer's normaliser does."""
    text = text.lower()
    for pattern, put in RULES:
        text = re.sub(pattern, put, text)
    return text


def _names(text: str) -> Sequence[str]:
    """Names of several words between the marks of a normalised observation."""
    pieces = re.split(r"[;:(),.]|\bcontaining\b|\bcarry\b|\bactive\b|\bat\b|\bon\b|\bin\b", text)
    return [name for piece in pieces if _NAME.fullmatch(name := piece.strip())]
