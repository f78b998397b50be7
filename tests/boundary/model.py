"""A model of the boundary's contract, independent of the code: the accepted inputs and their results.

An array is accepted if it is float32 in native byte order, C-contiguous, aligned and of the right size and
shape. If it is written, it must also be writable and share no memory with another operand. A number must be
real and in its argument's range.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import lrcore
from boundary import capsules
from support import CONFIGURATIONS, Array

Problem = tuple[str, type[Exception]]
"""The name of the invalid argument, and the expected error."""

LARGEST = float(np.finfo(np.float32).max)

# ---- arrays

WORDS = 1024
"""Number of floats in the buffer that holds all operands of a call."""
SLOTS = 5
ROOM = WORDS // SLOTS

WRONG_DTYPES = [
    *(np.dtype(each) for each in ("f8", "f8", "f8", ">f4", ">f4", ">f8", "f2", "i4", ">i4", "u4", "i8", "?", "c8", "g")),
    *(np.dtype(each) for each in ("M8[s]", "m8[s]", "V4", "S4", "U1")),
    np.dtype([("a", "f4")]), np.dtype([("a", "u1"), ("b", "f4")]),
]  # fmt: skip
RIGHT_DTYPES = [np.dtype("f4"), np.dtype("=f4"), np.dtype("f4", metadata={"of": "a caller"})]


def fresh_memory() -> Array:
    """Return a buffer of normally distributed numbers, aligned to 64 bytes."""
    memory = np.zeros(WORDS + 16, np.float32)
    begin = (-memory.ctypes.data % 64) // 4
    memory = memory[begin : begin + WORDS]
    memory[:] = np.random.default_rng(5).standard_normal(WORDS).astype(np.float32)
    return memory


class View(NamedTuple):
    """The layout of an operand in the buffer; strides and offset are in bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: np.dtype[Any]
    writable: bool

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def span(self) -> tuple[int, int]:
        """The range of bytes from the first element to the end of the last."""
        if not self.size:
            return self.offset, self.offset
        far = [stride * (extent - 1) for extent, stride in zip(self.shape, self.strides, strict=True)]
        low, high = sum(min(0, each) for each in far), sum(max(0, each) for each in far)
        return self.offset + low, self.offset + high + self.dtype.itemsize

    def of(self, memory: Array) -> Any:
        """Return the array that this view describes."""
        low, high = self.span
        assert 0 <= low <= high <= memory.nbytes
        array = np.ndarray(self.shape, self.dtype, memory.view(np.uint8).data, self.offset, self.strides)
        array.setflags(write=self.writable)
        return array

    def problems(self, name: str, written: bool) -> Iterator[Problem]:
        """Yield the problems of the operand itself."""
        if self.dtype.kind != "f" or self.dtype.itemsize != 4 or not self.dtype.isnative:
            yield name, TypeError
        expected = 4
        for extent, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if self.size and extent != 1 and stride != expected:
                yield name, ValueError
                if any(each % 4 for each in self.strides):
                    yield name, TypeError  # NumPy does not export these strides; its own error is chained
            expected *= extent
        if self.size and self.offset % 4:
            yield name, ValueError
        if written and not self.writable:
            yield name, ValueError


def between(views: Mapping[str, View]) -> Iterator[Problem]:
    """Yield the problems of shape and overlap between operands. The first operand is the parameters."""
    first = next(iter(views.values()))
    for name, view in views.items():
        if view.size != first.size or not same_shape(view.shape, first.shape):
            yield name, ValueError
    for (left, one), (right, two) in itertools.combinations(views.items(), 2):
        (begin, end), (other, other_end) = one.span, two.span
        if begin < other_end and other < end:
            yield left, ValueError
            yield right, ValueError


def same_shape(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Return whether two shapes match: one of them is flat, or they differ only in extents of 1."""
    if len(one) <= 1 or len(two) <= 1:
        return True
    return [extent for extent in one if extent != 1] == [extent for extent in two if extent != 1]


def contiguous(shape: Sequence[int], itemsize: int = 4) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array."""
    strides = [itemsize]
    for extent in [*shape][:0:-1]:
        strides.insert(0, strides[0] * max(extent, 1))
    return tuple(strides[-len(shape) :] if shape else ())


def shapes(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Return a strategy for shapes of n elements."""
    known: list[tuple[int, ...]] = [(n,), (n,), (1, n), (n, 1), (1, n, 1)]
    known += [(a, n // a) for a in range(2, n) if n % a == 0] + [()] * (n == 1)
    return st.sampled_from(known if n else [*known, (0, 3), (2, 0), (0, 0)])


@st.composite
def placed(draw: st.DrawFn, n: int, slot: int, wrong: bool) -> View:
    """Return a valid operand in its slot of the buffer or, if `wrong`, one that may be invalid."""
    shape, dtype = draw(shapes(n)), draw(st.sampled_from(RIGHT_DTYPES))
    offset = 4 * (slot * ROOM + draw(st.integers(0, 15)))
    strides, writable = list(contiguous(shape)), True
    for axis, extent in enumerate(shape):
        if extent == 1 or not n:
            strides[axis] = draw(st.sampled_from([strides[axis], 0, -4, 4, 400, 3]))
    kind = (
        draw(st.sampled_from(["dtype", "strides", "offset", "place", "size", "read-only"])) if wrong else ""
    )
    if kind == "dtype":
        dtype = draw(st.sampled_from(WRONG_DTYPES))
        strides = list(contiguous(shape, dtype.itemsize))
    elif kind == "strides" and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        strides[axis] = draw(st.sampled_from([0, -4, 4, 8, 12, 3, 5, -strides[axis], 2 * strides[axis]]))
    elif kind == "offset":
        offset += draw(st.integers(1, 3))
    elif kind == "place":
        offset = 4 * (draw(st.integers(0, 1 + slot)) * ROOM + draw(st.integers(-n, n + 15)))
    elif kind == "size":
        shape = draw(shapes(draw(st.integers(0, 40))))
        strides = list(contiguous(shape))
    elif kind == "read-only":
        writable = False
    view = View(shape, tuple(strides), offset, dtype, writable)
    low, high = view.span
    offset += max(0, -low) - max(0, high - 4 * WORDS)  # clamp to the buffer
    return view._replace(offset=offset)


# ---- numbers


def scalars() -> st.SearchStrategy[Any]:
    """Return a strategy for numbers of every kind, in and out of every range, and for other objects."""
    floats = (
        st.floats()
        | st.floats(0, 1)
        | st.sampled_from([0.0, -0.0, 1.0, 0.5, 5e-324, 1e-45, 1e-39, 1e-50, 1e39])
    )
    single = st.floats(width=32)
    return st.one_of(
        floats, floats, single.map(np.float32), floats.map(np.float64), st.floats(width=16).map(np.float16),
        st.integers(-3, 3), st.integers(-3, 3).map(np.int8), st.sampled_from([10**400, -(10**400), 10**4000, 2**63]),
        st.fractions(-1, 2), st.decimals(), st.sampled_from([Decimal("sNaN"), Decimal("1e400"), Fraction(10**400)]),
        floats.map(np.array), st.booleans(), st.sampled_from([np.True_, np.False_]), st.text(max_size=3),
        st.sampled_from(["0.5", b"1", np.str_("1"), None, 1j, np.complex64(1), [0.5], (), {}, object(), np.ones(3), float]),
        st.sampled_from([np.datetime64(1, "s"), np.timedelta64(1, "s"), np.timedelta64(0, "ns"), np.datetime64(1, "ns")]),
        st.sampled_from([np.array(True), np.array(1j), np.array(3), np.array("1"), np.array(1, "m8[ns]")]),
    )  # fmt: skip


def real(value: Any) -> float | type[Exception]:
    """Return a value as a float, or the expected error."""
    if isinstance(value, (bool, np.bool_, np.timedelta64)):
        return TypeError
    known = (int, float, np.integer, np.floating, Fraction, Decimal)
    array = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"
    if not isinstance(value, known) and not array:
        return TypeError
    try:
        return float(value)
    except (OverflowError, ValueError):
        return ValueError


FRACTIONS = ("momentum", "dampening")
AVERAGES = ("alpha", "rho", "betas")


def number(name: str, value: Any) -> float | type[Exception]:
    """Return the value of an optimizer's argument as a float, or the expected error."""
    found = real(value)
    if isinstance(found, type):
        return found
    with np.errstate(all="ignore"):
        single = float(np.float32(found))
    if name in (*FRACTIONS, *AVERAGES):
        fits = 0 <= found < 1 and (name in FRACTIONS or single != 1)
    else:
        fits = found >= 0 and math.isfinite(single) and (single == 0) == (found == 0)
    return found + 0.0 if fits else ValueError  # -0.0 becomes 0.0


def rate(value: Any) -> float | type[Exception]:
    """Return the rate of one step, which may be too small for float32, or the expected error."""
    found = real(value)
    return found if isinstance(found, type) or 0 <= found <= LARGEST else ValueError


def scale(value: Any) -> float | type[Exception]:
    """Return the scale of the gradients, or the expected error."""
    found = real(value)
    if isinstance(found, type) or found == 0:
        return found
    with np.errstate(under="ignore"):
        return found if abs(found) <= LARGEST and np.float32(found) else ValueError


COUNTS = st.one_of(
    st.integers(-2, 20), st.integers(), st.sampled_from([2**31, 2**53 - 2, 2**53 - 1, 2**53, 2**63, 2**64, 10**4000, -(10**4000)]),
    st.integers(0, 9).map(np.int64), st.integers(0, 9).map(np.array), st.floats(), st.booleans(),
    st.sampled_from(["3", None, np.True_, Fraction(3), np.float32(3), [3], np.timedelta64(3, "ns")]),
)  # fmt: skip
"""Step numbers of every kind, valid and invalid."""


def count(value: Any, least: int) -> int | type[Exception]:
    """Return a step number as an integer, or the expected error."""
    array = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    if isinstance(value, (bool, np.timedelta64)) or not (isinstance(value, (int, np.integer)) or array):
        return TypeError
    return int(value) if least <= int(value) < 2**53 else ValueError


# ---- hyperparameters


def defaults(rule: str) -> dict[str, Any]:
    """Return the arguments, including defaults, with which a class chooses a rule, except lr and grads."""
    cls, chosen = CONFIGURATIONS[rule]
    taken = inspect.signature(cls).parameters.values()
    values = {each.name: each.default for each in taken if each.default is not each.empty}
    return {name: value for name, value in (values | chosen).items() if name not in ("lr", "grads")}


def numbers(rule: str) -> list[str]:
    """Return the names of hyperparameters that can change without changing the rule.

    Momentum and dampening are only included if they are not 0.
    """
    values = defaults(rule)
    changeable = [*AVERAGES, "eps", "weight_decay", "lr_decay", "momentum_decay"]
    return [name for name in values if name in changeable or (name in FRACTIONS and values[name])]


@st.composite
def changed_numbers(draw: st.DrawFn, rule: str) -> tuple[dict[str, Any], dict[str, float], list[Problem]]:
    """Return arguments of a rule, their values under the oracle's names, and their problems."""
    given: dict[str, Any] = {}
    names = draw(st.lists(st.sampled_from(numbers(rule)), max_size=2, unique=True))
    for name in names:
        given[name] = (
            (draw(scalars()), draw(scalars() | st.just(0.5))) if name == "betas" else draw(scalars())
        )
        if name == "momentum" and number(name, given[name]) == 0:
            given[name] = 0.5
        if (
            name == "momentum_decay"
            and not isinstance(value := number(name, given[name]), type)
            and value > 1
        ):
            given[name] = 0.5  # with a larger value, the product over all steps is slow to compute
    return given, *judged(given)


def judged(given: Mapping[str, Any]) -> tuple[dict[str, float], list[Problem]]:
    """Return the values of arguments under the oracle's names, and their problems."""
    taken: dict[str, float] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        parts = {"beta1": value[0], "beta2": value[1]} if name == "betas" else {name: value}
        for part, each in parts.items():
            found = number(name, each)
            if isinstance(found, type):
                problems.append((name, found))
            else:
                taken[part] = found
    return taken, problems


DECAYS = st.sampled_from(["l2", "decoupled", "independent"])


def for_oracle(rule: str, changes: Mapping[str, float], decay: str | None = None) -> dict[str, Any]:
    """Return the oracle's options for a rule with some hyperparameters, and perhaps the form of decay, changed."""
    values = defaults(rule)
    flat, _ = judged(
        {name: values[name] for name in values if name in (*FRACTIONS, *AVERAGES) or name in numbers(rule)}
    )
    hyper = flat | dict(changes)
    return {
        "hyper": hyper, "weight_decay": hyper["weight_decay"], "decay": decay or values["decay"],
        "maximize": values["maximize"],
    }  # fmt: skip


# ---- exporters that lie


class Liar:
    """An array that exports a false device, or false values in the fields of DLPack's tensor.

    A value may be a function of the tensor. ``extents`` is written to the shape, ``major`` to the version.
    """

    def __init__(self, array: Array, device: tuple[int, int] = (capsules.CPU, 0), **lies: Any) -> None:
        self.array, self.device, self.lies = array, device, lies

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self.array.__dlpack__(max_version=(1, 0))
        managed = capsules.managed_of(capsule)
        tensor = managed.tensor
        for name, value in self.lies.items():
            if name == "extents":
                for i, extent in enumerate(value):
                    tensor.shape[i] = extent
            else:
                setattr(
                    managed if name == "major" else tensor, name, value(tensor) if callable(value) else value
                )
        return capsule


def roles(ones: Callable[[], Array]) -> dict[str, Callable[[Any], object]]:
    """Return a call for each argument that takes an array; in all calls, the other arrays are ones.

    The first word of a key is the argument's name.
    """
    return {
        "params": lrcore.Adam,
        "grads": lambda array: lrcore.Adam(ones()).step(array),
        "grads bound": lambda array: lrcore.Adam(ones(), grads=array),
        "params of a function": lambda array: lrcore.functional.sgd(array, ones(), step=1, lr=0.1),
        "grads of a function": lambda array: lrcore.functional.sgd(ones(), array, step=1, lr=0.1),
        "exp_avg of a function": lambda array: lrcore.functional.adam(
            ones(), ones(), array, ones(), step=1, lr=0.1
        ),
        "exp_avg of a dictionary": lambda array: lrcore.Adam(ones()).load_state_dict(
            lrcore.Adam(ones()).state_dict() | {"state": {"exp_avg": array, "exp_avg_sq": ones()}}
        ),
    }
