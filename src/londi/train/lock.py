"""One process at a time trains into a run folder.

The lock is the operating system's: it is gone with the process that held it, however that ended. Where there is none
(Windows, some network file systems), two trainings into one folder are not kept apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock; raises `RunError` where another training holds it."""
    path = folder / NAME
    with writing(path):
        file = path.open("ab+", buffering=0)  # so that nothing is left to write when it is closed
    with file:
        _take(file, folder)
        with writing(path):
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        try:
            yield
        finally:
            if fcntl:  # at once, though a process that was forked meanwhile may have the file still
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


def check(folder: Path) -> None:
    """Raise `RunError` where a run folder's lock is held."""
    path = folder / NAME
    if path.is_file():
        with path.open("rb", buffering=0) as file:
            _take(file, folder, shared=True)


def _take(file: FileIO, folder: Path, shared: bool = False) -> None:
    if not fcntl:
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode().strip() or "unknown"
        raise RunError(
            f"{folder} is being trained by another process (pid {holder}): wait, or choose another folder with --run"
        ) from None
    except OSError:  # a file system without locks
        return
