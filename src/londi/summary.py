"""Several training seeds of one experiment: mean and standard deviation of what each run measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from londi.config import Experiment
from londi.errors import RunError
from londi.files import read_json
from londi.frontier import SCHEMA, find
from londi.run import Run


def _read(run: Path) -> dict[str, Any]:
    path = run / "frontier.json"
    try:
        data = read_json(path, f"run `londi evaluate {run}` again")
    except FileNotFoundError as error:
        raise RunError(f"no {path}: run `londi evaluate {run}` first") from error
    if data.get("schema") != SCHEMA:
        raise RunError(f"{path} was written by another version of londi: run `londi evaluate {run}` again")
    return data


def _measured(path: Path) -> Experiment:
    """The experiment as which a run was measured, without what makes no difference, and its seed."""
    run = Run.open(path)
    experiment = run.measured() or run.experiment
    return replace(experiment, seed=0, evaluate=replace(experiment.evaluate, processes=1, num_envs=1))


def _measures(data: dict[str, Any]) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        f"{name} success": find(data["policies"], name)["success"]["mean"]
        for name in ("QUICK", "DEEPTHINK", "disagreement oracle")
    }
    for name in ("DEEPTHINK", "disagreement oracle"):
        found[f"{name} calls"] = find(data["policies"], name)["calls"]["mean"]
    for key in ("at_99", "at_95"):
        for ratio in ("success_ratio", "calls_ratio", "flops_ratio"):
            found[f"{key} {ratio}"] = data["choices"][key] and data["choices"][key][ratio]
    for family in ("hypervolume", "apgr", "aiq", "regret"):
        found |= {f"{family} {kind}": value for kind, value in data["metrics"].get(family, {}).items()}
    singles = ("cpt20", "cpt50", "cpt80", "cpt95", "violations")
    return found | {key: data["metrics"][key] for key in singles if key in data["metrics"]}


def summarise_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """Return `{schema, experiment, training_seeds, measures: {name: {mean, std, each}}}`.

    Standard deviations are of the sample (n - 1), None for one run. Raises `RunError` where the runs are not of one
    experiment.
    """
    if not runs:
        raise RunError("name at least one run folder")
    data = [_read(run) for run in runs]
    names = {d["experiment"] for d in data}
    if len(names) > 1:
        raise RunError(f"these runs are of different experiments: {', '.join(sorted(names))}")
    first = _measured(runs[0])
    for run, found in zip(runs[1:], data[1:], strict=True):
        if _measured(run) != first or found["env_steps"] != data[0]["env_steps"]:
            raise RunError(
                f"{run} differs from {runs[0]} in more than its seed: compare their config.toml and env_steps"
            )
    if len({d["training_seed"] for d in data}) < len(data):
        raise RunError("two of these runs have the same training seed: they are no two samples")
    measures = {}
    tables = [_measures(d) for d in data]
    for key in tables[0]:
        each = [table[key] for table in tables]
        known = [value for value in each if value is not None]
        complete = len(known) == len(each)
        mean = fmean(known) if complete else None
        measures[key] = {"mean": mean, "std": stdev(known) if complete and len(known) > 1 else None, "each": each}
    seeds = [d["training_seed"] for d in data]
    return {"schema": 1, "experiment": data[0]["experiment"], "training_seeds": seeds, "measures": measures}
