"""What all benchmarks return."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from londi import provenance

SCHEMA = 1


def row(case: str, ours: float, reference: float, unit: str, *, smaller_is_better: bool = False) -> dict[str, Any]:
    """Return one comparison; a ratio above 1 means that ours is better."""
    ratio = reference / ours if smaller_is_better else ours / reference
    return {"case": case, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit}


def result(bench: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of a benchmark with the machine they were measured on."""
    return {"schema": SCHEMA, "bench": bench, "machine": provenance.describe(), "rows": list(rows)}


def memory_mb() -> float:
    """Return the resident memory of this process, in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
