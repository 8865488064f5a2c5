"""What workers are sent of the Switcher: its tensors as arrays, which Ray reads from shared memory.

Torch writes a file of its own for each tensor that is pickled; reading those took workers more time than playing.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.cloudpickle import CloudPickler

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""By bytes: the type as which the elements of a tensor travel, for numpy lacks many (bfloat16, float8, complex32)."""


@dataclass(frozen=True)
class Packed:
    """An object as bytes, and apart from them the contents of its arrays and tensors."""

    skeleton: bytes
    contents: list[NDArray[np.uint8]]

    def unpack(self) -> Any:
        """Return a copy of the object, whose arrays and tensors are its own."""
        return pickle.loads(self.skeleton, buffers=[bytearray(each) for each in self.contents])


def pack(something: Any) -> Packed:
    """Pack an object that can be pickled; one on a GPU, a quantised or a sparse tensor is packed as pickle does it."""
    contents: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=contents.append).dump(something)  # type: ignore[no-untyped-call]
    return Packed(file.getvalue(), [np.frombuffer(each.raw(), np.uint8) for each in contents])


class _Pickler(CloudPickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in (torch.Tensor, torch.nn.Parameter) and _plain(obj):
            bits = obj.detach().resolve_conj().resolve_neg().view(_BITS[obj.dtype.itemsize])
            return _tensor, (bits.numpy(), obj.dtype, type(obj) is torch.nn.Parameter, obj.requires_grad)
        return super().reducer_override(obj)  # type: ignore[no-untyped-call]


def _plain(tensor: torch.Tensor) -> bool:
    """Whether it is an array in all but name."""
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_quantized


def _tensor(array: NDArray[Any], dtype: torch.dtype, parameter: bool, requires_grad: bool) -> torch.Tensor:
    made = torch.from_numpy(array).view(dtype)
    return torch.nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)
