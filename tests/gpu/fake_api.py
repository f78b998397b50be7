"""The table of csrc/cuda/api.h and what it passes, through ctypes; and the grid that the core simulates."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrcore import _lrcore_core


class Step(ctypes.Structure):
    """`Step` of csrc/step.h."""

    _fields_ = [
        ("p", ctypes.c_void_p),
        ("g", ctypes.c_void_p),
        ("states", ctypes.c_void_p * 3),
        ("_before_constants", ctypes.c_int64),  # they are aligned to 16 bytes
        ("gscale", ctypes.c_float),
        ("wd", ctypes.c_float),
        ("decay_factor", ctypes.c_float),
        ("flush_mask", ctypes.c_uint32),
        ("rule", ctypes.c_float * 8),
    ]


class Job(ctypes.Structure):
    """`Job` of csrc/cuda/job.h."""

    _fields_ = [
        ("step", Step),
        ("rows", ctypes.c_void_p),
        ("step_count", ctypes.c_void_p),
        ("last", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("prologue", ctypes.c_int64),
        ("chunks", ctypes.c_int64),
        ("width", ctypes.c_int),
        ("_end", ctypes.c_int64),
    ]


CONSTANTS = Step.gscale.offset
"""Where the constants stand in a step; a row of a table is what stands from here on."""

assert CONSTANTS % 16 == 0
assert ctypes.sizeof(Step) == Job.rows.offset == 96
assert Job.width.offset == 144
assert ctypes.sizeof(Job) == 160

_int_p = ctypes.POINTER(ctypes.c_int)


def _function(*arguments: Any, result: Any = ctypes.c_int) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)


class Api(ctypes.Structure):
    """`Api` of csrc/cuda/api.h."""

    _fields_ = [
        ("device_count", _function(_int_p)),
        ("device_name", _function(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)),
        ("current_device", _function(_int_p)),
        ("set_device", _function(ctypes.c_int)),
        ("restore_device", _function(ctypes.c_int)),
        ("allocate", _function(ctypes.POINTER(ctypes.c_void_p), ctypes.c_int64)),
        ("release", _function(ctypes.c_void_p)),
        ("fill", _function(ctypes.c_void_p, ctypes.c_float, ctypes.c_int64)),
        ("copy", _function(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("synchronize", _function()),
        ("record_event", _function(ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t)),
        ("query_event", _function(ctypes.c_void_p, _int_p)),
        ("wait_for_event", _function(ctypes.c_void_p)),
        ("destroy_event", _function(ctypes.c_void_p)),
        ("is_capturing", _function(ctypes.c_size_t, _int_p)),
        ("prepare", _function(ctypes.c_int)),
        ("launch", _function(ctypes.c_int, ctypes.c_int, ctypes.POINTER(Job), ctypes.c_size_t)),
        ("advance", _function(ctypes.c_void_p, ctypes.c_size_t)),
        ("stream_bound", _function(ctypes.POINTER(Step), ctypes.c_int, ctypes.c_int64, ctypes.c_size_t)),
        ("error_name", _function(ctypes.c_int, result=ctypes.c_void_p)),
        ("error_text", _function(ctypes.c_int, result=ctypes.c_void_p)),
    ]


API_NAME = b"lrcore.cuda.Api"

ERRORS = {
    0: ("cudaSuccess", "no error"),
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    3: ("cudaErrorInitializationError", "initialization error"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    101: ("cudaErrorInvalidDevice", "invalid device ordinal"),
    209: (
        "cudaErrorNoKernelImageForDevice",
        "no kernel image is available for execution on the device",
    ),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    401: (
        "cudaErrorIllegalState",
        "the operation cannot be performed in the present state",
    ),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: (
        "cudaErrorStreamCaptureInvalidated",
        "operation failed due to a previous error during capture",
    ),
    905: (
        "cudaErrorStreamCaptureIsolation",
        "dependency created on uncaptured work in another stream",
    ),
    906: (
        "cudaErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    999: ("cudaErrorUnknown", "unknown error"),
}
"""Name and text of the errors of the CUDA runtime that occur here. Any other code is named as 999 is."""

_STRINGS = {
    code: [ctypes.create_string_buffer(each.encode()) for each in both] for code, both in ERRORS.items()
}


def error_string(error: int, which: int) -> int:
    """Return the address of an error's name, which is 0, or text, which is 1."""
    return ctypes.addressof(_STRINGS.get(error, _STRINGS[999])[which])


_core = ctypes.CDLL(_lrcore_core.__file__)
_core.lrcore_blocks.argtypes = (ctypes.POINTER(Job),)
_core.lrcore_blocks.restype = ctypes.c_int64
_core.lrcore_emulate.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(Job),
    ctypes.c_int64,
    ctypes.c_int64,
)
_core.lrcore_emulate.restype = None


class Call(NamedTuple):
    """A call of the table: the function, the device that was current, the stream where one was given, the rest.

    `detail` is a `Launch`; of ``allocate`` the bytes; of ``release`` and ``advance`` the address; of ``fill`` the
    address, the value and the number of elements; of ``copy`` both addresses and the bytes; of ``set_device`` the
    device; of ``prepare`` the rule; of ``stream_bound`` the number of states and of elements.
    """

    name: str
    device: int
    stream: int | None
    detail: Any


class Launch(NamedTuple):
    """A launch: the rule by its index, whether decay is coupled, and a copy of the job."""

    rule: int
    coupled: bool
    job: Job


class Allocation(NamedTuple):
    """Memory of a device."""

    address: int
    size: int
    device: int


def blocks(job: Job) -> int:
    """Return the number of blocks of a launch."""
    return int(_core.lrcore_blocks(job))


def emulate(launch: Launch, ranges: Iterable[tuple[int, int]]) -> None:
    """Run ranges of blocks of a launch."""
    assert ctypes.addressof(launch.job) % 16 == 0
    for begin, end in ranges:
        _core.lrcore_emulate(launch.rule, launch.coupled, launch.job, begin, end)


def floats(address: int, n: int) -> NDArray[np.float32]:
    """Return the n floats at an address as an array, not copied."""
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))
