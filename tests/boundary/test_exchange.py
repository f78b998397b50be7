"""Imports through DLPack's C functions, with a ctypes exporter. PyTorch's functions have their own tests."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest

import lrcore
from boundary import capsules
from support import assert_bits

NAME = b"dlpack_exchange_api"

FromObject = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ctypes.c_void_p))


class Api(ctypes.Structure):
    """The table of functions: its version, a pointer to an older table, and the functions."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("allocator", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("object_from_managed", ctypes.c_void_p),
        ("tensor_from_object", ctypes.c_void_p),
        ("current_work_stream", ctypes.c_void_p),
    ]


class Tensor:
    """An array that a C function exports; it records whether the function or the method was called."""

    device = (capsules.CPU, 0)
    asked: ClassVar[list[str]] = []

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **keywords: Any) -> Any:
        self.asked.append("method")
        return self.array.__dlpack__(**keywords)


def managed_from_object(tensor: Tensor, out: Any) -> int:
    """Store a managed tensor in `out`, which the caller then owns; return 0."""
    tensor.asked.append("function")
    capsule = capsules.move(tensor.array.__dlpack__(max_version=(1, 0)), *tensor.device)
    out[0] = capsules.take(capsule)
    return 0


FUNCTION = FromObject(managed_from_object)
ADDRESS = ctypes.cast(FUNCTION, ctypes.c_void_p)
API = Api(1, 3, None, None, ADDRESS)
NEWER = Api(2, 0, ctypes.addressof(API))
ONLY_NEWER = Api(2, 0, None)
RAISES = ctypes.cast(ctypes.pythonapi.PyObject_AsFileDescriptor, ctypes.c_void_p)
FAILING = Api(1, 3, None, None, RAISES)
"""A table whose function is not a DLPack function: it returns -1 and sets a TypeError."""


@pytest.fixture
def tensor(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return a tensor of eight ones whose type has the table `API`."""
    offer(monkeypatch, API)
    monkeypatch.setattr(Tensor, "asked", [])
    return Tensor(np.ones(8, np.float32))


def offer(monkeypatch: pytest.MonkeyPatch, api: Api | None) -> None:
    """Set or remove the table of the type `Tensor`."""
    table = capsules.make_capsule(ctypes.addressof(api), NAME) if api else None
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", table, raising=False)


@pytest.mark.parametrize(
    ("api", "device", "asked"),
    [
        (API, capsules.CPU, ["function"]),
        (NEWER, capsules.CPU, ["function"]),
        (ONLY_NEWER, capsules.CPU, ["method"]),
        (None, capsules.CPU, ["method"]),
        (FAILING, capsules.CPU, ["method"]),
        (API, capsules.CUDA, ["function", "method"]),  # the function takes no stream
    ],
    ids=["the first", "an older", "too new", "none", "an error", "a device"],
)
def test_the_function_serves_or_the_method(
    tensor: Tensor, monkeypatch: pytest.MonkeyPatch, api: Api | None, device: int, asked: list[str]
) -> None:
    """The exported tensor keeps the memory alive, so the exporter may be deleted."""
    offer(monkeypatch, api)
    tensor.device = (device, 0)
    held = weakref.ref(tensor.array)
    params = np.ones(8, np.float32)
    opt = lrcore.SGD(params, lr=0.5, grads=tensor)
    assert tensor.asked == asked
    del tensor.array
    gc.collect()
    opt.step()
    assert_bits(params, np.full(8, 0.5, np.float32))
    del opt
    gc.collect()
    assert held() is None


def test_what_the_function_gives_is_written_unless_it_is_read_only(tensor: Tensor) -> None:
    lrcore.SGD(tensor, lr=0.5).step(np.ones(8, np.float32))
    assert_bits(tensor.array, np.full(8, 0.5, np.float32))
    tensor.array.setflags(write=False)
    with pytest.raises(ValueError, match="^params: the array is read-only"):
        lrcore.SGD(tensor)
    assert {*tensor.asked} == {"function"}
