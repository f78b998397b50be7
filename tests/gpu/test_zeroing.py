"""``step(zero_grads=True)`` on a device: the bits of a step of the CPU without it, and gradients that are +0 afterwards.

The launch that reads the gradients zeroes them, also in a graph. Nothing outside of them is written.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CUPY, CuPy, Torch, imitated, library
from gpu.test_guard import (
    COSINE,
    CUT,
    GROUPS,
    SETTINGS,
    assert_alike,
    gradient,
    pair,
    record,
    refusal,
    step_both,
    write,
)
from gpu.test_together import SCALER, WITH_SCALER, step_with_scaler
from lrcore._lrcore_core import step_together
from optimizers.zeroing import Guarded, special
from packs import trees
from rules.stepping import rate
from sums.oracle import LEAF
from support import ONES, Array, N, assert_bits, make, start

FROZEN = [(40, 55)]
"""The frozen elements of `GROUPS`."""


def guarded(xp: CuPy | Torch, n: int, t: int, count: int = 1, bad: float | None = None) -> list[Guarded]:
    """Return gradients of step t on the device, each with guards and at another offset."""
    return [Guarded(gradient(n, 10 * t + i, bad), (3 * t + 5 * i) % 16, xp) for i in range(count)]


def values(grads: list[Guarded]) -> list[Array]:
    """Return the gradients on the CPU, as they were before the step."""
    return [each.before[each.place] for each in grads]


def test_bits_of_every_rule(xp: CuPy | Torch, rule: str) -> None:
    """Whatever the length and the offsets of parameters and gradients, also of gradients that are not finite."""
    for n in (0, 1, 5, 33, CUT):
        groups = GROUPS if n == CUT else None
        opt, expected = pair(xp, n, rule, n % 4, groups=groups)
        for t, offset in enumerate((n % 4, 0, 1, 3)):
            g = special(n, t) if t == 3 else gradient(n, t)
            grads = Guarded(g, offset, xp)
            opt.step(grads.array, grad_scale=-0.3, zero_grads=True)
            expected.step(g, grad_scale=-0.3)
            grads.assert_zeroed(FROZEN if groups else (), f"{rule}, n = {n}, offset {offset}:")
        assert_alike(xp, opt, expected, f"{rule}, n = {n}")


@pytest.mark.parametrize("settings", [{}, {"groups": GROUPS}, {"groups": GROUPS, **SETTINGS["both"]}])
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_lists(xp: CuPy | Torch, count: int, settings: dict[str, Any]) -> None:
    """All of their arrays are zeroed. An array that occurs several times is added several times."""
    opt, expected = pair(xp, CUT, **settings)
    for t in range(3):
        grads = guarded(xp, CUT, t, count)
        order = [*range(count), *range(0, count, 2)[: 2 * t]]
        opt.step([grads[i].array for i in order], grad_scale=-0.3, zero_grads=True)
        expected.step([values(grads)[i] for i in order], grad_scale=-0.3)
        assert_alike(xp, opt, expected, f"after step {t}")
        for each in grads:
            each.assert_zeroed(FROZEN if settings else ())


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("n", [0, 1, LEAF, 3 * LEAF + 17])
def test_skipped_steps_zero_the_gradients(xp: CuPy | Torch, n: int, settings: dict[str, Any]) -> None:
    """They are decided on the device. Nothing but the gradients and the counts changes."""
    opt, expected = pair(xp, n, **settings)
    for t in range(6):
        bad = math.nan if "skip_nonfinite" in settings and t in (1, 2, 4) else None
        grads = guarded(xp, n, t, 1 + t % 2, bad)
        arrays = [each.array for each in grads]
        opt.step(arrays if t % 2 else arrays[0], zero_grads=True)
        expected.step(values(grads))
        for each in grads:
            each.assert_zeroed(what=f"step {t}:")
        if t % 2:
            assert_alike(xp, opt, expected, f"after step {t}")


@pytest.mark.parametrize("waits", [False, True])
def test_a_row_of_skipped_steps(xp: CuPy | Torch, waits: bool) -> None:
    """Each is zeroed. A step that raises because of those before it is not taken, and zeroes nothing."""
    opt, expected = pair(xp, CUT, groups=GROUPS, skip_nonfinite=2)
    for t in range(2):
        grads = guarded(xp, CUT, t, bad=math.inf)
        opt.step(grads[0].array, zero_grads=True)
        message = refusal(lambda grads=grads: expected.step(values(grads)))  # type: ignore[misc]
        grads[0].assert_zeroed(FROZEN)
    assert message is not None
    if waits:
        assert refusal(lambda: opt.step_count) == message
    else:
        (good,) = guarded(xp, CUT, 3)
        assert refusal(lambda: opt.step(good.array, zero_grads=True)) == message
        good.assert_kept()
    assert_alike(xp, opt, expected)


def test_frozen_elements_are_neither_read_nor_zeroed(xp: CuPy | Torch) -> None:
    """The remainders of ranges of any length do not reach into the next range. Thawed elements are zeroed."""
    bounds = np.cumsum([0, *(length for length in range(1, 40) for _ in range(2))]).tolist()
    parts = [[*itertools.pairwise(bounds)][k::2] for k in (0, 1)]
    opt, expected = pair(xp, bounds[-1], groups=[{"params": parts[0]}], max_norm=0.5)
    for t, frozen in enumerate(((1,), (0,), (), (0, 1))):
        for each in (opt, expected):
            for k in (0, 1):
                each.groups[1 - k].frozen = k in frozen
        kept = sorted(bounds for k in frozen for bounds in parts[k])
        grads = guarded(xp, bounds[-1], t, 2)
        opt.step([each.array for each in grads], zero_grads=True)
        expected.step(values(grads))
        for each in grads:
            each.assert_zeroed(kept, f"frozen: {frozen}:")
        assert_alike(xp, opt, expected, f"frozen: {frozen}")


def test_bound_gradients(xp: CuPy | Torch) -> None:
    """They are zeroed by a step on them, and kept by a step on others."""
    bound, other = Guarded(special(N, 0), 1, xp), Guarded(special(N, 1), 2, xp)
    opt = lrcore.Adam(xp.array(start()), grads=bound.array)
    expected = lrcore.Adam(start())
    for passed, read in (((other.array,), other), ((), bound)):
        bound.assert_kept()
        opt.step(*passed, zero_grads=True)
        read.assert_zeroed()
        expected.step(read.before[read.place])
        assert_alike(xp, opt, expected)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", CUPY)
def test_packs(name: str, pad: bool) -> None:
    """Bound, or in a list with others."""
    with library(name) as xp:
        assert isinstance(xp, CuPy)
        packs = [lrcore.Pack(trees.entries(), each, pad=pad) for each in (xp.cupy, np)]
        alike: dict[str, Any] = {"groups": [{"params": "blocks.0.*", "frozen": True}], "max_norm": 0.5}
        opt, expected = (make("adam", each, grads=each.like(), **alike) for each in packs)
        frozen = np.r_[tuple(slice(*each) for each in opt.groups[1].ranges)]
        for t, in_a_list in enumerate((False, True)):
            mine, its = ([each.grads, each.grads.like()] for each in (opt, expected))
            for k, (on_device, on_host) in enumerate(zip(mine, its, strict=True)):
                write(xp, on_device.flat, trees.fill(on_host, 2 * t + k).flat)
            opt.step(*([mine] if in_a_list else []), zero_grads=True)
            expected.step(*([its] if in_a_list else []))
            assert record(opt) == record(expected)
            assert_bits(xp.numpy(opt.params.flat), expected.params.flat)
            for k, (on_device, on_host) in enumerate(zip(mine, its, strict=True)):
                wanted = on_host.flat.copy()
                if k == 0 or in_a_list:
                    wanted[:] = 0
                    wanted[frozen] = on_host.flat[frozen]
                assert_bits(xp.numpy(on_device.flat), wanted)


# ---- graphs


def captured(
    xp: CuPy | Torch, offset: int, capturable: bool = True, **settings: Any
) -> tuple[Any, Any, Guarded]:
    """Return an optimizer with bound gradients, the same on the CPU, and the bound gradients of the first."""
    p = np.linspace(-1, 1, CUT, dtype=np.float32)
    bound = Guarded(0 * p, offset, xp)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1} | settings
    graphs: dict[str, Any] = {"capturable": True, "max_steps": 30} if capturable else {}
    opt = make("adam", xp.array(p), grads=bound.array, **alike, **graphs)
    return opt, make("adam", p, grads=0 * p, **alike), bound


def give(xp: CuPy | Torch, bound: Guarded, expected: Any, g: Array) -> None:
    """Write gradients to the device, between the guards, and to the CPU."""
    bound.before[bound.place] = expected.grads[:] = g
    write(xp, bound.array, g)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"groups": GROUPS}, {"groups": GROUPS, **SETTINGS["both"]}])
def test_replays(xp: CuPy | Torch, settings: dict[str, Any], offset: int) -> None:
    """Each zeroes the gradients, also one that skips, if the captured step does. Another graph may leave them."""
    opt, expected, bound = captured(xp, offset, **settings)
    leaving, zeroing = (xp.capture(functools.partial(opt.step, zero_grads=each)) for each in (False, True))
    kept = FROZEN if settings else ()
    for t in range(9):
        bad = math.nan if "skip_nonfinite" in settings and t in (2, 3, 6) else None
        give(xp, bound, expected, gradient(CUT, t, bad))
        expected.step()
        if t % 3 == 0:
            leaving()
            bound.assert_kept()
        else:
            (zeroing if t % 3 == 1 else functools.partial(opt.step, zero_grads=True))()
            bound.assert_zeroed(kept, f"after step {t}")
    assert_alike(xp, opt, expected)


def test_several_steps_in_one_graph(xp: CuPy | Torch) -> None:
    """The second and third step read zeros."""
    opt, expected, bound = captured(xp, 0, max_norm=COSINE, skip_nonfinite=9)

    def thrice() -> None:
        for _ in range(3):
            opt.step(zero_grads=True)

    replay = xp.capture(thrice)
    for bad in (None, math.inf, None):
        give(xp, bound, expected, gradient(CUT, 1, bad))
        replay()
        for _ in range(3):
            expected.step()
            expected.grads[:] = 0
        bound.assert_zeroed()
        assert_alike(xp, opt, expected)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("settings", WITH_SCALER)
def test_a_loss_scaler(xp: CuPy | Torch, settings: dict[str, Any], capturable: bool) -> None:
    """A step that it skips zeroes the gradients, too."""
    opt, expected, bound = captured(xp, 3, capturable, groups=GROUPS, **settings)
    for t, numbers in enumerate(SCALER):
        is_bad = "skip_nonfinite" in settings and t in (2, 4)
        give(xp, bound, expected, gradient(CUT, t, math.nan if is_bad else None))
        arrays = [None if each is None else xp.array(np.array([each], np.float32)) for each in numbers]
        step_together([opt], -0.5, *arrays, zero_grads=True)
        step_with_scaler(expected, -0.5, *numbers)
        bound.assert_zeroed(FROZEN, f"step {t}:")
        if t % 2:
            assert_alike(xp, opt, expected, f"after step {t}")


# ---- calls and refusals


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("settings", [{}, {"groups": GROUPS}, {"max_norm": 0.5}, {"skip_nonfinite": 9}])
def test_zeroing_takes_no_calls(settings: dict[str, Any], count: int | None) -> None:
    """The launch that steps is the only one that zeroes, on the stream of the step."""
    with imitated() as xp:
        names = []
        for zero in (False, True):
            opt, _ = pair(xp, CUT, **settings)
            opt.step(xp.array(gradient(CUT, 0)))
            stream = xp.stream()
            passed = [xp.array(gradient(CUT, i)) for i in range(count or 1)]
            xp.fake.clear()
            opt.step(passed if count else passed[0], zero_grads=zero, stream=stream)
            names.append([call.name for call in xp.fake.calls()])
            assert {call.stream for call in xp.fake.calls()} <= {stream.ptr, None}
        assert names[0] == names[1]


@pytest.mark.parametrize("n", [2, LEAF + 40])
def test_arrays_of_a_list_that_overlap(xp: CuPy | Torch, n: int) -> None:
    """They are refused as on the CPU. Without zeroing they are added; arrays that only touch are zeroed."""
    opt, expected = pair(xp, n, max_norm=0.5, skip_nonfinite=3)
    for shift in (1, -1, n - 1, 1 - n):
        memory, other = Guarded(gradient(3 * n, 0), 3, xp), Guarded(gradient(n, 1), 0, xp)
        places = [slice(n, 2 * n), slice(n + shift, 2 * n + shift)]
        grads = [other.array, *(memory.array[each] for each in places)]
        with pytest.raises(ValueError, match=r"^grads\[2\]: .*grads\[1\]"):
            opt.step(grads, zero_grads=True)
        memory.assert_kept()
        other.assert_kept()
        assert_alike(xp, opt, expected)
        opt.step(grads)
        expected.step([*values([other]), *(values([memory])[0][each] for each in places)])
        assert_alike(xp, opt, expected)
    memory = Guarded(gradient(2 * n, 0), 0, xp)
    opt.step([memory.array[n:], memory.array[:n]], zero_grads=True)
    memory.assert_zeroed()


@pytest.mark.parametrize(
    "function",
    ["wait_for_event", "allocate_on", "write", "measure", "judge", "launch"],
)
def test_a_step_that_fails_zeroes_nothing(function: str) -> None:
    with imitated() as xp:
        opt, expected = pair(xp, CUT, max_norm=COSINE, skip_nonfinite=9)
        step_both(xp, opt, expected, gradient(CUT, 0))
        grads = guarded(xp, CUT, 1, 3)
        xp.fake.fail[function] = 999
        with pytest.raises(RuntimeError, match="^CUDA: "):
            opt.step([each.array for each in grads], zero_grads=True)
        xp.fake.fail.clear()
        for each in grads:
            each.assert_kept()
        assert_alike(xp, opt, expected)


def test_a_list_from_several_devices_is_refused() -> None:
    with imitated() as xp:
        opt, _ = pair(xp, N)
        mine = Guarded(ONES, 0, xp)
        for other in (np.ones(N, np.float32), xp.array(ONES, device=1)):
            with pytest.raises(RuntimeError, match=r"^grads\[1\]: "):
                opt.step([mine.array, other], zero_grads=True)
            mine.assert_kept()
        for value in (1, None, "yes"):
            with pytest.raises(TypeError, match="^zero_grads: expected True or False, got "):
                opt.step(mine.array, zero_grads=value)
        assert opt.step_count == 0
