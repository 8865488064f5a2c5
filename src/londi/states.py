"""What the steps of finished episodes tell: why a step was called, and which states trigger calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from londi.episode import Episode, Step
from londi.usage import budget_text


@dataclass(frozen=True)
class Rate:
    """How often a call was made in one kind of state."""

    label: str
    steps: int
    calls: int

    @property
    def share(self) -> float:
        """Calls per step, in [0, 1]."""
        return self.calls / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class Phrase:
    """Words of the observation that go with calls."""

    words: str
    steps: int
    calls: int
    lift: float
    """Call rate of the steps whose observation has these words, over the call rate of all steps."""


@dataclass(frozen=True)
class OpenStep:
    """A step at which the budget still permitted a call."""

    step: Step
    seen: bool
    """Whether an earlier observation of the same episode had the same text."""
    third: int = 0
    """In which third of its episode's steps it is: 0, 1 or 2."""


def reason(step: Step) -> str:
    """Say what the Switcher chose, and what the budget made of it."""
    if step.called:
        return "calls DEEPTHINK"
    if step.wished and step.remaining == 0:
        return "wished to call, but the budget is spent"
    if step.wished:
        return "wished to call, but the budget refused"
    return "leaves it to QUICK"


def left(step: Step) -> str:
    """Say how many calls were left before the step."""
    if step.remaining is None:
        return "no limit"
    return "no calls left" if step.remaining == 0 else f"{step.remaining} call{'s' * (step.remaining != 1)} left"


def permitted(episode: Episode) -> str:
    """Say what the budget was, to follow a number of calls; empty without one."""
    if episode.budget is None:
        return ""
    if episode.budget_measure == "calls":
        return f" of {episode.budget:g} permitted"
    spent, cap = (budget_text(x, episode.budget_measure) for x in (episode.spent, episode.budget))
    return f", which took {spent} of {cap}"


def confidence(step: Step) -> float | None:
    """Return QUICK's highest probability of an action; None where the action is free text."""
    return max(step.probabilities) if step.probabilities else None


def open_steps(episodes: Iterable[Episode]) -> list[OpenStep]:
    """Return the steps at which a call was still possible: the others say nothing about the Switcher."""
    found = []
    for episode in episodes:
        texts: set[str] = set()
        for i, step in enumerate(episode.steps):
            if step.remaining != 0:
                found.append(OpenStep(step, step.observation in texts, 3 * i // len(episode.steps)))
            texts.add(step.observation)
    return found


def overall(steps: Sequence[OpenStep]) -> Rate:
    """Return the call rate of all steps."""
    return Rate("all steps", len(steps), sum(s.step.called for s in steps))


def by_entropy(steps: Sequence[OpenStep]) -> list[Rate]:
    """Return the call rate in each quarter of the steps, ordered by the entropy (nats) of QUICK's action."""
    known = sorted((s for s in steps if s.step.probabilities or s.step.entropy), key=lambda s: s.step.entropy)
    if not known:
        return []
    cuts = [round(len(known) * quarter / 4) for quarter in range(5)]
    names = ("surest quarter", "second quarter", "third quarter", "least sure quarter")
    rates = []
    for name, start, end in zip(names, cuts, cuts[1:], strict=False):
        part = known[start:end]
        if part:
            span = f"{part[0].step.entropy:.2f} to {part[-1].step.entropy:.2f}"
            rates.append(Rate(f"{name} ({span})", len(part), sum(s.step.called for s in part)))
    return rates


def by_action(steps: Sequence[OpenStep], most: int = 8) -> list[Rate]:
    """Return the call rate for each of the `most` frequent actions that QUICK proposed, the most frequent first."""
    rates = _grouped(steps, lambda s: s.step.quick.action)
    return sorted(rates, key=lambda rate: -rate.steps)[:most]


def by_seen(steps: Sequence[OpenStep]) -> list[Rate]:
    """Return the call rate where the text is new in its episode, and where it was seen before."""
    return _grouped(steps, lambda s: "seen before in this episode" if s.seen else "new in this episode")


def _grouped(steps: Sequence[OpenStep], label: Callable[[OpenStep], str]) -> list[Rate]:
    counts: dict[str, list[int]] = {}
    for s in steps:
        count = counts.setdefault(label(s), [0, 0])
        count[0] += 1
        count[1] += s.step.called
    return [Rate(name, *count) for name, count in sorted(counts.items())]


def grams(text: str) -> set[str]:
    """Return the word 1- to 3-grams of a text, in lower case, none across the end of a sentence."""
    found = set()
    for sentence in re.split(r"[.!?;:\n]+", text.lower()):
        words = re.findall(r"[\w'-]+", sentence)
        for size in (1, 2, 3):
            found |= {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
    return found


def phrases(steps: Sequence[OpenStep], most: int = 8, support: int | None = None) -> list[Phrase]:
    """Return the phrases of the observations with the highest lift above 1.

    `support` is the least number of steps that must show a phrase (by default 2 % of them, at least 20). Of
    phrases that contain each other, or share words and counts, the one with the highest lift is kept; on a tie the
    longest.
    """
    support = max(20, math.ceil(len(steps) / 50)) if support is None else support
    rate = overall(steps).share
    if rate == 0:
        return []
    counts: dict[str, list[int]] = {}
    for s in steps:
        for gram in grams(s.step.observation):
            count = counts.setdefault(gram, [0, 0])
            count[0] += 1
            count[1] += s.step.called
    found = [Phrase(gram, n, calls, calls / n / rate) for gram, (n, calls) in counts.items() if n >= support]
    found.sort(key=lambda phrase: (-round(phrase.lift, 9), -phrase.steps, -len(phrase.words), phrase.words))
    kept: list[Phrase] = []
    for phrase in found:
        if len(kept) == most or phrase.lift <= 1:
            break
        if not any(_same(phrase, other) for other in kept):
            kept.append(phrase)
    return kept


def _same(one: Phrase, other: Phrase) -> bool:
    a, b = f" {one.words} ", f" {other.words} "
    twins = (one.steps, one.calls) == (other.steps, other.calls) and bool({*a.split()} & {*b.split()})
    return a in b or b in a or twins
