"""Gradients of torch tensors on an imitated device, read where they lie, with the bits of a flat array on the CPU.

PyTorch without CUDA has no device tensors, so the tensors here are subclasses that report device memory through DLPack's C
functions, which is all that a step asks of them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from boundary import capsules
from boundary.test_exchange import NAME, Api
from gpu.devices import imitated, problem
from lrcore._lrcore_core import step_together
from lrcore.optimizers._settings import GroupSettings, Settings
from lrcore.schedules import Constant
from support import CONFIGURATIONS, Array, assert_bits

torch = pytest.importorskip("torch")

SIZES = (5, 300, 1, 64, 1029, 17)
"""Numbers of elements, with padding between them."""


def tensor_from_object(tensor: Any, out: Any) -> int:
    """Describe a tensor in `out`; return 0."""
    out[0] = tensor.described
    return 0


FUNCTION = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(capsules.DLTensor))(
    tensor_from_object
)
API = Api(1, 3, None, None, None, None, ctypes.cast(FUNCTION, ctypes.c_void_p))


class DeviceTensor(torch.Tensor):  # type: ignore[misc,name-defined]
    """A flat tensor whose memory is a part of an array on the first imitated device."""

    __dlpack_c_exchange_api__ = capsules.make_capsule(ctypes.addressof(API), NAME)
    described: Any
    kept: tuple[Any, ...]

    @classmethod
    def over(cls, array: Any, begin: int, size: int) -> Any:
        """Return the tensor of the elements from `begin` on."""
        made = torch.zeros(size).as_subclass(cls)
        shape, strides = (ctypes.c_int64 * 1)(size), (ctypes.c_int64 * 1)(1)
        data = array.data.ptr + 4 * begin
        made.described = capsules.DLTensor(data, capsules.CUDA, 0, 1, 2, 32, 1, shape, strides, 0)
        made.kept = (array, shape, strides)
        return made


def made(cls: Any, arguments: dict[str, Any], xp: Any, p: Array) -> tuple[Any, list[Any], list[int]]:
    """Return an optimizer over flat device memory, the tensors in it, and where they begin."""
    begins = [0]
    for size in SIZES[:-1]:
        begins.append(-(-(begins[-1] + size) // 16) * 16)
    flat = xp.array(p)
    views = [DeviceTensor.over(flat, *each) for each in zip(begins, SIZES, strict=True)]
    plain = cls(np.zeros(1, np.float32), **arguments)
    half = tuple((begin, begin + size) for begin, size in zip(begins[::2], SIZES[::2], strict=True))
    opt = cls.__new__(cls)
    opt._bind(
        flat,
        None,
        plain._options,
        ((tuple(rest(half, len(p)))), half),
        Settings(plain._settings.hyper, (GroupSettings(), GroupSettings({"weight_decay": 0.25}))),
        Constant(0.5),
        None,
        tensors=([f"tensor {i}" for i in range(len(SIZES))], views, views, begins, lambda _, grad: grad),
    )
    return opt, views, begins


def rest(ranges: tuple[tuple[int, int], ...], size: int) -> list[tuple[int, int]]:
    """Return the ranges between these."""
    bounds = [0, *(bound for each in ranges for bound in each), size]
    return [each for each in zip(bounds[::2], bounds[1::2], strict=True) if each[0] < each[1]]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("rule", CONFIGURATIONS)
def test_gradients_are_read_where_they_lie(rule: str, shift: int) -> None:
    """Whichever tensors have gradients, in memory of any alignment; one of them alone is a launch without a table."""
    cls, arguments = CONFIGURATIONS[rule]
    with imitated() as xp:
        size = sum(-(-each // 16) * 16 for each in SIZES)
        p, grads = problem(size, 6)
        opt, tensors, begins = made(cls, arguments, xp, p)
        separate = [
            cls(
                p[begin : begin + count].copy(),
                lr=0.5,
                **arguments | ({} if i % 2 else {"weight_decay": 0.25}),
            )
            for i, (begin, count) in enumerate(zip(begins, SIZES, strict=True))
        ]
        for t, g in enumerate(grads):
            for i, (tensor, count) in enumerate(zip(tensors, SIZES, strict=True)):
                has_gradient = i == 2 if t == 4 else (i + t) % 3 != 0
                tensor.grad = None
                if has_gradient:
                    own = xp.array(np.concatenate([np.zeros(shift, np.float32), g[begins[i] :][:count]]))
                    tensor.grad = DeviceTensor.over(own, shift, count)
                    separate[i].step(g[begins[i] :][:count], grad_scale=0.5)
            step_together([opt], 0.5)
        for i, (begin, count) in enumerate(zip(begins, SIZES, strict=True)):
            for name, values in {"params": opt.params, **opt.state}.items():
                expected = {"params": separate[i].params, **separate[i].state}[name]
                assert_bits(xp.numpy(values)[begin : begin + count], expected, f"{rule}: {name}")
