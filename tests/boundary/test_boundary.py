"""What the boundary refuses, with which error and which words; nothing is changed by a refused call."""

from __future__ import annotations

import functools
import gc
import inspect
import unittest.mock
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import capsules
from boundary.model import Liar, roles
from support import CLASSES, Array, assert_bits


def ones(n: int = 8) -> Array:
    """Return n ones."""
    return np.ones(n, np.float32)


def read_only(array: Array) -> Array:
    """Return the array, no longer writable."""
    array.setflags(write=False)
    return array


ROLES = roles(ones)


class Exporter:
    """Gives what it is told as its device and as its capsule, or raises it."""

    def __init__(self, result: Any, device: Any = (capsules.CPU, 0)) -> None:
        self.result, self.device = result, device

    def __dlpack_device__(self) -> Any:
        return self.device

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Legacy:
    """An exporter that knows only the DLPack of before versions."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return capsules.CPU, 0

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


def used_capsule() -> Any:
    """Return a capsule that NumPy has consumed."""
    used = ones().__dlpack__(max_version=(1, 0))
    np.from_dlpack(Exporter(used))
    return used


class Counted(lrcore.Adam):
    """An optimizer that checks that nothing changed."""

    def unchanged(self, call: Callable[[], object], error: type[BaseException], match: str) -> None:
        """Assert that the call is refused and changes nothing."""
        before = [np.array(self.params), *map(np.array, self.state.values())]
        count = self.step_count
        with pytest.raises(error, match=match):
            call()
        for left, right in zip([self.params, *self.state.values()], before, strict=True):
            assert_bits(left, right)
        assert self.step_count == count


@pytest.fixture
def opt() -> Counted:
    """An optimizer after one step."""
    opt = Counted(ones())
    opt.step(ones())
    return opt


# ---- what is no array of floats that a step can read

NO_POINTER = "expected an array with memory, got a null pointer"
NO_SHAPE = "the exporter of this array gives no valid shape"
NO_ARRAYS: tuple[Any, ...] = ([1.0], 1.0, "params", b"12345678", (), {}, object(), memoryview(b"12345678"))
NO_ARRAY = "expected a float32 array .*DLPack .*got"

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    **{
        dtype: (np.zeros(8, dtype), TypeError, f"expected .*float32.*{dtype.lstrip('>')}")
        for dtype in ("float64", "float16", "int32", "uint8", "bool", "complex64", "datetime64", "object", "U1", ">f4")
    },
    **{
        f"no array but {type(value).__name__}": (value, TypeError, f"{NO_ARRAY} {type(value).__name__}$")
        for value in NO_ARRAYS
    },
    "class": (np.ndarray, TypeError, "expected a float32 array, but this type cannot be exported"),
    "mock": (unittest.mock.Mock(), TypeError, NO_ARRAY),  # which has something to say, whatever it is asked
    "scalar": (np.float32(0), TypeError, "got float32; pass an array, whose memory can be written"),
    "masks": (np.ma.array(ones(), mask=[True, False] * 4), TypeError, r"got MaskedArray.*filled\(0\)"),
    # layouts
    "every other": (np.ones(16, np.float32)[::2], ValueError, "expected a C-contiguous array, got shape .*strides"),
    "reversed": (ones()[::-1], ValueError, "expected a C-contiguous array"),
    "transposed": (np.ones((4, 2), np.float32).T, ValueError, "expected a C-contiguous array"),
    "column": (np.ones((8, 3), np.float32)[:, 1], ValueError, "expected a C-contiguous array"),
    "broadcast": (np.ndarray(8, "f4", bytearray(4), strides=(0,)), ValueError, "expected a C-contiguous array"),
    "off by a byte": (np.zeros(33, np.uint8)[1:].view("f4"), ValueError, "expected data aligned to 4 bytes, got address 0x"),
    # exporters that misbehave
    "used": (Exporter(used_capsule()), TypeError, "__dlpack__ returned no unused DLPack capsule"),
    "no capsule": (Exporter(3), TypeError, "__dlpack__ returned no unused DLPack capsule"),
    "raises": (Exporter(RuntimeError("lost")), TypeError, "cannot be exported: lost"),
    **{
        f"device {device!r}": (Exporter(3, device), TypeError, "__dlpack_device__ returned no pair")
        for device in (None, 1, (1,), [1, 0], (1, 0, 0))
    },
    **{
        f"device {device!r}": (Exporter(3, device), TypeError, "cannot be exported: .*integer")
        for device in ((1.5, 0), (1, None), ("cpu", 0))
    },
    # exporters that lie: none of it is believed, where it can be seen to be wrong
    "no memory": (Liar(ones(), data=None), ValueError, NO_POINTER),
    "no memory at its offset": (Liar(ones(), byte_offset=lambda tensor: 2**64 - tensor.data), ValueError, NO_POINTER),
    "no shape": (Liar(ones(), shape=None), ValueError, NO_SHAPE),
    "fewer dimensions than none": (Liar(ones(), ndim=-1), ValueError, NO_SHAPE),
    "a negative extent": (Liar(ones(), extents=[-8]), ValueError, NO_SHAPE),
    "more than memory holds": (Liar(ones(), extents=[2**62]), ValueError, "has more elements than memory can hold"),
    "a later version": (Liar(ones(), major=2), TypeError, "expected DLPack version 1, got version 2"),
    "another device": (Liar(ones(), device_type=capsules.CUDA), RuntimeError, "name different devices"),
    "another device before": (Liar(ones(), (capsules.CUDA, 0)), RuntimeError, ""),
    "another dtype": (Liar(ones(), bits=16), TypeError, "expected dtype float32, got float16"),
    "two lanes": (Liar(ones(), lanes=2), TypeError, "expected dtype float32, got float32x2"),
    "an odd address": (Liar(ones(), byte_offset=2), ValueError, "expected data aligned to 4 bytes"),
}  # fmt: skip
"""For each wrong array the error that is due, and some of its words."""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arrays(role: str, wrong: str) -> None:
    """Wherever one is taken; neither it nor what is beside it is written."""
    value, error, words = WRONG[wrong]
    made: list[Array] = []

    def beside() -> Array:
        made.append(ones())
        return made[-1]

    inside = getattr(value, "array", value)
    before = inside.tobytes() if isinstance(inside, np.ndarray) else None
    with pytest.raises(error, match=f"^{role.partition(' ')[0]}: .*{words}") as refused:
        roles(beside)[role](value)
    assert before is None or inside.tobytes() == before
    assert all((each == 1).all() for each in made)
    if wrong in (">f4", "object"):  # which NumPy does not export
        assert isinstance(refused.value.__cause__, BufferError)


def test_parameters_that_are_none() -> None:
    with pytest.raises(TypeError, match=f"^params: {NO_ARRAY} None$"):
        lrcore.SGD(None)


@pytest.mark.parametrize("error", [MemoryError("full"), KeyboardInterrupt("now")])
def test_errors_of_an_exporter_that_are_no_refusals(opt: Counted, error: BaseException) -> None:
    opt.unchanged(lambda: opt.step(Exporter(error)), type(error), f"^{error}$")


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (read_only(ones()), ValueError, "the array is read-only"),
        (Liar(read_only(ones())), ValueError, "the array is read-only"),
        (Legacy(ones()), TypeError, ".*does not say that it may be written"),
    ],
    ids=["NumPy's flag", "DLPack's flag", "DLPack without flags"],
)  # fmt: skip
def test_read_only(array: Any, error: type[Exception], words: str) -> None:
    """Gradients and what is loaded are only read."""
    for role, call in ROLES.items():
        if role.startswith("params") or role == "exp_avg of a function":
            with pytest.raises(error, match=f"^{role.partition(' ')[0]}: {words}"):
                call(array)
        else:
            call(array)
    params = ones()
    lrcore.SGD(params, lr=0.5).step(array)
    assert_bits(params, np.full(8, 0.5, np.float32))


@pytest.mark.parametrize(
    ("device", "name"), [((10, 1), "rocm:1"), ((8, 0), "metal:0"), ((14, 2), "DLPack device type 14")]
)
def test_an_array_of_another_device(device: tuple[int, int], name: str) -> None:
    """The device is asked first."""
    with pytest.raises(
        RuntimeError, match=f"^params: the array is on {name}, and lrcore steps arrays of the CPU"
    ):
        lrcore.SGD(Exporter(AssertionError(), device))


# ---- shapes, sizes, places


@pytest.mark.parametrize("name", CLASSES)
def test_empty(name: str) -> None:
    """No elements: no error, and the step counts; any strides are right, and no memory is needed."""
    for params in (
        ones(0),
        np.zeros((0, 3), "f4"),
        np.zeros((4, 6), "f4")[::2, 3:3],
        Liar(ones(0), data=None),
    ):
        opt = CLASSES[name](params)
        opt.step(ones(0))
        assert (opt.size, opt.step_count) == (0, 1)


def test_sizes(opt: Counted) -> None:
    for wrong in (ones(7), ones(0), ones(9)):
        step = functools.partial(opt.step, wrong)
        opt.unchanged(step, ValueError, f"^grads: expected 8 elements like params, got {wrong.size}$")
    with pytest.raises(ValueError, match="^grads: expected 8 elements"):
        lrcore.SGD(ones(), grads=ones(9))
    with pytest.raises(ValueError, match="^exp_avg_sq: expected 8 elements"):
        lrcore.functional.adam(ones(), ones(), ones(), ones(9), step=1, lr=0.1)
    with pytest.raises(TypeError, match=r"^states: expected 2 arrays \(exp_avg, exp_avg_sq\), got 1$"):
        lrcore.functional.adam(ones(), ones(), ones(), step=1, lr=0.1)


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("params", "grads bound")])
def test_an_exporter_with_no_elements_needs_no_memory(role: str) -> None:
    """An empty array has no memory in several libraries; here it is of another size than the others."""
    with pytest.raises(ValueError, match=r"expected \d elements"):
        ROLES[role](Liar(ones(0), data=None))


def test_shapes_that_mean_something_else() -> None:
    """As many elements in another order, as a transposed copy has, are refused; flat arrays are not."""
    params = np.zeros((2, 3), np.float32)
    opt = lrcore.SGD(params, lr=1.0)
    for fits in [(2, 3), (6,), (2, 1, 3), (2, 3, 1)]:
        opt.step(np.ones(fits, np.float32))
    for wrong in [(3, 2), (6, 1), (1, 6), (3, 1, 2)]:
        with pytest.raises(
            ValueError, match=r"^grads: expected shape \(2, 3\) like params, or a flat array, got \("
        ):
            opt.step(np.ones(wrong, np.float32))
    assert (params == -4).all()
    lrcore.SGD(np.zeros(6, np.float32)).step(np.ones((3, 2), np.float32))


def test_overlap() -> None:
    memory = ones(40)
    p, g, m, v = memory[:32].reshape(4, 8)
    lrcore.functional.adam(p, g, m, v, step=1, lr=0.1)
    before = memory.copy()
    for words, arrays in {
        "grads: shares memory with params": (p, p, m, v),
        "grads: shares memory with params.*": (p, memory[7:15], m, v),
        "exp_avg: shares memory with exp_avg_sq,": (p, g, m, memory[23:31]),
        "exp_avg: shares memory with params": (p, g, memory[7:15], v),
        "grads: shares memory with exp_avg,": (p, memory[17:25], m, v),
    }.items():
        with pytest.raises(ValueError, match=f"^{words}"):
            lrcore.functional.adam(*arrays, step=2, lr=0.1)
        assert_bits(memory, before)
    with pytest.raises(ValueError, match="^grads: shares memory with params"):
        lrcore.SGD(p, grads=p)
    opt = Counted(p)
    opt.unchanged(lambda: opt.step(p), ValueError, "^grads: shares memory with params")
    opt.unchanged(lambda: opt.step(opt.state["exp_avg"]), ValueError, "^grads: shares memory with exp_avg,")


# ---- how long memory is held


def test_memory_is_held_and_let_go() -> None:
    """A bound array lives as long as its optimizer, and is not resized; a passed one no longer than its step."""
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


@pytest.mark.parametrize("reshape", [
    lambda params: params.resize((2, 4), refcheck=False), lambda params: setattr(params, "shape", (2, 4))
])  # fmt: skip
def test_an_array_that_is_given_another_shape_later(reshape: Callable[[Array], None]) -> None:
    """A view keeps the extents of the moment it was taken."""
    params = ones()
    opt = lrcore.SGD(params, lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of some versions of NumPy
        reshape(params)
    opt.step(np.ones((2, 4), np.float32))
    opt.step(ones())
    assert_bits(params, np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("device_type", [capsules.CUDA_HOST, capsules.ROCM_HOST])
def test_memory_of_the_host_that_is_pinned(device_type: int) -> None:
    """It is stepped as any other of the CPU."""
    params, grads = ones(), ones()
    pinned = [Liar(array, (device_type, 0), device_type=device_type) for array in (params, grads)]
    opt = lrcore.SGD(pinned[0], lr=0.5)
    opt.step(pinned[1])
    assert opt.device == "cpu"
    assert_bits(params, np.full(8, 0.5, np.float32))


def test_an_exporter_that_moves_and_vanishes() -> None:
    """What it has given stays: the capsule holds it."""
    exporter = Liar(ones())
    memory, released = exporter.array, weakref.ref(exporter)
    opt = lrcore.SGD(exporter, lr=0.5)
    exporter.array = np.full(3, 9, np.float32)
    opt.step(ones())
    assert_bits(memory, np.full(8, 0.5, np.float32))
    assert_bits(exporter.array, np.full(3, 9, np.float32))
    opt._params = None
    del exporter
    gc.collect()
    assert released() is None
    opt.step(ones())
    assert_bits(memory, np.zeros(8, np.float32))


def test_numpy_subclasses_keep_numpy_state() -> None:
    opt = lrcore.Adam(ones().view(type("Own", (np.ndarray,), {})))
    assert type(opt.state["exp_avg"]) is np.ndarray


# ---- the other arguments of a step


NO_ARGUMENT = r"step: expected step\(grads=None, \*, grad_scale=1.0, stream=None\), "


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((), {}, TypeError, "grads: expected an array, got None; .*grads="),
        *(((ones(),), {"grad_scale": each}, ValueError, "grad_scale: expected a number that is finite")
          for each in (np.nan, np.inf, -np.inf, 1e39)),
        *(((ones(),), {"grad_scale": each}, ValueError, "grad_scale: .* becomes 0 in float32")
          for each in (1e-60, -1e-50, 2.0**-150)),
        ((ones(),), {"stream": 0}, ValueError, "stream: CPU arrays have no stream"),
        ((1, 2), {}, TypeError, f"{NO_ARGUMENT}got 2 positional arguments$"),
        ((), {"closure": None}, TypeError, f"{NO_ARGUMENT}got closure=; compute the gradients before the step$"),
        ((1,), {"lr": 0.1}, TypeError, f"{NO_ARGUMENT}got lr=; assign opt.lr$"),
        ((1,), {"grads": 1}, TypeError, f"{NO_ARGUMENT}got grads= twice$"),
        ((1,), {"stream": None, "epoch": 1, "loss": 2}, TypeError, f"{NO_ARGUMENT}got epoch= and loss=$"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_step(
    opt: Counted, arguments: Any, keywords: Any, error: type[Exception], words: str
) -> None:
    opt.unchanged(lambda: opt.step(*arguments, **keywords), error, f"^{words}")
    if "grad_scale" in keywords:
        with pytest.raises(error, match="^grad_scale"):
            lrcore.functional.sgd(ones(), ones(), step=1, lr=0.1, **keywords)


def test_a_scale_that_is_taken_leaves_the_gradients(opt: Counted) -> None:
    g = ones()
    for scale in (2.0**-149, 0, 3.0):
        opt.step(g, grad_scale=scale)
    assert opt.step_count == 4
    assert_bits(g, ones())


def test_the_signature_of_a_step_can_be_read() -> None:
    signature = inspect.signature(lrcore.Adam.step)
    assert str(signature) == "(self, /, grads=None, *, grad_scale=1.0, stream=None)"
