"""Experiments: defaults, TOML there and back, and one clear line for what is wrong."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

import londi
from londi import config
from londi.config import EvaluateConfig, Experiment, ModelConfig, SwitcherConfig, TrainConfig
from londi.errors import ConfigError
from londi.prompt import PromptTemplate

ROOT = Path(__file__).parents[2]
FILES = [
    *sorted(p for p in (ROOT / "experiments").rglob("*.toml") if p.parent.name != "tables"),
    *sorted((ROOT / "examples" / "pairs").glob("*.toml")),
    Path(londi.__file__).parent / "templates" / "demo.toml",
]


def minimal(**parts: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "env": {"id": "londi/KeyDoor-v0"},
        "quick": {"model": "builtin:keydoor-quick"},
        "deepthink": {"model": "builtin:keydoor-deepthink"},
        **parts,
    }


def test_defaults() -> None:
    found = config.parse(minimal())
    assert found == Experiment(
        "x",
        config.EnvConfig("londi/KeyDoor-v0", {}, PromptTemplate()),
        ModelConfig("builtin:keydoor-quick"),
        ModelConfig("builtin:keydoor-deepthink"),
        0,
        SwitcherConfig(),
        TrainConfig(),
        EvaluateConfig(),
    )
    assert found.train.learners == ("budget", "price")
    assert found.train.relabel
    assert found.quick.mode == "auto"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_experiments_survive_toml(file: Path) -> None:
    found = config.load(file)
    assert config.parse(tomllib.loads(config.dump(found))) == found


def test_every_setting_is_written_out(tmp_path: Path) -> None:
    found = config.parse(minimal(seed=3, train={"gamma": 0.9, "learners": ["price"]}, evaluate={"budgets": []}))
    (tmp_path / "config.toml").write_text(config.dump(found))
    data = tomllib.loads((tmp_path / "config.toml").read_text())
    assert data["train"]["tau"] == TrainConfig().tau
    assert data["evaluate"]["budgets"] == []
    assert "max_new_tokens" not in data["quick"]  # none has no TOML
    assert config.load(tmp_path / "config.toml") == found


def test_another_pair_is_two_lines() -> None:
    text = FILES[0].read_text(encoding="utf-8")
    text = text.replace('"builtin:babyai-quick"', '"google/flan-t5-small"')
    text = text.replace('"builtin:babyai-deepthink"', '"google/flan-t5-large"')
    found = config.parse(tomllib.loads(text))
    assert (found.quick.model, found.deepthink.model) == ("google/flan-t5-small", "google/flan-t5-large")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"train": {"num_steps": 0}}, "train.num_steps must be at least 1, not 0"),
        ({"train": {"num_envs": -1}}, "train.num_envs must be at least 1, not -1"),
        ({"train": {"max_calls": 0}}, "train.max_calls must be at least 1, not 0"),
        ({"train": {"epsilon": 1.5}}, "train.epsilon must lie in [0, 1], not 1.5"),
        ({"train": {"on_policy": -0.1}}, "train.on_policy must lie in [0, 1], not -0.1"),
        ({"train": {"guided": 1.5}}, "train.guided must lie in [0, 1], not 1.5"),
        ({"train": {"text_dropout": 1.0}}, "train.text_dropout must lie in [0, 1), not 1.0"),
        ({"train": {"gamma": 0.0}}, "train.gamma must lie in (0, 1], not 0.0"),
        ({"train": {"learners": []}}, "train.learners is empty: name 'budget', 'price' or both"),
        ({"train": {"warmup_steps": -1}}, "train.warmup_steps"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"evaluate": {"episodes": 0}}, "evaluate.episodes must be at least 1, not 0"),
        ({"evaluate": {"processes": 0}}, "evaluate.processes must be at least 1, not 0"),
        ({"evaluate": {"selection_limit": 999}}, "must be 0 or at least evaluate.selection_episodes (1,000), not 999"),
        ({"evaluate": {"first_test_seed": 20_000_000}}, "first_test_seed must lie in 50,000,000 to 999,999,500"),
        ({"evaluate": {"first_test_seed": 10**9}}, "before those that models were cloned from, not at 1,000,000,000"),
        ({"evaluate": {"budgets": [-1]}}, "evaluate.budgets: a budget is a number of calls >= 0, not -1"),
        ({"evaluate": {"prices": [0.0]}}, "evaluate.prices: a price is > 0, not 0.0"),
        ({"evaluate": {"random_rates": [1.1]}}, "evaluate.random_rates: a rate lies in [0, 1], not 1.1"),
        ({"train": {"num_steps": 500}}, "train.warmup_steps (1000) must be below train.num_steps (500)"),
        ({"quick": {"model": "x", "max_batch": 0}}, "quick.max_batch must be at least 1, not 0"),
        ({"deepthink": {"model": "x", "max_new_tokens": 0}}, "deepthink.max_new_tokens must be at least 1, not 0"),
        ({"evaluate": {"prices": [2.0]}}, "evaluate.prices: 2.0 lies outside what is learned, 0.003 to 1.0"),
        ({"evaluate": {"prices": [0.1, 0.10000001]}}, "evaluate.prices names one twice"),
        ({"evaluate": {"budgets": [1, 2, 1]}}, "evaluate.budgets names one twice"),
        ({"train": {"learners": ["price"]}, "evaluate": {"prices": []}}, "evaluate.prices is empty"),
        ({"name": "../x"}, "name must be the name of a folder, not '../x'"),
        ({"name": ""}, "name must be the name of a folder, not ''"),
        ({"env": {"id": "x", "prompt": {"observations": 0}}}, "observations >= 1"),
        ({"train": {"num_steps": "many"}}, "'train.num_steps': "),
        ({"train": {"learners": ["cost"]}}, "'train.learners.0': "),
        ({"quick": {"model": "x", "mode": "guess"}}, "'quick.mode': "),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_in_one_line(part: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse(minimal(**part), "x.toml")
    message = str(refused.value)
    assert message.startswith("x.toml: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("part", "key", "nearest"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"evalute": {}}, "evalute", "evaluate"),
        ({"env": {"id": "x", "option": {}}}, "env.option", "options"),
        ({"env": {"id": "x", "prompt": {"action": 3}}}, "env.prompt.action", "actions"),
        ({"quick": {"model": "x", "modle": "y"}}, "quick.modle", "mode"),
        ({"deepthink": {"model": "x", "devise": "cpu"}}, "deepthink.devise", "device"),
        ({"switcher": {"hiden": 1}}, "switcher.hiden", "hidden"),
        ({"train": {"num_step": 1}}, "train.num_step", "num_steps"),
        ({"evaluate": {"episode": 1}}, "evaluate.episode", "episodes"),
    ],
    ids=str,
)
def test_a_misspelt_key_is_refused_with_a_suggestion(part: dict[str, Any], key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse(minimal(**part))
    assert f"unknown key '{key}'; did you mean '{nearest}" in str(refused.value)


@pytest.mark.parametrize(("missing", "key"), [("name", "name"), ("env", "env"), ("quick", "quick")])
def test_what_is_missing_is_named(missing: str, key: str) -> None:
    data = minimal()
    del data[missing]
    with pytest.raises(ConfigError, match=f"'{key}' is missing"):
        config.parse(data)
    with pytest.raises(ConfigError, match=r"'quick\.model' is missing"):
        config.parse(minimal(quick={}))


def test_files_that_are_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="is no TOML"):
        config.load(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="is it a file"):
        config.load(tmp_path)


def test_an_experiment_built_in_python_is_checked_too() -> None:
    model = ModelConfig("builtin:keydoor-quick")
    with pytest.raises(ConfigError, match=r"train\.gamma"):
        Experiment("x", config.EnvConfig("londi/KeyDoor-v0"), model, model, train=TrainConfig(gamma=2))


def test_the_documented_fields_are_the_real_ones() -> None:
    done = runpy.run_path(str(ROOT / "docs" / "fields.py"))
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert done["render"](page) == page, "run `make docs`"
