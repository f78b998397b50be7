"""Special values, the floating-point mode, and step numbers up to the last. Equal means equal to the last bit."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lrcore
from support import Array, assert_bits, assert_same, gradients, make, oracle_step

N = 37  # two AVX-512 lanes and a remainder


def stepped(rule: str, start: Array, all_gradients: list[Array]) -> tuple[Array, list[Array]]:
    """Step with lrcore and give parameters and states."""
    optimizer = make(rule, start.copy(), weight_decay=0.01)
    for g in all_gradients:
        optimizer.step(g)
    return optimizer.params, [np.array(state) for state in optimizer.state.values()]


def by_oracle(rule: str, start: Array, all_gradients: list[Array]) -> tuple[Array, list[Array]]:
    """Step with the oracle and give parameters and states."""
    optimizer = make(rule, start.copy(), weight_decay=0.01)
    p, states = start, [np.array(state) for state in optimizer.state.values()]
    for t, g in enumerate(all_gradients, 1):
        decoupled = optimizer.options["decay"] == "decoupled"
        p, states = oracle_step(optimizer, p, g, states, t=t, lr=0.01, decoupled=decoupled)
    return p, states


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 20, N - 1])
def test_a_poisoned_gradient_stays_at_its_element(rule: str, backend: str, value: float, index: int) -> None:
    """The oracle's result at that element, the clean run's at every other."""
    rng = np.random.default_rng(index)
    start = rng.standard_normal(N).astype(np.float32)
    clean = [gradients(rng, N) for _ in range(3)]
    poisoned = [g.copy() for g in clean]
    poisoned[1][index] = value
    others = np.arange(N) != index

    p, states = stepped(rule, start, poisoned)
    clean_p, clean_states = stepped(rule, start, clean)
    oracle_p, oracle_states = by_oracle(rule, start, poisoned)
    where = f"{rule}, {backend}, {value} at {index}:"
    assert_bits(p, oracle_p, f"{where} params")
    assert_bits(p[others], clean_p[others], f"{where} other params")
    for state, clean_state, oracle_state in zip(states, clean_states, oracle_states, strict=True):
        assert_bits(state, oracle_state, f"{where} state")
        assert_bits(state[others], clean_state[others], f"{where} other state")


def subnormal_problem() -> tuple[Array, list[Array]]:
    """Return parameters and gradients that are subnormal, some of them 0 or -0."""
    rng = np.random.default_rng(16)
    numbers = (rng.standard_normal((4, N)) * 1e-40).astype(np.float32)
    numbers[:, 3], numbers[:, 20] = 0, -0.0
    return numbers[0], list(numbers[1:])


def test_subnormals_are_kept(rule: str, backend: str) -> None:
    """No flush to zero in any operand; the states are stored as the oracle stores them."""
    start, all_gradients = subnormal_problem()
    assert np.any((start != 0) & (np.abs(start) < np.finfo(np.float32).tiny))
    p, states = stepped(rule, start, all_gradients)
    oracle_p, oracle_states = by_oracle(rule, start, all_gradients)
    assert_bits(p, oracle_p, f"{rule}, {backend}")
    for state, oracle_state in zip(states, oracle_states, strict=True):
        assert_bits(state, oracle_state, f"{rule}, {backend}")


def test_no_epsilon_and_no_gradient(backend: str) -> None:
    """0 / 0 is NaN, as the arithmetic says, and only where the gradient is 0."""
    for rule, facts in lrcore.rules().items():
        if "eps" not in facts.hyper:
            continue
        g = np.array([0.0, -0.0, 1.0, -2.0] * 6, np.float32)
        optimizer = make(rule, np.ones(24, np.float32), eps=0.0)
        p, states = optimizer.params.copy(), [np.array(state) for state in optimizer.state.values()]
        optimizer.step(g)
        p, states = oracle_step(
            optimizer,
            p,
            g,
            states,
            t=1,
            lr=0.01,
            decoupled=optimizer.options["decay"] == "decoupled",
        )
        assert_same(optimizer, p, states, f"{rule}, {backend}")


@pytest.mark.parametrize("rule", [each for each in lrcore.rules() if "centered" in each])
def test_a_variance_that_rounds_below_zero_is_zero(rule: str, backend: str) -> None:
    """Under a constant gradient the mean square and the squared mean meet, and float32 rounds each by itself."""
    g = gradients(np.random.default_rng(20), N)
    optimizer = make(rule, np.zeros(N, np.float32), alpha=0.5)
    p, states = optimizer.params.copy(), [np.array(state) for state in optimizer.state.values()]
    below = 0
    for t in range(1, 41):
        optimizer.step(g)
        p, states = oracle_step(optimizer, p, g, states, t=t, lr=0.01)
        square, mean = states[:2]
        below += int((square < mean * mean).sum())
        assert_same(optimizer, p, states, f"{rule}, {backend}, t = {t}:")
    assert below > 0
    assert np.isfinite(p).all()


@pytest.mark.parametrize("t", [256, 2048, 2**24, 2**31 - 1, 2**53 - 1])
def test_late_steps(rule: str, backend: str, t: int) -> None:
    """The counter is exact and the constants are those of t, however large; no step costs what t would."""
    rng = np.random.default_rng(7)
    optimizer = make(rule, rng.standard_normal(N).astype(np.float32))
    g = gradients(rng, N)
    p, states = optimizer.params.copy(), [np.array(state) for state in optimizer.state.values()]
    optimizer.step_count = t - 1
    optimizer.step(g)
    assert optimizer.step_count == t
    decoupled = optimizer.options["decay"] == "decoupled"
    p, states = oracle_step(optimizer, p, g, states, t=t, lr=0.01, decoupled=decoupled)
    assert_same(optimizer, p, states, f"{rule}, {backend}, t = {t}:")


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
    """Jump from step 2 to step 5 with changed numbers: as the oracle, which has no memory of calls."""
    rng = np.random.default_rng(19)
    optimizer = make(rule, rng.standard_normal(N).astype(np.float32))
    p, states = optimizer.params.copy(), [np.array(state) for state in optimizer.state.values()]
    decoupled = optimizer.options["decay"] == "decoupled"
    for t in (1, 2, 5, 6, 3):
        if t == 5:
            optimizer.hyper["weight_decay"] = 0.01
            if "betas" in optimizer.hyper:
                optimizer.hyper["betas"] = (0.7, 0.95)
        if t == 6 and "momentum_decay" in optimizer.hyper:
            optimizer.hyper["momentum_decay"] = 0.5
        g = gradients(rng, N)
        optimizer.step_count = t - 1
        optimizer.step(g)
        p, states = oracle_step(optimizer, p, g, states, t=t, lr=0.01, decoupled=decoupled)
        assert_same(optimizer, p, states, f"{rule}, t = {t}:")


FTZ_AND_DAZ = 0x8040
ROUND_DOWN, ROUND_UP, ROUND_TOWARD_ZERO = 0x2000, 0x4000, 0x6000


class FloatingPointMode:
    """This thread's MXCSR, read and written through the C library's floating-point environment."""

    offset = 28  # fenv_t on x86-64: the x87 environment, then MXCSR

    def __init__(self) -> None:
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))

    def environment(self) -> bytes:
        environment = ctypes.create_string_buffer(32)
        assert self.libm.fegetenv(environment) == 0
        return environment.raw

    def read(self) -> int:
        return int.from_bytes(self.environment()[self.offset :], "little")

    def write(self, mode: int) -> None:
        environment = self.environment()[: self.offset] + mode.to_bytes(4, "little")
        assert self.libm.fesetenv(ctypes.create_string_buffer(environment, 32)) == 0


@pytest.fixture
def mxcsr() -> Iterator[FloatingPointMode]:
    """The floating-point mode, put back after the test."""
    if platform.machine() != "x86_64":
        pytest.skip("MXCSR belongs to x86-64")
    mode = FloatingPointMode()
    before = mode.read()
    yield mode
    mode.write(before)


@pytest.mark.parametrize("preset", [0, FTZ_AND_DAZ, ROUND_DOWN, ROUND_UP, ROUND_TOWARD_ZERO], ids=hex)
def test_the_callers_mode_is_neither_trusted_nor_changed(
    rule: str, backend: str, preset: int, mxcsr: FloatingPointMode
) -> None:
    """Same bits whatever the mode, and the mode is as it was after 100 steps."""
    start, all_gradients = subnormal_problem()
    p, states = stepped(rule, start, all_gradients)

    optimizer = make(rule, start.copy(), weight_decay=0.01)
    found = mxcsr.read() | preset
    mxcsr.write(found)
    for g in all_gradients:
        optimizer.step(g)
    left = mxcsr.read()
    mxcsr.write(found & ~preset)
    assert left == found
    assert_same(optimizer, p, states, f"{rule}, {backend}, {preset:#x}:")

    mxcsr.write(found)
    for _ in range(100):
        optimizer.step(all_gradients[0])
    left = mxcsr.read()
    mxcsr.write(found & ~preset)
    assert left == found


@pytest.mark.parametrize("preset", [FTZ_AND_DAZ, ROUND_DOWN, ROUND_UP, ROUND_TOWARD_ZERO], ids=hex)
def test_rates_are_asked_in_the_default_mode(preset: int, mxcsr: FloatingPointMode) -> None:
    """A schedule's own arithmetic too. What the caller asks of it is the caller's affair, as is the mode."""
    rates = (
        lrcore.schedules.Constant(1 + 2**-24 - 2**-40) * (1 + 2**-40),  # close to the middle of two float32
        lrcore.schedules.Constant(1e-40) * 0.5,
        lrcore.schedules.Function(lambda _: float("5e-324") * 1e300),  # not folded by the compiler
    )
    g = np.full(8, 1e30, np.float32)
    for schedule in rates:
        expected, opt = (lrcore.SGD(np.zeros(8, np.float32), lr=schedule) for _ in range(2))
        expected.step(g)
        assert expected.params.any()
        found = mxcsr.read() | preset
        mxcsr.write(found)
        opt.step(g)
        left = mxcsr.read()
        mxcsr.write(found & ~preset)
        assert left == found
        assert_bits(opt.params, expected.params)


@pytest.mark.parametrize("preset", [FTZ_AND_DAZ, ROUND_DOWN, ROUND_UP, ROUND_TOWARD_ZERO], ids=hex)
def test_arguments_are_checked_alike_in_every_mode(preset: int, mxcsr: FloatingPointMode) -> None:
    """What float32 makes of a number does not depend on the mode in which it is asked."""
    largest = float(np.finfo(np.float32).max)
    build: Any = functools.partial(lrcore.Adam, np.zeros(1, np.float32))
    taken = {"weight_decay": (1e-40, 2.0**-149, 1.0000001 * 2.0**-150, largest), "eps": (1e-45,)}
    refused = {"weight_decay": (2.0**-150, 1e-46, largest + 2.0**103, 1e39), "eps": (1e-50,)}
    near_one = (1 - 2.0**-24, 0.5), (1 - 2.0**-25, 0.5)
    found = mxcsr.read() | preset
    mxcsr.write(found)
    try:
        for name, values in taken.items():
            for value in values:
                assert build(**{name: value}).hyper[name] == value
        for name, values in refused.items():
            for value in values:
                with pytest.raises(ValueError, match=f"^{name}: .* becomes (0.0|inf) in float32"):
                    build(**{name: value})
        build(betas=near_one[0])
        with pytest.raises(ValueError, match=r"^betas\[0\]: .* becomes 1 in float32"):
            build(betas=near_one[1])
    finally:
        mxcsr.write(found & ~preset)


@pytest.mark.usefixtures("threads")
def test_worker_threads_use_the_default_mode(mxcsr: FloatingPointMode) -> None:
    """A thread inherits the mode of the one that made it; the sweep sets its own."""
    start = np.full(5 * 262_144, 1e-40, np.float32)  # enough for each thread to be woken up
    lrcore.set_num_threads(5)  # more than any test before: new threads are made under the preset mode
    optimizer = lrcore.SGD(start.copy(), lr=0.5)
    mxcsr.write(mxcsr.read() | FTZ_AND_DAZ)
    optimizer.step(start)
    mxcsr.write(mxcsr.read() & ~FTZ_AND_DAZ)
    assert_bits(optimizer.params, start - np.float32(0.5) * start)
