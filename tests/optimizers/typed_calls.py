"""Right and wrong calls for mypy and pyright: code that they must accept, and errors that they must find.

Nothing here is run. A wrong call has an ignore comment for each checker, and an unused comment is an error.
"""

from __future__ import annotations

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import lrcore
from lrcore import schedules

params = np.ones(3, np.float32)


def right() -> None:
    opt = lrcore.Adam(
        params,
        1e-3,
        betas=(0.9, 0.99),
        eps_placement="hat",
        amsgrad=True,
        weight_decay=0.1,
        decay="decoupled",
        maximize=True,
        grads=params.copy(),
        capturable=False,
        max_steps=None,
    )
    assert_type(opt, lrcore.Adam)
    opt.lr = schedules.Cosine(1e-3, steps=100).warmup(10)
    opt.lr = lambda t: 1 / (1 + t)
    assert_type(opt.lr, float)
    assert_type(opt.step_count, int)
    assert_type(opt.hyper["eps"] * 2, float)
    assert_type(opt.hyper["betas"], tuple[float, float])
    opt.step(params, grad_scale=0.5, zero_grads=True)
    lrcore.AdamW(params, lr=0.1, weight_decay=0.2, decoupled_weight_decay=True)
    lrcore.SGD(params, schedules.Constant(0.1), momentum=0.9, nesterov=True, decay="independent")
    changing = schedules.Cosine(0.1, steps=100)
    lrcore.AdamW(params, weight_decay=changing, betas=(0.9, lambda t: t / (1 + t)), eps=changing)
    lrcore.functional.adam(params, params, params, params, step=1, lr=0.1, betas=(0.9, 0.99))
    schedule = schedules.WarmupStableDecay(0.1, warmup_steps=10, stable=10, decay=10)
    assert_type(schedule(3), float)
    assert_type(schedule(np.arange(3)), NDArray[np.float64])
    assert_type(schedule.warmup(3) * 0.5, schedules.Schedule)
    schedules.Linear(0.1, 0.0, steps=10)


class Own(lrcore.Lion, weight_decay=0.5, decay="l2"):
    """A class with other defaults."""


def wrong_names() -> None:
    lrcore.Adam(params, learning_rate=0.1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lrcore.SGD(params, weight_deacy=0.9)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    schedules.Cosine(0.1, T_max=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lrcore.Adam(params).zero_grad()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    lrcore.functional.adamw2  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def wrong_types() -> None:
    lrcore.Adam(params, lr="0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.Adam(params, betas=0.9)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.Adam(params, eps_placement="inside")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.Adam(params, decay="l1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.SGD(params, maximize="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.SGD(params, max_steps=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.Adam(params).lr = "fast"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    schedules.Cosine(0.1, steps="ten")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lrcore.tune.range_test(lrcore.Adam(params), lambda: 1.0, mode="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
