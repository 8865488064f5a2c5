"""What a forward pass took: wall seconds, and on a GPU device seconds and energy."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch

from londi.usage import Usage


class Meter:
    """Measures what happens in its block.

    `device_seconds` lie between two CUDA events on the current stream, `joules` are the difference of the energy
    counter of NVML (package nvidia-ml-py; Volta and later), for everything that ran on that GPU meanwhile. Both are 0
    on other devices, and joules without that package. `share(n)` divides all by the prompts of a batch.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.seconds = self.device_seconds = self.joules = 0.0

    def __enter__(self) -> Meter:
        if self._cuda is not None:
            self._counter = _counter(self._cuda)
            self._energy = self._counter()
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._events[0].record(torch.cuda.current_stream(self._cuda))
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda is not None and error is None:
            self._events[1].record(torch.cuda.current_stream(self._cuda))
            self._events[1].synchronize()
            self.device_seconds = self._events[0].elapsed_time(self._events[1]) / 1000
            self.joules = (self._counter() - self._energy) / 1000
        self.seconds = time.perf_counter() - self._begun

    def share(self, count: int) -> Usage:
        """Return what one of `count` prompts bears."""
        return Usage(
            seconds=self.seconds / count, device_seconds=self.device_seconds / count, joules=self.joules / count
        )


_HANDLES: dict[int, Any] = {}


def _counter(device: torch.device) -> Any:
    """Return a function that reads the GPU's energy in millijoules; one that reads 0 where that is not possible."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _HANDLES:
        _HANDLES[index] = _open(index)
    return _HANDLES[index]


def _open(index: int) -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
        # by UUID: CUDA numbers the visible devices only
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no permission, or a GPU without the counter
        return lambda: 0.0
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
