from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from londi.episode import SCHEMA, Episode, Reply, Step, read_episodes, write_episodes
from londi.errors import RunError
from londi.usage import Usage

QUICK = Reply("turn left", "", Usage(20, 0, 1, 1e5, 0.25))
DEEPTHINK = Reply("go forward", "reach red ball", Usage(20, 5, 3, 1e7, 0.5, 0.01))


def make_step(**changes: Any) -> Step:
    step = Step(
        observation="You see a red ball 1 step left.",
        prompt="goal: go to the red ball\nlast: none\nobs: You see a red ball 1 step left.\nact:",
        quick=QUICK,
        deepthink=None,
        probabilities=(0.75, 0.25),
        entropy=0.56,
        wished=True,
        called=False,
        propensity=1.0,
        advantage=0.125,
        remaining=0,
        action="turn left",
        reward=0.0,
        valid=True,
    )
    return dataclasses.replace(step, **changes)


def make_episode(**changes: Any) -> Episode:
    steps = (make_step(), make_step(deepthink=DEEPTHINK, called=True, remaining=2, action="go forward", reward=1.0))
    episode = Episode("londi/BabyAI-GoTo-v0", 7, "go to the red ball", "budget 2", 2, 0.0, steps, True, False)
    return dataclasses.replace(episode, **changes)


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN, at any depth."""
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and bool(a == b)


def test_round_trip(tmp_path: Path) -> None:
    episodes = [
        make_episode(),
        make_episode(budget=None, steps=(make_step(advantage=float("nan"), remaining=None, probabilities=()),)),
        make_episode(
            goal='put the "box"\nnext to the ключ \u2028', steps=(), success=False, truncated=True, price=0.03
        ),
    ]
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, episodes)
    back = list(read_episodes(path))
    assert len(back) == 3
    for one, other in zip(episodes, back, strict=True):
        assert same(one, other)
    assert math.isnan(back[1].steps[0].advantage)
    assert back[1].budget is None
    assert back[1].steps[0].remaining is None
    assert list(tmp_path.iterdir()) == [path], "no half-written file stays behind"


texts = st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
usages = st.builds(Usage, st.integers(0, 9999), st.integers(0, 9), st.integers(0, 99), numbers, numbers, numbers)
replies = st.builds(Reply, texts, texts, usages)
steps = st.builds(
    Step,
    observation=texts,
    prompt=texts,
    quick=replies,
    deepthink=st.none() | replies,
    probabilities=st.lists(numbers, max_size=3).map(tuple),
    entropy=numbers,
    wished=st.booleans(),
    called=st.booleans(),
    propensity=numbers,
    advantage=numbers | st.just(float("nan")),
    remaining=st.none() | st.integers(0, 20),
    action=texts,
    reward=numbers,
    valid=st.booleans(),
)
episodes_ = st.builds(
    Episode,
    env=texts,
    seed=st.integers(0, 2**40),
    goal=texts,
    policy=texts,
    budget=st.none() | st.integers(0, 20),
    price=numbers,
    steps=st.lists(steps, max_size=2).map(tuple),
    success=st.booleans(),
    truncated=st.booleans(),
)


@given(episodes_)
@settings(max_examples=40, deadline=None)
def test_any_episode_survives_json(episode: Episode) -> None:
    assert same(episode, Episode.from_dict(json.loads(json.dumps(episode.to_dict(), allow_nan=False))))


def test_writing_replaces_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, [make_episode(seed=1)])

    def breaks() -> Any:
        yield make_episode(seed=2)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_episodes(path, breaks())
    assert [episode.seed for episode in read_episodes(path)] == [1]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="londi evaluate"):
        list(read_episodes(tmp_path / "none.jsonl"))


def test_a_truncated_file_gives_its_whole_episodes_and_then_the_error(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, [make_episode(seed=1), make_episode(seed=2)])
    path.write_bytes(path.read_bytes()[:-40])
    found = read_episodes(path)
    assert next(found).seed == 1
    with pytest.raises(RunError, match=r"episodes\.jsonl:2"):
        next(found)


def test_another_schema() -> None:
    for schema in (SCHEMA + 1, None, str(SCHEMA)):
        with pytest.raises(RunError, match="another version"):
            Episode.from_dict({**make_episode().to_dict(), "schema": schema})


def damaged() -> dict[str, Any]:
    """Records that are JSON of the right schema, but no episode."""
    good = make_episode().to_dict()
    step = good["steps"][0]
    return {
        "no steps": {key: value for key, value in good.items() if key != "steps"},
        "no seed": {key: value for key, value in good.items() if key != "seed"},
        "unknown field": {**good, "colour": 1},
        "steps is a number": {**good, "steps": 3},
        "a step is text": {**good, "steps": ["x"]},
        "a step lacks its reward": {**good, "steps": [{key: step[key] for key in step if key != "reward"}]},
        "usage is null": {**good, "steps": [{**step, "quick": {**step["quick"], "usage": None}}]},
        "unknown usage": {**good, "steps": [{**step, "quick": {**step["quick"], "usage": {"tokens": 1}}}]},
        "quick is null": {**good, "steps": [{**step, "quick": None}]},
        "no object": [1, 2],
        "a number": 5,
        "text": "ab",
    }


@pytest.mark.parametrize("name", list(damaged()))
def test_a_damaged_record(name: str, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps(damaged()[name]) + "\n")
    with pytest.raises(RunError):
        list(read_episodes(path))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b'{"schema": 1, "env": "\xff\xfe"}\n')
    with pytest.raises(RunError):
        list(read_episodes(path))


def test_totals_count_quick_always_and_deepthink_where_called() -> None:
    episode = make_episode()
    assert episode.num_calls == 1
    assert episode.total_reward == 1.0
    assert episode.usage == Usage(60, 5, 5, 2e5 + 1e7, 1.0, 0.01)
    assert episode.usage.tokens == 65
    assert episode.steps[0].usage == QUICK.usage
    assert not episode.violated
    assert make_episode(budget=0).violated
    assert not make_episode(budget=1).violated
    assert not make_episode(budget=None).violated
