"""Failed calls are counted, warned of once, and remembered by a checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from londi import Agent, Always, Assignment, TextEncoder, config, envs, rollout
from londi.episode import Episode
from londi.lms import ScriptedLM
from londi.train import prepare
from londi.train.failures import RECENT, Failures

ROOT = Path(__file__).parents[2]


def episode(*failed: bool) -> Episode:
    """A step for each, in which a call was made."""
    env = envs.make("londi/KeyDoor-v0")
    quick = ScriptedLM(lambda prompt: (env.admissible or ())[0])
    ((played, _),) = rollout([env], Agent(quick, quick, TextEncoder(), Always()), [Assignment(0)])
    deepthink = played.steps[0].deepthink
    assert deepthink is not None
    replies = (replace(deepthink, error="busy" if each else "") for each in failed)
    return replace(played, steps=tuple(replace(played.steps[0], deepthink=reply) for reply in replies))


def test_half_is_not_most() -> None:
    failures = Failures("toy")
    failures.note(episode(*[True, False] * RECENT))
    assert failures.count == RECENT
    with pytest.warns(UserWarning, match=f"{RECENT // 2 + 1} of the last"):
        failures.note(episode(*[True] * 2))


def test_few_calls_say_nothing() -> None:
    failures = Failures("toy")
    failures.note(episode(*[True] * (RECENT - 1)))
    assert failures.count == RECENT - 1
    with pytest.warns(UserWarning, match=rf"{RECENT} of the last {RECENT} calls of DEEPTHINK \(toy\) failed.*'busy'"):
        failures.note(episode(True))


def test_it_is_said_once() -> None:
    failures = Failures("toy")
    with pytest.warns(UserWarning, match="failed"):
        failures.note(episode(*[True] * RECENT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failures.note(episode(*[False] * RECENT, *[True] * RECENT))
    assert failures.count == 2 * RECENT


def test_a_checkpoint_remembers_how_many(tmp_path: Path) -> None:
    experiment = config.load(ROOT / "experiments" / "keydoor.toml")
    trainer = prepare(tmp_path / "run", experiment)
    trainer.failures.note(episode(True, False, True))
    trainer.save()
    assert prepare(tmp_path / "run", experiment).failures.count == 2
