"""Hold Ctrl-C and SIGTERM back until work stands at a point from which it can go on exactly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C."""


class Held:
    """What was held back so far."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def __call__(self) -> None:
        """Raise what was held back, if anything was: `KeyboardInterrupt`, or `Terminated`."""
        if self.arrived:
            raise _RAISED[self.arrived[0]]

    @property
    def urgent(self) -> bool:
        """Whether a second signal has come: nobody wants to wait any more."""
        return len(self.arrived) > 1


_RAISED: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_noted: list[int] = []


def noted() -> bool:
    """Whether this process ever held a signal back, and so ends by itself or has ended what it was to end."""
    return bool(_noted)


@contextmanager
def held_back(*, every: bool = False) -> Iterator[Held]:
    """Hold signals back, and yield what to call where work may stop.

    A second signal acts at once, unless `every` one is to be held back. Does nothing outside the main thread, and
    leaves alone what is ignored (as in the background of a shell) or handled by somebody else.
    """
    held = Held()

    def note(number: int, frame: FrameType | None) -> None:
        held.arrived.append(number)
        _noted.append(number)
        if held.urgent and not every:
            raise _RAISED[number]

    mine = (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _RAISED} if here else {}
    before = {number: handler for number, handler in before.items() if handler in mine}
    for number in before:
        signal.signal(number, note)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
