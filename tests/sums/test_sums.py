"""`lrcore.norm`, `lrcore.dot` and `Pack.norms`: the bits of the definition on every backend, and errors."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore._arrays.memory import aligned_zeros
from sums.oracle import LEAF, dot, products, tree
from support import BACKENDS, LARGE, Array, run_in_threads

LENGTHS = [*range(201), *(k * LEAF + d for k in (1, 2, 3, 31) for d in (-33, -1, 0, 1, 17)), 4 * LARGE + 5]
SCALES = [1e-30, 1.0, 1e25]
SMALLEST, LARGEST = np.float32(1e-45), np.finfo(np.float32).max


def arrays(n: int, scale: float = 1.0, offset: int = 0) -> tuple[Array, Array]:
    """Return two arrays of numbers of both signs, `offset` floats after a multiple of 64 bytes."""
    rng = np.random.default_rng(n)
    x, y = aligned_zeros(n + 16)[offset : offset + n], aligned_zeros(n + 16)[offset : offset + n]
    for each in (x, y):
        each[:] = rng.standard_normal(n, np.float32) * np.float32(scale)
    return x, y


def bits(value: float) -> bytes:
    return np.float64(value).tobytes()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("scale", SCALES)
def test_bits_of_the_definition(scale: float) -> None:
    for n in LENGTHS:
        x, y = arrays(n, scale, offset=n % 5)
        assert bits(lrcore.dot(x, y)) == bits(dot(x, y)), n
        assert bits(lrcore.norm(x)) == bits(math.sqrt(dot(x, x))), n
        assert bits(lrcore.dot(x, x.copy())) == bits(dot(x, x)), n


@pytest.mark.usefixtures("backend")
@pytest.mark.slow
def test_bits_of_three_levels() -> None:
    """The sums of more than 4,096 leaves are added in two levels."""
    for n in (LEAF**2 - 1, LEAF**2, LEAF**2 + 1, 2 * LEAF**2 + LEAF + 3):
        x, y = arrays(n)
        assert bits(lrcore.dot(x, y)) == bits(dot(x, y)), n


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("offset", range(16))
def test_bits_do_not_depend_on_alignment(offset: int) -> None:
    n = 3 * LEAF + 77
    x, y = arrays(n, offset=offset)
    expected = lrcore.dot(*arrays(n))
    for each in (y, y.copy()):
        assert bits(lrcore.dot(x, each)) == bits(expected)


@pytest.mark.usefixtures("backend", "threads")
def test_bits_do_not_depend_on_threads() -> None:
    x, y = arrays(8 * LARGE + 3)
    expected = dot(x, y)
    for count in range(1, 9):
        lrcore.set_num_threads(count)
        assert bits(lrcore.dot(x, y)) == bits(expected), count

    def work(_: int) -> None:
        for _ in range(5):
            assert bits(lrcore.dot(x, y)) == bits(expected)

    run_in_threads(4, work)


def test_other_definitions_have_other_bits() -> None:
    """The tests above would see another size of leaves, another precision, or a missing partial sum."""
    x, y = arrays(5 * LEAF + 100)
    terms = products(x, y)
    others = [tree(terms, leaf=2048), tree(terms, leaf=8192), tree(terms, dtype=np.float32)]
    others += [tree(np.delete(terms, 31)), float(np.sum(terms)), float(np.dot(x, y))]
    assert all(bits(each) != bits(dot(x, y)) for each in others)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("scale", SCALES)
def test_the_error_of_random_numbers(scale: float) -> None:
    """The errors of random numbers nearly cancel. The exact sum is that of `math.fsum`."""
    for n in (1, 100, LEAF + 1, 2 * LARGE + 1):
        x, _ = arrays(n, scale)
        exact = math.fsum(products(x, x))
        assert abs(Fraction(lrcore.dot(x, x)) / Fraction(exact) - 1) <= Fraction(1, 2**50)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("value", "square"),
    [
        (0.0, 0.0),
        (-0.0, 0.0),
        (float(SMALLEST), float(SMALLEST) ** 2),
        (float(LARGEST), float(LARGEST) ** 2),
        (-3e38, float(np.float32(3e38)) ** 2),
    ],
)
def test_extreme_values(value: float, square: float) -> None:
    """Nothing overflows or is flushed to zero.

    All additions may round in the same direction: 132 on the way to the sum of a leaf, and 132 more to the total.
    """
    for n in (1, 2, 32, LEAF, 16 * LEAF):
        x = np.full(n, value, np.float32)
        assert bits(lrcore.dot(x, x)) == bits(dot(x, x))
        assert lrcore.dot(x, x) == pytest.approx(n * square, rel=264 * 2.0**-53, abs=0)
        assert bits(lrcore.norm(x)) == bits(math.sqrt(dot(x, x)))
    negative = -np.full(8, value, np.float32)
    assert bits(lrcore.dot(negative, np.full(8, value, np.float32))) == bits(0.0 - 8 * square)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("n", [1, 33, 200, LEAF + 40])
def test_what_is_not_finite_is_seen_at_every_position(n: int) -> None:
    x, y = arrays(n)
    for i in range(n) if n <= 200 else (0, 31, LEAF - 1, LEAF, n - 1):
        for value in (np.inf, -np.inf, np.nan, np.float32(-np.nan)):
            kept, x[i] = x[i], value
            found = lrcore.norm(x)
            assert bits(found) == bits(math.nan if math.isnan(value) else math.inf), (i, value)
            assert bits(lrcore.dot(x, y)) == bits(
                math.nan if math.isnan(value) else math.copysign(math.inf, value * y[i])
            )
            x[i] = kept
    x[n // 2], y[n // 2] = np.inf, 0.0
    assert bits(lrcore.dot(x, y)) == bits(math.nan)
    assert lrcore.dot(x[: n // 2], y[: n // 2]) == dot(x[: n // 2], y[: n // 2])


def test_shapes_and_read_only_arrays() -> None:
    x, y = arrays(24)
    expected = lrcore.dot(x, y)
    x.setflags(write=False)
    assert lrcore.dot(x.reshape(2, 3, 4), y) == lrcore.dot(x.reshape(4, 6), y.reshape(4, 6)) == expected
    assert lrcore.norm(x.reshape(2, 12)) == lrcore.norm(x)
    assert (
        lrcore.norm(np.zeros((1, 0), np.float32))
        == lrcore.dot(np.zeros((3, 0), np.float32), np.zeros(0, np.float32))
        == 0.0
    )
    assert lrcore.norm(np.array(-2.0, np.float32)) == 2.0


X = np.ones(6, np.float32)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X.astype("f8"), X, TypeError, "^x: expected dtype float32, got float64"),
        (X, X.astype("f2"), TypeError, "^y: expected dtype float32, got float16"),
        ([1.0, 2.0], X, TypeError, "^x: expected a float32 array that supports DLPack .*, got list"),
        (X, None, TypeError, "^y: expected a float32 array that supports DLPack .*, got None"),
        (X[::2], X[:3], ValueError, "^x: expected a C-contiguous array"),
        (X, X[:5], ValueError, "^y: expected 6 elements like x, got 5$"),
        (X.reshape(2, 3), X.reshape(3, 2), ValueError, r"^y: expected shape \(2, 3\) like x, or a flat array, got \(3, 2\)$"),
    ],
)  # fmt: skip
def test_refusals(x: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lrcore.dot(x, y)
    if message.startswith("^x"):
        with pytest.raises(error, match=message):
            lrcore.norm(x)


@pytest.mark.usefixtures("backend")
def test_norms_of_a_pack() -> None:
    """Each array is a unit: its norm does not depend on where it lies. Tied arrays have the same norm."""
    sizes = {"a": 3, "b": {"w": (LEAF, 3), "empty": 0}, "c": [LEAF + 1, ()], "tied": 7}
    pack = lrcore.Pack(sizes | {"last": 5})
    pack.flat = np.random.default_rng(0).standard_normal(pack.flat.size, np.float32)
    found = pack.norms()
    assert list(found) == list(pack.named_arrays())
    for name, view in pack.named_arrays().items():
        assert bits(found[name]) == bits(math.sqrt(dot(view, view))), name
    assert pack["b"].norms() == {"w": found["b.w"], "empty": 0.0}
    assert lrcore.Pack({}).norms() == {}


def test_norms_of_tied_arrays() -> None:
    shared = np.array([3, 4], np.float32)
    pack = lrcore.Pack({"one": shared, "other": {"two": shared, "own": np.array([2], np.float32)}})
    assert pack.norms() == {"one": 5.0, "other.two": 5.0, "other.own": 2.0}
    assert pack["other"].norms() == {"two": 5.0, "own": 2.0}
    pack["one"][0] = np.nan
    assert math.isnan(pack.norms()["other.two"])


def test_backends_agree_on_many_arrays() -> None:
    """A pack of many small arrays is divided among threads at any of them."""
    pack = lrcore.Pack({f"{i}": (i % 97) * 11 for i in range(2000)})
    pack.flat = np.random.default_rng(1).standard_normal(pack.flat.size, np.float32)
    expected = {name: math.sqrt(dot(view, view)) for name, view in pack.named_arrays().items()}
    for backend in BACKENDS:
        with lrcore.use_backend(backend):
            assert pack.norms() == expected
