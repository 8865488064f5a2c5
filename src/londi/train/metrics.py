"""`metrics.jsonl` of a run folder: what training tells of itself, a row a thousand steps and one at the end."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from londi.files import sync_file, sync_folder, write_text, writing


class MetricsFile:
    """Rows of metrics, appended to a file; those that can't be written wait until they can."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[Mapping[str, Any]] = []
        """Rows that are not in the file yet, each with its `step`; a checkpoint holds them."""

    def write(self) -> None:
        """Append what waits: all of it, or nothing, where it raises `WriteError`."""
        if not self.waiting:
            return
        with writing(self.path):
            size = self.path.stat().st_size if self.path.is_file() else 0
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in self.waiting))
            except OSError:
                with suppress(OSError):  # no half row stays
                    os.truncate(self.path, size)
                raise
        self.waiting = []

    def sync(self) -> None:
        """Wait until what was written is on the disk; raises `WriteError`."""
        with writing(self.path):
            if self.path.is_file():
                sync_file(self.path)
                sync_folder(self.path.parent)

    def forget_after(self, step: int) -> None:
        """Drop what was written after a checkpoint, at that step, by a run that was killed: it is measured again.

        What can't be read is dropped too, with a warning unless it is a last row that was cut off. Raises `WriteError`.
        """
        if not self.path.is_file():
            return
        last = min([step, *(row["step"] - 1 for row in self.waiting)])
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        steps = [_step(line) for line in lines]
        damaged = sum(step is None and line.endswith("\n") for step, line in zip(steps, lines, strict=True))
        if damaged:
            rows = f"{damaged} row{'' if damaged == 1 else 's'}"
            warnings.warn(f"{self.path} is damaged: {rows} can't be read, and will be missing", stacklevel=2)
        kept = [line for step, line in zip(steps, lines, strict=True) if step is not None and step <= last]
        if kept != lines:
            write_text(self.path, "".join(kept))


def _step(line: str) -> float | None:
    """The step of a line of metrics; None for one that is no such line, or not what was written."""
    try:
        step = float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return step if line.isascii() and math.isfinite(step) else None
