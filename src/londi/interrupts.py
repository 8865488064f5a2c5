"""Hold Ctrl-C and SIGTERM back until work stands at a point from which it can go on exactly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C."""


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Yield a function that raises what was held back: `KeyboardInterrupt`, or `Terminated`.

    A second signal acts at once. Does nothing outside the main thread, and leaves alone what is ignored (as in the
    background of a shell) or handled by somebody else.
    """
    arrived: list[int] = []
    raised: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def note(number: int, frame: FrameType | None) -> None:
        if arrived:
            raise raised[number]
        arrived.append(number)

    def check() -> None:
        if arrived:
            raise raised[arrived[0]]

    mine = (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in raised} if here else {}
    before = {number: handler for number, handler in before.items() if handler in mine}
    for number in before:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
