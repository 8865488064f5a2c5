"""Starting Ray, or joining it."""

from __future__ import annotations

import logging
import socket

import ray
from ray.exceptions import RayError

from londi.errors import RunError
from londi.interrupts import held_back


def connect(address: str) -> None:
    """Start Ray on this machine (`local`) or join a cluster (`auto` or its address), quietly.

    Raises `RunError` where nothing listens, at once: Ray itself goes on trying for minutes.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        with held_back() as check:  # puts back the handler of SIGTERM for which Ray has one of its own, that exits
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        check()
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise RunError(f"there is no Ray cluster at '{address}': {str(error).splitlines()[0]}") from error
