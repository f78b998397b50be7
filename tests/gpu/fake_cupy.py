"""A stand-in for CuPy: NumPy arrays that report a CUDA device, and the streams of a `FakeCuda`.

It has the parts of CuPy that the binding uses, needs no GPU, and does no arithmetic. Kernels run when they
are launched, so no function has to wait. Work on a capturing stream is recorded instead of run, as on a
device.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from boundary import capsules

if TYPE_CHECKING:
    from gpu.fake_cuda import FakeCuda, Work

active: list[FakeCuda] = []
"""The devices in use, innermost last."""


def submit(work: Work) -> None:
    """Run `work` on the current stream."""
    active[-1].check(active[-1].submit(get_current_stream().ptr, work))


class Device:
    """The CUDA device with this number, or the current device; ``with`` makes it current."""

    def __init__(self, device: int | None = None) -> None:
        self.id = active[-1].thread.device if device is None else device

    def __enter__(self) -> None:
        self._before = active[-1].thread.device
        active[-1].check(active[-1].choose(self.id))

    def __exit__(self, *_: object) -> None:
        active[-1].choose(self._before)

    def synchronize(self) -> None:
        """Return at once, because all work is done."""


class Graph:
    """The work recorded on a stream."""

    def __init__(self, recorded: list[Work]) -> None:
        self.recorded = recorded

    def launch(self, stream: Stream) -> None:
        """Run the work on a stream."""
        for work in self.recorded:
            active[-1].check(active[-1].submit(stream.ptr, work))


class Stream:
    """A stream of the current device, or the legacy default one; ``with`` makes it current in this thread."""

    null: ClassVar[Stream]

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:  # noqa: ARG002
        self.ptr = 0
        if not null:
            self.ptr = 0x1000 + len(active[-1].streams)
            active[-1].streams[self.ptr] = active[-1].thread.device

    def __enter__(self) -> Self:
        self._before = get_current_stream()
        active[-1].thread.streams[active[-1].thread.device] = self
        return self

    def __exit__(self, *_: object) -> None:
        active[-1].thread.streams[active[-1].thread.device] = self._before

    def synchronize(self) -> None:
        """Wait for the work on the stream."""
        active[-1].check(active[-1].wait())

    def begin_capture(self) -> None:
        """Start to record the work that is launched on the stream."""
        active[-1].captures[self.ptr] = []

    def end_capture(self) -> Graph:
        """Return the graph of the recorded work; raise RuntimeError if the capture is broken."""
        recorded = active[-1].captures.pop(self.ptr)
        if recorded is None:
            active[-1].check(901)
        return Graph(recorded or [])


Stream.null = Stream(null=True)


def get_current_stream(device: int | None = None) -> Stream:
    """Return this thread's current stream of a device, by default of the current device."""
    thread = active[-1].thread
    stream: Stream = thread.streams.get(thread.device if device is None else device, Stream.null)
    return stream


class Pointer(NamedTuple):
    """The address of an array."""

    ptr: int


class Export(NamedTuple):
    """A call of a device array's `__dlpack__`: the current device at that time, and the stream."""

    current: int
    stream: int | None


class ndarray:
    """A device array over host memory, which is not copied."""

    __module__ = "cupy"

    def __init__(self, host: NDArray[Any], device: int = 0) -> None:
        self._host = host
        self._device = device
        self.size, self.shape, self.dtype, self.ndim = host.size, host.shape, host.dtype, host.ndim
        self.nbytes, self.strides, self.flags = host.nbytes, host.strides, host.flags

    @property
    def device(self) -> Device:
        """The device of the array."""
        return Device(self._device)

    @property
    def data(self) -> Pointer:
        """The address, which is 0 for an array without elements."""
        return Pointer(self._host.ctypes.data if self.size else 0)

    @property
    def T(self) -> ndarray:
        """A view with the axes reversed."""
        return ndarray(self._host.T, self._device)

    def get(self) -> NDArray[Any]:
        """Return a NumPy array of the values."""
        get_current_stream().synchronize()
        return self._host.copy()

    def copy(self) -> ndarray:
        """Return a copy on the current device."""
        return asarray(self._host)

    def __deepcopy__(self, _memo: Any) -> ndarray:
        with self.device:
            return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return asarray, (self.get(),)

    def reshape(self, *shape: Any) -> ndarray:
        """Return a view of another shape."""
        return ndarray(self._host.reshape(*shape), self._device)

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self._host[key, ...] if isinstance(key, int) else self._host[key], self._device)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set elements to those of a device array or to a number, on the current stream."""
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        host = value._host if isinstance(value, ndarray) else value
        submit(lambda: self._host.__setitem__(key, host))

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __dlpack_device__(self) -> tuple[int, int]:
        return capsules.CUDA, self._device

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        """Return a capsule of the same memory, safe to read on `stream`. DLPack forbids stream 0 on CUDA."""
        assert stream != 0
        active[-1].exports.append(Export(active[-1].thread.device, stream))
        capsule = capsules.move(self._host.__dlpack__(max_version=max_version), *self.__dlpack_device__())
        if self.size == 0:
            capsules.managed_of(capsule).tensor.data = None
        return capsule


def from_dlpack(array: Any) -> ndarray:
    """Return an array over the memory of any CUDA array that exports DLPack."""
    _, number = array.__dlpack_device__()
    with Device(number):
        capsule = array.__dlpack__(stream=get_current_stream().ptr or 1, max_version=(1, 0))
    return ndarray(capsules.on_the_host(capsule), number)


def _allocate(make: Callable[..., Any], shape: Any, dtype: DTypeLike) -> ndarray:
    """Return an array on the current device whose host memory is aligned to 512 bytes, like CuPy's memory."""
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    memory = make(size + 512, np.uint8)
    begin = -memory.ctypes.data % 512
    return ndarray(memory[begin : begin + size].view(dtype).reshape(shape), active[-1].thread.device)


def zeros(shape: Any, dtype: DTypeLike = float) -> ndarray:
    """Return an array of zeros on the current device."""
    return _allocate(np.zeros, shape, dtype)


def asarray(array: Any, dtype: DTypeLike | None = None) -> ndarray:
    """Return a device array of this dtype unchanged, and anything else as a copy on the current device."""
    if isinstance(array, ndarray) and dtype in (None, array.dtype):
        return array
    host = np.asarray(array._host if isinstance(array, ndarray) else array, dtype)
    made = _allocate(np.empty, host.shape, host.dtype)
    made._host[...] = host
    return made


def asnumpy(array: ndarray) -> NDArray[Any]:
    """Return a NumPy array of the values."""
    return array.get()


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    """Return whether the memory ranges of two arrays overlap."""
    return np.may_share_memory(a._host, b._host)


def make_module() -> types.ModuleType:
    """Return the module `cupy`, with its submodule `cuda`."""
    module, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    for each in (Device, Stream, get_current_stream):
        setattr(cuda, each.__name__, each)
    for function in (ndarray, from_dlpack, zeros, asarray, asnumpy, may_share_memory):
        setattr(module, function.__name__, function)
    for name in ("generic", "bool_", "int32", "int64", "float16", "float32", "float64"):
        setattr(module, name, getattr(np, name))
    vars(module).update(cuda=cuda, __path__=[])
    return module
