"""The module `cupy.cuda` on a `FakeCuda`: devices, streams and graphs."""

from __future__ import annotations

import types
from typing import ClassVar, Self

from gpu.fake_runtime import Runtime, Work

active: list[Runtime] = []
"""The devices in use, innermost last."""


def runtime() -> Runtime:
    """Return the devices in use."""
    if not active:
        raise RuntimeError("no FakeCuda is in use")
    return active[-1]


def submit(work: Work) -> None:
    """Run `work` on the current stream, or at once where no device is in use any more."""
    if not active:
        work()
    else:
        runtime().check(runtime().submit(get_current_stream().ptr, work))


def wait() -> None:
    """Wait for the current stream."""
    if active:
        get_current_stream().synchronize()


class Device:
    """A CUDA device: made current by ``with`` and by `use`.

    Parameters
    ----------
    device : int or Device, optional
        Its number; that of the current one by default.
    """

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = runtime().device if device is None else int(device)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Self:
        before = runtime().device
        self.use()
        runtime().thread.devices.append(before)
        return self

    def __exit__(self, *_: object) -> None:
        runtime().device = runtime().thread.devices.pop()

    def synchronize(self) -> None:
        """Wait for its work, which is done."""

    def use(self) -> Self:
        """Make it current."""
        runtime().device = self.id
        return self


class Graph:
    """What was recorded on a stream."""

    def __init__(self, recorded: list[Work]) -> None:
        self.recorded = recorded

    def _run(self) -> None:
        for work in self.recorded:
            work()

    def launch(self, stream: Stream | None = None) -> None:
        """Run it on a stream; on the current one by default."""
        stream = get_current_stream() if stream is None else stream
        runtime().check(runtime().submit(stream.ptr, self._run))


class Stream:
    """A stream of the current device: made current by ``with`` and by `use`, for this thread and that device.

    Parameters
    ----------
    null : bool
        The legacy default stream, of any device.
    non_blocking : bool
        Whether it does without waiting for the legacy default stream.
    """

    null: ClassVar[Stream]

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else runtime().create_stream(blocking=not non_blocking)
        self.device_id = -1 if null else runtime().device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr

    def _own_device(self) -> int:
        current = runtime().device
        if self.device_id not in (-1, current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id})"
                f" does not match with the current device ({current})"
            )
        return current

    def __enter__(self) -> Self:
        device = self._own_device()
        runtime().thread.entered.append((device, get_current_stream()))
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        device, before = runtime().thread.entered.pop()
        runtime().thread.streams[device] = before

    def use(self) -> Self:
        """Make it current."""
        runtime().thread.streams[self._own_device()] = self
        return self

    @property
    def done(self) -> bool:
        """Whether no work is left, which is so at any time. A stream that is capturing cannot be asked."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        """Wait for it. A stream that is capturing cannot be waited for."""
        runtime().check(runtime().wait(self.ptr))

    def begin_capture(self) -> None:
        """Record from here on what is launched on it."""
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        runtime().begin_capture(self.ptr)

    def end_capture(self) -> Graph:
        """Return what was recorded."""
        return Graph(runtime().end_capture(self.ptr))

    def is_capturing(self) -> bool:
        """Tell whether it records."""
        error, capturing = runtime().capture_state(self.ptr)
        runtime().check(error)
        return capturing


Stream.null = Stream(null=True)


def get_current_stream(device_id: int = -1) -> Stream:
    """Return this thread's current stream of a device; of the current one by default."""
    device = runtime().device if device_id == -1 else device_id
    stream: Stream = runtime().thread.streams.get(device, Stream.null)
    return stream


def make_module() -> types.ModuleType:
    """Return the module `cupy.cuda`."""
    module = types.ModuleType("cupy.cuda")
    vars(module).update(Device=Device, Graph=Graph, Stream=Stream, get_current_stream=get_current_stream)
    return module
