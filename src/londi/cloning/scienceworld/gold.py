"""Solutions of ScienceWorld's variations, worked out by the simulator once and kept in a folder.

One file for each task and split, a JSON line for each variation; what is there already is not worked out again, so
that it can be stopped and gone on with at any moment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from londi.envs.jvm import POOL, SimulatorLostError
from londi.errors import ConfigError

HEAP_MB = 768
"""Working out a solution needs more memory than playing it."""
_PAUSE = 1.0
"""Seconds after which a simulator that was lost is replaced, if nobody has interrupted."""


@dataclass(frozen=True)
class Gold:
    """The simulator's own solution of one variation, and the score that playing it again came to."""

    task: str
    variation: int
    simplification: str
    actions: tuple[str, ...]
    score: int


def path_of(folder: Path, task: str, split: str) -> Path:
    """The file of a task and split."""
    return folder / f"{task}-{split}.jsonl"


def read(folder: Path, task: str, split: str, simplification: str) -> list[Gold]:
    """Return what is known, in the order of the variations; a line that was cut off is left out."""
    path = path_of(folder, task, split)
    found: dict[int, Gold] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            data = json.loads(line)
            gold = Gold(**data | {"actions": tuple(data["actions"])})
        except (ValueError, KeyError, TypeError):
            continue
        if gold.simplification == simplification:
            found[gold.variation] = gold
    return [found[number] for number in sorted(found)]


def missing(
    folder: Path, tasks: Sequence[str], split: str, simplification: str, most: int | None
) -> list[tuple[str, int]]:
    """Return (task, variation) of what is not known yet; at most the first `most` variations of a task are wanted."""
    if most is not None and most < 1:
        raise ConfigError(f"at least 1 variation of a task, not {most}")
    simulator = POOL.take(HEAP_MB, timeout=600)
    jobs = []
    for task in tasks:
        known = {gold.variation for gold in read(folder, task, split, simplification)}
        simulator.load(task, 0, simplification)
        wanted = simulator.variations(split)[:most]
        jobs += [(task, variation) for variation in wanted if variation not in known]
    POOL.give(simulator)
    return jobs


def generate(
    folder: Path,
    jobs: Sequence[tuple[str, int]],
    split: str,
    simplification: str,
    processes: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Work out solutions and play each once, `processes` simulators at a time; each is written as it is found.

    A variation whose simulator is lost twice is recorded with no actions. `progress` is told how many are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, stopped = Lock(), Event()

    def one(job: tuple[str, int]) -> None:
        gold = _solve(*job, simplification)
        if gold is None:
            if stopped.wait(_PAUSE):  # Ctrl-C ends the simulators too: that says nothing about the variation
                return
            gold = _solve(*job, simplification) or Gold(*job, simplification, (), 0)
        with lock:
            append(path_of(folder, job[0], split), asdict(gold))

    with ThreadPoolExecutor(processes) as pool:
        try:
            for done, _ in enumerate(pool.map(one, jobs), start=1):
                progress(done)
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    POOL.clear()


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line of JSON to a file; what was cut off at its end stays a line of its own."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def _solve(task: str, variation: int, simplification: str) -> Gold | None:
    """Return the solution; None where the simulator was lost."""
    simulator = POOL.take(HEAP_MB, timeout=600)
    try:
        simulator.load(task, variation, simplification, gold=True)
        actions = simulator.gold()
        simulator.load(task, variation, simplification)
        score = 0
        for action in actions:
            simulator.step(action)
            score = simulator.score()
            if simulator.completed() or score < 0:
                break
        return Gold(task, variation, simplification, tuple(actions), score)
    except SimulatorLostError:
        return None
    finally:
        POOL.give(simulator)


def solved(
    folder: Path, tasks: Sequence[str], split: str, simplification: str, most: int | None = None
) -> Iterator[Gold]:
    """Yield the known solutions that came to a score of 100, at most `most` a task."""
    for task in tasks:
        full = [gold for gold in read(folder, task, split, simplification) if gold.score == 100]
        yield from full[:most]
