"""The default encoder: hashed word n-grams of each clause of the prompt, and QUICK's own decision.

Knows no environment and no vocabulary: a prompt is cut into lines and clauses, and each clause into word n-grams
(n = 1, 2, 3) hashed into buckets, whose vectors the Switcher's network learns. Beside them stand QUICK's
probabilities, entropy, margin, action and hidden state, and the moment of the episode.

Where actions are free text, what QUICK said is read as the end of the prompt; and how much of it the goal and the
observation show says whether it speaks of what is there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from londi.encoders.base import ENTROPY, MARGIN, Features, Moment
from londi.errors import ConfigError
from londi.lms.base import Decision
from londi.prompt import Prompt
from londi.usage import Usage

_CLAUSE = re.compile(r"[.,;!?]\s+|[.;!?]$")
_WORD = re.compile(r"[^\W_]+")
FEATURES = 4
"""Version of what phi means; a Switcher that was trained on another acts on features that it never saw."""
NUM_FIELDS = 8
NUM_MOMENT = 12
"""Dense columns before those of the actions: entropy, margin, and the moment of the episode."""
NUM_OPEN_ACTIONS = 18
"""Buckets for the actions of an open set."""


@dataclass(frozen=True)
class TextEncoder:
    """Text and QUICK's decision to phi.

    Raises `ConfigError` for sizes below 1.
    """

    clauses: int = 20
    """Clauses kept (C): the first line whole, then the latest ones. More sees longer prompts."""
    ngrams: int = 36
    """n-grams kept of each clause (W); a clause of k words has 3k - 3."""
    buckets: int = 4096
    """Hash buckets; fewer save memory and collide more. At most 32767."""
    hidden: int = 32
    """Columns for QUICK's hidden state, reduced by a fixed random projection where it is wider; 0 leaves it out."""
    quick: bool = True
    """Whether phi shows QUICK's decision: its probabilities, action and hidden state; False is the ablation."""
    _cache: dict[str, NDArray[np.int16]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.clauses, self.ngrams) < 1 or not 1 < self.buckets <= 32767 or self.hidden < 0:
            raise ConfigError("the encoder needs clauses >= 1, ngrams >= 1, 2 <= buckets <= 32767 and hidden >= 0")

    def num_dense(self, num_actions: int | None) -> int:
        """Return D for a closed set of `num_actions`, or None for an open one."""
        return NUM_MOMENT + 4 * (num_actions or NUM_OPEN_ACTIONS) + self.hidden

    def said(self, num_actions: int | None) -> int | None:
        """Return the first of the columns of phi that hold QUICK's action of a closed set, one-hot; None where phi
        does not show it."""
        return NUM_MOMENT + num_actions if num_actions and self.quick else None

    def encode(
        self,
        prompts: Sequence[str],
        decisions: Sequence[Decision],
        moments: Sequence[Moment],
        admissible: tuple[str, ...] | None,
    ) -> Features:
        """Return phi for B states: text (B, C, W), fields (B, C), dense (B, D)."""
        if not self.quick:
            decisions = [Decision("", Usage())] * len(decisions)
        text = np.zeros((len(prompts), self.clauses, self.ngrams), np.int16)
        fields = np.zeros((len(prompts), self.clauses), np.int16)
        for row, (prompt, decision) in enumerate(zip(prompts, decisions, strict=True)):
            said = "" if admissible else f" {decision.action}"
            for column, (line, clause) in enumerate(self._clauses(prompt, said)):
                text[row, column] = self._hash(clause)
                fields[row, column] = line + 1
        dense = np.zeros((len(prompts), self.num_dense(len(admissible) if admissible else None)), np.float32)
        for row, (prompt, decision, moment) in enumerate(zip(prompts, decisions, moments, strict=True)):
            dense[row] = self._dense(prompt, decision, moment, admissible)
        return Features(text, fields, dense)

    def _clauses(self, prompt: str, said: str) -> list[tuple[int, str]]:
        """Return (line number, clause), the first line's before the latest of the others."""
        found: list[tuple[int, str]] = []
        own = (str(prompt)[len(prompt.instructions) :] if isinstance(prompt, Prompt) else prompt) + said
        for number, line in enumerate(own.splitlines()):
            clauses = [clause for clause in _CLAUSE.split(line) if clause.strip()]
            found += [(min(number, NUM_FIELDS - 2), clause) for clause in clauses]
        first = [item for item in found if item[0] == 0][: self.clauses]
        rest = [item for item in found if item[0] > 0]
        room = self.clauses - len(first)
        return first + (rest[-room:] if room else [])

    def _hash(self, clause: str) -> NDArray[np.int16]:
        known = self._cache.get(clause)
        if known is not None:
            return known
        words = clause.lower().split()
        grams = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
        hashes = [1 + zlib.crc32(gram.encode()) % (self.buckets - 1) for gram in grams[: self.ngrams]]
        row = np.zeros(self.ngrams, np.int16)
        row[: len(hashes)] = hashes
        if len(self._cache) < 100_000:
            self._cache[clause] = row
        return row

    def _dense(
        self, prompt: str, decision: Decision, moment: Moment, admissible: tuple[str, ...] | None
    ) -> NDArray[np.float32]:
        size = len(admissible) if admissible else NUM_OPEN_ACTIONS
        p = probabilities(decision)
        columns = np.zeros(NUM_MOMENT + 4 * size + self.hidden, np.float32)
        top = np.sort(p)[::-1]
        m = moment
        columns[:NUM_MOMENT] = (
            entropy(p),
            top[0] - top[1] if len(top) > 1 else 0.0,
            1.0 - m.step / m.max_steps,
            np.exp(-m.step / 4),
            m.times_seen > 0,
            min(m.times_seen, 3) / 3,
            np.exp(-m.since_seen / 4) * (m.times_seen > 0),
            m.overrode_then,
            min(m.revisits, 8) / 8,
            min(m.overrides, 8) / 8,
            m.since_override == 1,
            np.exp(-m.since_override / 4) * (m.overrides > 0),
        )
        if admissible:
            columns[NUM_MOMENT : NUM_MOMENT + size] = p if len(p) else 0
        elif len(p):
            columns[NUM_MOMENT : NUM_MOMENT + min(size, len(top))] = top[:size]
        else:
            columns[ENTROPY] = decision.entropy or 0.0
            columns[MARGIN] = 0.0 if decision.logprob is None else np.exp(decision.logprob)
            columns[NUM_MOMENT : NUM_MOMENT + NUM_OPEN_ACTIONS] = (
                m.refused,
                min(m.since_progress, 8) / 8,
                (decision.logprob or 0.0) / 4,
                bool(m.actions) and m.actions[-1] == decision.action,
                *grounding(prompt, decision.action),
                *echo(m, decision.action),
                *links(prompt, m, decision.action),
            )
        for slot, action in enumerate((decision.action, *moment.actions[:-3:-1]), start=1):
            columns[NUM_MOMENT + slot * size + _index(action, admissible)] = 1
        if self.hidden and decision.hidden is not None:
            reduced = self._reduce(decision.hidden)
            columns[NUM_MOMENT + 4 * size :][: len(reduced)] = reduced
        return columns

    def _reduce(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = hidden / np.sqrt(np.mean(hidden**2) + 1e-6)
        if len(scaled) <= self.hidden:
            return np.asarray(scaled, np.float32)
        matrix = np.random.default_rng(0).standard_normal((self.hidden, len(scaled))) / np.sqrt(len(scaled))
        return np.asarray(matrix @ scaled, np.float32)


def probabilities(decision: Decision) -> NDArray[np.float64]:
    """Return the probability of each candidate, (K,); empty where none were scored."""
    return np.exp(np.array(decision.logprobs)) if decision.logprobs is not None else np.empty(0)


def entropy(p: NDArray[np.float64]) -> float:
    """Return the entropy of a distribution in nats; 0 for an empty one."""
    return float(-(p * np.log(np.maximum(p, 1e-12))).sum())


def grounding(prompt: str, action: str) -> tuple[float, ...]:
    """Return six shares, in [0, 1]: of an action's words that the goal, the latest observation, and neither shows, and
    of its pairs of neighbouring words that either, the goal, and the observation shows.

    A `str` that is no `Prompt` counts below its first line.
    """
    own = str(prompt)[len(prompt.instructions) :] if isinstance(prompt, Prompt) else prompt
    goal, _, rest = own.partition("\n")
    by_goal, goal_pairs = _shown(goal, action)
    by_text, text_pairs = _shown(prompt.turns[-1] if isinstance(prompt, Prompt) else rest, action)
    neither = [not (a or b) for a, b in zip(by_goal, by_text, strict=True)]
    either = [a or b for a, b in zip(goal_pairs, text_pairs, strict=True)]
    return tuple(map(_share, (by_goal, by_text, neither, either, goal_pairs, text_pairs)))


def echo(moment: Moment, action: str) -> tuple[float, ...]:
    """Return six shares, in [0, 1]: of an action's words, and of its pairs of neighbouring words, that the action
    before it shows, that an earlier one shows, and that what DEEPTHINK last did in QUICK's place shows.

    A plan keeps to its things: who was told to take one thing, and goes on with another, has lost the thread.
    """
    shares: list[float] = []
    for texts in (moment.actions[-1:], moment.actions[:-1], _overriding(moment)):
        shares += map(_share, _shown("\n".join(texts), action))
    return tuple(shares)


def links(prompt: str, moment: Moment, action: str) -> tuple[float, float]:
    """Return two shares, in [0, 1]: of an action's words in that clause of the latest observation which most shows the
    action before it, and in that which most shows what DEEPTHINK last did in QUICK's place.

    Who was told of the banana tree needs the pot that it stands in, and the text says which in one breath.
    """
    text = prompt.turns[-1] if isinstance(prompt, Prompt) else prompt.partition("\n")[2]
    clauses = [set(_WORD.findall(clause)) for clause in _CLAUSE.split(text.lower())]
    words = set(_WORD.findall(action.lower()))
    shares = []
    for texts in (moment.actions[-1:], _overriding(moment)):
        told = set(_WORD.findall(" ".join(texts).lower()))
        most = max(len(told & clause) for clause in clauses)
        near = (len(words & clause) for clause in clauses if len(told & clause) == most)
        shares.append(max(near) / max(1, len(words)) if most else 0.0)
    return shares[0], shares[1]


def _overriding(moment: Moment) -> tuple[str, ...]:
    """What DEEPTHINK last did in QUICK's place, if it did."""
    return moment.actions[-moment.since_override :][:1] if moment.since_override else ()


def _shown(text: str, action: str) -> tuple[list[bool], list[bool]]:
    """Which of an action's words, and which pairs of neighbours among them, a text shows; no pair spans its lines."""
    lines, words = [_WORD.findall(line) for line in text.lower().splitlines()], _WORD.findall(action.lower())
    singles, pairs = {word for line in lines for word in line}, {pair for line in lines for pair in pairwise(line)}
    return [word in singles for word in words], [pair in pairs for pair in pairwise(words)]


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def _index(action: str, admissible: tuple[str, ...] | None) -> int:
    if admissible and action in admissible:
        return admissible.index(action)
    return zlib.crc32(action.encode()) % (len(admissible) if admissible else NUM_OPEN_ACTIONS)
