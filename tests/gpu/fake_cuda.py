"""CUDA devices imitated in host memory: a table of functions as in csrc/cuda/api.h, and an imitated CuPy.

The core finds this table in the same way as the real module's, so tests step "device" arrays through the
whole binding on any machine. A launch runs the code of the kernels' threads on the host: at once or, if the
stream is capturing, whenever the graph is launched.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pytest

import lrcore
from boundary import capsules
from gpu import fake_cupy
from lrcore import _lrcore_core


class Job(ctypes.Structure):
    """`Job` of csrc/cuda/job.h."""

    _fields_ = [
        ("step", ctypes.c_int64 * 14),
        ("constants", ctypes.c_float * 12),
        ("table", ctypes.c_void_p * 6),
        ("whole", ctypes.c_int64 * 6),
        ("extents", ctypes.c_void_p),
        ("of_block", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("added", ctypes.c_void_p),
        ("added_count", ctypes.c_int64),
        ("decision", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
        ("width", ctypes.c_int),
        ("is_skipped", ctypes.c_bool),
    ]


class Measurement(ctypes.Structure):
    """`Measurement` of csrc/cuda/job.h."""

    _fields_ = [("job", Job), ("tables", ctypes.c_int64 * 4)]


class Judgement(ctypes.Structure):
    """`Judgement` of csrc/cuda/job.h."""

    _fields_ = [("members", ctypes.c_int64 * 19)]


class Decision(ctypes.Structure):
    """`Decision` of csrc/cuda/job.h."""

    _fields_ = [
        ("norm", ctypes.c_double),
        ("gscale", ctypes.c_float),
        ("is_skipped", ctypes.c_int32),
        ("counts", ctypes.c_int64 * 3),
    ]


TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "int*": ctypes.POINTER(ctypes.c_int),
    "int64": ctypes.c_int64,
    "float": ctypes.c_float,
    "address": ctypes.c_void_p,
    "address*": ctypes.POINTER(ctypes.c_void_p),
    "stream": ctypes.c_size_t,
    "job*": ctypes.POINTER(Job),
    "measurement*": ctypes.POINTER(Measurement),
    "judgement*": ctypes.POINTER(Judgement),
}

FUNCTIONS = {
    "device_count": "int*",
    "device_name": "int address int64",
    "current_device": "int*",
    "set_device": "int",
    "restore_device": "int",
    "allocate": "address* int64",
    "release": "address",
    "allocate_pinned": "address* int64",
    "release_pinned": "address",
    "allocate_on": "address* int64 stream",
    "release_on": "address stream",
    "fill": "address float int64",
    "copy": "address address int64",
    "synchronize": "",
    "record_event": "address* stream",
    "query_event": "address int*",
    "wait_for_event": "address",
    "destroy_event": "address",
    "is_capturing": "stream int*",
    "prepare": "int",
    "launch": "int job* stream",
    "write": "address address int64 stream",
    "measure": "measurement* stream",
    "judge": "judgement* stream",
    "advance": "address address stream",
    "leaf_sums": "address address int64 address stream",
    "stream_bound": "address int int64 stream",
    "error_name": "int",
    "error_text": "int",
}
"""The functions of `Api` in csrc/cuda/api.h, in the same order, with the types of their arguments."""

NOT_LOGGED = {"device_count", "device_name", "current_device", "error_name", "error_text"}
"""Queries that are too frequent to log."""

WAITING = {"fill", "copy", "synchronize", "wait_for_event"}
"""Calls that wait for submitted work."""

FORBIDDEN = WAITING - {"wait_for_event"}
"""Calls that fail while a stream is capturing, and break the capture, as in the runtime's global mode."""

ERRORS = {
    1: "cudaErrorInvalidValue: invalid argument",
    2: "cudaErrorMemoryAllocation: out of memory",
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    209: "cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
    999: "cudaErrorUnknown: unknown error",
}
"""The errors of the CUDA runtime that occur here: their names and texts."""

_STRINGS = {
    code: [ctypes.create_string_buffer(each.encode()) for each in text.split(": ")]
    for code, text in ERRORS.items()
}

_core = ctypes.CDLL(_lrcore_core.__file__)
_core.lrcore_emulate.argtypes = [TYPES[kind] for kind in ("int", "job*", "int64", "int64")]
_core.lrcore_emulate_sums.argtypes = [TYPES[kind] for kind in ("address", "address", "int64", "address")]
_core.lrcore_emulate_measure.argtypes = [TYPES["measurement*"]]
_core.lrcore_emulate_judge.argtypes = [TYPES["judgement*"]]

_kept: list[Any] = []
"""Tables, which are never freed: objects that outlive an imitation must still be able to release memory."""

Work: TypeAlias = Callable[[], object]
"""Work that is submitted to a stream."""


class Call(NamedTuple):
    """A call through the table: the function, the current device, the stream (if any) and all arguments."""

    name: str
    device: int
    stream: int | None
    arguments: tuple[Any, ...]


class Thread(threading.local):
    """The state of the runtime and CuPy per thread: the current device, and each device's current stream."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, Any] = {}


class FakeCuda:
    """CUDA devices for a ``with`` block, in which `lrcore._lrcore_cuda` and `cupy` are imitations.

    Without devices, every function fails as on a machine without a GPU.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.thread = Thread()
        self.log: list[Call] = []
        """Every call through the table, including failed calls, except those in `NOT_LOGGED`."""
        self.fail: dict[str, int] = {}
        """Errors by function name: a function that has an entry returns the error and does nothing else."""
        self.blocks: Callable[[Job, int], Iterable[tuple[int, int]]] | None = None
        """The ranges of blocks to run, as a function of a `Job` and its number of blocks. None runs all."""
        self.behind = False
        """Whether queries report completed events as not completed."""
        self.cupy: Any = fake_cupy.make_module()
        self.exports: list[fake_cupy.Export] = []
        """The exports of device arrays, in order."""
        self.streams: dict[int, int] = {}
        """The device of each stream that was created."""
        self.captures: dict[int, list[Work] | None] = {}
        """The work that each capturing stream has recorded; None once the capture is broken."""
        self._memory: dict[int, mmap.mmap] = {}

        self.functions = {name: self._function(name, signature) for name, signature in FUNCTIONS.items()}
        addresses = [ctypes.cast(function, ctypes.c_void_p) for function in self.functions.values()]
        table = (ctypes.c_void_p * len(addresses))(*addresses)
        _kept.append((self.functions, table))
        self._module = types.ModuleType("lrcore._lrcore_cuda")
        vars(self._module)["api"] = capsules.make_capsule(ctypes.addressof(table), b"lrcore.cuda.Api")

    def __enter__(self) -> Self:
        self._patch = pytest.MonkeyPatch()
        modules = {"lrcore._lrcore_cuda": self._module, "cupy": self.cupy, "cupy.cuda": self.cupy.cuda}
        for name, module in modules.items():
            self._patch.setitem(sys.modules, name, module)
        self._patch.setattr(lrcore, "_lrcore_cuda", self._module, raising=False)
        fake_cupy.active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        fake_cupy.active.remove(self)
        self._patch.undo()

    def calls(self, *names: str) -> list[Call]:
        """Return the logged calls of these functions, or of all functions."""
        return [call for call in self.log if not names or call.name in names]

    def clear(self) -> None:
        """Forget the logged calls, and the exports of arrays."""
        self.log.clear()
        self.exports.clear()

    def leaked(self) -> list[int]:
        """Return the addresses of memory that was allocated and not released."""
        return list(self._memory)

    # The runtime, as called by the table and CuPy. Methods return an error, or 0.

    def choose(self, device: int) -> int:
        """Make a device current."""
        if not 0 <= device < self.devices:
            return 101
        self.thread.device = device
        return 0

    def submit(self, stream: int, work: Work) -> int:
        """Run `work`, or record it if the stream is capturing."""
        if self.streams.get(stream, self.thread.device) != self.thread.device:
            return 400
        if stream not in self.captures:
            work()
            return 0
        recorded = self.captures[stream]
        if recorded is None:
            return 901
        recorded.append(work)
        return 0

    def wait(self) -> int:
        """Wait for submitted work; this breaks every capture."""
        if not self.captures:
            return 0
        self.captures = dict.fromkeys(self.captures)
        return 900

    def check(self, error: int) -> None:
        """Raise RuntimeError like CuPy, unless the error is 0."""
        if error:
            raise RuntimeError(ERRORS[error])

    # The functions of the table.

    def _function(self, name: str, signature: str) -> Any:
        kinds = signature.split()
        position = kinds.index("stream") if "stream" in kinds else None

        def call(*arguments: Any) -> int:
            if name not in NOT_LOGGED:
                stream = None if position is None else arguments[position]
                self.log.append(Call(name, self.thread.device, stream, arguments))
            if error := self.fail.get(name, 0 if self.devices or name.startswith("error") else 100):
                return error
            if name in FORBIDDEN and (error := self.wait()):
                return error
            return getattr(self, f"_{name}")(*arguments) or 0

        result = ctypes.c_void_p if name.startswith("error") else ctypes.c_int
        return ctypes.CFUNCTYPE(result, *(TYPES[kind] for kind in kinds))(call)

    def _device_count(self, count: Any) -> None:
        count[0] = self.devices

    def _device_name(self, device: int, name: int, size: int) -> None:
        text = f"Imitation {device}".encode()[: size - 1]
        ctypes.memmove(name, text + b"\0", len(text) + 1)

    def _current_device(self, device: Any) -> None:
        device[0] = self.thread.device

    def _set_device(self, device: int) -> int:
        return self.choose(device)

    _restore_device = _set_device

    def _allocate(self, memory: Any, size: int) -> None:
        mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = memory[0] = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        ctypes.memset(address, 0xFF, size)  # NaN, so that no code can rely on zeros
        self._memory[address] = mapped

    def _release(self, memory: int | None) -> None:
        if memory is not None:
            self._memory.pop(memory).close()

    _allocate_pinned, _release_pinned = _allocate, _release

    def _allocate_on(self, memory: Any, size: int, _stream: int) -> None:
        self._allocate(memory, size)

    def _release_on(self, memory: int, stream: int) -> int:
        return self.submit(stream, lambda: self._release(memory))

    def _fill(self, memory: int, value: float, n: int) -> None:
        np.ctypeslib.as_array((ctypes.c_float * n).from_address(memory))[:] = value

    def _copy(self, to: int, source: int, size: int) -> None:
        ctypes.memmove(to, source, size)

    def _nothing(self, *_: Any) -> None:
        """Do nothing: all work is done, every kernel is loaded, and an event is just a number."""

    _synchronize = _wait_for_event = _destroy_event = _prepare = _nothing

    def _record_event(self, event: Any, _stream: int) -> None:
        event[0] = 1

    def _query_event(self, _event: int, completed: Any) -> None:
        completed[0] = not self.behind

    def _is_capturing(self, stream: int, capturing: Any) -> None:
        capturing[0] = stream in self.captures

    def _launch(self, rule: int, given: Any, stream: int) -> int:
        job = Job.from_buffer_copy(given.contents)

        def run() -> None:
            for begin, end in [(0, job.blocks)] if self.blocks is None else self.blocks(job, job.blocks):
                _core.lrcore_emulate(rule, job, begin, end)

        return self.submit(stream, run)

    def _write(self, to: int, words: int, count: int, stream: int) -> int:
        copied = ctypes.string_at(words, count * 16)  # as the argument of a kernel

        return self.submit(stream, lambda: ctypes.memmove(to, copied, len(copied)))

    def _measure(self, given: Any, stream: int) -> int:
        launch = Measurement.from_buffer_copy(given.contents)

        return self.submit(stream, lambda: _core.lrcore_emulate_measure(launch))

    def _judge(self, given: Any, stream: int) -> int:
        launch = Judgement.from_buffer_copy(given.contents)

        return self.submit(stream, lambda: _core.lrcore_emulate_judge(launch))

    def _advance(self, step_count: int, decision: int | None, stream: int) -> int:
        def add_one() -> None:
            if decision is None or not Decision.from_address(decision).is_skipped:
                ctypes.c_int64.from_address(step_count).value += 1

        return self.submit(stream, add_one)

    def _leaf_sums(self, x: int, y: int, n: int, sums: int, stream: int) -> int:
        return self.submit(stream, lambda: _core.lrcore_emulate_sums(x, y, n, sums))

    def _error_name(self, error: int) -> int:
        return ctypes.addressof(_STRINGS[error][0])

    def _error_text(self, error: int) -> int:
        return ctypes.addressof(_STRINGS[error][1])
