"""Where a Switcher calls: how often in which states, and how often where QUICK would do otherwise than DEEPTHINK.

Reads the stored episodes of the policy that evaluation chose, and asks DEEPTHINK about the steps that it was not called
in: afterwards, so that nothing is decided by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from londi import lms
from londi.agent import ask
from londi.episode import Episode, Step, read_episodes
from londi.making import make_envs
from londi.run import Run

_BATCH = 256
_WORD = re.compile(r"[^\W_]+")
State = Callable[[Episode, Step, bool], bool]
"""Whether a step (of an episode, its text seen before) is of a kind."""


def where(run: Run, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return for each kind of state its `label`, its `steps`, the `calls` in them, and the steps in which the models
    `differ`, over all steps at which the budget permitted a call.

    `kinds` are regular expressions of the observation, by label; added to them are whether the models differ, whether
    the text shows the goal's thing (a pair of neighbouring words of it), and whether it is new in its episode. Raises
    `RunError` where the run was not evaluated.
    """
    episodes = list(read_episodes(run.path / "episodes" / "chosen.jsonl"))
    steps = [(episode, step, seen) for episode in episodes for step, seen in _steps(episode) if step.remaining != 0]
    differ = _differ(run, [step for _, step, _ in steps])
    states: dict[str, State] = {
        "the goal's thing is in view": lambda episode, step, seen: _shows(step.observation, episode.goal),
        "it is not": lambda episode, step, seen: not _shows(step.observation, episode.goal),
        **{label: _matches(pattern) for label, pattern in kinds.items()},
        "the text is new in its episode": lambda episode, step, seen: not seen,
        "the text was seen before": lambda episode, step, seen: seen,
    }
    rows = [("all steps", [True] * len(steps)), ("QUICK would err", differ)]
    rows += [("QUICK would do as DEEPTHINK", [not each for each in differ])]
    rows += [(label, [holds(*each) for each in steps]) for label, holds in states.items()]
    return [_row(label, chosen, steps, differ) for label, chosen in rows]


def _row(
    label: str, chosen: Sequence[bool], steps: Sequence[tuple[Episode, Step, bool]], differ: Sequence[bool]
) -> dict[str, Any]:
    own = [(step.called, other) for (_, step, _), other, in_it in zip(steps, differ, chosen, strict=True) if in_it]
    calls, others = (sum(column) for column in zip(*own, strict=True)) if own else (0, 0)
    return {"label": label, "steps": len(own), "calls": calls, "differ": others}


def _steps(episode: Episode) -> list[tuple[Step, bool]]:
    """The steps, and whether the text of each was seen before."""
    texts: set[str] = set()
    found = []
    for step in episode.steps:
        found.append((step, step.observation in texts))
        texts.add(step.observation)
    return found


def _matches(pattern: str) -> State:
    return lambda episode, step, seen: re.search(pattern, step.observation) is not None


def _shows(observation: str, goal: str) -> bool:
    """Whether a text has two neighbouring words of a goal beside each other."""
    words = [_WORD.findall(text.lower()) for text in (goal, observation)]
    return not set(pairwise(words[0])).isdisjoint(pairwise(words[1]))


def _differ(run: Run, steps: Sequence[Step]) -> list[bool]:
    """Whether DEEPTHINK does otherwise than QUICK, in each step."""
    deepthink = lms.load_pair(run.experiment.quick, run.experiment.deepthink)[1]
    (env,) = make_envs(run.experiment, 1, "test")
    admissible = env.admissible
    env.close()
    prompts = list(dict.fromkeys(step.prompt for step in steps if not _answered(step)))
    batches = (prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH))
    said = dict(zip(prompts, chain.from_iterable(ask(deepthink, batch, admissible) for batch in batches), strict=True))
    return [
        (step.deepthink.action if _answered(step) and step.deepthink else said[step.prompt].action) != step.quick.action
        for step in steps
    ]


def _answered(step: Step) -> bool:
    return step.deepthink is not None and not step.deepthink.error
