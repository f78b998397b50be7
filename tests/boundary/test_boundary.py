"""What the boundary refuses, with which error and which words; nothing is changed by a refused call."""

from __future__ import annotations

import functools
import gc
import inspect
import re
import unittest.mock
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import capsules
from boundary import model as boundary_model
from support import CLASSES, Array, assert_bits


def ones(n: int = 8) -> Array:
    """Return n ones."""
    return np.ones(n, np.float32)


def read_only(array: Array) -> Array:
    """Return the array, no longer writable."""
    array.setflags(write=False)
    return array


def off_by_a_byte(n: int = 8) -> Array:
    """Return a float32 array whose data begin at an odd address."""
    return np.zeros(4 * n + 1, np.uint8)[1:].view(np.float32)


WRONG_DTYPES: dict[str, Any] = {
    "float64": np.ones(8),
    "float16": np.ones(8, np.float16),
    "int32": np.ones(8, np.int32),
    "uint8": np.ones(8, np.uint8),
    "bool": np.ones(8, bool),
    "complex64": np.ones(8, np.complex64),
    ">f4": np.ones(8, ">f4"),
    "datetime64": np.zeros(8, "datetime64[s]"),
    "object": np.ones(8, object),
}

WRONG_LAYOUTS = {
    "every other": np.ones(16, np.float32)[::2],
    "reversed": ones()[::-1],
    "transposed": np.ones((4, 2), np.float32).T,
    "column": np.ones((8, 3), np.float32)[:, 1],
    "broadcast": np.lib.stride_tricks.as_strided(ones(), (8,), (0,)),
}


class Counted(lrcore.Adam):
    """An optimizer that checks that nothing changed."""

    def unchanged(self, call: Callable[[], object], error: type[Exception], match: str) -> None:
        """Assert that the call is refused and changes nothing."""
        before = [np.array(self.params), *map(np.array, self.state.values())]
        count = self.step_count
        with pytest.raises(error, match=match):
            call()
        after = [self.params, *self.state.values()]
        for left, right in zip(after, before, strict=True):
            assert_bits(left, right)
        assert self.step_count == count


@pytest.fixture
def opt() -> Counted:
    """An optimizer after one step."""
    opt = Counted(ones())
    opt.step(ones())
    return opt


@pytest.mark.parametrize("dtype", WRONG_DTYPES)
def test_wrong_dtype(opt: Counted, dtype: str) -> None:
    array = WRONG_DTYPES[dtype]
    before = array.copy()
    # What NumPy does not export has its own message chained; its dtype is still named.
    name = {">f4": "f4", "datetime64": "datetime64", "object": "object"}.get(dtype, dtype)
    with pytest.raises(TypeError, match=f"^params: expected .*float32.*{name}"):
        lrcore.Adam(array)
    opt.unchanged(lambda: opt.step(array), TypeError, f"^grads: expected .*float32.*{name}")
    assert (array == before).all()


@pytest.mark.parametrize("name", [">f4", "object"])
def test_the_exporters_error_is_chained(name: str) -> None:
    with pytest.raises(TypeError) as refused:
        lrcore.SGD(WRONG_DTYPES[name])
    assert isinstance(refused.value.__cause__, BufferError)


@pytest.mark.parametrize("value", [None, [1.0] * 8, 3.0, "weights", b"12345678", object()])
def test_what_is_no_array(opt: Counted, value: Any) -> None:
    got = type(value).__name__ if value is not None else "None"
    with pytest.raises(TypeError, match=f"^params: expected a float32 array with DLPack .*got {got}$"):
        lrcore.SGD(value)
    if value is not None:
        opt.unchanged(lambda: opt.step(value), TypeError, f"^grads: expected a float32 array .*got {got}$")


def test_no_gradient(opt: Counted) -> None:
    opt.unchanged(opt.step, TypeError, "^grads: expected an array, got None; .*grads=")


@pytest.mark.parametrize("layout", WRONG_LAYOUTS)
def test_wrong_layout(opt: Counted, layout: str) -> None:
    array = WRONG_LAYOUTS[layout]
    with pytest.raises(ValueError, match="^params: expected a C-contiguous array, got shape .*strides"):
        lrcore.SGD(array)
    opt.unchanged(
        lambda: opt.step(array), ValueError, r"^grads: expected a C-contiguous array, got shape .*strides"
    )


def test_misaligned(opt: Counted) -> None:
    with pytest.raises(ValueError, match="^params: expected data aligned to 4 bytes, got address 0x"):
        lrcore.SGD(off_by_a_byte())
    opt.unchanged(lambda: opt.step(off_by_a_byte()), ValueError, "^grads: expected data aligned to 4 bytes")


def test_strides_do_not_matter_where_nothing_is_skipped() -> None:
    """Extents of 1 and empty arrays may have any strides; any C-contiguous shape is flat."""
    for shape in [(8,), (2, 4), (1, 8), (8, 1), (2, 1, 4)]:
        params = np.ones(shape, np.float32)
        lrcore.SGD(params, lr=0.5).step(ones())
        assert (params == 0.5).all()
    single = np.ones((4, 4), np.float32)[::4, :1]
    lrcore.SGD(single, lr=0.5).step(ones(1))
    assert single == 0.5
    scalar = np.array(1, np.float32)
    lrcore.SGD(scalar, lr=0.5).step(ones(1))
    assert scalar == 0.5


@pytest.mark.parametrize("name", CLASSES)
def test_empty(name: str) -> None:
    """No elements: no error, and the step counts."""
    for params in (
        np.zeros(0, np.float32),
        np.zeros((0, 3), np.float32),
        np.zeros((4, 6), np.float32)[::2, 3:3],
    ):
        opt = CLASSES[name](params)
        opt.step(np.zeros(0, np.float32))
        assert opt.step_count == 1


def test_read_only(opt: Counted) -> None:
    for array in (
        read_only(ones()),
        boundary_model.Liar(read_only(ones())),
    ):  # the flag of NumPy, and of DLPack
        with pytest.raises(ValueError, match="^params: the array is read-only"):
            lrcore.SGD(array)
        opt.step(array)
    assert opt.step_count == 3
    with pytest.raises(ValueError, match="^exp_avg: the array is read-only"):
        lrcore.functional.adam(ones(), ones(), read_only(ones()), ones(), step=1, lr=0.1)


def test_sizes(opt: Counted) -> None:
    opt.unchanged(lambda: opt.step(ones(7)), ValueError, "^grads: expected 8 elements like params, got 7$")
    opt.unchanged(lambda: opt.step(ones(0)), ValueError, "^grads: expected 8 elements like params, got 0$")
    with pytest.raises(ValueError, match="^grads: expected 8 elements"):
        lrcore.SGD(ones(), grads=ones(9))
    with pytest.raises(ValueError, match="^exp_avg_sq: expected 8 elements"):
        lrcore.functional.adam(ones(), ones(), ones(), ones(9), step=1, lr=0.1)
    with pytest.raises(TypeError, match=r"^states: expected 2 arrays \(exp_avg, exp_avg_sq\), got 1$"):
        lrcore.functional.adam(ones(), ones(), ones(), step=1, lr=0.1)


def test_shapes_that_mean_something_else() -> None:
    """As many elements in another order, as a transposed copy has, are refused; flat arrays are not."""
    params = np.zeros((2, 3), np.float32)
    for fits in [(2, 3), (6,), (2, 1, 3), (2, 3, 1)]:
        lrcore.SGD(params, lr=1.0).step(np.ones(fits, np.float32))
    assert (params == -4).all()
    for wrong in [(3, 2), (6, 1), (1, 6), (3, 1, 2)]:
        with pytest.raises(
            ValueError, match=r"^grads: expected shape \(2, 3\) like params, or a flat array, got \("
        ):
            lrcore.SGD(params, lr=1.0).step(np.ones(wrong, np.float32))
    assert (params == -4).all()
    lrcore.SGD(np.zeros(6, np.float32)).step(np.ones((3, 2), np.float32))


def test_overlap() -> None:
    memory = ones(40)
    p, g, m, v = memory[:8], memory[8:16], memory[16:24], memory[24:32]
    lrcore.functional.adam(p, g, m, v, step=1, lr=0.1)
    before = memory.copy()

    def refused(match: str, *arrays: Array) -> None:
        with pytest.raises(ValueError, match=match):
            lrcore.functional.adam(*arrays, step=2, lr=0.1)
        assert_bits(memory, before)

    refused("^grads: shares memory with params", p, p, m, v)
    refused("^grads: shares memory with params", p, memory[7:15], m, v)
    refused("^exp_avg: shares memory with exp_avg_sq,", p, g, m, memory[23:31])
    refused("^exp_avg: shares memory with params", p, g, memory[7:15], v)
    refused("^grads: shares memory with exp_avg,", p, memory[17:25], m, v)
    with pytest.raises(ValueError, match="^grads: shares memory with params"):
        lrcore.SGD(p, grads=p)
    opt = Counted(p)
    opt.unchanged(lambda: opt.step(p), ValueError, "^grads: shares memory with params")
    opt.unchanged(lambda: opt.step(opt.state["exp_avg"]), ValueError, "^grads: shares memory with exp_avg,")


def test_streams_are_for_devices(opt: Counted) -> None:
    opt.unchanged(lambda: opt.step(ones(), stream=0), ValueError, "^stream: CPU arrays have no stream")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_grad_scale(opt: Counted, value: float) -> None:
    opt.unchanged(
        lambda: opt.step(ones(), grad_scale=value),
        ValueError,
        "^grad_scale: expected a number that is finite",
    )
    with pytest.raises(ValueError, match="^grad_scale"):
        lrcore.functional.sgd(ones(), ones(), step=1, lr=0.1, grad_scale=value)


def test_gradients_are_never_written(opt: Counted) -> None:
    g = ones()
    opt.step(g, grad_scale=3.0)
    assert_bits(g, ones())


@pytest.mark.parametrize(
    ("device", "name"), [((10, 1), "rocm:1"), ((8, 0), "metal:0"), ((14, 2), "DLPack device type 14")]
)
def test_an_array_of_another_device(device: tuple[int, int], name: str) -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return device

        def __dlpack__(self, **_: Any) -> None:
            raise AssertionError("the device is asked first")

    with pytest.raises(
        RuntimeError, match=f"^params: the array is on {name}, and lrcore steps arrays of the CPU"
    ):
        lrcore.SGD(Elsewhere())


class Legacy:
    """An exporter that knows only the DLPack of before versions."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


def test_legacy_exporters_may_be_read_and_not_written(opt: Counted) -> None:
    expected = Counted(ones())
    for each in (opt, expected):
        each.step_count = 5
    twin = np.array(opt.params)
    opt.step(Legacy(ones()))
    assert opt.step_count == 6
    assert not np.array_equal(opt.params, twin)
    with pytest.raises(TypeError, match="^params: .*does not say that it may be written"):
        lrcore.SGD(Legacy(ones()))


def test_exporters_that_misbehave(opt: Counted) -> None:
    class Exporter:
        def __init__(self, result: Any, device: Any = (1, 0)) -> None:
            self.result = result
            self.device = device

        def __dlpack_device__(self) -> Any:
            return self.device

        def __dlpack__(self, **_: Any) -> Any:
            if isinstance(self.result, BaseException):
                raise self.result
            return self.result

    used = ones().__dlpack__(max_version=(1, 0))
    np.from_dlpack(Exporter(used))
    opt.unchanged(
        lambda: opt.step(Exporter(used)), TypeError, "^grads: __dlpack__ returned no unused DLPack capsule"
    )
    opt.unchanged(lambda: opt.step(Exporter(3)), TypeError, "^grads: __dlpack__ returned no unused")
    opt.unchanged(
        lambda: opt.step(Exporter(RuntimeError("lost"))), TypeError, "^grads: .*cannot be exported: lost"
    )
    opt.unchanged(lambda: opt.step(Exporter(MemoryError("full"))), MemoryError, "^full$")
    device: Any
    for device in (None, 1, (1,), [1, 0], (1, 0, 0)):
        step = functools.partial(opt.step, Exporter(3, device))
        opt.unchanged(step, TypeError, "^grads: __dlpack_device__ returned no pair")
    for device in ((1.5, 0), (1, None), ("cpu", 0)):
        step = functools.partial(opt.step, Exporter(3, device))
        opt.unchanged(step, TypeError, "^grads: .*cannot be exported: .*integer")
    with pytest.raises(KeyboardInterrupt):
        opt.step(Exporter(KeyboardInterrupt()))


def test_memory_is_held_and_let_go() -> None:
    """A bound array lives as long as its optimizer; a passed one no longer than its step."""

    class Watched(np.ndarray[Any, Any]):
        pass

    def watched() -> Any:
        return ones().view(Watched)

    params, bound, passed = watched(), watched(), watched()
    references = [weakref.ref(each) for each in (params, bound, passed)]
    opt = lrcore.SGD(params, grads=bound)
    opt.step(passed)
    del params, bound, passed
    gc.collect()
    assert [reference() is None for reference in references] == [False, False, True]
    opt.step()
    del opt
    gc.collect()
    assert all(reference() is None for reference in references)


def test_an_array_that_is_held_keeps_its_memory() -> None:
    """A flat array of NumPy does not go through its exporter; it is held all the same, and let go of."""
    params, grads = ones(), ones()
    held = weakref.ref(grads)
    opt = lrcore.SGD(params, lr=0.5, grads=grads)
    for array in (params, grads):
        with pytest.raises(ValueError, match="resize"):
            array.resize(1000)
    del array, grads
    gc.collect()
    assert held() is not None
    opt.step()
    assert_bits(params, np.full(8, 0.5, np.float32))
    del opt
    assert held() is None


def test_an_array_that_is_given_another_shape_later() -> None:
    """A view keeps the extents of the moment it was taken."""
    params = ones()
    opt = lrcore.SGD(params, lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of some versions of NumPy
        params.shape = (2, 4)
    opt.step(np.ones((2, 4), np.float32))
    opt.step(ones())
    assert_bits(params, np.zeros((2, 4), np.float32))


ROLES = boundary_model.roles(ones)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("lie", boundary_model.LIES)
def test_exporters_that_lie(role: str, lie: str) -> None:
    """None of it is believed, where it can be seen to be wrong; the array is as before."""
    array = ones()
    lies, error, words = boundary_model.LIES[lie]
    with pytest.raises(error, match=f"^{role.split(maxsplit=1)[0]}: .*{re.escape(words)}"):
        ROLES[role](boundary_model.Liar(array, **lies))
    assert_bits(array, ones())


@pytest.mark.parametrize("device_type", [capsules.CUDA_HOST, capsules.ROCM_HOST])
def test_memory_of_the_host_that_is_pinned(device_type: int) -> None:
    """It is stepped as any other of the CPU."""
    params, grads = ones(), ones()
    pinned = [
        boundary_model.Liar(array, (device_type, 0), device_type=device_type) for array in (params, grads)
    ]
    opt = lrcore.SGD(pinned[0], lr=0.5)
    opt.step(pinned[1])
    assert opt.device == "cpu"
    assert_bits(params, np.full(8, 0.5, np.float32))


@pytest.mark.parametrize("role", ROLES)
def test_an_exporter_with_no_elements_needs_no_memory(role: str) -> None:
    """An empty array has no memory in several libraries; here it is of another size than the others."""
    nothing = boundary_model.Liar(ones(0), data=None)
    if role == "params":
        opt = lrcore.Adam(nothing)
        opt.step(ones(0))
        assert (opt.size, opt.step_count) == (0, 1)
    elif role != "grads bound":
        with pytest.raises(ValueError, match=r"expected \d elements"):
            ROLES[role](nothing)


def test_an_exporter_that_moves_and_vanishes() -> None:
    """What it has given stays: the capsule holds it."""
    exporter = boundary_model.Liar(ones())
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


@pytest.mark.parametrize("role", ROLES)
def test_masked_arrays(role: str) -> None:
    """A step would ignore their masks."""
    masked = np.ma.array(ones(), mask=[True, False] * 4)
    with pytest.raises(TypeError, match=rf"^{role.split(maxsplit=1)[0]}: .*got MaskedArray.*filled\(0\)"):
        ROLES[role](masked)
    assert (masked.data == 1).all()


def test_a_mock_is_no_array() -> None:
    """Whatever it is asked, it has something to say."""
    with pytest.raises(TypeError, match="^params: expected a float32 array with DLPack"):
        lrcore.SGD(unittest.mock.Mock())


def test_a_scalar_has_no_memory_to_write() -> None:
    with pytest.raises(TypeError, match="^params: .*got float32; pass an array, whose memory can be written"):
        lrcore.SGD(np.float32(0))


@pytest.mark.parametrize(
    ("arguments", "keywords", "words"),
    [
        ((1, 2), {}, "got 2 positional arguments"),
        ((), {"closure": None}, "got closure=; compute the gradients before the step"),
        ((1,), {"lr": 0.1}, "got lr=; assign opt.lr"),
        ((1,), {"grads": 1}, "got grads= twice"),
        ((1,), {"stream": None, "epoch": 1, "loss": 2}, "got epoch= and loss="),
    ],
)
def test_arguments_that_a_step_does_not_take(
    opt: Counted, arguments: tuple[Any, ...], keywords: dict[str, Any], words: str
) -> None:
    opt.unchanged(
        lambda: opt.step(*arguments, **keywords),
        TypeError,
        rf"^step: expected step\(grads=None, \*, grad_scale=1.0, stream=None\), {words}$",
    )


def test_the_signature_of_a_step_can_be_read() -> None:
    signature = inspect.signature(lrcore.Adam.step)
    assert str(signature) == "(self, /, grads=None, *, grad_scale=1.0, stream=None)"


def test_a_scale_that_float32_loses(opt: Counted) -> None:
    """As hyperparameters are: what is taken acts."""
    for scale in (1e-60, -1e-50, 2.0**-150):
        opt.unchanged(
            functools.partial(opt.step, ones(), grad_scale=scale),
            ValueError,
            "^grad_scale: .* becomes 0 in float32",
        )
    opt.step(ones(), grad_scale=2.0**-149)
    opt.step(ones(), grad_scale=0)
    assert opt.step_count == 3
