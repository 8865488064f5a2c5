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
from londi.jobs import Job
from londi.run import Run, load_checkpoint, write_text
from londi.where import count_calls

SCHEMA = 1
Record = dict[str, Any]
_KEPT = ("env_steps", "commit", "policies", "selection")


def read(job: Job, kinds: Mapping[str, str]) -> Record:
    """Return the record of a run that is done; where it calls, in these kinds of state, for a common run with some."""
    measured = _json(job.folder / "frontier.json")
    trained = next(job.folder / name for name in ("trained.json", "environment.json") if (job.folder / name).is_file())
    last = (job.source or job).folder / "checkpoints" / "last.pt"
    return {
        "schema": SCHEMA,
        "experiment": config.plain(job.experiment),
        "environment": _json(job.folder / "environment.json"),
        "trained": _json(trained).get("commit"),
        "seconds": float(load_checkpoint(last)["seconds"]),
        "states": count_calls(Run.open(job.folder), kinds) | {"kinds": dict(kinds)}
        if kinds and not job.method
        else None,
        **{key: measured.get(key) for key in _KEPT},
    }


def load(folder: Path, every: Sequence[Job], kinds: Mapping[str, str]) -> dict[str, Record]:
    """Return the published records, by the name of the run's folder, of those runs that have one of the same
    experiment and the same kinds of state; raises `RunError` for one that is damaged."""
    found = {}
    for job in every:
        path = folder / f"{job.folder.name}.json"
        record = _json(path) if path.is_file() else {}
        if record and record.get("schema") != SCHEMA:
            raise RunError(f"{path} is of another version of londi: run the table without --published")
        if record and _fits(record, job, kinds):
            found[job.folder.name] = record
    return found


def _fits(record: Record, job: Job, kinds: Mapping[str, str]) -> bool:
    try:
        same = job.same(config.parse(record["experiment"]))
    except ConfigError:  # a setting that there is no more
        return False
    return same and (job.method != "" or (record["states"] or {"kinds": {}})["kinds"] == dict(kinds))


def save(folder: Path, records: Mapping[str, Record]) -> None:
    """Write the records of a table, a line for each policy, and remove those of runs that it has no more."""
    folder.mkdir(exist_ok=True)
    for name, record in records.items():
        write_text(folder / f"{name}.json", _text(record))
    for path in folder.glob("*.json"):
        if path.stem not in records:
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


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: remove it and run again") from error
    return found
