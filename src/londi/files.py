"""Files that are written as a whole or not at all, and stay written where the machine loses its power; and one clear
error where they can't be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from londi.errors import WriteError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `WriteError`, which names the file, for every `OSError` of what is done inside."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"can't write {path} (is the disk full?): {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield the path to write to; what is there in the end takes the place of `path`, unless something is raised.

    It is on the disk before it has the name, and the name is on the disk in the end. The file that was at `path` is
    moved to `before`, where that is given. The path to write to is this process's own, so that two that write the same
    file don't mix. Raises `WriteError`.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            yield part
            sync_file(part)
            if before and path.is_file():
                path.replace(before)
            part.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Wait until what was written to a file is on the disk, if its file system has such a thing; raises `OSError`."""
    with path.open("rb+") as file:  # Windows syncs only what may be written
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; does nothing where the system has no such thing."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; raises `WriteError`."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several files, all of them or none, as far as there is room; the first takes its place last.

    Raises `WriteError`.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            stack.enter_context(replacing(path)).write_text(text, encoding="utf-8")
