"""DLPack capsules through ctypes: setting their device, and consuming them."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CPU, CUDA, CUDA_HOST, ROCM_HOST = 1, 2, 3, 11
"""DLPack's device types."""

# Kept here because a capsule only points to its name.
VERSIONED, LEGACY = b"dltensor_versioned", b"dltensor"
USED_VERSIONED = b"used_dltensor_versioned"


def _api(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _api("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_get_pointer = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_set_name = _api("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_new = _api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class DLTensor(ctypes.Structure):
    """DLPack's tensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    """DLPack's managed tensor, to which a legacy capsule points."""

    _fields_ = [("tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class ManagedVersioned(ctypes.Structure):
    """DLPack's versioned managed tensor, to which a versioned capsule points."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


def make_capsule(address: int, name: bytes) -> Any:
    """Return a capsule without a destructor. The name must outlive it."""
    return _new(address, name, None)


def managed_of(capsule: Any) -> Managed | ManagedVersioned:
    """Return the managed tensor of an unused capsule, without a copy."""
    if _is_valid(capsule, VERSIONED):
        return ManagedVersioned.from_address(_get_pointer(capsule, VERSIONED))
    return Managed.from_address(_get_pointer(capsule, LEGACY))


def take(capsule: Any) -> int:
    """Consume a versioned capsule; return the address of its managed tensor, which the caller must delete."""
    _set_name(capsule, USED_VERSIONED)
    return int(_get_pointer(capsule, USED_VERSIONED))


def move(capsule: Any, device_type: int, device_id: int) -> Any:
    """Return the capsule after setting its tensor's device."""
    tensor = managed_of(capsule).tensor
    tensor.device_type, tensor.device_id = device_type, device_id
    return capsule


class Exported:
    """An exporter of one capsule that reports its memory as CPU memory."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = move(capsule, CPU, 0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule


def on_the_host(capsule: Any) -> NDArray[Any]:
    """Return a NumPy array over the memory of an unused capsule, regardless of the capsule's device."""
    managed = managed_of(capsule)
    is_read_only = isinstance(managed, ManagedVersioned) and managed.flags & 1
    array = np.from_dlpack(Exported(capsule))
    if is_read_only or array.flags.writeable:
        return array
    # NumPy 2.1 treats every capsule's memory as read-only.
    interface = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
