"""One event loop in a thread of its own, for code that waits for coroutines from ordinary functions."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for it; an interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """As `run`, from a coroutine on another loop, which goes on meanwhile."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _loop()))


def later(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on the loop, if there is one, without waiting for it."""
    loop = _loops.get(os.getpid())
    if loop is not None:
        asyncio.run_coroutine_threadsafe(function(), loop)


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        here = os.getpid()  # a forked process has none of its parent's threads
        if here not in _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="londi-http", daemon=True).start()
            _loops[here] = loop
        return _loops[here]
