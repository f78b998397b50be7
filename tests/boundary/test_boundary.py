"""Inputs that the boundary refuses, and the error's type and message; a refused call changes nothing."""

from __future__ import annotations

import functools
import gc
import unittest.mock
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import capsules
from boundary.model import Liar, roles
from lrcore import _lrcore_core as core
from support import CLASSES, Array, assert_bits


def ones(n: int = 8) -> Array:
    """Return n ones."""
    return np.ones(n, np.float32)


def read_only(array: Array) -> Array:
    """Return the array after making it read-only."""
    array.setflags(write=False)
    return array


ROLES = roles(ones)


class Exporter:
    """An exporter with a given device, and a given result: a capsule to return or an exception to raise."""

    def __init__(self, result: Any, device: Any = (capsules.CPU, 0)) -> None:
        self.result, self.device = result, device

    def __dlpack_device__(self) -> Any:
        return self.device

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Legacy:
    """An exporter that only supports unversioned DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return capsules.CPU, 0

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


def used_capsule() -> Any:
    """Return a capsule that NumPy has consumed."""
    used = ones().__dlpack__(max_version=(1, 0))
    capsules.on_the_host(used)
    return used


def assert_unchanged(opt: Any, call: Callable[[], object], error: type[BaseException], match: str) -> None:
    """Assert that the call is refused and changes nothing."""
    before = [np.array(opt.params), *map(np.array, opt.state.values())]
    count = opt.step_count
    with pytest.raises(error, match=match):
        call()
    for left, right in zip([opt.params, *opt.state.values()], before, strict=True):
        assert_bits(left, right)
    assert opt.step_count == count


# ---- objects that are not readable float32 arrays

NO_POINTER = "expected an array with memory, got a null pointer"
NO_SHAPE = "the exporter of this array returned an invalid shape"
NO_ARRAYS: tuple[Any, ...] = (1.0, "params", b"12345678", object(), memoryview(b"12345678"))
CONTAINERS: tuple[Any, ...] = ([1.0], (1.0,), {}, (each for each in ""))
NO_ARRAY = "expected a float32 array .*DLPack .*got"

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    **{
        dtype: (np.zeros(8, dtype), TypeError, f"expected .*float32.*{dtype.lstrip('>')}")
        for dtype in ("float64", "int32", "bool", "complex64", "object", ">f4")
    },
    **{
        f"not an array: {type(value).__name__}": (value, TypeError, f"{NO_ARRAY} {type(value).__name__}$")
        for value in NO_ARRAYS
    },
    **{
        f"a container: {type(value).__name__}": (value, TypeError, f"{NO_ARRAY} {type(value).__name__}; put several arrays into")
        for value in CONTAINERS
    },
    "class": (np.ndarray, TypeError, "expected a float32 array, but this type cannot be exported"),
    "mock": (unittest.mock.Mock(), TypeError, NO_ARRAY),  # a Mock has every ordinary attribute
    "scalar": (np.float32(0), TypeError, "got float32; scalars cannot be updated in place: pass an array"),
    "masks": (np.ma.array(ones(), mask=[True, False] * 4), TypeError, r"got MaskedArray.*filled\(0\)"),
    # layouts
    "every other": (np.ones(16, np.float32)[::2], ValueError, "expected a C-contiguous array, got shape .*strides"),
    "reversed": (ones()[::-1], ValueError, "expected a C-contiguous array"),
    "transposed": (np.ones((4, 2), np.float32).T, ValueError, "expected a C-contiguous array"),
    "broadcast": (np.ndarray(8, "f4", bytearray(4), strides=(0,)), ValueError, "expected a C-contiguous array"),
    "off by a byte": (np.zeros(33, np.uint8)[1:].view("f4"), ValueError, "expected data aligned to 4 bytes, got address 0x"),
    **{
        f"on {name}": (Exporter(AssertionError("must not be called"), device), RuntimeError, f"the array is on {name}, but lrcore supports")
        for device, name in (((10, 1), "rocm:1"), ((8, 0), "metal:0"), ((14, 2), "DLPack device type 14"))
    },
    # exporters that misbehave
    "used": (Exporter(used_capsule()), TypeError, "__dlpack__ did not return an unused DLPack capsule"),
    "no capsule": (Exporter(3), TypeError, "__dlpack__ did not return an unused DLPack capsule"),
    **{
        f"raises {error.__name__}": (Exporter(error("lost")), TypeError, "cannot be exported: lost")
        for error in (RuntimeError, TypeError)
    },
    **{
        f"device {device!r}": (Exporter(3, device), TypeError, "__dlpack_device__ did not return a pair")
        for device in (None, 1, (1,), [1, 0], (1, 0, 0))
    },
    **{
        f"device {device!r}": (Exporter(3, device), TypeError, "cannot be exported: .*integer")
        for device in ((1.5, 0), (1, None), ("cpu", 0))
    },
    # exporters that lie; only detectable lies can be refused
    "no memory": (Liar(ones(), data=None), ValueError, NO_POINTER),
    "no memory at its offset": (Liar(ones(), byte_offset=lambda tensor: 2**64 - tensor.data), ValueError, NO_POINTER),
    "no shape": (Liar(ones(), shape=None), ValueError, NO_SHAPE),
    "a negative number of dimensions": (Liar(ones(), ndim=-1), ValueError, NO_SHAPE),
    "a negative extent": (Liar(ones(), extents=[-8]), ValueError, NO_SHAPE),
    "more than memory holds": (Liar(ones(), extents=[2**62]), ValueError, "has more elements than memory can hold"),
    "a later version": (Liar(ones(), major=2), TypeError, "expected DLPack version 1, got version 2"),
    "another device": (Liar(ones(), device_type=capsules.CUDA), RuntimeError, "name different devices"),
    "another device before": (Liar(ones(), (capsules.CUDA, 0)), RuntimeError, ""),
    "another dtype": (Liar(ones(), bits=16), TypeError, "expected dtype float32, got float16"),
    "two lanes": (Liar(ones(), lanes=2), TypeError, "expected dtype float32, got float32x2"),
    "an odd address": (Liar(ones(), byte_offset=2), ValueError, "expected data aligned to 4 bytes"),
}  # fmt: skip
"""The expected error for each wrong array, and a part of its message."""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arrays(role: str, wrong: str) -> None:
    """These arrays are refused for every argument that takes an array, and no argument is written."""
    value, error, words = WRONG[wrong]
    name = role.partition(" ")[0]
    if (
        name == "grads" and isinstance(value, (list, tuple)) and role != "grads bound"
    ):  # gradients to be added
        name, words = r"grads\[0\]", "expected a float32 array"
    made: list[Array] = []

    def beside() -> Array:
        made.append(ones())
        return made[-1]

    inside = getattr(value, "array", value)
    before = inside.tobytes() if isinstance(inside, np.ndarray) else None
    with pytest.raises(error, match=f"^{name}: .*{words}") as refused:
        roles(beside)[role](value)
    assert before is None or inside.tobytes() == before
    assert all((each == 1).all() for each in made)
    if wrong in (">f4", "object"):  # NumPy does not export these dtypes
        assert isinstance(refused.value.__cause__, BufferError)


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (read_only(ones()), ValueError, "the array is read-only"),
        (Liar(read_only(ones())), ValueError, "the array is read-only"),
        (Legacy(ones()), TypeError, ".*does not declare it writable"),
    ],
    ids=["NumPy's flag", "DLPack's flag", "DLPack without flags"],
)  # fmt: skip
def test_read_only(array: Any, error: type[Exception], words: str) -> None:
    """Gradients and loaded arrays may be read-only, because they are only read."""
    for role, call in ROLES.items():
        if role.startswith("params") or role == "exp_avg of a function":
            with pytest.raises(error, match=f"^{role.partition(' ')[0]}: {words}"):
                call(array)
        else:
            call(array)
    params = ones()
    lrcore.SGD(params, lr=0.5).step(array)
    assert_bits(params, np.full(8, 0.5, np.float32))


# ---- shapes, sizes, overlap


@pytest.mark.parametrize("name", CLASSES)
def test_empty(name: str) -> None:
    """A step on zero elements is valid and is counted. Any strides are valid, and no memory is needed."""
    for params in (
        ones(0),
        np.zeros((0, 3), "f4"),
        np.zeros((4, 6), "f4")[::2, 3:3],
        Liar(ones(0), data=None),
    ):
        opt = CLASSES[name](params)
        opt.step(ones(0))
        assert (opt.size, opt.step_count) == (0, 1)


def test_sizes_and_shapes() -> None:
    """An array of another shape, such as a transposed copy, is refused. Flat arrays are accepted."""
    opt = lrcore.Adam(np.zeros((2, 3), np.float32))
    refused: dict[Any, str] = {
        5: "6 elements like params, got 5",
        7: "6 elements like params, got 7",
        (3, 2): r"shape \(2, 3\) like params, or a flat array, got \(",
    }
    for wrong, expected in refused.items():
        grads = np.ones(wrong, np.float32)
        assert_unchanged(opt, functools.partial(opt.step, grads), ValueError, f"^grads: expected {expected}")
        with pytest.raises(ValueError, match=f"^grads: expected {expected}"):
            lrcore.SGD(opt.params, grads=grads)
    opt.step(np.ones((2, 1, 3), np.float32))
    opt.step(ones(6))
    lrcore.SGD(ones(6)).step(np.ones((3, 2), np.float32))
    with pytest.raises(TypeError, match=r"^states: expected 2 arrays \(exp_avg, exp_avg_sq\), got 1$"):
        lrcore.functional.adam(ones(), ones(), ones(), step=1, lr=0.1)


def test_overlap() -> None:
    memory = ones(40)
    p, g, m, v = memory[:32].reshape(4, 8)
    lrcore.functional.adam(p, g, m, v, step=1, lr=0.1)
    before = memory.copy()
    for words, arrays in {
        "grads: shares memory with params": (p, memory[7:15], m, v),
        "exp_avg: shares memory with exp_avg_sq,": (p, g, m, memory[23:31]),
        "exp_avg: shares memory with params": (p, g, memory[7:15], v),
        "grads: shares memory with exp_avg,": (p, memory[17:25], m, v),
    }.items():
        with pytest.raises(ValueError, match=f"^{words}"):
            lrcore.functional.adam(*arrays, step=2, lr=0.1)
        assert_bits(memory, before)
    with pytest.raises(ValueError, match="^grads: shares memory with params"):
        lrcore.SGD(p, grads=p)
    opt = lrcore.Adam(p)
    for grads, name in ((p, "params"), (opt.state["exp_avg"], "exp_avg,")):
        step = functools.partial(opt.step, grads)
        assert_unchanged(opt, step, ValueError, f"^grads: shares memory with {name}")


# ---- how long memory is held


def test_memory_is_held_and_let_go() -> None:
    """A bound array lives as long as its optimizer, and cannot be resized.

    A passed array lives no longer than its step.
    """
    params, bound, passed = ones(), ones(), ones()
    references = [weakref.ref(each) for each in (params, bound, passed)]
    opt = lrcore.SGD(params, lr=0.5, grads=bound)
    opt.step(passed)
    for array in (params, bound):
        with pytest.raises(ValueError, match="resize"):
            array.resize(1000)
    del params, bound, passed, array
    gc.collect()
    assert [reference() is None for reference in references] == [False, False, True]
    opt.step()
    assert_bits(opt.params, np.zeros(8, np.float32))
    del opt
    assert [reference() for reference in references] == [None] * 3


def test_an_array_that_is_given_another_shape_later() -> None:
    """The optimizer's view keeps the shape that the array had at construction."""
    params = ones()
    opt = lrcore.SGD(params, lr=0.5)
    params.resize((2, 4), refcheck=False)
    opt.step(np.ones((2, 4), np.float32))
    opt.step(ones())
    assert_bits(params, np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("device_type", [capsules.CUDA_HOST, capsules.ROCM_HOST])
def test_memory_of_the_host_that_is_pinned(device_type: int) -> None:
    """Pinned memory is stepped like any other CPU memory."""
    params, grads = ones(), ones()
    pinned = [Liar(array, (device_type, 0), device_type=device_type) for array in (params, grads)]
    opt = lrcore.SGD(pinned[0], lr=0.5)
    opt.step(pinned[1])
    assert opt.device == "cpu"
    assert_bits(params, np.full(8, 0.5, np.float32))


def test_numpy_subclasses_keep_numpy_state() -> None:
    opt = lrcore.Adam(ones().view(type("Own", (np.ndarray,), {})))
    assert type(opt.state["exp_avg"]) is np.ndarray


# ---- the other arguments of a step


NO_ARGUMENT = r"step: expected step\(grads=None, \*, grad_scale=1.0, zero_grads=False, stream=None\), "


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((), {}, TypeError, "grads: expected an array, got None; .*grads="),
        ((ones(),), {"grad_scale": np.nan}, ValueError, "grad_scale: expected a number that is finite"),
        ((ones(),), {"grad_scale": 2.0**-150}, ValueError, "grad_scale: .* becomes 0 in float32"),
        ((ones(),), {"stream": 0}, ValueError, "stream: CPU arrays have no stream"),
        ((1, 2), {}, TypeError, f"{NO_ARGUMENT}got 2 positional arguments$"),
        ((), {"closure": None}, TypeError, f"{NO_ARGUMENT}got closure=; compute the gradients before the step$"),
        ((1,), {"lr": 0.1}, TypeError, f"{NO_ARGUMENT}got lr=; assign opt.lr$"),
        ((1,), {"grads": 1}, TypeError, f"{NO_ARGUMENT}got grads= twice$"),
        ((1,), {"stream": None, "epoch": 1, "loss": 2}, TypeError, f"{NO_ARGUMENT}got epoch= and loss=$"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_step(arguments: Any, keywords: Any, error: type[Exception], words: str) -> None:
    opt = lrcore.Adam(ones())
    assert_unchanged(opt, lambda: opt.step(*arguments, **keywords), error, f"^{words}")


# ---- calls that the package never makes to its core


BOUND = lrcore.SGD(ones(), grads=ones())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: core.FunctionalStep("sgdd", "l2", ((), 0.0, False)), ValueError, "rule: no rule is called 'sgdd'"),
        (lambda: core.FunctionalStep("adam", "l2", ((), 0.0, False)), TypeError, "hyper: rule adam takes beta1, "),
        (lambda: core.step_together([lrcore.SGD(ones())]), TypeError, "grads: .* need gradients bound at construction"),
        (lambda: core.step_together([BOUND, BOUND]), ValueError, "steppers: expected each stepper only once"),
        (lambda: core.Watch(["params"], [3], "moved"), TypeError, "params: expected a NumPy or torch array, got int"),
    ],
)  # fmt: skip
def test_the_core_trusts_nobody(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        call()
    assert BOUND.step_count == 0
