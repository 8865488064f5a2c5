"""Where a Switcher calls: in which kinds of state how often, and how often the two models differ there.

Reads the stored episodes of the policy that evaluation chose, and asks DEEPTHINK about the steps that it was not called
in: afterwards, so that nothing is decided by it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from londi import lms
from londi.agent import ask
from londi.config import Experiment
from londi.episode import Episode, Step, read_episodes
from londi.errors import ConfigError, RunError
from londi.files import read_json, write_text
from londi.making import make_envs
from londi.run import Run
from londi.states import OpenStep, open_steps

ALL, DIFFER, AGREE = "all steps", "the models differ", "they agree"
THIRDS = "first third of its episode", "second third", "last third"
COUNTS = ("steps", "calls", "differ")
_BATCH = 256
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    ["a", "an", "and", "at", "first", "in", "into", "next", "of", "on", "or", "the", "then", "to", "with"]
)
State = Callable[[Episode, OpenStep], bool]
"""Whether a step of an episode is of a kind."""

_STATES: dict[str, State] = {
    "the text names the goal's thing": lambda episode, at: _names(at.step.observation, episode.goal),
    "it does not": lambda episode, at: not _names(at.step.observation, episode.goal),
    "the text is new in its episode": lambda episode, at: not at.seen,
    "it was seen before": lambda episode, at: at.seen,
    THIRDS[0]: lambda episode, at: at.third == 0,
    THIRDS[1]: lambda episode, at: at.third == 1,
    THIRDS[2]: lambda episode, at: at.third == 2,
}


def check_kinds(kinds: Mapping[str, str], source: str) -> None:
    """Raise `ConfigError` for a label that is taken, and for what is no regular expression."""
    for label, pattern in kinds.items():
        if label in (ALL, DIFFER, AGREE, *_STATES):
            raise ConfigError(f"{source}: 'states.{label}' is counted anyway: choose another label")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{source}: 'states.{label}' is no regular expression: {error}") from error


def counted(experiment: Experiment, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return what `count_calls` counts, whatever the episodes."""
    own = [*_STATES, *sorted(_COMMON)]
    return {"kinds": dict(kinds), "counted": own, "deepthink": experiment.deepthink.model}


def labels(kinds: Mapping[str, str]) -> set[str]:
    """Return the labels of the rows that `count_calls` counts."""
    return {ALL, DIFFER, AGREE, *_STATES, *kinds}


def count_calls(run: Run, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return `of` what is counted, the `policy` that evaluation chose, and `rows`: for each kind of state its `label`,
    its `steps`, the `calls` in them, and the steps in which the models `differ`, of all steps at which the budget
    permitted a call and DEEPTHINK did not fail.

    `kinds` are regular expressions of the observation, by label; added to them are whether the models differ, whether
    the text names the goal's thing (has two neighbouring words of it, neither a common one), whether it is new in its
    episode, and in which third of its episode's steps it comes. Kept in the run's `states.json` until the episodes or
    the kinds change. Raises `RunError` where the run was not evaluated, or that file is damaged.
    """
    chosen = run.path / "episodes" / "chosen.jsonl"
    episodes = list(read_episodes(chosen))
    if not episodes:
        raise RunError(f"{chosen} holds no episode: run `londi evaluate {run.path}` again")
    of = counted(run.experiment, kinds) | {"episodes": hashlib.sha256(chosen.read_bytes()).hexdigest()}
    kept = run.path / "states.json"
    stored = read_json(kept) if kept.is_file() else {}
    if stored.get("of") != of:
        stored = {"of": of, "policy": episodes[0].policy, "rows": _rows(run, episodes, kinds)}
        write_text(kept, json.dumps(stored, indent=1) + "\n")
    return stored


def _rows(run: Run, episodes: Sequence[Episode], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    steps = [(episode, each) for episode in episodes for each in open_steps([episode])]
    found = _differ(run, [each.step for _, each in steps])
    known = [(each, differ) for each, differ in zip(steps, found, strict=True) if differ is not None]
    rows = [_row(ALL, known), _row(DIFFER, [k for k in known if k[1]]), _row(AGREE, [k for k in known if not k[1]])]
    named = _STATES | {label: _matches(pattern) for label, pattern in kinds.items()}
    return rows + [_row(label, [k for k in known if holds(*k[0])]) for label, holds in named.items()]


def _row(label: str, steps: Sequence[tuple[tuple[Episode, OpenStep], bool]]) -> dict[str, Any]:
    calls, differ = sum(each.step.called for (_, each), _ in steps), sum(other for _, other in steps)
    return {"label": label, "steps": len(steps), "calls": calls, "differ": differ}


def _matches(pattern: str) -> State:
    return lambda episode, at: re.search(pattern, at.step.observation) is not None


def _names(observation: str, goal: str) -> bool:
    """Whether a text has two neighbouring words of a goal beside each other, neither a common one."""
    words = [_WORD.findall(text.lower()) for text in (goal, observation)]
    things = {pair for pair in pairwise(words[0]) if _COMMON.isdisjoint(pair)}
    return not things.isdisjoint(pairwise(words[1]))


def _differ(run: Run, steps: Sequence[Step]) -> list[bool | None]:
    """Whether DEEPTHINK does otherwise than QUICK, in each step; None where it fails."""
    (env,) = make_envs(run.experiment, 1, "test")
    admissible = env.admissible
    env.close()
    said = {step.prompt: step.deepthink for step in steps if step.deepthink}
    prompts = list(dict.fromkeys(step.prompt for step in steps if step.prompt not in said))
    deepthink = lms.load(run.experiment.deepthink)
    batches = (prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH))
    asked = chain.from_iterable(ask(deepthink, batch, admissible) for batch in batches)
    answers = {prompt: (reply.error, reply.action) for prompt, reply in said.items()}
    answers |= {prompt: (each.error, each.action) for prompt, each in zip(prompts, asked, strict=True)}
    return [None if answers[s.prompt][0] else answers[s.prompt][1] != s.quick.action for s in steps]
