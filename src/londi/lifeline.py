"""Processes that end when the one that started them does, however that ended: none is left to hold a lock, or memory.

A pipe tells, which the system closes with the parent. (Linux's signal at a parent's death goes by the parent's thread.)
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from threading import Thread
from typing import Any

VARIABLE = "LONDI_LIFELINE"
"""Environment variable of a process whose standard input is such a pipe."""
GRACE_S = 60.0
"""Seconds that a process has to end by itself, as it does on SIGTERM; then it is ended by force."""


_held: set[int] = set()
"""The ends of lifelines that this process holds."""


@contextmanager
def lifeline() -> Iterator[dict[str, Any]]:
    """Yield arguments for `subprocess.run`: a londi command that is started with them ends when this process does.

    It is in a session of its own: signals to this process's group, by Ray (which kills soon after) or a terminal, would
    cut its end short.
    """
    reading, writing = os.pipe()
    _held.add(writing)
    try:
        yield {"stdin": reading, "env": os.environ | {VARIABLE: "1"}, "start_new_session": True}
    finally:
        os.close(reading)
        _let_go(writing)


def cut() -> None:
    """Let all commands end that hang on this process's lifelines."""
    for end in tuple(_held):
        _let_go(end)


def _let_go(end: int) -> None:
    with suppress(KeyError):
        _held.remove(end)  # by one thread alone
        os.close(end)


def end_with_parent() -> None:
    """End this process with the one that started it: a command that was given a lifeline (its standard input is empty
    then), or a process of `multiprocessing`, of which Python leaves those behind whose parent was killed."""
    if os.environ.pop(VARIABLE, None):
        reading, empty = os.dup(0), os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        _end_after(lambda: os.read(reading, 1))
    elif parent := parent_process():
        _end_after(parent.join)


def _end_after(wait: Callable[[], object]) -> None:
    def end() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(128 + signal.SIGTERM)

    Thread(target=end, daemon=True).start()
