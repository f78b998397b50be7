"""`ema` on a device, with the bits of the same optimizer on the CPU, also in graphs."""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CUPY, CuPy, Imitated, Torch, assert_equal, imitated, library
from gpu.fake_cuda import WAITING
from gpu.test_groups import groups_of, shifted
from gpu.test_guard import assert_alike, gradient, write, write_both
from gpu.test_together import SCALER, step_with_scaler
from lrcore import schedules
from lrcore._lrcore_core import step_together
from packs import trees
from rules.stepping import rate
from support import ONES, N, assert_bits, make, start

RISING = schedules.Linear(0.25, end=0.875, steps=9)


def pair(xp: CuPy | Torch, rule: str, n: int, offset: int = 0, **settings: Any) -> tuple[Any, Any]:
    """Return an optimizer whose parameters begin at some offset on a device, and the same one on the CPU."""
    p = np.linspace(-1, 1, n, dtype=np.float32)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1, "ema": RISING} | settings
    return make(rule, shifted(xp, p, offset), **alike), make(rule, p, **alike)


def captured_pair(xp: CuPy | Torch, n: int = 1003, max_steps: int = 30, **settings: Any) -> tuple[Any, Any]:
    """Return the same with bound gradients. The optimizer on the device is capturable."""
    p = np.linspace(-1, 1, n, dtype=np.float32)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1, "ema": RISING} | settings
    opt = make(
        "adam", xp.array(p), grads=xp.array(gradient(n, 0)), capturable=True, max_steps=max_steps, **alike
    )
    return opt, make("adam", p, grads=gradient(n, 0), **alike)


@pytest.mark.parametrize("n", [0, 1, 5, 33, 1003, 5000])
def test_bits_of_every_rule(xp: CuPy | Torch, rule: str, n: int) -> None:
    """For each alignment of the parameters and of the gradients."""
    for offset, of_grads in ((0, 0), (0, 1), (1, 1), (3, 2)):
        opt, expected = pair(xp, rule, n, offset)
        assert [*opt.state] == [*expected.state]
        assert_equal(xp, opt, expected, "at first")
        for t in range(3):
            opt.step(shifted(xp, gradient(n, t), of_grads), grad_scale=-0.5)
            expected.step(gradient(n, t), grad_scale=-0.5)
        assert_equal(xp, opt, expected, f"{rule}, n = {n}, offsets {offset} and {of_grads}")


@pytest.mark.parametrize("name", CUPY)
def test_special_values(name: str) -> None:
    """Nothing is flushed, and no operation is fused."""
    values = np.array([0, 1e-45, 1e-40, 2**-126, 1, 1 + 2**-23, 3e38, math.inf, math.nan], np.float32)
    values = np.concatenate([values, -values])
    e, p = np.repeat(values, values.size), np.tile(values, values.size)
    with library(name) as xp:
        for ema in (0.0, 0.75, 0.999, 1 - 2.0**-53):
            opts = [lrcore.SGD(each, 0.0, ema=ema) for each in (xp.array(p), p.copy())]
            write(xp, opts[0].state["ema"], e)
            opts[1].state["ema"][:] = e
            opts[0].step(xp.array(np.zeros_like(p)))
            opts[1].step(np.zeros_like(p))
            assert_equal(xp, opts[0], opts[1], f"ema = {ema}")


@pytest.mark.parametrize("segments", [1, 7, 300])
def test_groups(xp: CuPy | Torch, segments: int) -> None:
    """They are frozen and thawed."""
    groups = groups_of("adam", 5003, segments)
    opt, expected = pair(xp, "adam", 5003, groups=groups)
    for t in range(5):
        for each in (opt, expected):
            each.groups[t % len(each.groups)].frozen = t % 2 == 0
        opt.step(xp.array(gradient(5003, t)))
        expected.step(gradient(5003, t))
        assert_equal(xp, opt, expected, f"after step {t + 1}")


@pytest.mark.parametrize("zero_grads", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_clipped_and_skipped_steps(xp: CuPy | Torch, count: int, zero_grads: bool) -> None:
    """Of lists of gradients too. A skipped step leaves the average and its decay."""
    settings: dict[str, Any] = {"max_norm": 0.5, "skip_nonfinite": 9}
    opt, expected = pair(xp, "adam", 5000, groups=[{"params": (7, 99), "lr_scale": 0.5}], **settings)
    for t in range(8):
        grads = [
            gradient(5000, 3 * t + i, math.nan if i == 0 and t in (2, 3, 6) else None) for i in range(count)
        ]
        on_device = [xp.array(each) for each in grads]
        opt.step(on_device, zero_grads=zero_grads)
        expected.step(grads, zero_grads=zero_grads)
        if t % 2:
            assert_alike(xp, opt, expected, f"after step {t + 1}")
            assert opt.ema == expected.ema
    assert (opt.step_count, opt.skipped_steps) == (5, 3)


def test_the_attribute(xp: CuPy | Torch) -> None:
    opt, expected = pair(xp, "sgd", N)
    for t, ema in enumerate((0.5, RISING, lambda t: t / 16)):
        for each, g in ((opt, xp.array(gradient(N, t))), (expected, gradient(N, t))):
            each.ema = ema
            each.step(g)
        assert opt.ema == expected.ema
        assert_equal(xp, opt, expected)
    fixed, _ = captured_pair(xp, N)
    with pytest.raises(AttributeError, match="^ema: fixed at construction"):
        fixed.ema = 0.5
    assert fixed.ema == RISING(0)


def test_averaged(xp: CuPy | Torch) -> None:
    """It is a new array on the device of the parameters, in their shape, or is written to one. It has the last step."""
    p = start().reshape(3, 7)
    opt, expected = (lrcore.Adam(each, 0.1, ema=0.5) for each in (xp.array(p, xp.devices() - 1), p.copy()))
    into = xp.array(np.zeros((3, 7), np.float32), xp.devices() - 1)
    for t in range(3):
        g = gradient(N, t).reshape(3, 7)
        opt.step(xp.array(g, xp.devices() - 1))
        expected.step(g)
        assert opt.averaged(into) is into
        for found in (opt.averaged(), into):
            assert type(found) is type(opt.params)
            assert found.__dlpack_device__() == opt.params.__dlpack_device__()
            assert xp.address(found) not in (xp.address(opt.params), xp.address(opt.state["ema"]))
            assert_bits(xp.numpy(found), expected.averaged())
    with pytest.raises(ValueError, match="^out: "):
        opt.averaged(into[:2])
    assert_equal(xp, opt, expected)


@pytest.mark.parametrize("name", CUPY)
def test_packs(name: str) -> None:
    with library(name) as xp:
        assert isinstance(xp, CuPy)
        packs = [lrcore.Pack(trees.entries(), each, pad=True) for each in (xp.cupy, np)]
        opt, expected = (lrcore.Adam(each, 0.1, ema=RISING) for each in packs)
        grads = [each.like() for each in packs]
        for t in range(3):
            trees.fill(grads[1], t)
            write(xp, grads[0].flat, grads[1].flat)
            for each, g in zip((opt, expected), grads, strict=True):
                each.step(g)
        into = packs[0].like()
        assert opt.averaged(into) is into
        for found in (opt.averaged(), into, opt.state["ema"]):
            assert repr(found) == repr(packs[0])
            assert_bits(xp.numpy(found.flat), expected.state["ema"].flat)


# ---- graphs


def test_replays(xp: CuPy | Torch) -> None:
    """Each replay has the decay of its own step. The host does nothing except launch the replays."""
    opt, expected = captured_pair(xp)
    for each in (opt, expected):
        each.step()
    replay = xp.capture(opt.step)
    if isinstance(xp, Imitated):
        xp.fake.clear()
    for _ in range(12):
        replay()
        expected.step()
    if isinstance(xp, Imitated):
        assert xp.fake.calls() == []
    assert_equal(xp, opt, expected)
    assert opt.ema == RISING(13)
    assert_bits(xp.numpy(opt.averaged()), expected.averaged())


def test_past_the_table_its_last_decay_holds(xp: CuPy | Torch) -> None:
    opt, expected = captured_pair(xp, max_steps=4)
    replay = xp.capture(opt.step)
    for t in range(7):
        replay()
        expected.step_count = min(t, 3)
        expected.step()
    assert (opt.step_count, opt.ema) == (7, RISING(3))
    assert_bits(xp.numpy(opt.state["ema"]), expected.state["ema"])


def test_replays_that_skip(xp: CuPy | Torch) -> None:
    """The decay goes on where it was. Gradients that the steps zero are zero after each replay, also a skipped one."""
    opt, expected = captured_pair(
        xp, max_norm=0.5, skip_nonfinite=9, groups=[{"params": (5, 99), "lr_scale": 0.5}]
    )
    replay = xp.capture(lambda: opt.step(zero_grads=True))
    for t in range(9):
        write_both(xp, opt, expected, gradient(1003, t, math.inf if t in (0, 3, 4) else None))
        replay()
        expected.step()
        assert not xp.numpy(opt.grads).any()
    assert_alike(xp, opt, expected)
    assert (opt.step_count, opt.skipped_steps) == (6, 3)


@pytest.mark.parametrize("captured_first", [True, False])
def test_loading_fills_the_table_anew(xp: CuPy | Torch, captured_first: bool) -> None:
    """Graphs that were captured before the load also use the new decays. A dictionary without an average is refused."""
    opt, _ = captured_pair(xp, ema=0.5)
    replay = xp.capture(opt.step) if captured_first else None
    _, source = captured_pair(xp, lr=0.05)
    for _ in range(3):
        source.step()
    before = xp.numpy(opt.state["ema"]).copy()
    with pytest.raises(ValueError, match="^ema: "):
        opt.load_state_dict(captured_pair(xp, ema=None)[1].state_dict())
    assert_bits(xp.numpy(opt.state["ema"]), before)
    opt.load_state_dict(source.state_dict())
    write(xp, opt.params, source.params)
    replay = replay or xp.capture(opt.step)
    for _ in range(4):
        replay()
        source.step()
    assert_equal(xp, opt, source)
    assert opt.ema == source.ema


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies(xp: CuPy | Torch, way: str) -> None:
    """They have averages and tables of their own."""
    opt, expected = captured_pair(xp)
    opt.step()
    expected.step()
    other, kept = WAYS[way](opt), copy.deepcopy(expected)
    kept.step()
    xp.capture(other.step)()
    assert_equal(xp, other, kept)
    assert_bits(xp.numpy(opt.state["ema"]), expected.state["ema"])


# ---- several optimizers, tensors, failures


def test_several_optimizers(xp: CuPy | Torch) -> None:
    alike: dict[str, Any] = {"lr": 0.1, "max_norm": 0.5, "skip_nonfinite": 9, "ema": RISING}
    p = np.linspace(-1, 1, 5000, dtype=np.float32)
    parts = [(slice(0, 1003), 0), (slice(1003, 5000), xp.devices() - 1)]
    opts = [
        make("adam", xp.array(p[part], device), grads=xp.array(p[part], device), **alike)
        for part, device in parts
    ]
    expected = [make("adam", p[part].copy(), grads=p[part].copy(), **alike) for part, _ in parts]
    for t in range(5):
        g = gradient(5000, t, math.nan if t == 2 else None)
        for opt, other, (part, _) in zip(opts, expected, parts, strict=True):
            write_both(xp, opt, other, g[part])
        for each in (opts, expected):
            step_together(each)
    for opt, other in zip(opts, expected, strict=True):
        assert_alike(xp, opt, other)


def test_a_loss_scaler(xp: CuPy | Torch) -> None:
    """A step that it skips on the device leaves the average and its decay."""
    opt, expected = captured_pair(xp)
    eager = make("adam", xp.array(expected.params), rate, weight_decay=0.1, ema=RISING, grads=opt.grads)
    for numbers in SCALER:
        scale, found = (None if each is None else xp.array(np.array([each], np.float32)) for each in numbers)
        for each in (opt, eager):
            step_together([each], -0.5, scale, found)
        step_with_scaler(expected, -0.5, *numbers)
    for each in (opt, eager):
        assert_alike(xp, each, expected)
    assert opt.skipped_steps == 3


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("settings", [{}, {"max_norm": 0.5, "skip_nonfinite": 9}])
def test_tensors(settings: dict[str, Any], captured: bool) -> None:
    """Only tensors that have gradients are averaged. A step in a graph needs a gradient for each."""
    pytest.importorskip("torch")
    from gpu.test_tensors import SIZES, TENSORS, assign, both_with_tensors

    with imitated() as xp:
        opt, tensors, expected, its, begins = both_with_tensors(
            xp, settings | {"ema": RISING}, max_steps=9 if captured else None
        )
        for t in range(6):
            g = gradient(TENSORS, t)
            parts = [g[begin:][:size] for begin, size in zip(begins, SIZES, strict=True)]
            parts[t % 6][0] = math.nan if settings and t == 2 else 1.0
            which = {i for i in range(6) if captured or (i + t) % 3 != 1}
            assign(xp, tensors, parts, which.__contains__, shift=int(not captured))
            assign(None, its, parts, which.__contains__)
            step = functools.partial(step_together, [opt], 0.5)
            (xp.capture(step) if captured else step)()
            step_together([expected], 0.5)
            assert_alike(xp, opt, expected, f"after step {t + 1}")


def test_a_step_that_fails_changes_no_average() -> None:
    with imitated() as xp:
        opt, expected = pair(xp, "adam", N)
        for t in range(3):
            xp.fake.fail["launch"] = 999
            with pytest.raises(RuntimeError, match="^CUDA: launching the step"):
                opt.step(xp.array(ONES))
            xp.fake.fail.clear()
            assert_equal(xp, opt, expected, f"before step {t + 1}")
            opt.step(xp.array(ONES))
            expected.step(ONES)
        assert_equal(xp, opt, expected)


def test_a_step_is_one_launch_that_nothing_waits_for() -> None:
    """The average adds no call to a step. Nothing is leaked."""
    with imitated() as xp:
        called = []
        for ema in (None, RISING):
            opt, _ = pair(xp, "adam", N, ema=ema)
            g = xp.array(ONES)
            opt.step(g)
            xp.fake.clear()
            opt.step(g)
            called.append([call.name for call in xp.fake.calls()])
            assert not xp.fake.calls(*WAITING)
            if ema is not None:
                opt.averaged()
            del opt, _
            gc.collect()
            assert xp.fake.leaked() == []
        assert called[0] == called[1]
