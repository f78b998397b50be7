"""What a device's streams do, in host memory: work runs when it is given, or is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from gpu.fake_api import ERRORS

Work: TypeAlias = Callable[[], object]
"""What a stream is given."""


class Export(NamedTuple):
    """What was asked of a device array's `__dlpack__`, and while which device was current."""

    current: int
    device: int
    stream: int | None


class Capture:
    """What a stream records."""

    def __init__(self) -> None:
        self.recorded: list[Work] = []
        self.broken = False


class Thread(threading.local):
    """What the runtime and CuPy keep for each thread: the current device, the current streams, and what was before."""

    def __init__(self) -> None:
        self.device = 0
        self.devices: list[int] = []
        self.streams: dict[int, Any] = {}
        self.entered: list[tuple[int, Any]] = []


class Runtime:
    """Devices and their streams, as CuPy uses them. Errors are those of the CUDA runtime.

    Parameters
    ----------
    devices : int
        How many devices there are.
    """

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.thread = Thread()
        self.exports: list[Export] = []
        self._streams: dict[int, tuple[int, bool]] = {}
        self.captures: dict[int, Capture] = {}

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return self.thread.device

    @device.setter
    def device(self, device: int) -> None:
        self.check(self.choose(device))

    def choose(self, device: int) -> int:
        """Make a device current."""
        if not 0 <= device < self.devices:
            return 101 if self.devices else 100
        self.thread.device = device
        return 0

    def check(self, error: int) -> None:
        """Raise RuntimeError as CuPy does, unless the error is 0."""
        if error:
            raise RuntimeError(": ".join(ERRORS.get(error, ERRORS[999])))

    def create_stream(self, *, blocking: bool) -> int:
        """Return the handle of a new stream of the current device."""
        self.check(0 if self.devices else 100)
        handle = 0x1000 + len(self._streams)
        self._streams[handle] = (self.device, blocking)
        return handle

    def begin_capture(self, stream: int) -> None:
        """Let a stream record."""
        self.check(401 if stream in self.captures else 0)
        self.captures[stream] = Capture()

    def end_capture(self, stream: int) -> list[Work]:
        """Return what a stream has recorded. A capture that something has broken gives error 901."""
        self.check(0 if stream in self.captures else 401)
        capture = self.captures.pop(stream)
        self.check(901 if capture.broken else 0)
        return capture.recorded

    def capture_state(self, stream: int) -> tuple[int, bool]:
        """Tell, after an error, whether a stream is capturing."""
        return self._implicit(stream), stream in self.captures

    def _implicit(self, stream: int) -> int:
        """Return error 906 for the legacy stream while a blocking stream of the device is capturing."""
        theirs = [self._streams.get(handle, (self.device, True)) for handle in self.captures]
        return 906 if stream in (0, 1) and (self.device, True) in theirs else 0

    def break_captures(self) -> None:
        """Let every capture end in error 901."""
        for capture in self.captures.values():
            capture.broken = True

    def submit(self, stream: int, work: Work) -> int:
        """Run `work`, or let the stream record it."""
        if self._streams.get(stream, (self.device,))[0] != self.device:
            return 400
        if self._implicit(stream):
            self.break_captures()
            return 906
        capture = self.captures.get(stream)
        if capture is None:
            work()
        elif capture.broken:
            return 901
        else:
            capture.recorded.append(work)
        return 0

    def wait(self, stream: int) -> int:
        """Wait for a stream."""
        error = 900 if stream in self.captures else self._implicit(stream)
        if error:
            self.break_captures()
        return error

    def join(self, first: int, then: int) -> int:
        """Let one stream wait for another. One that is capturing cannot wait for work that is not captured."""
        capture = self.captures.get(then)
        if capture is None or first == then:
            return 0
        capture.broken = True
        return 905
