"""The streams of device steps: the stream that the caller uses, and the stream that an exporter must synchronize with.

This module represents a stream by its raw handle. The legacy default stream is 1; libraries also use 0 for it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

LEGACY_DEFAULT = 1

_CURRENT: dict[str, Callable[[Any, int], int]] = {
    "cupy": lambda cupy, device: cupy.cuda.get_current_stream(device).ptr,
    "torch": lambda torch, device: torch.cuda.current_stream(device).cuda_stream,
}
"""For each library with a current stream, a function that returns the handle of that stream on a device."""


def library_of(array: Any) -> str | None:
    """Return the name of the array's library if the library has a current stream, else None."""
    for cls in type(array).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in _CURRENT:
            return name
    return None


def current(library: str | None, device: int) -> int | None:
    """Return the library's current stream on a device, or None if `library` is None or has no CUDA support."""
    if library is None:
        return None
    try:
        return _CURRENT[library](sys.modules[library], device) or LEGACY_DEFAULT
    except AssertionError:  # PyTorch was built without CUDA
        return None


def device_context(array: Any, device: int) -> Any:
    """Return a context manager that makes a device current in the array's library, or None if none is needed.

    PyTorch has a current device of its own in addition to the driver's, and only exports tensors on that device.
    """
    if library_of(array) != "torch":
        return None
    cuda = sys.modules["torch"].cuda
    return None if cuda.current_device() == device else cuda.device(device)


def handle_of(stream: Any) -> int:
    """Return the raw handle of a stream, given that handle or a stream object of CuPy, PyTorch or another library.

    Raises
    ------
    TypeError, ValueError
        If the argument is not a stream.
    """
    if not isinstance(stream, bool):
        if hasattr(stream, "__cuda_stream__"):  # the protocol of cuda.core: a version and the handle
            _, stream = stream.__cuda_stream__()
        for name in ("ptr", "cuda_stream"):
            stream = getattr(stream, name, stream)
        try:
            handle = operator.index(stream)
        except TypeError:
            pass
        else:
            if not 0 <= handle < 2**63:
                raise ValueError(f"stream: expected the handle of a stream, got {handle}")
            return handle or LEGACY_DEFAULT
    raise TypeError(f"stream: expected a CUDA stream or its raw handle, got {type(stream).__name__}")


def resolve(device: int, library: str | None, asked: Any, grads: Any) -> tuple[int, int]:
    """Return the stream of a step, and the stream that the exporter of `grads` must synchronize with.

    The step runs on `asked` if it is not None, else on the current stream of the parameters' library, else on the
    legacy default stream. The second value is -1, which means no synchronization in DLPack, if `grads` is None or if
    the exporter itself uses the stream of the step. The gradients and the step are then ordered without
    synchronization, and a CUDA graph capture involves no other stream.
    """
    stream = (current(library, device) or LEGACY_DEFAULT) if asked is None else handle_of(asked)
    if grads is None or current(library_of(grads), device) == stream:
        return stream, -1
    return stream, stream
