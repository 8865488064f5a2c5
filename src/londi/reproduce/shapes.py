"""What is read of a run's record and of a table's stored numbers; other keys may stand beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from londi.errors import RunError

_Count = Annotated[int, Field(ge=0)]
_Known = FiniteFloat | None
_MODELS = {"QUICK", "DEEPTHINK"}


@dataclass(frozen=True)
class _Success:
    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


@dataclass(frozen=True)
class _Calls:
    mean: FiniteFloat
    max: FiniteFloat


@dataclass(frozen=True)
class _Row:
    """A policy, on test or selection episodes."""

    name: str
    kind: str
    value: _Known
    episodes: Annotated[int, Field(ge=1)]
    success: _Success
    calls: _Calls
    flops: FiniteFloat
    tokens: FiniteFloat
    seconds: FiniteFloat
    dollars: FiniteFloat
    violations: _Count
    switches: FiniteFloat
    solved: Annotated[str, Field(pattern="^([0-9a-f]{2})+$")] = ""

    def __post_init__(self) -> None:
        if self.solved and len(self.solved) != 2 * -(-self.episodes // 8):
            raise ValueError("'solved' is of another number of episodes")


@dataclass(frozen=True)
class _State:
    label: str
    steps: _Count
    calls: _Count
    differ: _Count


@dataclass(frozen=True)
class _States:
    of: dict[str, Any]
    policy: str
    rows: list[_State]


@dataclass(frozen=True)
class _Machine:
    system: str
    processor: str
    cpus: int | None


@dataclass(frozen=True)
class _Place:
    python: str
    packages: dict[str, str]
    machine: _Machine


@dataclass(frozen=True)
class _Point:
    step: _Count
    hypervolume: dict[str, _Known]


@dataclass(frozen=True)
class Kept:
    """The record of a run."""

    table: str
    experiment: dict[str, Any]
    source: dict[str, Any] | None
    environment: _Place
    trained: str | None
    seconds: FiniteFloat
    states: _States | None
    env_steps: _Count | None
    commit: str | None
    policies: list[_Row]
    selection: list[_Row]
    curve: list[_Point] | None = None
    training_calls: _Count | None = None
    updates: dict[str, _Count] | None = None
    commits: list[str | None] | None = None

    def __post_init__(self) -> None:
        for key, rows in (("policies", self.policies), ("selection", self.selection)):
            if not {row.name for row in rows if row.kind == "model"} >= _MODELS:
                raise ValueError(f"'{key}' has no row of QUICK, or none of DEEPTHINK")
            if len({row.name for row in rows}) < len(rows):
                raise ValueError(f"'{key}' has two rows of one policy")
        if not {(row.name, row.kind) for row in self.selection} <= {(row.name, row.kind) for row in self.policies}:
            raise ValueError("'policies' lacks one of 'selection'")


@dataclass(frozen=True)
class _Choice:
    success_ratio: FiniteFloat
    calls_ratio: FiniteFloat
    flops_ratio: _Known
    tokens_ratio: _Known
    seconds_ratio: _Known
    switches: _Known
    most_calls: _Known


@dataclass(frozen=True)
class _Method:
    hypervolume: list[_Known]
    gain: list[_Known]
    aiq: list[_Known]
    apgr: list[_Known]
    regret: list[_Known]
    cpt20: list[_Known]
    cpt50: list[_Known]
    cpt80: list[_Known]
    cpt95: list[_Known]
    steps_to_90: list[_Known]
    at_99: list[_Choice | None]
    at_95: list[_Choice | None]
    interval: tuple[FiniteFloat, FiniteFloat] | None
    budget_use: dict[str, FiniteFloat]
    settings: _Count
    env_steps: _Count | None
    training_calls: _Count | None
    updates: _Count | None
    seconds: FiniteFloat
    violations: _Count
    under_budget: _Count


@dataclass(frozen=True)
class _Alone:
    success: FiniteFloat
    calls: FiniteFloat


@dataclass(frozen=True)
class _Called:
    policies: list[str]
    rows: list[_State]


@dataclass(frozen=True)
class _Task:
    models: dict[str, _Alone]
    methods: dict[str, _Method]
    states: _Called = _Called([], [])


@dataclass(frozen=True)
class _Better:
    all: FiniteFloat
    low: _Known
    high: _Known
    each: list[FiniteFloat]


@dataclass(frozen=True)
class _Overall:
    iqm: FiniteFloat
    low: _Known
    high: _Known
    better: dict[str, dict[str, _Better]]
    tasks: list[str]


@dataclass(frozen=True)
class _Made(_Place):
    commits: dict[str, list[str]]
    others: list[_Place]


@dataclass(frozen=True)
class Stored:
    """The numbers of a table."""

    table: str
    seeds: list[int]
    episodes: int
    made: _Made
    tasks: dict[str, _Task]
    overall: dict[str, _Overall]


_ADAPTERS: dict[type[Kept | Stored], TypeAdapter[Any]] = {shape: TypeAdapter(shape) for shape in (Kept, Stored)}


def check(shape: type[Kept | Stored], found: Mapping[str, Any], path: Path, fix: str) -> None:
    """Raise `RunError`, which says what is wrong, where what was found at a path is not of a shape."""
    try:
        _ADAPTERS[shape].validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        where = f"'{'.'.join(map(str, first['loc']))}': " if first["loc"] else ""
        raise RunError(f"{path} is damaged, or of another version of londi ({where}{message}): {fix}") from error
