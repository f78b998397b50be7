"""Steps on lists of gradients on a device, which adds the arrays in the order of the list, as the CPU does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CuPy, Torch, imitated
from gpu.test_groups import shifted
from gpu.test_guard import CUT, GROUPS, SETTINGS, assert_alike, pair, step_both
from rules.test_functional import function
from support import CONFIGURATIONS, ONES, N, assert_bits, gradients


@pytest.mark.parametrize("settings", [{}, {"groups": GROUPS}, {"groups": GROUPS, **SETTINGS["both"]}])
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_lists(xp: CuPy | Torch, count: int, settings: dict[str, Any]) -> None:
    """Gradients are added from left to right, in whatever memory they are. The sum of two may overflow."""
    opt, expected = pair(xp, CUT, **settings)
    for t, offset in enumerate((0, 1, 3, 0)):
        grads = [gradients(np.random.default_rng([t, i]), CUT) for i in range(count)]
        if t == 1:
            grads[0][8] = grads[-1][8] = 3e38
        passed = [shifted(xp, g, offset if i == count - 1 else 0) for i, g in enumerate(grads)]
        opt.step(tuple(passed) if t % 2 else passed, grad_scale=-0.3)
        expected.step(grads, grad_scale=-0.3)
        assert_alike(xp, opt, expected, f"after step {t}")
    assert opt.skipped_steps == (count > 1 and "max_norm" in settings)


@pytest.mark.parametrize(("count", "n"), [(1, 5), (2, 1), (20, 0), (20, 300)])
def test_functional_steps(xp: CuPy | Torch, rule: str, count: int, n: int) -> None:
    p = np.linspace(-1, 1, n, dtype=np.float32)
    arrays = [p, *(np.zeros(n, np.float32) for _ in lrcore.rules()[rule].states)]
    on_device = [xp.array(each) for each in arrays]
    numbers = CONFIGURATIONS[rule].arguments | {"weight_decay": 0.1, "lr": 0.1, "grad_scale": -0.3}
    for step in (1, 2):
        grads = [gradients(np.random.default_rng([step, i]), n) for i in range(count)]
        passed = [shifted(xp, g, step - 1 if i == count - 1 else 0) for i, g in enumerate(grads)]
        for (params, *states), each in ((arrays, grads), (on_device, passed)):
            function(rule)(params, each, *states, step=step, **numbers)
    for found, expected in zip(on_device, arrays, strict=True):
        assert_bits(xp.numpy(found), expected)


REFUSED: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda _array, _p: [], ValueError, "^grads: expected at least one array"),
    (lambda array, _: [array(ONES), array(ONES[:3])], ValueError, r"^grads\[1\]: "),
    (
        lambda array, _: [array(ONES), array(ONES), array(ONES.astype("f8"))],
        TypeError,
        r"^grads\[2\]: .*float64",
    ),
    (lambda array, p: [array(ONES), p], ValueError, r"^grads\[1\]: shares memory with params"),
    (lambda array, _: [array(ONES), None], TypeError, r"^grads\[1\]: "),
    (lambda array, _: [[array(ONES)]], TypeError, r"^grads\[0\]: "),
]


@pytest.mark.parametrize(("grads", "error", "match"), REFUSED)
def test_refused_lists(
    xp: CuPy | Torch, grads: Callable[[Any, Any], Any], error: type[Exception], match: str
) -> None:
    """The errors are those of the CPU, and nothing changes."""
    opt, expected = pair(xp, N, max_norm=0.5, skip_nonfinite=2)
    step_both(xp, opt, expected, ONES)
    step_both(xp, opt, expected, ONES * math.nan)
    for each, array in ((opt, xp.array), (expected, np.array)):
        with pytest.raises(error, match=match):
            each.step(grads(array, each.params))
        with pytest.raises(error, match=match):
            lrcore.functional.sgd(each.params, grads(array, each.params), step=1, lr=0.1)
    assert_alike(xp, opt, expected)


def test_a_list_from_several_devices() -> None:
    with imitated() as xp:
        opt, _ = pair(xp, N, max_norm=0.5)
        for other, place in ((ONES, "cpu"), (xp.array(ONES, device=1), "cuda:1")):
            for step in (opt.step, lambda grads: lrcore.functional.sgd(opt.params, grads, step=1, lr=0.1)):
                with pytest.raises(
                    RuntimeError, match=rf"^grads\[1\]: expected .* cuda:0 .*got one on {place}"
                ):
                    step([xp.array(ONES), other])
        assert (opt.step_count, opt.grad_norm) == (0, None)
