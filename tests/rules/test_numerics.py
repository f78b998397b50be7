"""Special values, the floating-point mode, and step numbers up to the last. Arrays are compared bitwise."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import itertools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

import lrcore
from rules.stepping import Followed
from support import Array, assert_bits, assert_same, gradients, make

N = 37  # two AVX-512 vectors and a remainder


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_poisoned_gradient_stays_at_its_element(rule: str, backend: str, weight_decay: float) -> None:
    """The poisoned element has the oracle's result; every other element has the result of a clean run.

    With weight decay, NaN persists; without it, a state may recover.
    """
    rng = np.random.default_rng(0)
    start = rng.standard_normal(N).astype(np.float32)
    gradient = [gradients(rng, N) for _ in range(3)]
    clean = make(rule, start.copy(), weight_decay=weight_decay)
    for g in gradient:
        clean.step(g)
    for value, index in itertools.product([np.nan, np.inf, -np.inf], [0, 20, N - 1]):
        poisoned = [g.copy() for g in gradient]
        poisoned[1][index] = value
        followed = Followed(rule, start, weight_decay=weight_decay)
        for g in poisoned:
            followed.step(g, f"{backend}, {value} at {index}")
        found = [followed.opt.params, *followed.opt.state.values()]
        for array, expected in zip(found, [clean.params, *clean.state.values()], strict=True):
            assert_bits(np.delete(array, index), np.delete(expected, index), f"{value} at {index}")


def test_no_epsilon_and_no_gradient(backend: str) -> None:
    """Without an epsilon, 0 / 0 is NaN, as in IEEE arithmetic; this happens only where the gradient is 0."""
    g = np.array([0.0, -0.0, 1.0, -2.0] * 6, np.float32)
    for rule, facts in lrcore.rules().items():
        if "eps" in facts.hyper:
            followed = Followed(rule, np.ones(24, np.float32), eps=0.0)
            followed.step(g, backend)
            assert not np.isnan(followed.p[g != 0]).any()


@pytest.mark.parametrize("rule", [each for each in lrcore.rules() if "centered" in each])
def test_a_variance_that_rounds_below_zero_is_zero(rule: str, backend: str) -> None:
    """With a constant gradient, the mean square and the squared mean converge to the same value.

    In float32, they are rounded separately.
    """
    g = gradients(np.random.default_rng(20), N)
    followed = Followed(rule, np.zeros(N, np.float32), alpha=0.5)
    below = 0
    for _ in range(40):
        followed.step(g, backend)
        square, mean = followed.states[:2]
        below += int((square < mean * mean).sum())
    assert below > 0
    assert np.isfinite(followed.p).all()


def test_late_steps(rule: str, backend: str) -> None:
    """For any t, the step count is exact, and the constants are those of t.

    With the default hyperparameters, the time to compute the constants is bounded.
    """
    rng = np.random.default_rng(7)
    start, g = rng.standard_normal(N).astype(np.float32), gradients(rng, N)
    for t in (256, 2048, 2**24, 2**31 - 1, 2**53 - 1):
        followed = Followed(rule, start)
        followed.opt.step_count = t - 1
        followed.step(g, backend)
        assert followed.opt.step_count == t


def test_the_last_step_number() -> None:
    """2^53 - 1 is the last step; the next is refused and changes nothing."""
    params = np.ones(3, np.float32)
    optimizer = lrcore.SGD(params, lr=0.5)
    optimizer.step_count = 2**53 - 1
    with pytest.raises(OverflowError, match="step_count"):
        optimizer.step(np.ones(3, np.float32))
    assert_bits(params, np.ones(3, np.float32))
    assert optimizer.step_count == 2**53 - 1


def test_constants_depend_on_step_and_numbers_alone(rule: str) -> None:
    """After jumps of the step count and changes of hyperparameters, the bits equal the stateless oracle's."""
    rng = np.random.default_rng(19)
    followed = Followed(rule, rng.standard_normal(N).astype(np.float32))
    for t in (1, 2, 5, 6, 3):
        if t == 5:
            followed.opt.hyper["weight_decay"] = 0.01
            if "betas" in followed.opt.hyper:
                followed.opt.hyper["betas"] = (0.7, 0.95)
        if t == 6 and "momentum_decay" in followed.opt.hyper:
            followed.opt.hyper["momentum_decay"] = 0.5
        if followed.opt.step_count != t - 1:  # an assignment forgets intermediate results
            followed.opt.step_count = t - 1
        followed.step(gradients(rng, N))


class Register(NamedTuple):
    """The place of the floating-point mode in the C library's fenv_t, and some of its bits."""

    size: int
    offset: int
    flush: int
    roundings: tuple[int, int, int]
    """Down, up and toward zero, in some order."""


REGISTERS = {
    "x86_64": Register(32, 28, 0x8040, (0x2000, 0x4000, 0x6000)),  # MXCSR, after the x87 environment
    "aarch64": Register(8, 0, 0x1000000, (0x400000, 0x800000, 0xC00000)),  # FPCR, before FPSR
}
REGISTER = REGISTERS.get(platform.machine(), Register(0, 0, 0, (0, 0, 0)))
MODES = REGISTER.flush, *REGISTER.roundings


class FloatingPointMode:
    """This thread's mode, read and written through the C library's floating-point environment."""

    def __init__(self) -> None:
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))

    def environment(self) -> bytes:
        environment = ctypes.create_string_buffer(REGISTER.size)
        assert self.libm.fegetenv(environment) == 0
        return environment.raw

    def read(self) -> int:
        return int.from_bytes(self.environment()[REGISTER.offset :][:4], "little")

    def write(self, mode: int) -> None:
        environment = bytearray(self.environment())
        environment[REGISTER.offset : REGISTER.offset + 4] = mode.to_bytes(4, "little")
        assert self.libm.fesetenv(ctypes.create_string_buffer(bytes(environment), REGISTER.size)) == 0

    @contextmanager
    def preset(self, bits: int) -> Iterator[None]:
        """Set bits of the mode; assert that it is unchanged at the end, and restore the former mode."""
        before = self.read()
        self.write(before | bits)
        try:
            yield
            left = self.read()
        finally:
            self.write(before)
        assert left == before | bits


@pytest.fixture
def fp_mode() -> FloatingPointMode:
    """Return an interface to the floating-point mode; skip the test on processors whose mode is unknown."""
    if platform.machine() not in REGISTERS:
        assert lrcore.info()["fp_mode"] == "caller's"
        pytest.skip("lrcore cannot set this processor's floating-point mode")
    assert lrcore.info()["fp_mode"] == "default"
    return FloatingPointMode()


def subnormals() -> tuple[Array, list[Array]]:
    """Return subnormal parameters and gradients, some of them 0 or -0."""
    numbers = (np.random.default_rng(16).standard_normal((4, N)) * 1e-40).astype(np.float32)
    numbers[:, 3], numbers[:, 20] = 0, -0.0
    return numbers[0], list(numbers[1:])


def test_the_callers_mode_is_neither_trusted_nor_changed(
    rule: str, backend: str, fp_mode: FloatingPointMode
) -> None:
    """In every mode of the caller, results for subnormal numbers have the oracle's bits.

    They would differ if steps computed in the caller's mode.
    """
    start, all_gradients = subnormals()
    followed = Followed(rule, start, weight_decay=0.01)
    for g in all_gradients:
        followed.step(g, backend)
    for mode in (0, *MODES):
        opt = make(rule, start.copy(), weight_decay=0.01)
        with fp_mode.preset(mode):
            for g in all_gradients:
                opt.step(g)
        assert_same(opt, followed.p, followed.states, f"{rule}, {backend}, {mode:#x}:")


@pytest.mark.parametrize("mode", MODES, ids=hex)
def test_rates_are_asked_in_the_default_mode(mode: int, fp_mode: FloatingPointMode) -> None:
    """A schedule that is called by a step also computes in the default mode.

    If the caller calls the schedule, it computes in the caller's mode.
    """
    rates = (
        lrcore.schedules.Constant(1 + 2**-24 - 2**-40) * (1 + 2**-40),  # near a float32 midpoint
        lrcore.schedules.Constant(1e-40) * 0.5,
        lrcore.schedules.Function(lambda _: float("5e-324") * 1e300),  # not folded by the compiler
    )
    g = np.full(8, 1e30, np.float32)
    for schedule in rates:
        expected, opt = (lrcore.SGD(np.zeros(8, np.float32), lr=schedule) for _ in range(2))
        expected.step(g)
        assert expected.params.any()
        with fp_mode.preset(mode):
            opt.step(g)
        assert_bits(opt.params, expected.params)


@pytest.mark.parametrize("mode", MODES, ids=hex)
@pytest.mark.usefixtures("backend")
def test_sums_do_not_depend_on_the_mode(mode: int, fp_mode: FloatingPointMode) -> None:
    """This also holds for the roots of norms, and for the factor of a clipped step."""
    pack = lrcore.Pack({name: np.zeros(n, np.float32) for name, n in (("a", 5000), ("b", 7), ("c", 4097))})
    pack.flat[:] = np.random.default_rng(17).standard_normal(pack.flat.size)
    tiny = np.full(100, 1e-45, np.float32)

    def found() -> tuple[Any, ...]:
        opt = lrcore.SGD(np.zeros_like(pack.flat), lr=1.0, max_norm=0.3)
        opt.step(pack.flat, grad_scale=1 / 3)
        sums = (lrcore.norm(pack.flat), lrcore.dot(pack.flat, pack.flat[::-1].copy()), lrcore.norm(tiny))
        return *sums, pack.norms(), opt.grad_norm, opt.params.tobytes()

    expected = found()
    assert expected[2] > 0
    with fp_mode.preset(mode):
        other = found()
    assert other == expected


@pytest.mark.parametrize("mode", MODES, ids=hex)
def test_arguments_are_checked_alike_in_every_mode(mode: int, fp_mode: FloatingPointMode) -> None:
    """The conversion of an argument to float32 does not depend on the caller's mode."""
    largest = float(np.finfo(np.float32).max)
    build: Any = functools.partial(lrcore.Adam, np.zeros(1, np.float32))
    taken = {"weight_decay": (1e-40, 2.0**-149, 1.0000001 * 2.0**-150, largest), "eps": (1e-45,)}
    refused = {"weight_decay": (2.0**-150, 1e-46, largest + 2.0**103, 1e39), "eps": (1e-50,)}
    with fp_mode.preset(mode):
        for name, values in taken.items():
            for value in values:
                assert build(**{name: value}).hyper[name] == value
        for name, values in refused.items():
            for value in values:
                with pytest.raises(ValueError, match=f"^{name}: .* becomes (0.0|inf) in float32"):
                    build(**{name: value})
        build(betas=(1 - 2.0**-24, 0.5))
        with pytest.raises(ValueError, match=r"^betas\[0\]: .* becomes 1 in float32"):
            build(betas=(1 - 2.0**-25, 0.5))


@pytest.mark.usefixtures("threads")
def test_worker_threads_use_the_default_mode(fp_mode: FloatingPointMode) -> None:
    """A thread inherits the mode of the thread that created it; the sweep sets its own mode."""
    start = np.full(5 * 262_144, 1e-40, np.float32)  # large enough to wake up each thread
    lrcore.set_num_threads(5)  # more than in any earlier test, so that new threads start in the preset mode
    optimizer = lrcore.SGD(start.copy(), lr=0.5)
    with fp_mode.preset(REGISTER.flush):
        optimizer.step(start)
    assert_bits(optimizer.params, start - np.float32(0.5) * start)
