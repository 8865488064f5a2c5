"""Several experiments, settings and training seeds, run by Ray Tune; at the end one table and one picture.

Ray Tune says what runs when and where, and starts again what was lost with a node; a run is an ordinary run folder that
goes on where it stopped. Needs the extra `sweep`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from londi import config
from londi.cluster import check_run, connect, run_gpus
from londi.errors import ConfigError, MissingExtraError, RunError
from londi.files import write_text
from londi.jobs import Job, merged, run
from londi.panels import save_frontiers
from londi.summary import summarise_runs

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray import tune
except ImportError as error:
    raise MissingExtraError("ray[tune]", "sweep") from error

SCHEMA = 1
FAILURES = 3
"""How often a run may be lost (a node died, say) and go on."""
COLUMNS = ("hypervolume price", "hypervolume budget", "at_99 success_ratio", "at_99 calls_ratio")


def points(
    experiments: Sequence[Path], seeds: Sequence[int], vary: Mapping[str, Sequence[Any]], folder: Path
) -> list[Job]:
    """Return a job for every experiment, combination of values, and seed.

    `vary` names settings by their path in the TOML, as `train.gamma`. Raises `ConfigError` where one does not exist or
    a value does not fit, and where two jobs would have the same name.
    """
    if not experiments or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("name at least one experiment, and at least one seed, each once")
    found = []
    for path in experiments:
        plain = config.plain(config.load(path))
        for values in itertools.product(*vary.values()):
            changed, words = plain, [str(plain["name"])]
            for key, value in zip(vary, values, strict=True):
                changed = merged(changed, _nested(key, value))
                words.append(f"{key}={_written(value)}")
            label = " ".join(words)
            experiment = config.parse(changed, f"{path} with {label}" if vary else str(path))
            for seed in seeds:
                at = "-".join("".join(c if c.isalnum() or c in ".=" else "-" for c in word) for word in words)
                found.append(Job(label, "", replace(experiment, seed=seed), folder.resolve() / f"{at}-{seed}"))
    if len({job.folder for job in found}) < len(found):
        raise ConfigError("two of these experiments have the same name (its `name`, not its file's): change one")
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    found: dict[str, Any] = {last: value}
    for section in reversed(sections):
        found = {section: found}
    return found


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Trial(tune.Trainable):
    """One run, as Ray Tune sees it: a single step, which goes on where an earlier attempt stopped."""

    def setup(self, config: dict[str, Any], jobs: Mapping[str, Job], cwd: str) -> None:  # type: ignore[override]
        os.chdir(cwd)  # `python:MODULE:NAME` may stand beside the experiment
        self.job = jobs[config["run"]]

    def step(self) -> dict[str, Any]:
        run(self.job)
        measures = summarise_runs([self.job.folder])["measures"]
        return {"done": True} | {name.replace(" ", "_"): measures[name]["mean"] for name in COLUMNS if name in measures}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Leave this to the run: its folder holds a better one."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Likewise."""


class _Told(tune.Callback):
    """Tells of each run that is done; Ray Tune writes its callbacks down, a progress bar can't be."""

    def __init__(self, progress: Callable[[], None]) -> None:
        self.progress = progress

    def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
        self.progress()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run_over_ray(
    jobs: Sequence[Job], address: str, cpus: float, gpus: float | None, progress: Callable[[], None]
) -> list[str]:
    """Run what is not done yet, as many at a time as there are CPUs and GPUs for; returns what failed, a line each.

    `gpus` None is as many for each run as its devices say. Raises `ConfigError` where a run finds no room,
    `RunError` where there is no such cluster, and `KeyboardInterrupt` on Ctrl-C.
    """
    todo = {job.folder.name: job for job in jobs if not job.done}
    if not todo:
        return []
    takes = {name: {"CPU": cpus, "GPU": run_gpus(job.experiment, gpus)} for name, job in todo.items()}

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints with verbose=0, too
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")  # they end by themselves, and save first
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told at the end, in a line
    started = connect(address)
    try:
        for each in takes.values():
            check_run(each["CPU"], each["GPU"])
        folder = next(iter(todo.values())).folder.parent
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_Trial, jobs=todo, cwd=str(Path.cwd())),
                lambda point: tune.PlacementGroupFactory([takes[point["run"]]]),
            ),
            param_space={"run": tune.grid_search(list(todo))},
            run_config=tune.RunConfig(
                name=".tune",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=FAILURES),
                callbacks=[_Told(progress)],
            ),
        )
        grid = tuner.fit()
    finally:
        if started:
            ray.shutdown()
    every = [grid[i] for i in range(len(grid))]
    if not all(job.done for job in todo.values()) and not any(one.error for one in every):
        raise KeyboardInterrupt  # Ray Tune stops on Ctrl-C, and returns
    return [f"{(one.config or {}).get('run')}: {_last_line(one.error)}" for one in every if one.error]


def _last_line(error: Exception) -> str:
    """What was raised, without the way there."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def gather(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return `{schema, seeds, points: {label: {measure: {mean, std, each}}}}` of the finished runs, for sweep.json."""
    labels = list(dict.fromkeys(job.task for job in jobs))
    found = {}
    for label in labels:
        own = [job for job in jobs if job.task == label]
        if missing := [job.folder.name for job in own if not job.done]:
            raise RunError(f"not run yet: {', '.join(missing[:5])}")
        found[label] = summarise_runs([job.folder for job in own])["measures"]
    return {"schema": SCHEMA, "seeds": sorted({job.experiment.seed for job in jobs}), "points": found}


def save(found: Mapping[str, Any], jobs: Sequence[Job], folder: Path) -> None:
    """Write sweep.json and sweep.png: a panel for each point, the mean over its seeds' frontiers."""
    write_text(folder / "sweep.json", json.dumps(found, indent=1) + "\n")
    panels: dict[str, list[Any]] = {}
    for job in jobs:
        panels.setdefault(job.task, []).append(json.loads((job.folder / "frontier.json").read_text(encoding="utf-8")))
    save_frontiers(panels, folder / "sweep.png")
