"""A CuPy without a GPU: NumPy arrays that say they are on a CUDA device, and the streams of a `FakeCuda`.

It has what the binding can see of CuPy, and does no arithmetic. Kernels run when they are launched, so nothing ever
has to be waited for; what runs on a capturing stream is recorded in place of being run, as on a device.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from boundary import capsules
from gpu import fake_streams
from gpu.fake_runtime import Export
from gpu.fake_streams import Device, get_current_stream, runtime, submit, wait

ALIGNMENT = 512
"""Where CuPy's memory pool begins an array."""


class Pointer(NamedTuple):
    """Where an array begins."""

    ptr: int
    device_id: int


class ndarray:
    """An array of a device, in host memory.

    Parameters
    ----------
    host : numpy.ndarray
        The memory, not copied.
    device : int
        The device that it pretends to be on.
    """

    __module__ = "cupy"

    def __init__(self, host: NDArray[Any], device: int = 0) -> None:
        self._host = host
        self._device = device
        self.size, self.shape, self.dtype, self.ndim = host.size, host.shape, host.dtype, host.ndim
        self.nbytes, self.itemsize, self.strides, self.flags = (
            host.nbytes,
            host.itemsize,
            host.strides,
            host.flags,
        )

    @property
    def device(self) -> Device:
        """The device."""
        return Device(self._device)

    @property
    def data(self) -> Pointer:
        """The address, which is 0 for an array without elements."""
        return Pointer(self._host.ctypes.data if self.size else 0, self._device)

    @property
    def T(self) -> ndarray:
        """A view with the axes reversed."""
        return self._view(self._host.T)

    def _view(self, host: NDArray[Any]) -> ndarray:
        return type(self)(host, self._device)

    def get(self) -> NDArray[Any]:
        """Return a NumPy array of the values."""
        wait()
        return self._host.copy()

    def set(self, array: NDArray[Any]) -> None:
        """Take over the values of a NumPy array."""
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        wait()
        self._host[...] = array

    def fill(self, value: float) -> None:
        """Set every element, on the current stream."""
        submit(lambda: self._host.fill(value))

    def copy(self) -> ndarray:
        """Return a copy on the current device, made on the current stream."""
        made = ndarray(_allocate(np.empty, self.shape, self.dtype), runtime().device)
        made[...] = self
        return made

    def __deepcopy__(self, _memo: Any) -> ndarray:
        with self.device:
            return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return asarray, (self.get(),)

    def reshape(self, *shape: Any) -> ndarray:
        """Return a view of another shape where there is one, else a copy."""
        return self._view(self._host.reshape(*shape))

    def ravel(self) -> ndarray:
        """Return a flat view where there is one, else a copy."""
        return self._view(self._host.ravel())

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return repr(self._host)

    def __getitem__(self, key: Any) -> ndarray:
        if isinstance(key, (int, np.integer)):
            return self._view(self._host[key, ...])
        return self._view(self._host[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set elements to those of a device array or to a number, on the current stream."""
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        host = value._host if isinstance(value, ndarray) else value
        submit(lambda: self._host.__setitem__(key, host))

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return capsules.CUDA, self._device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule over the same memory, safe to read on `stream`.

        The null stream is refused as 0, which DLPack forbids on CUDA; CuPy itself warns.
        """
        if dl_device == (capsules.CPU, 0):
            if copy is False:
                raise ValueError("GPU memory cannot be exported to CPU without copy.")
            return self.get().__dlpack__(max_version=max_version, copy=True)
        if dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("unsupported device requested.")
        if copy is True:
            raise BufferError("copy=True only supported for copy to CPU.")
        if stream is not None and (not isinstance(stream, int) or stream < -1 or stream == 0):
            raise ValueError(
                "On CUDA, the valid stream for the DLPack protocol is -1, 1, 2, or any larger value, "
                f"but {stream} was provided"
            )
        runtime().exports.append(Export(runtime().device, self._device, stream))
        if stream != -1:
            runtime().check(runtime().join(get_current_stream().ptr, 1 if stream is None else stream))

        capsule = capsules.move(self._host.__dlpack__(max_version=max_version), *self.__dlpack_device__())
        if self.size == 0:
            capsules.managed_of(capsule).tensor.data = None
        return capsule


def from_dlpack(array: Any, *, device: Any = None, copy: bool | None = None) -> ndarray:
    """Return an array over the memory of anything on a CUDA device that speaks DLPack, or of a capsule."""
    if not hasattr(array, "__dlpack_device__"):
        return _consume(array)
    kind, number = array.__dlpack_device__()
    if device is not None:
        raise NotImplementedError("from_dlpack() does not support device yet.")
    if kind == capsules.CPU:
        raise TypeError(
            "CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    if kind not in (capsules.CUDA, capsules.CUDA_MANAGED):
        raise TypeError(f"Unsupported array type: {kind}")
    with Device(number):
        stream = get_current_stream().ptr or 1
        try:
            capsule = array.__dlpack__(stream=stream, max_version=(1, 0), copy=copy)
        except TypeError:
            if copy is not None:
                raise
            capsule = array.__dlpack__(stream=stream)
    return _consume(capsule)


def _consume(capsule: Any) -> ndarray:
    tensor = capsules.Tensor(capsule)
    if tensor.major > 1:
        raise BufferError("DLPack exported too new major version.")
    kind, number = tensor.device
    if kind not in (capsules.CUDA, capsules.CUDA_MANAGED):
        raise RuntimeError(
            "CuPy is built against CUDA, different from the backend that backs the incoming DLPack tensor"
        )
    return ndarray(np.asarray(tensor), number)


def _allocate(make: Callable[..., Any], shape: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return host memory that begins where CuPy's would."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = make(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    array: NDArray[Any] = memory[begin : begin + size].view(dtype).reshape(shape)
    return array


def empty(shape: Any, dtype: DTypeLike = float) -> ndarray:
    """Return an array of any values on the current device."""
    return ndarray(_allocate(np.empty, shape, dtype), runtime().device)


def zeros(shape: Any, dtype: DTypeLike = float) -> ndarray:
    """Return an array of zeros on the current device."""
    return ndarray(_allocate(np.zeros, shape, dtype), runtime().device)


def asarray(array: Any, dtype: DTypeLike | None = None, *, device: int | None = None) -> ndarray:
    """Return a device array of this dtype as it is, and of anything else a copy on the current device.

    CuPy knows no `device` here; it stands for ``with cupy.cuda.Device(device)``.
    """
    if isinstance(array, ndarray):
        if dtype is None or array.dtype == dtype:
            return array
        made = ndarray(_allocate(np.empty, array.shape, dtype), runtime().device)
        made[...] = array
        return made
    host = np.asarray(array, dtype)
    memory = _allocate(np.empty, host.shape, host.dtype)
    memory[...] = host
    return ndarray(memory, runtime().device if device is None else device)


def asnumpy(array: Any) -> NDArray[Any]:
    """Return a NumPy array of the values."""
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    """Tell whether the ranges of two arrays' memory overlap."""
    return np.may_share_memory(a._host, b._host)


def make_module(exports: list[Export]) -> types.ModuleType:
    """Return the module `cupy`, with its submodule `cuda` and a list of `exports`."""
    module = types.ModuleType("cupy")
    functions = (ndarray, from_dlpack, empty, zeros, asarray, asnumpy, may_share_memory)
    names = ("generic", "bool_", "int32", "int64", "float16", "float32", "float64")
    vars(module).update({function.__name__: function for function in functions})
    vars(module).update({name: getattr(np, name) for name in names})
    vars(module).update(cuda=fake_streams.make_module(), exports=exports, __path__=[])
    return module
