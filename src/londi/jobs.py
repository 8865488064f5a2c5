"""Experiments with changes, and runs that are trained and evaluated in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from londi import config
from londi.config import Experiment
from londi.errors import RunError
from londi.run import Run, load_checkpoint, write_text


def merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's data with the changes put in, section by section."""
    found = dict(data)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


@dataclass(frozen=True)
class Job:
    """One run: of which task, method ("" for the task's common run), as what experiment, and where it lies."""

    task: str
    method: str
    experiment: Experiment
    folder: Path
    source: Path | None = None
    """Run folder whose Switchers are measured in the experiment's environment, without training; None to train."""

    @property
    def done(self) -> bool:
        """Whether it is trained and evaluated, as the experiment is now."""
        return (self.folder / "frontier.json").is_file() and Run.open(self.folder).experiment == self.experiment

    def evaluate_anew(self) -> bool:
        """Take over how the experiment is evaluated now, so that what was trained need not be trained again.

        Returns whether the folder then holds the experiment: not where it was trained otherwise.
        """
        run = Run.open(self.folder)
        if replace(run.experiment, evaluate=self.experiment.evaluate) != self.experiment:
            return False
        (self.folder / "frontier.json").unlink(missing_ok=True)  # first: it must not pass for the new evaluation's
        write_text(self.folder / "config.toml", config.dump(self.experiment))
        return True


def run(job: Job) -> None:
    """Train and evaluate in a process of its own, going on where an earlier one stopped.

    Where only the experiment's evaluation has changed, that alone is done again. Raises `RunError` where the process
    fails, naming its log, or where the folder holds another experiment.
    """
    if job.done:
        return
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    source, log = (job.folder.with_name(f"{job.folder.name}.{suffix}") for suffix in ("toml", "log"))
    if (job.folder / "config.toml").is_file() and not job.evaluate_anew():
        raise RunError(f"{job.folder} is of another experiment (changed since?): remove it")
    write_text(source, config.dump(job.experiment))
    for command in _commands(job, source):
        with log.open("a", encoding="utf-8") as file:
            ended = subprocess.run(
                [sys.executable, "-m", "londi.cli", *command], stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
        if ended.returncode:
            raise RunError(f"`londi {' '.join(command)}` failed (exit code {ended.returncode}): see {log}")


def _commands(job: Job, source: Path) -> list[list[str]]:
    """What is to be done of the experiment that `source` holds."""
    if job.source:
        if not (job.source / "config.toml").is_file():
            raise RunError(f"{job.source} is not trained: `londi reproduce {job.source.parent.name}` first")
        return [["evaluate", str(job.source), "--on", str(source), "--folder", str(job.folder)]]
    last = job.folder / "checkpoints" / "last.pt"
    trained = last.is_file() and load_checkpoint(last).get("done")
    commands = [["train", str(source), "--run", str(job.folder)], ["evaluate", str(job.folder)]]
    return commands[bool(trained) :]


def run_all(todo: Sequence[Job], processes: int, progress: Callable[[], None]) -> None:
    """Run the jobs, so many at a time; `progress` is told of each that is done. Raises the first `RunError`."""

    def one(job: Job) -> None:
        run(job)
        progress()

    with ThreadPoolExecutor(processes) as pool:
        try:
            list(pool.map(one, todo))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
