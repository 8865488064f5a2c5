"""Mean and standard deviation over training seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from londi import choosing, frontier
from londi.config import EnvConfig, Experiment, ModelConfig, TrainConfig
from londi.errors import RunError
from londi.run import Run
from londi.summary import summarise_runs


def row(name: str, kind: str, calls: float, success: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "value": None,
        "success": {"mean": success, "low": success, "high": success},
        "calls": {"mean": calls},
        "flops": 1 + calls,
        "violations": 0,
    }


def write(path: Path, seed: int, success: float, experiment: str = "x", steps: int = 96_000, **train: Any) -> Path:
    """A run whose budget 2 has this success, DEEPTHINK having .8."""
    table = [row("QUICK", "model", 0, 0.4), row("DEEPTHINK", "model", 10, 0.8)]
    table += [row("disagreement oracle", "oracle", 3, 0.8), row("budget 2", "budget", 2, success)]
    choices = {key: choosing.choice(table, table, level) for key, level in (("at_99", 0.99), ("at_95", 0.95))}
    data = {
        "schema": frontier.SCHEMA,
        "experiment": experiment,
        "env": "e",
        "training_seed": seed,
        "policies": table,
        "env_steps": steps,
    }
    data |= {"choices": choices, "metrics": frontier.metrics(table, choices)}
    quick, deepthink = ModelConfig("builtin:keydoor-quick"), ModelConfig("builtin:keydoor-deepthink")
    setting = Experiment(experiment, EnvConfig("e"), quick, deepthink, seed, train=TrainConfig(**train))
    Run.create(path, setting)
    (path / "frontier.json").write_text(json.dumps(data))
    return path


def test_mean_and_sample_standard_deviation(tmp_path: Path) -> None:
    runs = [write(tmp_path / str(i), i, success) for i, success in enumerate((0.8, 0.8, 0.88))]
    found = summarise_runs(runs)
    assert (found["schema"], found["experiment"], found["training_seeds"]) == (1, "x", [0, 1, 2])
    ratio = found["measures"]["at_99 success_ratio"]
    assert ratio["each"] == pytest.approx([1, 1, 1.1])
    assert ratio["mean"] == pytest.approx(1 + 0.1 / 3)
    assert ratio["std"] == pytest.approx(0.1 / 3**0.5)  # of 1, 1, 1.1 with n - 1
    assert found["measures"]["QUICK success"] == {"mean": pytest.approx(0.4), "std": 0, "each": [0.4] * 3}
    assert found["measures"]["at_99 calls_ratio"]["mean"] == pytest.approx(0.2)


def test_one_run_has_no_standard_deviation(tmp_path: Path) -> None:
    found = summarise_runs([write(tmp_path / "a", 0, 0.8)])
    assert found["measures"]["QUICK success"] == {"mean": 0.4, "std": None, "each": [0.4]}


def test_a_measure_that_a_run_lacks_has_no_mean(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", 0, 0.8), write(tmp_path / "b", 1, 0.5)]  # the second reaches neither level
    measure = summarise_runs(runs)["measures"]["at_99 calls_ratio"]
    assert measure == {"mean": None, "std": None, "each": [pytest.approx(0.2), None]}
    assert summarise_runs(runs)["measures"]["hypervolume price"]["mean"] is None


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", 0, 0.8), write(tmp_path / "b", 0, 0.8, "y")]
    with pytest.raises(RunError, match="different experiments: x, y"):
        summarise_runs(runs)
    same = [write(tmp_path / "c", 0, 0.8), write(tmp_path / "d", 0, 0.9)]
    with pytest.raises(RunError, match="same training seed"):
        summarise_runs(same)
    other = write(tmp_path / "e", 1, 0.8, relabel=False)
    with pytest.raises(RunError, match="more than its seed"):
        summarise_runs([same[0], other])
    unfinished = write(tmp_path / "f", 1, 0.8, steps=10_000)
    with pytest.raises(RunError, match="more than its seed"):
        summarise_runs([same[0], unfinished])
    with pytest.raises(RunError, match="at least one"):
        summarise_runs([])


def test_a_run_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run `londi evaluate .*` first"):
        summarise_runs([tmp_path])
    (tmp_path / "frontier.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        summarise_runs([tmp_path])
    (tmp_path / "frontier.json").write_text('{"schema": 0}')
    with pytest.raises(RunError, match="another version"):
        summarise_runs([tmp_path])
