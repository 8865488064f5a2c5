"""What a published table keeps of its runs: small files beside it, from which its numbers are counted without training.

A record holds a run's experiment, what was measured of each policy, where the chosen one calls, and what made it; no
weights and no episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from londi import config
from londi.errors import ConfigError, RunError
from londi.files import read_json, write_text, writing
from londi.jobs import Job
from londi.policies import same_training
from londi.reproduce import shapes
from londi.run import Run, load_checkpoint
from londi.where import count_calls, counted, labels

SCHEMA = 2
Record = dict[str, Any]
_MEASURED = ("env_steps", "commit", "policies", "selection")
_MORE = ("curve", "training_calls")
"""What records of earlier versions lack."""


def read(table: str, job: Job, kinds: Mapping[str, str]) -> Record:
    """Return the record of a run of a table that is done; where it calls, in these kinds of state, for a common run.

    Raises `RunError` where the run is damaged.
    """
    measured = read_json(job.folder / "frontier.json")
    trained = next(job.folder / name for name in ("trained.json", "environment.json") if (job.folder / name).is_file())
    last = load_checkpoint((job.source or job).folder / "checkpoints" / "last.pt")
    record = {
        "schema": SCHEMA,
        "table": table,
        "experiment": config.plain(job.experiment),
        "source": config.plain(job.source.experiment) if job.source else None,
        "environment": read_json(job.folder / "environment.json"),
        "trained": read_json(trained).get("commit"),
        "seconds": float(last["seconds"]),
        "updates": {name: _updates(state) for name, state in last.get("learners", {}).items()},
        "states": count_calls(Run.open(job.folder), kinds) if kinds and not job.method else None,
        **{key: measured.get(key) for key in (*_MEASURED, *_MORE)},
        "commits": measured.get("commits") or [measured.get("commit")],
    }
    fix = f"remove it, or its results alone: `londi evaluate {job.folder}` makes them again"
    shapes.check(shapes.Kept, record, job.folder, fix)
    _check_counts(record, job, kinds, job.folder, fix)
    return record


def _updates(learner: Mapping[str, Any]) -> int:
    """Optimiser steps that a learner took, as its optimiser counted them."""
    return max((int(each["step"]) for each in learner["optimiser"]["state"].values()), default=0)


def load(folder: Path, every: Sequence[Job], kinds: Mapping[str, str]) -> dict[str, Record]:
    """Return the published records, by the name of the run's folder, of those runs that have one of the same
    experiment, the same training and the same kinds of state; raises `RunError` for one that is damaged."""
    found = {}
    for job in every:
        path = folder / f"{job.folder.name}.json"
        try:
            record = read_json(path)
        except FileNotFoundError:
            continue
        fix = "run the table without --published"
        if record.get("schema") != SCHEMA:
            raise RunError(f"{path} is damaged, or of another version of londi: {fix}")
        shapes.check(shapes.Kept, record, path, fix)
        if _fits(record, job, kinds):
            _check_counts(record, job, kinds, path, fix)
            found[job.folder.name] = record
    return found


def _check_counts(record: Record, job: Job, kinds: Mapping[str, str], path: Path, fix: str) -> None:
    """Raise `RunError` where a record counts other episodes than its run has, or other kinds of state than these."""
    count = job.experiment.evaluate.episodes
    wrong = [
        f"'{r['name']}' has {r['episodes']} episodes, not {count}" for r in record["policies"] if r["episodes"] != count
    ]
    if kinds and not job.method:
        found = [row["label"] for row in record["states"]["rows"]]
        wrong += [f"it lacks the states '{label}'" for label in sorted(labels(kinds) - {*found})]
        wrong += [f"it has the states '{label}', which are not asked for" for label in sorted({*found} - labels(kinds))]
        wrong += [f"it has the states '{label}' twice" for label in found if found.count(label) > 1]
    if wrong:
        raise RunError(f"{path} is damaged ({wrong[0]}): {fix}")


def _fits(record: Record, job: Job, kinds: Mapping[str, str]) -> bool:
    try:
        same = job.same_results(config.parse(record["experiment"]))
        if job.source:
            same = (
                same
                and record["source"] is not None
                and same_training(config.parse(record["source"]), job.source.experiment)
            )
    except ConfigError:  # a setting that there is no more
        return False
    if job.method or not kinds:
        return same
    of = (record["states"] or {}).get("of", {})
    return same and {key: of.get(key) for key in of if key != "episodes"} == counted(job.experiment, kinds)


def check(folder: Path) -> None:
    """Raise `RunError` where records can't be kept there."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, where the table keeps what it found in its runs: move it away")


def save(folder: Path, records: Mapping[str, Record]) -> None:
    """Write the records of a table, a line for each policy, and remove those of its runs that it has no more.

    Raises `WriteError`, and `RunError` where another file there is damaged.
    """
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for name, record in records.items():
        write_text(folder / f"{name}.json", _text(record))
    tables = [record["table"] for record in records.values()]
    for path in folder.glob("*.json"):
        if path.is_file() and path.stem not in records and read_json(path).get("table") in tables:
            with writing(path):
                path.unlink()


def _text(record: Record) -> str:
    lines = []
    for key, value in record.items():
        if key in ("policies", "selection"):
            rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in value)
            lines.append(f' "{key}": [\n{rows}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"
