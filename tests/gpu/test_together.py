"""Optimizers that step together on devices, with the bits of the CPU, and the numbers of a loss scaler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CuPy, Torch, imitated
from gpu.test_guard import COSINE, CUT, GROUPS, assert_alike, captured_pair, gradient, refusal, write_both
from lrcore._lrcore_core import skip_together, step_together
from rules.stepping import rate
from support import ONES, N, make, start

SCALER = [
    (None, None),
    (1024.0, 0.0),
    (1024.0, 1.0),
    (3.0, math.inf),
    (3.0, None),
    (None, math.nan),
    (7.0, 0.0),
]
"""The scale of the loss and `found_inf` of each step."""

WITH_SCALER: list[dict[str, Any]] = [{}, {"max_norm": 0.5}, {"max_norm": 0.5, "skip_nonfinite": 9}]


def step_with_scaler(opt: Any, scale: float, loss_scale: float | None, found_inf: float | None) -> None:
    """Take a step on the CPU, as a device does with the numbers of a loss scaler."""
    if found_inf is not None and found_inf != 0:
        skip_together([opt])
    else:
        step_together([opt], scale / (1.0 if loss_scale is None else loss_scale))


@pytest.mark.parametrize("settings", WITH_SCALER)
def test_a_loss_scaler(xp: CuPy | Torch, settings: dict[str, Any]) -> None:
    """The device divides by the scale, and skips the step if `found_inf` is not 0. Then `grad_norm` stays."""
    opt, expected = captured_pair(xp, CUT, groups=GROUPS, **settings)
    eager = make(
        "adam", xp.array(expected.params), rate, grads=opt.grads, weight_decay=0.1, groups=GROUPS, **settings
    )
    for t, numbers in enumerate(SCALER):
        is_bad = "skip_nonfinite" in settings and t in (2, 4)
        write_both(xp, opt, expected, gradient(CUT, t, math.nan if is_bad else None))
        arrays = [None if each is None else xp.array(np.array([each], np.float32)) for each in numbers]
        for each in (opt, eager):
            step_together([each], -0.5, *arrays)
        step_with_scaler(expected, -0.5, *numbers)
        if t % 2:
            assert_alike(xp, eager, expected, f"after step {t}")
            assert_alike(xp, opt, expected, f"capturable, after step {t}")
    assert_alike(xp, eager, expected)
    assert_alike(xp, opt, expected)
    assert opt.skipped_steps == 3 + ("skip_nonfinite" in settings)


def test_a_row_of_steps_that_the_scaler_skips(xp: CuPy | Torch) -> None:
    """The next step raises what the CPU raises, and is not taken."""
    opt, expected = captured_pair(xp, CUT, skip_nonfinite=2)
    eager = make("adam", xp.array(expected.params), rate, grads=opt.grads, weight_decay=0.1, skip_nonfinite=2)
    one = xp.array(np.ones(1, np.float32))
    for _ in range(2):
        for each in (opt, eager):
            step_together([each], 1.0, None, one)
        message = refusal(lambda: skip_together([expected]))
    assert "got 2; " in str(message)
    assert refusal(lambda: step_together([eager])) == refusal(lambda: opt.step_count) == message
    assert_alike(xp, eager, expected)
    assert_alike(xp, opt, expected)


def test_refused_numbers_of_a_loss_scaler() -> None:
    with imitated() as xp:
        opts = [lrcore.SGD(xp.array(start()), grads=xp.array(ONES)) for _ in range(2)]
        on_cpu = lrcore.SGD(start(), grads=ONES)
        one = xp.array(np.ones(1, np.float32))
        wrong: list[tuple[list[Any], Any, type[Exception], str]] = [
            (opts[:1], xp.array(np.ones(2, np.float32)), ValueError, "expected one number"),
            (opts[:1], xp.array(np.ones(1)), TypeError, "float64"),
            (opts[:1], np.ones(1, np.float32), RuntimeError, "cuda:0"),
            (opts[:1], xp.array(np.ones(1, np.float32), device=1), RuntimeError, "cuda:0.*cuda:1"),
            (opts, one, TypeError, "expected None for several devices or the CPU"),
            ([on_cpu], one, TypeError, "expected None for several devices or the CPU"),
        ]
        for steppers, number, error, match in wrong:
            for name, numbers in (("loss_scale", (number, None)), ("found_inf", (None, number))):
                with pytest.raises(error, match=f"^{name}: .*{match}"):
                    step_together(steppers, 1.0, *numbers)
        assert [each.step_count for each in (*opts, on_cpu)] == [0, 0, 0]


def test_several_optimizers(xp: CuPy | Torch) -> None:
    """They have one norm and skip the same steps, also if one of them has stepped alone before. They wait for it."""
    alike: dict[str, Any] = {"lr": rate, "max_norm": COSINE, "skip_nonfinite": 2}
    p = np.linspace(-1, 1, CUT, dtype=np.float32)
    parts = [(slice(0, 1003), 0), (slice(1003, CUT), xp.devices() - 1)]
    opts = [
        make("adam", xp.array(p[part], device), grads=xp.array(p[part], device), **alike)
        for part, device in parts
    ]
    expected = [make("adam", p[part].copy(), grads=p[part].copy(), **alike) for part, _ in parts]
    for first, *_ in (opts, expected):
        first.step()
    for t in range(7):
        g = gradient(CUT, t, math.nan if t in (2, 3, 5) else None)
        for each, other, (part, _) in zip(opts, expected, parts, strict=True):
            write_both(xp, each, other, g[part])
        message = refusal(lambda: step_together(opts, -0.5))
        assert message == refusal(lambda: step_together(expected, -0.5))
        assert (message is not None) == (t == 3)
        for each, other in zip(opts, expected, strict=True):
            assert_alike(xp, each, other, f"after step {t}")


def test_a_norm_of_several_optimizers_replaces_that_of_one(xp: CuPy | Torch) -> None:
    """Nobody has waited for the step of one of them."""
    opts = [lrcore.SGD(xp.array(start()), grads=xp.array(k * ONES), max_norm=0.5) for k in (1, 2)]
    opts[0].step()
    step_together(opts)
    assert opts[0].grad_norm == opts[1].grad_norm == math.sqrt(5 * N)


@pytest.mark.parametrize("settings", [{"max_norm": 0.5}, {"skip_nonfinite": 2}])
def test_capturable_optimizers_do_not_share_a_norm(xp: CuPy | Torch, settings: dict[str, Any]) -> None:
    opts = [captured_pair(xp, N, **settings)[0] for _ in range(2)]
    with pytest.raises(ValueError, match="^max_norm, skip_nonfinite: .*got several"):
        step_together(opts)
    assert [each.step_count for each in opts] == [0, 0]
