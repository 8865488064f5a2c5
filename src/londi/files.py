"""Files that are written as a whole or not at all, and stay written where the machine loses its power; and one clear
error where they can't be written, or read."""

from __future__ import annotations

import errno
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from londi.errors import ConfigError, LondiError, RunError, WriteError

_TAKEN = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of a path at which something else is, or where nothing may be written."""


@contextmanager
def reading(path: Path, kind: type[LondiError] = RunError) -> Iterator[None]:
    """Raise an error of this kind, which names the file, where what is done inside finds that it can't be read or is no
    UTF-8. What is missing stays a `FileNotFoundError`: the caller knows what it should have been."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise kind(f"{path} is no UTF-8 (byte {error.start + 1}): save it as UTF-8") from error
    except OSError as error:
        why = error.strerror or error
        raise kind(f"can't read {path} (is it a file, and one that you may read?): {why}") from error


def read_text(path: Path, kind: type[LondiError] = RunError) -> str:
    """Return the text of a file; raises what `reading` does."""
    with reading(path, kind):
        return path.read_text(encoding="utf-8")


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds; raises `ConfigError`, and `FileNotFoundError` where there is none."""
    try:
        return tomllib.loads(read_text(path, ConfigError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def read_json(path: Path, fix: str = "remove it and run again") -> dict[str, Any]:
    """Return the object that a JSON file holds; raises `RunError` with this fix where it is damaged, and
    `FileNotFoundError` where there is none."""
    with reading(path):
        data = path.read_bytes()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: {fix}")
    return found


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `WriteError`, which names the file, for every `OSError` of what is done inside."""
    try:
        yield
    except OSError as error:
        fix = "choose another place" if isinstance(error, _TAKEN) else "is the disk full?"
        raise WriteError(f"can't write {path} ({fix}): {error.strerror or error}") from error


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
