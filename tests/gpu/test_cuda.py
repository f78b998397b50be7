"""Steps on device arrays have the CPU's bits, on an imitated device and, if a GPU works, on real ones.

"Equal" means equal to the last bit, with NaN at equal positions. Other tests compare the CPU with the oracle.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CuPy, Imitated, Torch, assert_equal, elements_around_32_bits, library, problem
from rules.stepping import SIZES, STAGES, rate
from support import CONFIGURATIONS, Array, assert_bits, make


def assert_steps_alike(
    xp: CuPy | Torch, rule: str, start: Array, all_gradients: Any, lr: Any = 0.01, after: int = 0, **more: Any
) -> None:
    """Assert that steps on the device and on the CPU have equal bits, from the step count `after` on."""
    on_cpu, on_device = make(rule, start.copy(), lr, **more), make(rule, xp.array(start), lr, **more)
    on_cpu.step_count = on_device.step_count = after
    for g in all_gradients:
        given = xp.array(g)
        on_cpu.step(g, grad_scale=0.3)
        on_device.step(given, grad_scale=0.3)
        assert_bits(xp.numpy(given), g, "grads")
    assert on_device.device == "cuda:0"
    assert_equal(xp, on_device, on_cpu, f"{rule}, n = {start.size}, step {on_cpu.step_count}:")


@pytest.mark.parametrize("stages", STAGES)
def test_bits_of_the_cpu(xp: CuPy | Torch, rule: str, stages: str) -> None:
    """The bits equal the CPU's for all sizes, over some steps under a scheduled rate."""
    for n in SIZES:
        assert_steps_alike(xp, rule, *problem(n, 4), rate, **STAGES[stages])


@pytest.mark.parametrize("n", [1, 7, 33, 3000])
def test_any_alignment_and_nothing_outside(xp: CuPy | Torch, rule: str, n: int) -> None:
    """Each array of a step has its own offset of 0 to 15 floats; the guard words around it stay unchanged."""
    guard = np.float32(1e30)
    cls, chosen = CONFIGURATIONS[rule]
    function = getattr(lrcore.functional, cls.__name__.lower())
    start, all_gradients = problem(n, 2)
    on_cpu = make(rule, start.copy())
    for g in all_gradients:
        on_cpu.step(g)
    expected = [on_cpu.params, all_gradients[-1], *on_cpu.state.values()]

    rng = np.random.default_rng(n)
    for shift in range(0, 16, 3):
        for offsets in ([shift] * len(expected), [shift, *rng.integers(0, 16, len(expected) - 1)]):
            hosts = [np.full(n + 48, guard, np.float32) for _ in offsets]
            places = [slice(16 + offset, 16 + offset + n) for offset in offsets]
            for host, place in zip(hosts, places, strict=True):
                host[place] = start if host is hosts[0] else 0
            memories = [xp.array(host) for host in hosts]
            p, g, *states = (memory[place] for memory, place in zip(memories, places, strict=True))
            for t, gradient in enumerate(all_gradients, 1):
                xp.write(g, gradient)
                function(p, g, *states, step=t, lr=0.01, **chosen)
            for memory, place, values in zip(memories, places, expected, strict=True):
                after = xp.numpy(memory)
                assert_bits(after[place], np.asarray(values), f"{rule}, offsets {offsets}")
                assert (np.delete(after, np.r_[place]) == guard).all()


def test_state_lies_like_the_parameters(xp: CuPy | Torch) -> None:
    """The state has the alignment of the parameters, so even a step on a shifted view moves 16 bytes at once.

    The state is an ordinary array, and outlives its optimizer.
    """
    memory = xp.array(np.zeros(64, np.float32))
    for shift in range(5):
        params = memory[shift:]
        opt = lrcore.Adagrad(params, initial_accumulator_value=0.5)
        state = opt.state["sum"]
        assert type(state) is type(params)
        assert (xp.address(state) - xp.address(params)) % 16 == 0
        assert_bits(xp.numpy(state), np.full(64 - shift, 0.5, np.float32))
        xp.write(state, np.full(64 - shift, 3, np.float32))
        opt.step(xp.array(np.ones(64 - shift, np.float32)))
        del opt
        assert_bits(xp.numpy(state), np.full(64 - shift, 4, np.float32))


def test_edges_of_float32(xp: CuPy | Torch, rule: str) -> None:
    """The bits are equal for non-finite gradients, subnormal operands, 0 / 0 if epsilon is 0, and late steps.

    Subnormal operands are not flushed.
    """
    start, all_gradients = problem(70, 3)
    all_gradients[1][[0, 37, 69]] = np.nan, np.inf, -np.inf
    assert_steps_alike(xp, rule, start, all_gradients)
    numbers = (np.random.default_rng(16).standard_normal((4, 37)) * 1e-40).astype(np.float32)
    numbers[:, 3], numbers[:, 20] = 0, -0.0
    eps: dict[str, Any] = {"eps": 0.0} if "eps" in lrcore.rules()[rule].hyper else {}
    for extra in ({}, eps):
        assert_steps_alike(xp, rule, numbers[0], numbers[1:], **extra)
    for t in (2048, 2**31 - 1, 2**53 - 1):
        assert_steps_alike(xp, rule, *problem(37, 1), after=t - 1)


def test_resume_anywhere(xp: CuPy | Torch) -> None:
    """Runs resumed from a dictionary, a copy or a pickle have the uninterrupted run's bits.

    A dictionary may come from either device.
    """
    start, all_gradients = problem(37, 6)
    schedule = lrcore.schedules.Cosine(0.1, steps=20)
    on_cpu, opt = (lrcore.NAdam(p, schedule, weight_decay=0.1) for p in (start.copy(), xp.array(start)))
    for g in all_gradients[:3]:
        on_cpu.step(g)
        opt.step(xp.array(g))
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for source, place in ((on_cpu, xp.array), (opt, xp.array), (opt, np.array)):
        other = lrcore.NAdam(place(on_cpu.params), lr=0.5, betas=(0.1, 0.2))
        other.load_state_dict(source.state_dict())
        others.append(other)
    for g in all_gradients[3:]:
        on_cpu.step(g)
        for each in (opt, *others):
            each.step(g if each.device == "cpu" else xp.array(g))
    assert [each.device for each in (opt, *others)] == ["cuda:0"] * 5 + ["cpu"]
    for each in (opt, *others):
        assert_equal(xp, each, on_cpu)


@pytest.mark.parametrize("passed", ["no", "handle", "object"])
def test_the_stream_of_the_gradient(xp: CuPy | Torch, passed: str) -> None:
    """A step uses the final values of a gradient that is queued behind long work, on its stream or another.

    The host does not wait.
    """
    real = not isinstance(xp, Imitated)
    n = 1 << 26 if real else 1000
    params, g, ones = (xp.array(np.full(n, value, np.float32)) for value in (0, 0, 1))
    opt = lrcore.SGD(params, lr=1.0)
    making, stepping = xp.stream(), xp.stream()
    xp.numpy(params[:1])
    with xp.using(making):
        for _ in range(100):
            g[...] = params
        g[...] = ones
        if passed == "no":
            opt.step(g)
            stepping = making
        else:
            opt.step(g, stream=stepping if passed == "object" else xp.handle(stepping))
    if real:
        assert xp.busy(stepping)
    stepping.synchronize()
    for part in (params[:1000], params[-1000:]):
        assert_bits(xp.numpy(part), np.full(1000, -1, np.float32))


def test_another_device_than_the_current_one(xp: CuPy | Torch) -> None:
    """The result is right, and the current device stays the same."""
    if xp.devices() < 2:
        pytest.skip("there is only one CUDA device")
    start, (g,) = problem(1000, 1)
    params, given = xp.array(start, device=1), xp.array(g, device=1)
    assert xp.current_device() == 0
    opt = lrcore.Adam(params)
    opt.step(given)
    assert xp.current_device() == 0
    assert opt.device == "cuda:1"
    on_cpu = lrcore.Adam(start.copy())
    on_cpu.step(g)
    assert_equal(xp, opt, on_cpu)
    with pytest.raises(
        RuntimeError, match="^grads: expected an array on cuda:1 like params, got one on cuda:0"
    ):
        opt.step(xp.array(g, device=0))


def test_wrong_gradients(xp: CuPy | Torch) -> None:
    """Wrong gradients are refused as on the CPU, before anything changes."""
    memory = xp.array(np.ones(16, np.float32))
    opt = lrcore.Adam(memory[:8])
    wrong: list[tuple[Any, type[Exception], str]] = [
        (xp.array(np.ones(8)), TypeError, "expected dtype float32, got float64"),
        (xp.array(np.ones(8, np.float16)), TypeError, "expected dtype float32, got float16"),
        (xp.array(np.ones(7, np.float32)), ValueError, "expected 8 elements like params, got 7"),
        (memory[::2], ValueError, "expected a C-contiguous array"),
        (memory[4:12], ValueError, "shares memory with params"),
        (opt.state["exp_avg"], ValueError, "shares memory with exp_avg"),
        (np.ones(8, np.float32), RuntimeError, "expected an array on cuda:0 like params, got one on cpu"),
        (None, TypeError, "expected an array, got None"),
    ]
    for grads, error, message in wrong:
        with pytest.raises(error, match=f"^grads: {message}"):
            opt.step(grads)
    with pytest.raises(ValueError, match="^params: expected a C-contiguous array"):
        lrcore.Adam(memory[::2])
    with pytest.raises(RuntimeError, match="^grads: expected an array on cpu like params, got one on cuda:0"):
        lrcore.Adam(np.ones(8, np.float32)).step(memory[:8])
    assert opt.step_count == 0
    assert_bits(xp.numpy(memory), np.ones(16, np.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cupy", "torch"])
@pytest.mark.parametrize(("n", "shift"), [(2**31 + 5, 0), (2**31 + 5, 1), (2**32 + 1, 0)])
def test_more_elements_than_32_bits_count(name: str, n: int, shift: int) -> None:
    """Elements at both ends and around 2^31 and 2^32 are right. test_binding.py covers imitated devices."""
    with library(name) as xp:
        if xp.free_bytes() < 3.5 * 4 * n:
            pytest.skip("the device has too little memory")
        p, g = xp.zeros(n), xp.zeros(n + shift)
        wanted = elements_around_32_bits(n)
        for k, element in enumerate(wanted):
            p[element], g[element + shift] = k, 1 + k
        lrcore.SGD(p, lr=0.5).step(g[shift:])
        assert [float(p[element]) for element in wanted] == [k - 0.5 * (1 + k) for k in range(len(wanted))]
        assert float(abs(p).sum()) == sum(abs(k - 0.5 * (1 + k)) for k in range(len(wanted)))
        del p, g
        xp.free()
