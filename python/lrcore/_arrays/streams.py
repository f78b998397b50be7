"""The streams of device steps: which one the caller works on, and what an exporter has to make safe.

A stream is its raw handle here. 1 is the legacy default stream, for which libraries also write 0.
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
"""For each library that has a current stream: its handle on a device."""


def library_of(array: Any) -> str | None:
    """Return the name of the library that an array belongs to, if its current stream can be asked for."""
    for cls in type(array).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in _CURRENT:
            return name
    return None


def current(library: str | None, device: int) -> int | None:
    """Return the library's current stream on a device; None without a library, or where it knows of no devices."""
    if library is None:
        return None
    try:
        return _CURRENT[library](sys.modules[library], device) or LEGACY_DEFAULT
    except AssertionError:  # a PyTorch that was built without CUDA
        return None


def device_context(array: Any, device: int) -> Any:
    """Return a context in which a device is the current one of the array's library, or None where it already is.

    PyTorch keeps a current device of its own, beside that of the driver, and exports from no other.
    """
    if library_of(array) != "torch":
        return None
    cuda = sys.modules["torch"].cuda
    return None if cuda.current_device() == device else cuda.device(device)


def handle_of(stream: Any) -> int:
    """Return the raw handle of a stream: a number, or the stream object of CuPy, torch or another library.

    Raises
    ------
    TypeError, ValueError
        When it is no stream.
    """
    if not isinstance(stream, bool):
        if hasattr(stream, "__cuda_stream__"):  # the protocol of cuda.core: its version, and the handle
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
    """Return the stream of a step, and the stream that the exporter of `grads` is asked to make safe.

    The step runs on `asked` where it is not None, else on the current stream of the parameters' library, else on the
    legacy default stream. An exporter that works on that stream itself is asked for nothing, which is -1 in DLPack:
    gradients and step are in order then, and a capture sees no other stream.
    """
    stream = (current(library, device) or LEGACY_DEFAULT) if asked is None else handle_of(asked)
    if grads is None or current(library_of(grads), device) == stream:
        return stream, -1
    return stream, stream
