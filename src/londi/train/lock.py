"""One process at a time trains into a run folder.

The lock is the operating system's: it is gone with the process that held it, however that ended. Where there is none
(Windows, some network file systems), two trainings into one folder are not kept apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from londi.errors import RunError
from londi.files import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "training.lock"
"""In the run folder, with the id of the process that trains there or did so last."""
MOMENT_S = 1.0
"""Seconds that the lock may be held by somebody who only looks whether it is."""
POLL_S = 0.05


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock; raises `RunError` where another training holds it, for longer than `MOMENT_S`."""
    path = folder / NAME
    with writing(path):
        file = path.open("ab+", buffering=0)  # so that nothing is left to write when it is closed
    with file:
        _take(file, folder, MOMENT_S)
        with writing(path):
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        try:
            yield
        finally:
            if fcntl:  # at once, though a process that was forked meanwhile may have the file still
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


def check(folder: Path, patience: float = 0.0, waiting: Callable[[str], None] = lambda holder: None) -> None:
    """Raise `RunError` where a run folder's lock is held, and still is after `patience` seconds.

    `waiting` is told once, where that takes time, who holds it: a process id, or "unknown".
    """
    path = folder / NAME
    if path.is_file():
        with path.open("rb", buffering=0) as file:
            if not _taken(file, shared=True):
                waiting(_holder(file))
                _take(file, folder, patience, shared=True)


def _take(file: FileIO, folder: Path, patience: float, shared: bool = False) -> None:
    limit = time.monotonic() + patience
    while not _taken(file, shared):
        if time.monotonic() >= limit:
            raise RunError(
                f"{folder} is being trained by another process (pid {_holder(file)}): wait, or choose another folder "
                "with --run"
            )
        time.sleep(POLL_S)


def _holder(file: FileIO) -> str:
    file.seek(0)
    return file.read().decode().strip() or "unknown"


def _taken(file: FileIO, shared: bool) -> bool:
    """Whether the lock is had now, or there is none to be had."""
    if fcntl:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True
