"""Imports by DLPack's functions in C, with an exporter made of ctypes; torch's own are tested where torch is."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest

import lrcore
from boundary import capsules
from support import Array, assert_bits

NAME = b"dlpack_exchange_api"

FromObject = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ctypes.c_void_p))


class Api(ctypes.Structure):
    """The table: its version, an older one, and the functions."""

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
    """An array that is exported by a function in C, and counts by which way it was asked."""

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
    """Return a managed tensor, which is the caller's then."""
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
"""Its function, which has other things in mind, gives -1 and sets a TypeError."""


@pytest.fixture
def tensor(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Eight ones."""
    offer(monkeypatch, API)
    monkeypatch.setattr(Tensor, "asked", [])
    return Tensor(np.ones(8, np.float32))


def offer(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """Let the type offer that table."""
    table = capsules.make_capsule(ctypes.addressof(api), NAME)
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", table, raising=False)


def step(params: Array, grads: Any) -> None:
    lrcore.SGD(params, lr=0.5).step(grads)


@pytest.mark.parametrize("api", [API, NEWER])
def test_the_function_serves(tensor: Tensor, monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """That of an older table too, where the first is too new."""
    offer(monkeypatch, api)
    params = np.ones(8, np.float32)
    step(params, tensor)
    assert tensor.asked == ["function"]
    lrcore.SGD(tensor, lr=0.5).step(np.ones(8, np.float32))
    for each in (params, tensor.array):
        assert_bits(each, np.full(8, 0.5, np.float32))
    assert {*tensor.asked} == {"function"}


@pytest.mark.parametrize("by", ["function", "method"])
def test_the_memory_is_held_and_let_go(tensor: Tensor, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """By its capsule alone: the exporter may vanish."""
    if by == "method":
        monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", None)
    held = weakref.ref(tensor.array)
    opt = lrcore.SGD(np.ones(8, np.float32), grads=tensor)
    assert tensor.asked == [by]
    del tensor.array
    gc.collect()
    assert held() is not None
    opt.step()
    del opt
    gc.collect()
    assert held() is None


def test_a_flag_of_the_function_is_read(tensor: Tensor) -> None:
    tensor.array.setflags(write=False)
    with pytest.raises(ValueError, match="^params: the array is read-only"):
        lrcore.SGD(tensor)
    assert tensor.asked == ["function"]


@pytest.mark.parametrize("why", ["too new", "no table", "error", "device"])
def test_the_method_serves_where_the_function_does_not(
    tensor: Tensor, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "too new":
        offer(monkeypatch, ONLY_NEWER)
    elif why == "no table":
        monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", None)
    elif why == "error":
        offer(monkeypatch, FAILING)
    else:
        tensor.device = (capsules.CUDA, 0)  # the function is not told a stream
    params = np.ones(8, np.float32)
    step(params, tensor)
    assert tensor.asked[-1] == "method"
    assert_bits(params, np.full(8, 0.5, np.float32))
