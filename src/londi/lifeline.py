"""Processes that end when the one that started them does, however that ended: none is left to hold a lock, or memory.

A pipe tells, which the system closes with the parent. (Linux's signal at a parent's death goes by the parent's thread.)
"""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from multiprocessing import parent_process
from threading import Lock, Thread
from typing import IO

from londi import interrupts

VARIABLE = "LONDI_LIFELINE"
"""Environment variable of a process whose standard input is such a pipe."""
GRACE_S = 60.0
"""Seconds that a process has to end by itself, as it does on SIGTERM; then it is ended by force."""
HURRY_S = 10.0
"""Of these, after a second SIGTERM, which cuts off the step that took so long."""
MOMENT_S = 0.5
"""Seconds after the parent's end in which a signal that was sent to both may still arrive."""


class Commands:
    """Londi commands that end when this process does, or when they are told to; threads may run several at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[FileIO, subprocess.Popen[bytes]] = {}
        self._over = False

    def run(self, arguments: Sequence[str], log: IO[str]) -> int:
        """Run one to its end, its output going to `log`; returns its exit code, minus the signal that ended it.

        It is in a session of its own: signals to this process's group, by Ray (which kills soon after) or a terminal,
        would cut its end short. Where this is interrupted, it ends as on SIGTERM, and is not waited for. Raises
        `KeyboardInterrupt`, and starts nothing, after `end`.
        """
        reading, writing = os.pipe()
        with FileIO(reading) as taken, FileIO(writing, "w") as line:
            with self._lock:
                if self._over:
                    raise KeyboardInterrupt
                process = subprocess.Popen(
                    [sys.executable, "-m", "londi.cli", *arguments],
                    stdin=taken,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {VARIABLE: "1"},
                    start_new_session=True,
                )
                self._running[line] = process
            try:
                return process.wait()
            finally:
                with self._lock:
                    del self._running[line]

    def end(self, *, at_once: bool = False) -> int:
        """Let all end, as on SIGTERM or at once (SIGKILL), and none begin; returns how many there are."""
        with self._lock:
            self._over = True
            for line, process in self._running.items():
                line.close()
                if at_once:
                    _kill(process)
            return len(self._running)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started, which is in its session."""
    if os.name == "nt" or process.poll() is not None:
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


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
        time.sleep(MOMENT_S)
        if not interrupts.noted():  # a second signal would not let it end its step
            _interrupt()
        time.sleep(GRACE_S - HURRY_S)
        _interrupt()  # cuts the step off, and saves what was before it
        time.sleep(HURRY_S)
        os._exit(128 + signal.SIGTERM)

    Thread(target=end, daemon=True).start()


def _interrupt() -> None:
    if os.name == "nt":
        _thread.interrupt_main()  # there SIGTERM ends a process at once
    else:
        os.kill(os.getpid(), signal.SIGTERM)
