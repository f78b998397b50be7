"""The memory of an optimizer's state: where it lies, and as which library's arrays it is offered."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcore._lrcore_core import DeviceArray, MemoryInfo
from lrcore._names import unknown_key


def aligned_zeros(size: int) -> NDArray[np.float32]:
    """Return `size` float32 zeros that begin at a cache line."""
    line = 64
    memory = np.zeros(size * 4 + line, dtype=np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size * 4].view(np.float32)


def allocate(memory: MemoryInfo, value: float = 0.0) -> NDArray[np.float32] | DeviceArray:
    """Return a flat array of one value, of as many elements as the parameters whose memory is described, on their device.

    On a CUDA device it lies like the parameters with respect to 16 bytes, so that a step on a shifted view of a larger
    buffer still moves 16 bytes at once.
    """
    if memory.cuda_device >= 0:
        return DeviceArray(memory.cuda_device, memory.size, memory.offset, value)
    array = aligned_zeros(memory.size)
    if value:
        array.fill(value)
    return array


def wrap_like(params: Any, array: NDArray[np.float32] | DeviceArray) -> Any:
    """Offer an array as one of the library of `params`, over the same memory.

    A device array of no such library is one of CuPy where that is installed, else of nobody: it speaks DLPack.
    """
    for cls in type(params).__mro__:
        library = sys.modules.get(cls.__module__.partition(".")[0])
        if library is not None and library is not np and hasattr(library, "from_dlpack"):
            return library.from_dlpack(array)
    if isinstance(array, DeviceArray):
        try:
            import cupy
        except ImportError:
            return array
        return cupy.from_dlpack(array)
    return array


class State(Mapping[str, Any]):
    """An optimizer's state by name. An array is written in place; another cannot take its place."""

    def __init__(self, arrays: Iterable[tuple[str, Any]]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._arrays[name]
        except KeyError:
            raise unknown_key(name, self._arrays) from None

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __setitem__(self, name: str, array: Any) -> None:
        if array is not self._arrays.get(name):
            raise TypeError(
                f"{name}: a step writes the array that is there; write into it: opt.state[{name!r}][:] = ..."
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return repr(self._arrays)
