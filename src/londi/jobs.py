"""Experiments with changes, and runs that are trained and evaluated in processes of their own."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from londi import config
from londi.config import Experiment
from londi.errors import RunError
from londi.files import reading, write_text, writing
from londi.interrupts import held_back
from londi.lifeline import GRACE_S, Commands
from londi.policies import same_selection, same_training
from londi.run import Run

WAIT_S = GRACE_S + 30.0
"""Seconds that a training waits for one that has lost its parent: so long it may take to end, and more."""
POLL_S = 0.1
"""Seconds after which those that run are looked at again. (A signal raised inside the locks of threads would leave one
locked: it is noted, and looked at here.)"""


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
    source: Job | None = None
    """The run whose Switchers are measured in the experiment's environment, without training; None to train."""

    def holds(self, name: str) -> bool:
        """Whether its folder holds a file of this name; raises `RunError` where it can't be read."""
        with reading(self.folder):
            return (self.folder / name).is_file()

    @property
    def done(self) -> bool:
        """Whether it is trained, or has the Switchers that its source has now, and evaluated as the experiment is.

        Raises `RunError` where its folder can't be read.
        """
        if not self.holds("frontier.json"):
            return False
        here = Run.open(self.folder)
        measured = here.measured()
        complete = here.measured_steps() == self.experiment.train.num_steps
        same = measured is not None and self.same_results(measured) and complete
        return same and (self.source is None or _copied(self.source, here))

    def same_results(self, other: Experiment) -> bool:
        """Whether another experiment has the same results: it may be measured in more processes or larger batches."""
        own = self.experiment.evaluate
        return replace(other, evaluate=replace(other.evaluate, processes=own.processes, num_envs=own.num_envs)) == (
            self.experiment
        )

    @property
    def trained(self) -> bool:
        """Whether the folder holds Switchers that were trained to the end, however they are evaluated.

        Raises `RunError` where it holds another experiment, or can't be read.
        """
        if not self.holds("config.toml"):
            return False
        here = Run.open(self.folder)
        if not same_training(here.experiment, self.experiment):
            raise RunError(f"{self.folder} is of another experiment (changed since?): remove it")
        return bool((here.latest() or {}).get("done"))


def _copied(source: Job, here: Run) -> bool:
    """Whether a run has the policies that its source has."""
    names = [here.policy(learner).name for learner in here.experiment.train.learners]
    folders = source.folder / "checkpoints", here.path / "checkpoints"
    return filecmp.cmpfiles(*folders, names, shallow=False)[0] == names


def run(job: Job, commands: Commands | None = None) -> None:
    """Train and evaluate in a process of its own, going on where an earlier one stopped; or measure what its source
    trained.

    Where only the experiment's evaluation has changed, that alone is done again; where only other settings are to be
    measured, those that are new. The process ends with this one, however this one does, or with all of `commands`.
    Raises `RunError` where the process fails, naming its log, where the folder holds another experiment or can't be
    made, or where the source is not trained, and `KeyboardInterrupt` where it would begin after the end of `commands`.
    """
    if job.done:
        return
    with writing(job.folder.parent):
        job.folder.parent.mkdir(parents=True, exist_ok=True)
    source, log = (job.folder.with_name(f"{job.folder.name}.{suffix}") for suffix in ("toml", "log"))
    steps, commands = _steps(job, source), commands or Commands()
    if job.holds("config.toml"):
        write_text(job.folder / "config.toml", config.dump(job.experiment))
    write_text(source, config.dump(job.experiment))
    for step in steps:
        with log.open("a", encoding="utf-8") as file:
            code = commands.run(step, file)
        if code and not (step[0] == "train" and job.trained):  # by the process for which it waited
            raise RunError(f"`londi {' '.join(step)}` failed (exit code {code}): see {log}")


def _steps(job: Job, source: Path) -> list[list[str]]:
    """The londi commands that are to be run for the experiment that `source` holds."""
    trained = job.trained
    if job.source:
        if not job.source.trained:
            raise RunError(
                f"{job.source.folder} is not trained: `londi reproduce` the table that trains it first, with the same "
                "--folder and --quick"
            )
        if _can_add(job):
            return [["evaluate", str(job.folder), "--add"]]
        return [["evaluate", str(job.source.folder), "--on", str(source), "--folder", str(job.folder)]]
    evaluate = ["evaluate", str(job.folder), *(["--add"] if trained and _can_add(job) else [])]
    train = ["train", str(source), "--run", str(job.folder), "--wait", f"{WAIT_S:g}"]
    return [evaluate] if trained else [train, evaluate]


def _can_add(job: Job) -> bool:
    """Whether its folder holds results on the same selection episodes of the policies that it or its source has now."""
    if not job.holds("config.toml"):
        return False
    here = Run.open(job.folder)
    measured = here.measured()
    same = measured is not None and same_selection(measured, job.experiment)
    return same and (job.source is None or _copied(job.source, here))


def run_all(
    todo: Sequence[Job],
    processes: int,
    progress: Callable[[], None],
    ending: Callable[[int], None] = lambda running: None,
) -> None:
    """Run the jobs, so many at a time; `progress` is told of each that is done. Raises the first `RunError`, once those
    that run have ended; none begins after it.

    On Ctrl-C or SIGTERM those that run end as on SIGTERM: training writes a checkpoint. `ending` is told how many there
    are; on a second signal they end at once. Then `KeyboardInterrupt` is raised (on SIGTERM, its `Terminated`). This is
    so in the main thread, and where nobody else handles these signals.
    """
    commands, over = Commands(), Event()

    def one(job: Job) -> None:
        if over.is_set():
            return
        try:
            run(job, commands)
        except BaseException:
            over.set()
            raise
        progress()

    with held_back(every=True) as held, ThreadPoolExecutor(processes) as pool:
        futures: list[Future[None]] = []
        try:
            futures += [pool.submit(one, job) for job in todo]
            while wait(futures, POLL_S).not_done and not held.arrived:
                pass
            if held.arrived:
                over.set()
                ending(commands.end())
        finally:
            over.set()
            commands.end()
            while wait(futures, POLL_S).not_done:
                if held.urgent:
                    commands.end(at_once=True)
            held()
        for future in futures:
            future.result()
    held()  # one that came while the handlers were put back
