"""Demonstrations of ScienceWorld as token ids, names exchanged for each other in every batch; the recipes of the pair.

What a name stands for does not matter in most tasks: the box is where the goal says, whatever its colour. So in each
row the boxes are renamed, the wires, the lamps, the flower pots, the unknown substances, and in tasks that ask for
any animal or plant, or test things, those too: a clone learns to copy the name instead of knowing it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from londi.cloning.scienceworld.demos import Demonstration
from londi.cloning.scienceworld.tokenizer import END, PAD, POTS, SUBSTANCES, THINGS, THOUGHT, Vocabulary
from londi.cloning.train import IGNORE, Recipe, rows_of
from londi.prompt import PromptTemplate

QUICK = Recipe(20, num_layers=1, num_heads=2, ff_size=40, thinks=False, num_updates=3_000, lr=3e-3, context=1024)
DEEPTHINK = Recipe(96, num_layers=4, num_heads=4, ff_size=192, thinks=True, num_updates=6_000, context=1024)
TEMPLATE = PromptTemplate(actions=8)
"""The prompt of both models."""
_BUCKET = 16
"""Batches that are sorted by length together."""
_WANTED, _MOST_REPEATS = 4_000, 5
"""Demonstrations of a task, and how often one is repeated at most."""
_REFUSALS = 0.06
"""Share of the demonstrations that begin after an action that was not understood."""
_JUDGED = 3
"""How many times as often it is shown what a test says: a tenth of the steps, all that decides."""
_LAMP = re.compile(r"^connect .* to (?:an|cath)ode in ([a-z ]+)$")
_MEASURED = re.compile(r"measures a temperature of (-?\d+)")
_BOUND = re.compile(r"is above (-?\d+)\.0 degrees celsius, place it in the ([a-z]+ box).*? the ([a-z]+ box)")
_BOUNDS, _TEMPERATURES = (-50, 0, 50, 100, 200), (-100, 250)
_TESTED = ("test-conductivity", "use-thermometer")
_FOUND = ("find-living-thing", "find-animal")


@dataclass(frozen=True)
class Group:
    """Tokens that stand for each other in some tasks."""

    ids: NDArray[np.int64]
    tasks: tuple[str, ...] = ("",)
    """Beginnings of the names of these tasks."""


@dataclass(frozen=True)
class ScienceWorldCorpus:
    """Token ids, left-padded: `ids` and `labels` (M, T); `allowed` (M, groups), which names may be exchanged."""

    vocabulary: Vocabulary
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: tuple[Group, ...]
    allowed: NDArray[np.bool_]
    longest: int

    @classmethod
    def build(cls, demos: Sequence[Demonstration], folder: Path, *, thinks: bool) -> ScienceWorldCorpus:
        """Write the tokenizer into the folder, and tokenise the demonstrations; only the reply has labels."""
        demos = _evened(demos)
        shown = _with_refusals(demos, [reply(demo, thinks=thinks) for demo in demos])
        demos, replies = [demo for demo, _ in shown], [said for _, said in shown]
        texts = [f"{demo.goal} ; {demo.observation} ; {reply(demo, thinks=True)}" for demo in demos]
        vocabulary = Vocabulary.build([demo.observation for demo in demos], texts)
        vocabulary.save(folder)
        tokenizer = vocabulary.tokenizer()
        prompts = [str(TEMPLATE.render(d.goal, [d.observation], d.last)) for d in demos]
        answers = [found.ids for found in tokenizer.encode_batch(replies)]
        ids, labels = rows_of([found.ids for found in tokenizer.encode_batch(prompts)], answers, vocabulary.ids[PAD])
        groups = _groups(vocabulary, demos)
        allowed = np.array([[demo.task.startswith(group.tasks) for group in groups] for demo in demos])
        return cls(vocabulary, ids, labels, groups, allowed, max(map(len, answers)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """What the embedding of each token is the sum of."""
        return self.vocabulary.parts

    @property
    def ends(self) -> list[int]:
        """The token that ends a reply."""
        return [self.vocabulary.ids[END]]

    def shuffled(self, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return rows in random order, rows of like length in the same batch; what fills no batch waits its turn."""
        order = rng.permutation(len(self))
        if len(order) < batch_size:
            return order
        order = order[: len(order) // batch_size * batch_size]
        lengths = (self.ids[order] != 0).sum(1)
        near = np.lexsort((lengths, np.arange(len(order)) // (_BUCKET * batch_size)))
        batches = order[near].reshape(-1, batch_size)
        return batches[rng.permutation(len(batches))].reshape(-1)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (B, T) ids and labels of a batch, each row under names of its own."""
        ids, labels = self.ids[rows], self.labels[rows]
        first = int((ids != 0).any(0).argmax())
        ids, labels = ids[:, first:], labels[:, first:]
        table = np.tile(np.arange(len(self.parts)), (len(rows), 1))  # (B, V)
        for column, group in enumerate(self.groups):
            renamed = np.flatnonzero(self.allowed[rows, column])
            order = rng.random((len(renamed), len(group.ids))).argsort(1)
            table[renamed[:, None], group.ids] = group.ids[order]
        ids = np.take_along_axis(table, ids, axis=1)
        return torch.from_numpy(ids), torch.from_numpy(np.where(labels != IGNORE, ids, IGNORE))


def _evened(demos: Sequence[Demonstration]) -> list[Demonstration]:
    """Repeat the demonstrations of tasks that have few, so that all are learned, and those of what a test says."""
    counts = Counter(demo.task for demo in demos)
    times = {task: min(_MOST_REPEATS, max(1, round(_WANTED / count))) for task, count in counts.items()}
    rng = np.random.default_rng(1)
    evened = []
    for demo in demos:
        evened += [demo] * times[demo.task]
        if _decides(demo):
            evened += [_imagined(demo, rng) for _ in range(times[demo.task] * (_JUDGED - 1))]
    return evened


def _imagined(demo: Demonstration, rng: np.random.Generator) -> Demonstration:
    """Return the same step after another temperature, with another one to compare it with."""
    measured, bound = _MEASURED.search(demo.observation), _BOUND.search(demo.goal)
    if not (measured and bound and demo.action == demo.next):
        return demo
    there, limit = int(rng.integers(*_TEMPERATURES)), int(rng.choice(_BOUNDS))
    action = re.sub(r"[a-z]+ box$", bound[2] if there > limit else bound[3], demo.next)
    return replace(
        demo,
        goal=demo.goal.replace(f"{bound[1]}.0 degrees", f"{limit}.0 degrees"),
        observation=demo.observation.replace(f"temperature of {measured[1]} ", f"temperature of {there} "),
        next=action,
        action=action,
    )


def _with_refusals(demos: Sequence[Demonstration], replies: Sequence[str]) -> list[tuple[Demonstration, str]]:
    """Add an action that was not understood to some: nothing changed, so that the reply stays."""
    rng = np.random.default_rng(0)
    added = []
    for demo, said in zip(demos, replies, strict=True):
        other = demos[int(rng.integers(len(demos)))]
        begins = re.search(r"This (?:room|outside)", demo.observation)
        if rng.random() < _REFUSALS and begins and not _MEASURED.search(demo.observation):
            seen = f"No known action matches that input; {demo.observation[begins.start() :]}"
            demo = replace(demo, observation=seen, last=(*demo.last, other.next))
        added.append((demo, said))
    return added


def reply(demo: Demonstration, *, thinks: bool) -> str:
    """Return what the model is to answer: where it wants to do what, then the action; or the action alone."""
    thought = f"in {demo.room} {_reading(demo)}{demo.next} {THOUGHT} " if thinks else ""
    return f"{thought}{demo.action} {END}"


def _reading(demo: Demonstration) -> str:
    """What the lamp or the thermometer says that a test is to be judged by, where the prompt shows it."""
    if not _decides(demo):
        return ""
    measured, bound = _MEASURED.search(demo.observation), _BOUND.search(demo.goal)
    if measured and bound:
        return f"{measured[1]} {bound[1]} {'above' if demo.next.endswith(bound[2]) else 'below'} "
    lamps = [found[1] for action in demo.last[-TEMPLATE.actions :] if (found := _LAMP.search(action))]
    if not lamps or lamps[-1] not in demo.observation:
        return ""
    shines = re.search(rf"{re.escape(lamps[-1])}, which is (?:on|activated)", demo.observation)
    return "active " if shines else "none "


def _decides(demo: Demonstration) -> bool:
    """Whether all is done but to judge."""
    tested = "wait" in demo.last or any(action.startswith("use thermometer") for action in demo.last)
    return demo.next.startswith("move ") and tested


def _groups(vocabulary: Vocabulary, demos: Sequence[Demonstration]) -> tuple[Group, ...]:
    kinds = [Group(vocabulary.group(rf"[a-z]+ {kind}")) for kind in ("box", "wire", "light bulb")]
    things = vocabulary.known(THINGS)
    found = (
        *kinds,
        Group(vocabulary.known(SUBSTANCES)),
        Group(vocabulary.known(POTS)),
        Group(vocabulary.group(r"baby [a-z ]+|[a-z ]+ egg"), _FOUND),
        Group(vocabulary.group(r"[a-z]+ tree"), ("find-plant",)),
        Group(things, _TESTED),
    )
    return tuple(group for group in found if len(group.ids) > 1)
