"""Gradients of torch tensors on an imitated device, read where they lie, with the bits of a flat array on the CPU.

PyTorch without CUDA has no device tensors, so the tensors here are subclasses that report device memory through DLPack's C
functions, which is all that a step asks of them.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import capsules
from boundary.test_exchange import NAME, Api
from gpu.devices import Imitated, imitated, problem
from gpu.fake_cuda import WAITING
from gpu.test_guard import assert_alike, gradient, write
from gpu.test_together import SCALER, WITH_SCALER, step_with_scaler
from lrcore._lrcore_core import step_together
from lrcore.optimizers._settings import GroupSettings
from lrcore.schedules import Constant
from optimizers.zeroing import Guarded
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


def made(
    cls: Any, arguments: dict[str, Any], xp: Any, p: Array, max_steps: int | None = None
) -> tuple[Any, list[Any], list[int]]:
    """Return an optimizer over flat device memory, the tensors in it, and where they begin.

    If `xp` is None, the memory is `p` on the CPU.
    """
    begins = [0]
    for size in SIZES[:-1]:
        begins.append(-(-(begins[-1] + size) // 16) * 16)
    flat = xp.array(p) if xp else p
    places = [*zip(begins, SIZES, strict=True)]
    views = [
        DeviceTensor.over(flat, *each) if xp else torch.from_numpy(flat[each[0] :][: each[1]])
        for each in places
    ]
    plain = cls(np.zeros(1, np.float32), **arguments)
    half = tuple((begin, begin + size) for begin, size in zip(begins[::2], SIZES[::2], strict=True))
    opt = cls.__new__(cls)
    opt._bind(
        flat,
        None,
        plain._options,
        ((tuple(rest(half, len(p)))), half),
        plain._settings._replace(groups=(GroupSettings(), GroupSettings({"weight_decay": 0.25}))),
        Constant(0.5),
        max_steps,
        tensors=(
            [f"tensor {i}" for i in range(len(SIZES))],
            views,
            views,
            begins,
            lambda _, grad: grad,
            lambda _: None,
        ),
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


TENSORS = sum(-(-size // 16) * 16 for size in SIZES)
"""The number of elements of the buffer of the tensors, with padding."""


def both_with_tensors(xp: Imitated, settings: dict[str, Any], max_steps: int | None = None) -> Any:
    """Return an optimizer on a device and its tensors, the same on the CPU, and where the tensors begin."""
    p = np.linspace(-1, 1, TENSORS, dtype=np.float32)
    opt, tensors, begins = made(lrcore.Adam, settings, xp, p, max_steps)
    return opt, tensors, *made(lrcore.Adam, settings, None, p.copy())[:2], begins


def assign(
    xp: Imitated | None, tensors: list[Any], parts: list[Array], which: Callable[[int], bool], shift: int = 1
) -> None:
    """Assign gradients to some tensors, on the CPU if `xp` is None. Every other one begins `shift` elements later."""
    for i, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
        own = np.concatenate([np.zeros(i % 2 * shift, np.float32), part])
        offset = len(own) - len(part)
        grad = (
            torch.from_numpy(own)[offset:]
            if xp is None
            else DeviceTensor.over(xp.array(own), offset, len(part))
        )
        tensor.grad = grad if which(i) else None


@pytest.mark.parametrize("settings", WITH_SCALER)
def test_tensors_are_units_of_the_norm(settings: dict[str, Any]) -> None:
    """Those that have gradients are units of the norm. The others count as zeros."""
    with imitated() as xp:
        opt, tensors, expected, its, begins = both_with_tensors(xp, settings)
        for t, numbers in enumerate(2 * SCALER):
            g = gradient(TENSORS, t)
            parts = [g[begin:][:size] for begin, size in zip(begins, SIZES, strict=True)]
            parts[t % 6][0] = math.nan if "skip_nonfinite" in settings and t in (2, 4) else 1.0
            which = {i for i in range(6) if (i == 2 if t == 6 else (i + t) % 3 != 1)}
            assign(xp, tensors, parts, which.__contains__)
            assign(None, its, parts, which.__contains__)
            step_together(
                [opt], 0.5, *(None if each is None else xp.array(np.float32(each)) for each in numbers)
            )
            step_with_scaler(expected, 0.5, *numbers)
            if t % 2:
                assert_alike(xp, opt, expected, f"after step {t}")


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("settings", WITH_SCALER)
def test_tensors_in_a_graph(settings: dict[str, Any], shift: int) -> None:
    """A graph reads the gradients and the numbers of the loss scaler at each replay.

    Unaligned gradients require an eager step before the capture.
    """
    with imitated() as xp:
        opt, tensors, expected, its, begins = both_with_tensors(xp, settings, max_steps=5)
        loss_scale, found_inf = (xp.array(np.array([each], np.float32)) for each in (1, 0))
        parts = [np.ones(size, np.float32) for size in SIZES]
        assign(xp, tensors, parts, lambda _: True, shift)
        assign(None, its, parts, lambda _: True)
        if shift:
            step_together([opt], 0.5, loss_scale, found_inf)
            step_together([expected], 0.5)
        xp.fake.clear()
        replay = xp.capture(lambda: step_together([opt], 0.5, loss_scale, found_inf))
        assert xp.fake.calls(*WAITING, "allocate", "allocate_pinned") == []
        for t, numbers in enumerate((a or 1.0, b or 0.0) for a, b in SCALER):
            g = gradient(TENSORS, t)
            g[begins[t % 6]] = math.nan if "skip_nonfinite" in settings and t in (2, 4) else 1.0
            for tensor, other, begin, size in zip(tensors, its, begins, SIZES, strict=True):
                array = tensor.grad.kept[0]
                write(xp, array[array.size - size :], g[begin:][:size])
                other.grad.numpy()[...] = g[begin:][:size]
            write(xp, loss_scale, numbers[:1])
            write(xp, found_inf, numbers[1:])
            replay()
            step_with_scaler(expected, 0.5, *numbers)
        assert_alike(xp, opt, expected)


@pytest.mark.parametrize("settings", WITH_SCALER)
def test_gradients_are_zeroed_where_they_lie(settings: dict[str, Any]) -> None:
    """Those of all tensors that have one, at any alignment, also if the step is skipped. Nothing else is written."""
    with imitated() as xp:
        opt, tensors, expected, its, begins = both_with_tensors(xp, settings)
        for t, numbers in enumerate(2 * SCALER):
            g = gradient(TENSORS, t)
            parts = [g[begin:][:size] for begin, size in zip(begins, SIZES, strict=True)]
            parts[t % 6][0] = math.nan if "skip_nonfinite" in settings and t in (2, 4) else 1.0
            which = {i for i in range(6) if (i == 2 if t == 6 else (i + t) % 3 != 1)}
            grads = [Guarded(part, i * t % 16, xp) for i, part in enumerate(parts)]
            for i, (tensor, each) in enumerate(zip(tensors, grads, strict=True)):
                place = each.place.start, SIZES[i]
                tensor.grad = DeviceTensor.over(each.memory, *place) if i in which else None
            assign(None, its, parts, which.__contains__)
            arrays = [None if each is None else xp.array(np.float32(each)) for each in numbers]
            step_together([opt], 0.5, *arrays, zero_grads=True)
            step_with_scaler(expected, 0.5, *numbers)
            for i, each in enumerate(grads):
                if i in which:
                    each.assert_zeroed(what=f"step {t}, tensor {i}:")
                else:
                    each.assert_kept()
            if t % 2:
                assert_alike(xp, opt, expected, f"after step {t}")


def test_gradients_are_zeroed_in_a_graph() -> None:
    """Each replay zeroes them, also one that skips."""
    with imitated() as xp:
        settings: dict[str, Any] = {"max_norm": 0.5, "skip_nonfinite": 9}
        opt, tensors, expected, its, begins = both_with_tensors(xp, settings, max_steps=9)
        grads = [Guarded(np.ones(size, np.float32), i, xp) for i, size in enumerate(SIZES)]
        for tensor, each, size in zip(tensors, grads, SIZES, strict=True):
            tensor.grad = DeviceTensor.over(each.memory, each.place.start, size)
        assign(None, its, [np.ones(size, np.float32) for size in SIZES], lambda _: True)
        step_together([opt], 0.5, zero_grads=True)
        step_together([expected], 0.5)
        replay = xp.capture(lambda: step_together([opt], 0.5, zero_grads=True))
        for t in range(5):
            g = gradient(TENSORS, t)
            g[begins[t]] = math.nan if t == 2 else 1.0
            for each, other, begin, size in zip(grads, its, begins, SIZES, strict=True):
                each.before[each.place] = g[begin:][:size]
                write(xp, each.array, g[begin:][:size])
                other.grad.numpy()[...] = g[begin:][:size]
            replay()
            step_together([expected], 0.5)
            for each in grads:
                each.assert_zeroed(what=f"replay {t}:")
        assert_alike(xp, opt, expected)
