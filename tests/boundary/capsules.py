"""DLPack's capsules seen through ctypes: moved to another device by name, and consumed."""

from __future__ import annotations

import ctypes
from typing import Any

CPU, CUDA, CUDA_HOST, ROCM_HOST, CUDA_MANAGED = 1, 2, 3, 11, 13
"""Types of devices."""

READ_ONLY, IS_COPIED = 1, 2
"""Flags of a versioned tensor."""

KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
"""NumPy's letter for each type code."""

# The names are kept here: a capsule only points to its own.
VERSIONED, LEGACY = b"dltensor_versioned", b"dltensor"
USED = {VERSIONED: b"used_dltensor_versioned", LEGACY: b"used_dltensor"}


def _api(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _api("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_get_pointer = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_set_name = _api("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_new = _api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

Deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class DLTensor(ctypes.Structure):
    """What is exported."""

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
    """What a legacy capsule points to."""

    _fields_ = [("tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class ManagedVersioned(ctypes.Structure):
    """What a versioned capsule points to."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


assert ctypes.sizeof(DLTensor) == 48
assert ctypes.sizeof(Managed) == 64
assert ctypes.sizeof(ManagedVersioned) == 80


def make_capsule(address: int, name: bytes) -> Any:
    """Return a capsule without a destructor. The name has to outlive it."""
    return _new(address, name, None)


def pointer_of(capsule: Any, name: bytes) -> int:
    """Return what a capsule of that name points to."""
    return int(_get_pointer(capsule, name))


def managed_of(capsule: Any) -> Managed | ManagedVersioned:
    """Return the managed tensor of an unused capsule, in place; ValueError if it is none."""
    if _is_valid(capsule, VERSIONED):
        return ManagedVersioned.from_address(pointer_of(capsule, VERSIONED))
    if _is_valid(capsule, LEGACY):
        return Managed.from_address(pointer_of(capsule, LEGACY))
    raise ValueError(
        "A DLPack tensor object cannot be consumed multiple times (or object was not a DLPack capsule). "
        f"Got: {capsule!r}"
    )


def take(capsule: Any) -> None:
    """Mark a capsule as consumed: what it points to is the caller's to let go of."""
    _set_name(capsule, USED[VERSIONED if isinstance(managed_of(capsule), ManagedVersioned) else LEGACY])


def move(capsule: Any, device_type: int, device_id: int) -> Any:
    """Return the same capsule, which now says that its tensor is on that device."""
    tensor = managed_of(capsule).tensor
    tensor.device_type, tensor.device_id = device_type, device_id
    return capsule


class Tensor:
    """The tensor of an unused capsule, which consumes it. Its deleter is called with it; NumPy sees it as an array."""

    def __init__(self, capsule: Any) -> None:
        self.managed: Managed | ManagedVersioned | None = None
        managed = managed_of(capsule)
        take(capsule)
        self.managed = managed

    def __del__(self) -> None:
        if self.managed is not None and self.managed.deleter:
            Deleter(self.managed.deleter)(ctypes.addressof(self.managed))

    @property
    def tensor(self) -> DLTensor:
        """What was exported."""
        assert self.managed is not None
        tensor: DLTensor = self.managed.tensor
        return tensor

    @property
    def device(self) -> tuple[int, int]:
        """The type and the number of the device."""
        return self.tensor.device_type, self.tensor.device_id

    @property
    def major(self) -> int:
        """The major version of the layout; that of a legacy capsule is 0."""
        return int(self.managed.major) if isinstance(self.managed, ManagedVersioned) else 0

    @property
    def flags(self) -> int:
        """The flags; those of a legacy capsule are 0."""
        return int(self.managed.flags) if isinstance(self.managed, ManagedVersioned) else 0

    @property
    def __array_interface__(self) -> dict[str, Any]:
        tensor = self.tensor
        if tensor.lanes != 1 or tensor.code not in KINDS:
            raise TypeError(f"Unsupported dtype. dtype code: {tensor.code}, lanes: {tensor.lanes}")
        itemsize = tensor.bits // 8
        strides = None
        if tensor.strides:
            strides = tuple(tensor.strides[k] * itemsize for k in range(tensor.ndim))
        return {
            "version": 3,
            "shape": tuple(tensor.shape[: tensor.ndim]),
            "typestr": f"<{KINDS[tensor.code]}{itemsize}",
            "data": ((tensor.data or 0) + tensor.byte_offset, False),
            "strides": strides,
        }
